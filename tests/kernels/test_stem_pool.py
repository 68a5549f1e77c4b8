"""A stem's convolution and max pool in one kernel, against numpy."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.overlap import least_shared
from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32
from jitrt.graph.graph import Node
from jitrt.graph.interpret import interpret
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Cast, Conv, HardSwish, MaxPool, Region, Relu
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem, Tactic, supports
from jitrt.kernels.stem_pool import StemPoolTemplate, pack_stem_pool
from jitrt.kernels.stem_pool_shape import describe
from jitrt.testing import check_problem, compiles, make_problem, random_operands, run_interpreted

THREE_HALVES = MaxPool((3, 3), (2, 2), (1, 1))


def stem(
    shape: Sequence[int] = (2, 3, 23, 26),
    filters: int = 17,
    kernel: int = 7,
    stride: int = 2,
    padding: int = 3,
    pool: MaxPool = THREE_HALVES,
    *,
    dtype: DType = f16,
    tf32: bool = False,
    cast_from: DType | None = None,
    nchw_out: bool = False,
    between: Op | None = None,
) -> Problem:
    """pool(relu(conv(x) + bias)) of an image that lies NCHW."""
    body = Graph("region")
    x = body.add_input("x", TensorType(cast_from or dtype, tuple(shape)))
    w = body.add_input("w", TensorType(dtype, (filters, shape[1], kernel, kernel)))
    bias = body.add_input("bias", TensorType(dtype, (filters, 1, 1)))
    value = body.add(Cast(dtype), x) if cast_from else x
    conv = Conv((stride, stride), ((padding, padding), (padding, padding)), (1, 1), 1, tf32)
    value = body.add(between or Relu(), body.add(Add(), body.add(conv, value, w), bias))
    value = body.add(pool, value)
    if not nchw_out:
        value.type = value.type.with_layout(Layout(channels_last(value.type.shape)))
    body.mark_output(value)
    return make_problem(body, weights=["w", "bias"])


def config(m: int = 32, segment: int = 3) -> dict[str, Any]:
    return {"BLOCK_M": m, "SEGMENT": segment, "num_warps": 4, "num_stages": 2}


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(stem(cast_from=f32), config(), id="7x7 stride 2, pool 3x3"),
        pytest.param(stem((1, 3, 20, 18), dtype=bf16), config(64, 1), id="bfloat16, a row a program"),
        pytest.param(
            stem((1, 3, 21, 17), 8, 3, 2, 0, MaxPool((3, 3), (2, 2), (0, 0), ceil_mode=True)),
            config(segment=8),
            id="3x3, no padding, ceil mode",
        ),
        pytest.param(
            stem((2, 3, 21, 19), 8, 3, 2, 0, MaxPool((3, 3), (2, 2), (0, 0))),
            config(),
            id="the first column is shared",
        ),
        pytest.param(
            stem((1, 2, 14, 19), 9, 5, 2, 2, MaxPool((2, 2), (1, 2), (1, 0))),
            config(64, 4),
            id="5x5: three of four rows of cells; pool strides 1 and 2",
        ),
        pytest.param(
            stem((3, 1, 11, 9), 20, 4, 1, 1, MaxPool((2, 2), (2, 2), (0, 0)), dtype=f32, tf32=True, nchw_out=True),
            config(segment=2),
            id="4x4 stride 1, windows apart, tf32, NCHW out",
        ),
        pytest.param(
            stem((2, 3, 15, 18), 9, 3, 2, 1, MaxPool((2, 2), (2, 2), (1, 1))),
            config(segment=2),
            id="windows apart begin and end beside the image",
        ),
        pytest.param(
            stem((3, 1, 11, 9), 70, 4, 1, 1, MaxPool((2, 2), (1, 1), (1, 1))),
            config(segment=2),
            id="pool stride 1",
        ),
        pytest.param(
            stem((1, 4, 36, 52), 70, 5, 3, 2, MaxPool((3, 3), (2, 2), (0, 0))),
            config(segment=4),
            id="5x5 by 3, four channels",
        ),
    ],
)
def test_numbers(problem: Problem, config: dict[str, Any]) -> None:
    check_problem(problem, StemPoolTemplate(), [config])


def test_nan_and_infinities_reach_their_windows_and_no_other_image() -> None:
    problem = stem((3, 3, 20, 21), 16)
    x, w, bias = random_operands(problem)
    clean = run_interpreted(problem, Tactic.make(StemPoolTemplate(), config()), [x, w, bias])
    x[1, 0, 19, 20], x[1, 1, 0, 0] = np.nan, np.inf
    got = run_interpreted(problem, Tactic.make(StemPoolTemplate(), config()), [x, w, bias])
    (exact,) = interpret(problem.body, [x, w, bias], exact=True)
    assert np.isnan(exact).any() and np.isinf(exact).any()
    assert np.isnan(got[np.isnan(exact)]).all() and not np.isfinite(got[np.isinf(exact)]).any()
    assert np.array_equal(got[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("batch", [1, 128])
def test_compiles_without_spills(batch: int) -> None:
    template, problem = StemPoolTemplate(), stem((batch, 3, 224, 224), 64)
    compiles(problem, template, config(32, 2))
    built = compiles(problem, template, config(64, 14), targets=(90,))[1]
    two = 2 * 4 * 32 * built.registers <= 65536 and 2 * built.shared_bytes <= TARGETS[90].shared
    alone = built.shared_bytes == least_shared(1, TARGETS[90])
    assert alone if batch == 1 else two, "two share an SM, but where all run at once"


@pytest.mark.parametrize("size", [224, 227])
def test_a_row_is_one_product_without_waits_in_between(size: int, tmp_path: Path) -> None:
    nvdisasm = pytest.importorskip("triton").knobs.nvidia.nvdisasm.path
    file, problem = tmp_path / "stem.cubin", stem((128, 3, size, size), 64)
    file.write_bytes(compiles(problem, StemPoolTemplate(), config(64, 14), targets=(90,))[1].cubin)
    listing = subprocess.run([nvdisasm, str(file)], capture_output=True, text=True, check=True).stdout
    assert listing.count("HGMMA") == 4 * 4 * 4 and listing.count("WARPGROUP.DEPBAR") == 4, "four rows a turn"
    assert listing.count("BAR.SYNC") <= 5, "one row of cells and two pooled rows pass through shared memory"


@pytest.mark.parametrize("problem", [stem(), stem((1, 3, 97, 40), kernel=3, pool=MaxPool((2, 2), (1, 1), (1, 1)))])
def test_no_candidate_reads_past_the_workspace(problem: Problem) -> None:
    template = StemPoolTemplate()
    for candidate in template.candidates(problem, TARGETS[90]):
        lowered = template.lower(problem, candidate, TARGETS[90])
        c = lowered.calls[1].constexprs
        steps = len(range(0, c["SEGMENT"] * c["STEP"][0] + c["WINDOW"][0] - c["STEP"][0] + c["GROUPS"] - 1, c["TURN"]))
        first = (c["OUT"][0] - 1) // c["SEGMENT"] * c["SEGMENT"]
        image, row, cell = c["X_STRIDES"]
        images, across = (c["SLOTS"] - 1) // c["ACROSS"], (c["ACROSS"] * c["STEP"][1] - 1) * cell
        last = images * image + (first * c["STEP"][0] + steps * c["TURN"] - 1) * row + across + c["DEPTH"]
        assert across + c["DEPTH"] <= row and 2 * last <= lowered.workspace_bytes


def test_pack_puts_zeros_where_nothing_is() -> None:
    shape = describe(stem((1, 3, 20, 20), 2, 3, 2, 1))
    w = np.arange(2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3) + 1
    packed = pack_stem_pool(w, shape)
    assert packed.shape == (1, 2, 64, 32)
    cells = packed[0].reshape(2, 4, 2, 8, 2, 16)[..., :12].reshape(2, 4, 2, 8, 2, 2, 2, 3)  # i, k in three, j, r, s, c
    whole = cells.transpose(2, 1, 3, 7, 0, 5, 4, 6).reshape(64, 3, 4, 4)
    assert np.array_equal(whole[:2, :, :3, :3], w)
    assert np.count_nonzero(packed) == w.size


def test_cells_are_powers_of_two() -> None:
    shape = describe(stem((1, 3, 64, 64)))
    assert (shape.cell, shape.depth, shape.groups) == (16, 64, 4)
    small = describe(stem((1, 1, 64, 64), 8, 3, 1, 1))
    assert (small.cell, small.depth, small.groups) == (8, 32, 4)
    single = describe(stem((1, 1, 64, 64), 8, 3, 1, 1, dtype=f32, tf32=True))
    assert (single.cell, single.depth) == (4, 16)


def test_it_refuses() -> None:
    def reason(problem: Problem) -> str:
        return StemPoolTemplate().accepts(problem.body) or ""

    assert "may fall" in reason(stem(between=HardSwish()))
    assert "IEEE float32" in reason(stem(dtype=f32))
    assert "four channels" in reason(stem((1, 5, 20, 20)))
    assert "windows must overlap" in reason(stem(pool=MaxPool((3, 3), (1, 1), (1, 1))))
    assert "no less than their half" in reason(stem(pool=MaxPool((3, 3), (2, 3), (1, 1))))
    assert "no less than their half" in reason(stem(pool=MaxPool((3, 3), (3, 2), (1, 1))))
    assert "more accumulators" in reason(stem(kernel=7, stride=1))
    live = stem()
    live = Problem(live.body, (False,) * 3, live.alignment)
    assert "constant weights" in (StemPoolTemplate().supports(live, TARGETS[90]) or "")
    patches = stem((1, 3, 96, 96), kernel=32, stride=32)
    assert "no tile" in (StemPoolTemplate().supports(patches, TARGETS[90]) or "")
    assert "no tile" in (supports(_region_of(patches), TARGETS[90]) or "")


def _region_of(problem: Problem) -> Node:
    """A region around a problem's body, its weights constants."""
    graph = Graph("whole")
    operands = [
        graph.add_constant(np.zeros(v.type.shape, v.type.dtype.numpy)) if fixed else graph.add_input(v.name, v.type)
        for v, fixed in zip(problem.body.inputs, problem.weights, strict=True)
    ]
    return graph.append(Region(problem.body), operands, types=[problem.output.type])
