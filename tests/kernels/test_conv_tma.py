"""The Gluon kernel for convolutions of several taps: what it takes, how it tiles, what it compiles to. Its numbers are
checked as compiled (test_conv_tma_compiled.py) and on the GPU (tests/gpu/test_conv_tma.py)."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.errors import KernelError
from jitrt.graph import f32
from jitrt.kernels import conv_tma, conv_tma_shape
from jitrt.kernels.base import Descriptor, Problem, templates
from jitrt.kernels.conv_tma import ConvTma, refuse_split
from jitrt.kernels.conv_tma_cost import box_of, units_of
from jitrt.kernels.conv_tma_shape import Pixels, refuse_body, shape_of
from jitrt.testing import compiles
from jitrt.tune.candidates import candidates_of
from tests.kernels.convolutions import conv_problem
from tests.kernels.pointwise_products import linear_problem, pointwise_problem

H200 = TARGETS[90]
TEMPLATE = ConvTma()
SAME = ((1, 1), (1, 1))


def posed(shape: tuple[int, ...], filters: int, kernel: tuple[int, ...] = (3, 3), **others: Any) -> Problem:
    problem = conv_problem(shape, filters, kernel, **{"padding": SAME, **others})
    return replace(problem, alignment=(16,) * len(problem.alignment))


def reason(problem: Problem) -> str:
    return TEMPLATE.accepts(problem.body) or TEMPLATE.supports(problem, H200) or ""


PROBLEMS = {
    "128 at 28": posed((128, 128, 28, 28), 128),
    "512 at 7": posed((128, 512, 7, 7), 512),
    "64 at 56, residual": posed((64, 64, 56, 56), 64, residual=True),
    "stride 2": posed((128, 256, 28, 28), 256, stride=(2, 2)),
    "batch 8": posed((8, 256, 14, 14), 256),
    "few tiles": posed((8, 512, 7, 7), 512),
    "few tiles, residual": posed((6, 520, 7, 9), 264, residual=True),
    "odd sizes, slices": posed((16, 96, 35, 33), 72, row_gap=8, input_gap=24),
    "1x7": posed((32, 128, 17, 17), 192, (1, 7), padding=((0, 0), (3, 3))),
    "2x5, uneven padding": posed((32, 64, 27, 27), 128, (2, 5), padding=((1, 0), (2, 1))),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_compiles_without_spills(name: str) -> None:
    problem = PROBLEMS[name]
    assert reason(problem) == ""
    candidates = TEMPLATE.candidates(problem, H200)
    assert 1 < len(candidates) <= 24
    config = candidates[len(name) % 3]
    (binary,) = compiles(problem, TEMPLATE, config, targets=(90,))
    assert binary.num_warps == 4 + config["num_warps"] * config["CONSUMERS"]


@pytest.mark.parametrize("name", ["few tiles", "few tiles, residual"])
def test_few_tiles_are_split(name: str) -> None:
    problem = PROBLEMS[name]
    split = [config for config in TEMPLATE.candidates(problem, H200) if config["SPLIT"] > 1]
    assert len({config["SPLIT"] for config in split}) > 1
    for config in split:
        lowered = TEMPLATE.lower(problem, config, H200)
        (call,), units = lowered.calls, units_of(shape_of(problem), config)
        assert call.grid == (units, 1, 1)  # all at the same time
        assert lowered.workspace_bytes == 4 * units * math.prod(box_of(config)) * config["BLOCK_N"]
        assert lowered.zeros_bytes == 4 * units // config["SPLIT"]
    for config in split[::8]:
        compiles(problem, TEMPLATE, config, targets=(90,))


@pytest.mark.parametrize("name", ["128 at 28", "512 at 7", "64 at 56, residual"])
def test_many_tiles_are_not(name: str) -> None:
    assert {config["SPLIT"] for config in TEMPLATE.candidates(PROBLEMS[name], H200)} == {1}


def test_whether_sums_may_be_shared() -> None:
    shape = shape_of(posed((8, 72, 7, 7), 64))
    plain = {"LINES": 1, "IMAGES": 8, "COLUMNS": 8, "BLOCK_N": 64, "GROUP": 1, "SKIP": False, "SPLIT": 2}
    plain |= {"CONSUMERS": 1, "RESIDENT": False, "PROGRAMS": 1, "num_warps": 4}

    def refused(**others: Any) -> str:
        return refuse_split(shape, {**plain, **others}, H200) or ""

    assert refused() == ""
    assert "meanwhile" in refused(CONSUMERS=2)
    assert "meanwhile" in refused(SPLIT=19)
    assert "load all of w" in refused(RESIDENT=True)
    assert "registers" in refused(BLOCK_N=256)
    assert "fewer blocks" in refused(SKIP=True, SPLIT=3)
    assert refused(SPLIT=18) == refused(GROUP=3, SPLIT=6) == refused(SKIP=True) == ""
    assert "fewer blocks" in refused(GROUP=3, SPLIT=7)


@pytest.mark.parametrize("name", ["512 at 7", "64 at 56, residual", "stride 2"])
def test_all_candidates_fit(name: str) -> None:
    problem = PROBLEMS[name]
    for config in TEMPLATE.candidates(problem, H200)[::8]:
        (binary,) = compiles(problem, TEMPLATE, config, targets=(90,))
        assert (binary.shared_bytes + 1024) * config["PROGRAMS"] <= H200.shared + 1024
        assert binary.registers * 32 * binary.num_warps * config["PROGRAMS"] <= 65536


@pytest.mark.parametrize("name", PROBLEMS)
def test_candidates_are_of_many_forms(name: str) -> None:
    shape = shape_of(PROBLEMS[name])
    candidates = TEMPLATE.candidates(PROBLEMS[name], H200)
    assert len({(c["GROUP"], c["SKIP"]) for c in candidates}) > 1
    for config in candidates:
        box = box_of(config)
        assert math.prod(box) in (64, 128, 256)
        assert units_of(shape, config) * math.prod(box) * config["BLOCK_N"] >= shape.rows * shape.filters
        assert config["GROUP"] == 1 or shape.refuse_group(box) is None


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("box", [(1, 64, 1), (4, 2, 8), (2, 16, 4)])
def test_taps_that_meet_a_pixel(name: str, box: tuple[int, int, int]) -> None:
    shape = shape_of(PROBLEMS[name])
    met = 0
    for line, column in itertools.product(range(0, shape.out[0], box[0]), range(0, shape.out[1], box[2])):
        along = []
        for axis, at in ((0, line), (1, column)):
            pixels = np.arange(at, min(at + box[2 * axis], shape.out[axis]))
            taps = np.arange(shape.filter[axis])[:, None]
            places = pixels * shape.stride[axis] + taps - shape.padding[axis]
            along.append(max(1, int(((places >= 0) & (places < shape.size[axis])).any(axis=1).sum())))
        met += math.prod(along)
    lines, _, columns = shape.tiles(box)
    assert shape.met(box) == pytest.approx(met / (lines * columns))


def test_weights_that_may_be_infinite_are_multiplied_by_padding() -> None:
    """What a tap in the padding adds is NaN then, as in the reference."""
    problem = PROBLEMS["512 at 7"]
    live = replace(problem, weights=(False, False, *problem.weights[2:]))
    assert any(config["SKIP"] for config in TEMPLATE.candidates(problem, H200))
    assert not any(config["SKIP"] for config in TEMPLATE.candidates(live, H200))
    assert reason(live) == ""


def test_few_filters_have_tiles_of_their_own() -> None:
    def widths(filters: int) -> list[int]:
        return [config["BLOCK_N"] for config in TEMPLATE.candidates(posed((128, 128, 28, 28), filters), H200)]

    assert widths(32)[0] == 32
    assert max(widths(32)) == 64
    assert 32 in widths(96)
    assert 32 not in widths(64) + widths(128)


def test_rows_that_share_x_need_lines_that_fill_the_swizzle() -> None:
    shape = shape_of(PROBLEMS["128 at 28"])
    assert shape.refuse_group((4, 8, 4)) is None
    assert "ends inside the swizzle" in (shape.refuse_group((16, 1, 4)) or "")
    assert "left out" in (shape_of(PROBLEMS["stride 2"]).refuse_group((4, 8, 4)) or "")


def test_since_triton_3_8_rows_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_tma_shape, "ANY_VIEW", False)
    assert "since Triton 3.8" in (shape_of(PROBLEMS["128 at 28"]).refuse_group((4, 8, 4)) or "")
    candidates = ConvTma().candidates(PROBLEMS["128 at 28"], TARGETS[90])
    assert candidates and {config["GROUP"] for config in candidates} == {1}


def test_what_is_loaded() -> None:
    def loaded(name: str, **wanted: Any) -> Descriptor:
        problem = PROBLEMS[name]
        fitting = (c for c in TEMPLATE.candidates(problem, H200) if wanted.items() <= c.items())
        x = TEMPLATE.lower(problem, next(fitting), H200).calls[0].arguments["x"]
        assert isinstance(x, Descriptor)
        return x

    shared = loaded("64 at 56, residual", GROUP=3)
    assert shared.box == (shared.block[0] + 2, *shared.block[1:])
    assert (shared.shape, shared.steps) == ((56, 64, 56, 64), ())
    stepped = loaded("stride 2", GROUP=1)
    lines, images, columns, channels = stepped.block
    assert (stepped.box, stepped.steps) == ((2 * lines, images, 2 * columns, channels), (2, 1, 2, 1))
    assert stepped.strides == (28 * 256, 28 * 28 * 256, 256)


def test_it_is_on_offer_beside_its_twin() -> None:
    found = candidates_of(PROBLEMS["128 at 28"], H200, templates(), None)
    assert {c.tactic.template for c in found} == {"conv2d", "conv_tma"}


def test_steps_are_within_what_a_tensor_map_takes() -> None:
    def wide(step: int) -> Problem:
        return posed((1, 64, 1, 1100 * step), 64, (1, 3), padding=((0, 0), (1, 1)), stride=(1, step))

    assert {box_of(config) for config in TEMPLATE.candidates(wide(4), H200)} == {(1, 1, 64)}
    assert "fit into shared memory" in reason(wide(8))


def test_along_one_line_any_stride_will_do() -> None:
    x = posed((64, 40, 1, 64), 64, (1, 3), padding=((0, 0), (1, 1))).body.inputs[0]
    assert Pixels.of(x.type) == Pixels((1, 64, 64), (40, 64 * 40, 40))


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (posed((128, 64, 56, 56), 64, groups=2), "groups or dilation"),
        (posed((128, 64, 56, 56), 64, dilation=(2, 2)), "groups or dilation"),
        (pointwise_problem((128, 256, 14, 14), 1024), "a filter of one pixel"),
        (linear_problem((32, 197, 768), 3072), "no convolution"),
        (posed((64, 64, 1000), 64, (3,), padding=((1, 1),)), "two dimensions"),
        (posed((16, 64, 8, 8, 8), 64, (3, 3, 3), padding=((1, 1),) * 3), "two dimensions"),
        (posed((128, 64, 56, 56), 64, (9, 9)), "too large"),
        (posed((128, 64, 56, 56), 64, stride=(9, 9)), "too large"),
        (posed((128, 64, 56, 56), 64, padding=((3, 1), (1, 1))), "the padding is as large as the filter"),
        (posed((128, 64, 56, 56), 64, dtype=f32), "16-bit floats"),
        (posed((128, 64, 56, 56), 64, cast_from=f32), "computed"),
        (posed((128, 64, 56, 56), 64, nchw_in=True), "x has its channels apart"),
        (posed((128, 64, 56, 56), 64, nchw_out=True), "the result has its channels apart"),
        (posed((128, 60, 56, 56), 64), "x does not lie at multiples of 16 bytes"),
        (posed((128, 64, 56, 56), 64, row_major_weights=True), "w has its channels apart"),
        (posed((1, 64, 14, 14), 64), "196 rows are too few"),
        (posed((1, 64, 36, 36), 64), "conv2d is estimated to be faster"),
    ],
)
def test_it_refuses(problem: Problem, why: str) -> None:
    assert why in reason(problem)


def test_what_cannot_be_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PROBLEMS["128 at 28"]
    assert "no wgmma" in (TEMPLATE.supports(problem, TARGETS[100]) or "")
    assert "fit into shared memory" in (TEMPLATE.supports(problem, replace(H200, shared=20 << 10)) or "")
    with pytest.raises(KernelError, match="take a tactic of conv2d"):
        shape_of(posed((128, 60, 56, 56), 64))
    assert refuse_body(linear_problem((4, 8), 8).body) is not None
    monkeypatch.setattr(conv_tma, "LACKING", "this Triton's Gluon has no warp specialisation")
    assert "no warp specialisation" in reason(problem)


def test_no_more_is_under_way_than_is_needed() -> None:
    """What made ResNet-152 faster is on offer: the estimate does not hold it against a candidate that it loads less."""
    offered = TEMPLATE.candidates(posed((8, 256, 14, 14), 256), H200)
    shared = [c for c in offered if (c["GROUP"], c["BLOCK_N"], c["LINES"], c["IMAGES"]) == (3, 64, 8, 8)]
    assert {(c["STAGES"], c["W_STAGES"]) for c in shared if not c["RESIDENT"]} == {(3, 8)}


def test_the_shipped_table_has_stages_that_are_on_offer() -> None:
    held = json.loads((files("jitrt.tune") / "tables" / "sm_90.json").read_text())["problems"]
    used = [(line["problem"], config) for line in held for _, name, config in line["tactics"] if name == "conv_tma"]
    assert len(used) > 50
    for problem, config in used:
        channels = int(problem.split("f16[")[1].split(",")[1])
        block_k = replace(shape_of(PROBLEMS["128 at 28"]), channels=channels).block_k
        assert conv_tma._needed(config, block_k) == config, problem


@pytest.mark.parametrize(
    ("channels", "block", "last"),
    [(8, 16, 16), (16, 16, 16), (24, 32, 32), (32, 32, 32), (40, 64, 64), (72, 64, 16), (96, 64, 32), (256, 64, 64)],
)
def test_no_more_zeros_are_multiplied_than_a_power_of_two_needs(channels: int, block: int, last: int) -> None:
    problem = posed((128, channels, 28, 28), 64)
    chosen = ConvTma().candidates(problem, H200)[0]
    (call,) = ConvTma().lower(problem, {**chosen, "SPLIT": 1}, H200).calls
    x, w = (call.arguments[name] for name in ("x", "w"))
    assert (x.block[-1], w.block[-1], call.constexprs["BLOCK_K"], call.constexprs["LAST"]) == (
        block,
        block,
        block,
        last,
    )
    assert x.swizzle == w.swizzle == 2 * block
    (call,) = ConvTma().lower(problem, {**chosen, "SPLIT": 2}, H200).calls
    assert call.constexprs["LAST"] == block  # a unit may begin within a tap
