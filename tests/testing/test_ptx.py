"""The PTX machine on hand-written kernels: what it computes, and what it complains of."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.errors import KernelError
from jitrt.testing.ptx import run_ptx


def run(body: str, memory: np.ndarray, grid: int = 1) -> None:
    text = f".visible .entry k(\n.param .u64 k_param_0\n)\n.reqntid 32\n{{\n{body}\nret;\n}}"
    run_ptx(text, grid, [0], memory.view(np.uint8), 0)


STORE = "mov.u32 %t, %tid.x; mul.wide.u32 %a, %t, 4; st.global.b32 [%a], %x;"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("mov.u32 %l, %tid.x; mad.lo.s32 %x, %l, 3, -4;", lambda lane: 3 * lane - 4),
        ("mov.u32 %l, %tid.x; mul.hi.u32 %x, %l, 0x80000000;", lambda lane: lane >> 1),
        ("mov.u32 %l, %tid.x; bfe.u32 %x, %l, 1, 3;", lambda lane: lane >> 1 & 7),
        ("mov.u32 %l, %tid.x; sub.s32 %m, %l, 9; bfe.s32 %x, %m, 0, 6;", lambda lane: (lane - 9 + 32) % 64 - 32),
        ("mov.u32 %l, %tid.x; sub.s32 %m, %l, 16; div.s32 %x, %m, 5;", lambda lane: np.trunc((lane - 16) / 5)),
        ("mov.u32 %l, %tid.x; sub.s32 %m, %l, 16; rem.s32 %x, %m, 5;", lambda lane: np.fmod(lane - 16, 5)),
        ("mov.u32 %l, %tid.x; add.u32 %m, %l, -9; div.u32 %x, %m, 3;", lambda lane: (lane - 9) % 2**32 // 3),
        ("mov.u32 %l, %tid.x; prmt.b32 %x, %l, -1, 0x7601U;", lambda lane: lane << 8 | -65536),
        (
            "mov.u32 %l, %tid.x; setp.lt.u32 %p, %l, 5; selp.b32 %x, %l, 7, %p;",
            lambda lane: np.where(lane < 5, lane, 7),
        ),
        ("mov.u32 %x, 1; mov.u32 %l, %tid.x; setp.gt.s32 %p, %l, 9; @!%p mov.u32 %x, 2;", lambda lane: 2 - (lane > 9)),
        ("mov.u32 %l, %tid.x; shfl.sync.bfly.b32 %x, %l, 8, 31, -1;", lambda lane: lane ^ 8),
        ("mov.u32 %l, %tid.x; max.u16x2 %x, %l, 0x00030004;", lambda lane: 3 << 16 | np.maximum(lane, 4)),
        ("mov.b32 %y, 0x00050006; mov.b32 {%h, %i}, %y; mov.b32 %x, {%i, %h};", lambda lane: 0 * lane + (6 << 16 | 5)),
    ],
)
def test_instructions(code, expected):
    memory = np.zeros(32, np.int32)
    run(code + STORE, memory)
    np.testing.assert_array_equal(memory, expected(np.arange(32)).astype(np.int32))


NANS = "mov.b32 %n, 0xffc00000; mov.b32 %m, 0x7fc00001; mov.b32 %z, 0x7f800000;"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("add.f32 %x, %n, %m;", 0x7FFFFFFF),
        ("add.f32 %x, %m, %n;", 0x7FFFFFFF),
        ("sub.f32 %x, %z, %z;", 0x7FFFFFFF),
        ("cvt.rn.f16.f32 %h, %n; mov.b32 %x, {%h, %h};", 0x7FFF7FFF),
        ("cvt.rn.bf16.f32 %h, %m; mov.b32 %x, {%h, %h};", 0x7FFF7FFF),
        ("add.f16x2 %x, %n, %m;", 0x7FFF0001),  # a NaN in the upper half, 0 + 1 in the lower one
        ("mov.b32 %x, %n;", 0xFFC00000),  # what is copied stays as it is
        ("setp.ne.u32 %p, 1, 0; selp.f32 %x, %m, %n, %p;", 0x7FC00001),
    ],
)
def test_arithmetic_gives_one_nan(code: str, expected: int) -> None:
    memory = np.zeros(32, np.uint32)
    run(NANS + code + STORE, memory)
    assert [hex(x) for x in memory] == [hex(expected)] * 32


def test_names_in_braces_are_local_and_threads_may_loop_apart():
    memory = np.zeros(32, np.int32)
    again = """{ .reg .pred p; .reg .b32 n;
        mov.u32 n, 0;
        AGAIN:
        add.u32 n, n, 1; setp.lt.u32 p, n, %t; @p bra AGAIN; mov.u32 %x, n; }"""
    run("mov.u32 %t, %tid.x;" + again + again + STORE, memory)
    np.testing.assert_array_equal(memory, np.maximum(1, np.arange(32)))


WAIT = """{ .reg .pred p;
    AGAIN:
    ld.relaxed.gpu.global.b32 %x, [%w]; setp.eq.u32 p, %x, 0; @p bra AGAIN; }"""


def test_blocks_wait_for_what_later_ones_write():
    """Every block but the last waits for the next one."""
    memory = np.zeros(4 * 32, np.int32)
    code = f"""mov.u32 %b, %ctaid.x; mov.u32 %t, %tid.x; mad.lo.u32 %i, %b, 32, %t;
        mul.wide.u32 %a, %i, 4; add.s64 %w, %a, 128; mov.u32 %x, 5; setp.eq.u32 %last, %b, 3;
        @%last bra DONE;
        {WAIT}
        DONE:
        add.u32 %x, %x, 1; st.global.b32 [%a], %x;"""
    run(code, memory, grid=4)
    assert memory.reshape(4, 32)[:, 0].tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("mov.u64 %w, 0;" + WAIT, "1 of 1 blocks wait for what nobody writes"),
        ("mov.u64 %a, 126; mov.u32 %x, 1; st.global.b32 [%a], %x;", "is not aligned"),
        ("mov.u64 %a, 128; ld.global.b32 %x, [%a];", "reaches outside its memory"),
        ("tanh.approx.f32 %x, 0f3F800000;", "does not know tanh.approx.f32"),
        ("add.u32 %x, %y, 1;", "%y is read before it is written"),
        ("trap;", "a trap"),
        ("mov.u32 %l, %tid.x; setp.lt.u32 %p, %l, 5; @%p bra END; mov.u32 %x, 1;\nEND:\n", "part ways"),
        ("+ 1;", "no PTX instruction"),
    ],
)
def test_complaints(code, complaint):
    with pytest.raises(KernelError, match=complaint):
        run(code, np.zeros(32, np.int32))
