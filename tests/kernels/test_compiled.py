"""Convolutions as the compiler made them for Hopper, on the PTX machine: what the interpreter cannot see."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.errors import KernelError
from jitrt.graph import f32
from jitrt.graph.interpret import interpret
from jitrt.graph.op import Array
from jitrt.graph.ops import MaxPool
from jitrt.kernels.base import Problem, Template
from jitrt.kernels.conv1x1 import Conv1x1
from jitrt.kernels.conv2d import Conv2d
from jitrt.kernels.depthwise_pointwise import DepthwisePointwise
from jitrt.kernels.stem_pool import StemPoolTemplate
from jitrt.testing import random_operands
from jitrt.testing.ptx import Instruction, run_ptx
from jitrt.testing.ptx_hopper import HopperBlock
from jitrt.testing.ptx_races import WatchedBlock
from tests.kernels import compiled
from tests.kernels.convolutions import conv_problem
from tests.kernels.test_conv1x1 import computed
from tests.kernels.test_depthwise_pointwise import separable
from tests.kernels.test_stem_pool import stem

GOOGLENETS = stem((1, 3, 64, 64), 64, pool=MaxPool((3, 3), (2, 2), (0, 0), ceil_mode=True), cast_from=f32)


def tile(m: int, n: int, k: int, stages: int, early: bool = False) -> dict[str, Any]:
    tiles = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "SPLIT_K": 1, "EARLY": early, "FLATTEN": False}
    return {**tiles, "num_warps": 4, "num_stages": stages}


def segment(m: int, rows: int, stages: int) -> dict[str, Any]:
    return {"BLOCK_M": m, "SEGMENT": rows, "num_warps": 4, "num_stages": stages}


SAME = ((1, 1), (1, 1))
CASES: dict[str, tuple[Problem, Template, dict[str, Any]]] = {
    "GoogLeNet's stem": (GOOGLENETS, StemPoolTemplate(), segment(32, 2, 3)),
    "GoogLeNet's stem, wide": (GOOGLENETS, StemPoolTemplate(), segment(64, 4, 2)),
    "stem of odd size": (stem((2, 3, 45, 39)), StemPoolTemplate(), segment(32, 4, 2)),
    "3x3": (conv_problem((2, 64, 9, 11), 72, (3, 3), padding=SAME), Conv2d(), tile(64, 64, 64, 4)),
    "3x3, split": (
        conv_problem((1, 64, 7, 7), 32, (3, 3), padding=SAME),
        Conv2d(),
        tile(64, 16, 64, 3) | {"SPLIT_K": 4},
    ),
    "1x1 and residual": (conv_problem((1, 96, 13, 9), 40, (1, 1), residual=True), Conv2d(), tile(64, 32, 32, 3, True)),
}


IN_REGISTERS: dict[str, tuple[Problem, Template, dict[str, Any]]] = {
    "1x1, gated": (
        computed("gate", (1, 256, 8, 8), 16),
        Conv1x1(),
        tile(64, 16, 128, 2) | {"ALIGNED": False},
    ),
    "depthwise and 1x1": (separable((1, 96, 8, 8), 32), DepthwisePointwise(), tile(64, 32, 32, 2)),
}
CASES |= IN_REGISTERS


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    problem, template, config = CASES[name]
    arrays = random_operands(problem)
    (exact,) = interpret(problem.body, arrays, exact=True)
    got = compiled.run(problem, template, config, arrays, TARGETS[90])
    assert np.abs(got.astype(np.float64) - exact).max() < 2e-3 * np.abs(exact).max()


@pytest.mark.parametrize("name", IN_REGISTERS)
def test_triton_computes_a_left_operand_that_a_product_may_still_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, Triton waits for it by now, and jitrt/codegen/ptx.py need not."""
    problem, template, config = CASES[name]
    monkeypatch.setattr("jitrt.codegen.compile.safe", str)
    with pytest.raises(KernelError, match="which a product may still read"):
        compiled.run(problem, template, config, random_operands(problem), TARGETS[90])


class Barriers(WatchedBlock):
    """One whose `missing`-th barrier of every six is not there."""

    missing, passed = 0, 0

    def _guarded(self, instruction: Instruction) -> Array:
        before = self._now
        on = super()._guarded(instruction)
        if self._now > before:
            if self.passed % 6 == self.missing:
                self._now = before
            self.passed += 1
        return on


