"""Specialised warps on the PTX machine, in kernels of two warps: who waits for whom, and what is a race."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.errors import KernelError
from jitrt.plan.schema import Pointer, TensorMap
from jitrt.testing.ptx import run_ptx
from jitrt.testing.ptx_warps import EarlyWarpBlock, WarpBlock

COPIED = TensorMap(Pointer("arena", 0), "f16", (8, 64), (128,), (8, 64), 128)
HEAD = """.visible .entry k(
.param .align 64 .b8 k_param_0[128]
)
.reqntid 64
{
mov.u32 %t, %tid.x; shr.u32 %w, %t, 5; and.b32 %l, %t, 31; setp.eq.u32 %first, %l, 0; setp.eq.u32 %zero, %t, 0;
mov.b64 %m, k_param_0; cvta.param.u64 %map, %m; mov.u32 %bar, 4096; mov.u32 %other, 4104; mov.u32 %nil, 0;
mul.lo.u32 %s, %t, 16; mul.wide.u32 %g, %t, 4;
@%zero mbarrier.init.shared::cta.b64 [%bar], 1; @%zero mbarrier.init.shared::cta.b64 [%other], 1;
fence.proxy.async.shared::cta; bar.sync 0; setp.eq.u32 %left, %w, 0; @%left bra LOADS;
"""
LOAD = "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%nil], [%map, {%nil, %nil}], [%bar];"
EXPECT = "@%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 1024;"
ARRIVE = "@%first mbarrier.arrive.shared::cta.b64 _, "
LOADER = f"{EXPECT} elect.sync %x|%one, -1; @%one {LOAD}"
TAKE = "and.b32 %s, %s, 1008; ld.shared.b32 %v, [%s]; st.global.b32 [%g+1024], %v;"


def wait(barrier: str = "%bar", parity: int = 0) -> str:
    look = f"mbarrier.try_wait.parity.shared::cta.b64 done, [{barrier}], {parity};"
    return f"{{ .reg .pred done; again:\n {look} @!done bra.uni again; }}"


def run(user: str, loader: str, machine: type[WarpBlock] = WarpBlock) -> np.ndarray:
    """Warp 1 does what a user of a block does, warp 0 loads. What the former's lanes stored."""
    memory = np.zeros(512, np.uint32)
    memory[:256] = np.arange(256)
    run_ptx(f"{HEAD}{user} ret; \nLOADS:\n {loader} ret;\n}}", 1, [COPIED], memory.view(np.uint8), 8192, machine)
    return memory[256 + 32 : 256 + 64]


def swizzled() -> np.ndarray:
    """What a lane of warp 1 finds at 16 times its number: piece p of row r is piece p ^ r of memory."""
    piece = np.arange(32, 64) % 64
    return (piece // 8 * 8 + (piece % 8 ^ piece // 8)) * 4


@pytest.mark.parametrize("machine", [WarpBlock, EarlyWarpBlock])
def test_a_copy_is_there_when_it_is_waited_for(machine: type[WarpBlock]) -> None:
    np.testing.assert_array_equal(run(f"{wait()} {TAKE}", LOADER, machine), swizzled())


@pytest.mark.parametrize("machine", [WarpBlock, EarlyWarpBlock])
@pytest.mark.parametrize(
    ("user", "loader", "why"),
    [
        (TAKE, LOADER, "a race: .*ld.shared|a race: .*cp.async.bulk"),
        (f"{wait(parity=1)} {TAKE}", LOADER, "a race: "),  # the phase before the first counts as complete
        (f"{wait('%other')} {TAKE}", LOADER, "all warps wait, .*warp 1 at .*barrier 1 at byte 4104: phase 0 lacks 1"),
        (f"{wait()} {TAKE}", EXPECT, "all warps wait, .*phase 0 lacks 0 arrivals and 1024 bytes"),
        (f"{wait()} {TAKE}", f"elect.sync %x|%one, -1; @%one {LOAD}", "all warps wait, .*lacks 1 arrivals and -?"),
        (f"{wait()} {TAKE}", LOADER + LOADER, "arrives where nobody is missing|a race: "),
        (f"{wait()} {TAKE}", f"{LOADER}{wait()}{LOADER}{wait(parity=1)}", "a race: .*cp.async.bulk"),
        (f"{wait()} {TAKE}{ARRIVE}[%other];", f"{LOADER}{wait('%other')}{LOADER}{wait(parity=1)}", ""),
        (f"{wait()} {TAKE}{ARRIVE}[%s];", LOADER, "no barrier at byte 512"),
        (f"{wait()} {TAKE} bar.sync 1, 64;", LOADER, "all warps wait, .*a barrier of the block"),
        (f"{wait()} st.shared.b32 [%nil], %t;", LOADER, ""),  # one warp, one instruction
        ("", LOADER, "ends before a copy came|^$"),
    ],
)
def test_protocols(user: str, loader: str, why: str, machine: type[WarpBlock]) -> None:
    if not why or ("^$" in why and machine is EarlyWarpBlock):
        run(user, loader, machine)
        return
    with pytest.raises(KernelError, match=why):
        run(user, loader, machine)


@pytest.mark.parametrize(("fence", "why"), [("fence.proxy.async.shared::cta;", ""), ("", "a race: .*bulk_group")])
def test_a_store_by_tma_needs_a_fence(fence: str, why: str) -> None:
    store = "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%map, {%nil, %nil}], [%nil];"
    user = f"""@%first st.shared.b32 [%nil], %t; {fence} elect.sync %x|%one, -1; @%one {store}
        cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0; """
    if why:
        with pytest.raises(KernelError, match=why):
            run(user, "")
    else:
        run(user, "")


def test_threads_of_a_warp_stay_together() -> None:
    with pytest.raises(KernelError, match="part ways"):
        run("@%first bra LOADS;", "")
