from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from jitrt.graph import DType, Graph, TensorType
from jitrt.graph.ops import Cast
from jitrt.passes.base import PassContext
from jitrt.passes.merge_views import merge_views


def _graph(nodes: str, input: str = "f32[4,6,5]") -> str:
    return f"graph g(%x: {input}) {{\n{nodes}\nreturn %out\n}}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "%0 = permute(%x) <order=(1, 2, 0)> : f32[6,5,4]\n"
            "%1 = permute(%0) <order=(2, 1, 0)> : f32[4,5,6]\n%out = relu(%1) : f32[4,5,6]",
            "%1 = permute(%x) <order=(0, 2, 1)> : f32[4,5,6]\n%out = relu(%1) : f32[4,5,6]",
        ),
        (
            "%0 = permute(%x) <order=(0, 2, 1)> : f32[4,5,6]\n"
            "%1 = permute(%0) <order=(0, 2, 1)> : f32[4,6,5]\n%out = relu(%1) : f32[4,6,5]",
            "%out = relu(%x) : f32[4,6,5]",
        ),
        (
            "%0 = reshape(%x) <shape=(24, 5)> : f32[24,5]\n"
            "%1 = reshape(%0) <shape=(4, 30)> : f32[4,30]\n%out = relu(%1) : f32[4,30]",
            "%1 = reshape(%x) <shape=(4, 30)> : f32[4,30]\n%out = relu(%1) : f32[4,30]",
        ),
        (
            "%0 = slice(%x) <start=(1, 0, 1), stop=(4, 6, 5), step=(1, 2, 1)> : f32[3,3,4]\n"
            "%1 = slice(%0) <start=(0, 1, 0), stop=(3, 3, 4), step=(2, 1, 3)> : f32[2,2,2]\n"
            "%out = relu(%1) : f32[2,2,2]",
            "%1 = slice(%x) <start=(1, 2, 1), stop=(4, 5, 5), step=(2, 2, 3)> : f32[2,2,2]\n"
            "%out = relu(%1) : f32[2,2,2]",
        ),
    ],
)
def test_two_become_one(rewrites, before, after):
    assert rewrites(merge_views, _graph(before), _graph(after)).done


def test_a_cast_that_loses_nothing_is_skipped(rewrites):
    rewrites(
        merge_views,
        _graph(
            "%0 = cast(%x) <dtype='f32'> : f32[2]\n%1 = cast(%0) <dtype='f16'> : f16[2]\n%out = relu(%1) : f16[2]",
            "f16[2]",
        ),
        _graph("%out = relu(%x) : f16[2]", "f16[2]"),
    )


@pytest.mark.parametrize("narrow", DType, ids=str)
def test_a_cast_to_what_holds_every_value_is_skipped(narrow):
    """And to nothing else: the extremes of a type tell."""
    if narrow == DType.b8:
        extremes = np.array([False, True])
    elif narrow.is_float:
        info = ml_dtypes.finfo(narrow.numpy)
        extremes = np.array([info.max, info.smallest_subnormal, 1 + info.eps], narrow.numpy)
    else:
        info = np.iinfo(narrow.numpy)
        extremes = np.array([info.min, info.max, info.max - 1], narrow.numpy)
    for middle in set(DType) - {narrow, DType.f64, DType.b8}:
        graph = Graph("casts")
        x = graph.add_input("x", TensorType(narrow, (3,)))
        graph.mark_output(graph.add(Cast(DType.f64), graph.add(Cast(middle), x)))
        merge_views(graph, PassContext())
        with np.errstate(all="ignore"):
            there = extremes.astype(middle.numpy)
            lossless = [int(n) if there.dtype.kind in "iu" else float(n) for n in there] == [
                int(n) if extremes.dtype.kind in "iub" else float(n) for n in extremes
            ]
        assert len(graph.nodes) == (1 if lossless else 2), middle


@pytest.mark.parametrize(
    "nodes",
    [
        "%0 = cast(%x) <dtype='f16'> : f16[4,6,5]\n%1 = cast(%0) <dtype='f32'> : f32[4,6,5]\n"
        "%out = relu(%1) : f32[4,6,5]",
        "%0 = permute(%x) <order=(1, 0, 2)> : f32[6,4,5]\n%1 = reshape(%0) <shape=(24, 5)> : f32[24,5]\n"
        "%out = relu(%1) : f32[24,5]",
    ],
    ids=["a cast that rounds", "two kinds of movement"],
)
def test_what_cannot_merge_stays(apply, nodes):
    outcome = apply(merge_views, _graph(nodes))
    assert [node.op.name for node in outcome.graph.nodes] == [
        line.split(" = ")[1].split("(")[0] for line in nodes.split("\n")
    ]


def test_a_chain_others_read_too_is_only_shortened_for_one(rewrites):
    rewrites(
        merge_views,
        """
        graph g(%x: f32[2,3]) {
          %0 = permute(%x) <order=(1, 0)> : f32[3,2]
          %1 = permute(%0) <order=(1, 0)> : f32[2,3]
          %a = relu(%0) : f32[3,2]
          %b = relu(%1) : f32[2,3]
          return %a, %b
        }""",
        """
        graph g(%x: f32[2,3]) {
          %0 = permute(%x) <order=(1, 0)> : f32[3,2]
          %a = relu(%0) : f32[3,2]
          %b = relu(%x) : f32[2,3]
          return %a, %b
        }""",
    )
