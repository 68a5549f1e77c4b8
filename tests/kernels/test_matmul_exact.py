"""Matrix products of integers and float64, against numpy."""

from __future__ import annotations

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, f64, i32
from jitrt.graph.ops import Relu
from jitrt.kernels.base import templates
from jitrt.kernels.matmul import MatmulTemplate
from jitrt.testing import check_problem, compiles, make_problem
from tests.kernels.test_matmul import product

EXACT = templates()["matmul_exact"]


@pytest.mark.parametrize("dtype", [DType.f64, DType.i64, DType.u32, DType.i8])
def test_types(dtype: DType) -> None:
    posed = product((2, 1, 7, 19), (3, 19, 5), dtype)
    check_problem(posed, EXACT, EXACT.candidates(posed, TARGETS[90])[:2])


@pytest.mark.parametrize(
    "arguments",
    [
        {"cast_a": DType.i8, "cast_b": DType.u8},
        {"epilogue": True},
        {"strides": {"b": (1, 37), "a": (40, 1)}},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_around_it(arguments: dict[str, object]) -> None:
    posed = product((19, 37), (37, 21), f64 if "epilogue" in arguments else i32, **arguments)  # type: ignore[arg-type]
    check_problem(posed, EXACT, EXACT.candidates(posed, TARGETS[90])[:1])


@pytest.mark.parametrize("dtype", [DType.f64, DType.i32])
def test_resources(dtype: DType) -> None:
    compiles(product((3, 100, 64), (64, 90), dtype), EXACT)


def test_it_refuses() -> None:
    assert "not done in its own type" in str(EXACT.accepts(product((4, 4), (4, 4), DType.f16).body))
    body = Graph()
    x = body.add_input("x", product((4, 4), (4, 4), i32).body.inputs[0].type)
    body.mark_output(body.add(Relu(), x))
    assert EXACT.accepts(body) == "anchor is no matrix product"
    assert "has no kernel" in str(MatmulTemplate().accepts(make_problem(product((4, 4), (4, 4), f64).body).body))