@pytest.mark.parametrize("missing", range(6))
def test_a_barrier_that_is_missing_is_found(missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, template, config = CASES["GoogLeNet's stem"]
    monkeypatch.setattr(Barriers, "missing", missing)
    with pytest.raises(KernelError, match="a race: "):
        compiled.run(problem, template, config, random_operands(problem), TARGETS[90], Barriers)


BEGIN = ".visible .entry k(\n.param .u64 k_param_0\n)\n.reqntid 32\n{\nmov.u32 %t, %tid.x; mul.lo.u32 %s, %t, 16;"
COPY = "mul.wide.u32 %g, %t, 16; cp.async.cg.shared.global [%s+0], [%g+0], 0x10, 0x10; cp.async.commit_group;"
STORE = "ld.shared.b32 %x, [%s]; st.global.b32 [%g+512], %x; ret;\n}"


@pytest.mark.parametrize(("groups", "size"), [(0, 16), (1, 16), (0, 8), (0, 4)])
def test_a_copy_is_done_when_it_is_waited_for(groups: int, size: int) -> None:
    memory = np.zeros(256, np.uint32)
    memory[:128] = np.arange(128)
    copy = COPY.replace("0x10", hex(size))
    run_ptx(f"{BEGIN}{copy} cp.async.wait_group {groups}; {STORE}", 1, [0], memory.view(np.uint8), 512, HopperBlock)
    assert memory[128::4].tolist() == (memory[:128:4].tolist() if groups == 0 else [0xFFFFFFFF] * 32)


@pytest.mark.parametrize(("code", "races"), [("mov.u32 %x, 7;", False), ("mov.u32 %x, %tid.x;", True)])
def test_warps_may_store_the_same_at_one_place(code: str, races: bool) -> None:
    text = f"{BEGIN.replace('reqntid 32', 'reqntid 64')} {code} and.b32 %s, %s, 511; st.shared.b32 [%s], %x; ret;\n}}"
    with pytest.raises(KernelError, match="stores different numbers") if races else nullcontext():
        run_ptx(text, 1, [0], np.zeros(512, np.uint8), 512, WatchedBlock)


@pytest.mark.parametrize(("code", "races"), [("add.f32 %n, %n, %m;", False), ("mov.b32 %n, %m;", True)])
def test_lanes_add_up_nans_to_one(code: str, races: bool) -> None:
    """Lanes that add up NaNs of both signs have one NaN, and may all store it; a NaN that is copied stays itself."""
    text = f"""{BEGIN} shr.u32 %o, %t, 4; shl.b32 %n, %o, 31; or.b32 %n, %n, 0x7fc00000;
        shfl.sync.bfly.b32 %m, %n, 16, 31, -1; {code}
        mov.u32 %s, 0; st.shared.b32 [%s], %n; ret;\n}}"""
    with pytest.raises(KernelError, match="stores different numbers") if races else nullcontext():
        run_ptx(text, 1, [0], np.zeros(512, np.uint8), 512, WatchedBlock)


PRODUCT = "mov.pred %q, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%a, %b, %c, %d}, %l, %r, %q, 1, 1, 0, 0;"
SWIZZLE, ROWS = 3 << 62, 256 >> 4 << 32  # rows of 32 bytes, eight of them side by side


@pytest.mark.parametrize(("groups", "place", "races"), [(1, 0, False), (1, 2048, True), (0, 2048, False), (2, 0, True)])
def test_a_product_reads_until_it_is_waited_for(groups: int, place: int, races: bool) -> None:
    """Two products, of which all but `groups` are waited for; then, barrier or not, a store to what one of them reads:
    operands begin at 0 and 2048."""
    products = [
        f"mov.u64 %l, {SWIZZLE | ROWS | at >> 4}; mov.u64 %r, {SWIZZLE | ROWS | 4096 >> 4}; {PRODUCT} "
        "wgmma.commit_group.sync.aligned;"
        for at in (0, 2048)
    ]
    text = f"""{BEGIN.replace("reqntid 32", "reqntid 128")} {"".join(products)}
        wgmma.wait_group.sync.aligned {groups}; bar.sync 0; add.u32 %s, %s, {place}; st.shared.b32 [%s], %t; ret;\n}}"""
    with pytest.raises(KernelError, match=r"a race: st\.shared") if races else nullcontext():
        run_ptx(text, 1, [0], np.zeros(512, np.uint8), 8192, WatchedBlock)


def test_an_operand_of_a_product_begins_where_its_swizzle_does() -> None:
    descriptors = f"mov.u64 %l, {SWIZZLE | ROWS | 128 >> 4}; mov.u64 %r, {SWIZZLE | ROWS | 4096 >> 4};"
    text = f"{BEGIN.replace('reqntid 32', 'reqntid 128')} {descriptors} {PRODUCT} ret;\n}}"
    with pytest.raises(KernelError, match="at 128, inside of its swizzle"):
        run_ptx(text, 1, [0], np.zeros(512, np.uint8), 8192, WatchedBlock)


class Later(WatchedBlock):
    """One that waits for a product an iteration later than the kernel says."""

    def _guarded(self, instruction: Instruction) -> Array:
        if instruction.opcode[:2] == ("wgmma", "wait_group") and instruction.operands[0] == "1":
            instruction = replace(instruction, operands=("2",))
        return super()._guarded(instruction)


def test_a_wait_that_is_too_short_is_found() -> None:
    problem, template, config = CASES["3x3"]
    with pytest.raises(KernelError, match=r"a race: cp\.async"):
        compiled.run(problem, template, config, random_operands(problem), TARGETS[90], Later)


@pytest.mark.parametrize(("barrier", "races"), [("bar.sync 0;", False), ("bar.warp.sync -1;", True)])
def test_a_barrier_of_a_warp_holds_no_other_warp_back(barrier: str, races: bool) -> None:
    text = f"""{BEGIN.replace("reqntid 32", "reqntid 64")} shl.b32 %s, %t, 2; xor.b32 %o, %s, 128;
        st.shared.b32 [%s], %t; {barrier} ld.shared.b32 %x, [%o]; ret;\n}}"""
    with pytest.raises(KernelError, match=r"a race: ld\.shared") if races else nullcontext():
        run_ptx(text, 1, [0], np.zeros(512, np.uint8), 512, WatchedBlock)


def test_a_copy_from_outside_the_memory_is_an_error() -> None:
    with pytest.raises(KernelError, match="reaches outside its memory"):
        run_ptx(
            BEGIN + COPY.replace("%t, 16; cp", "%t, 64; cp") + STORE, 1, [0], np.zeros(512, np.uint8), 512, HopperBlock
        )
