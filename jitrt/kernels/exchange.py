"""Numbers handed from program to program while both run, without a barrier: a number is its own flag.

Memory is filled with a NaN that no kernel here writes, all bits set, by a launch before. Who needs a number loads it
until it is not that NaN any more. Every element is written once and tells nothing of any other, so relaxed loads and
stores suffice (PTX ISA 8.7, memory consistency model): no fence, no counter, nothing to reset. Compared with a barrier
that saves a fence, an atomic and a round trip to L2, about 1 us on an H200.

All programs must run at the same time: the launch is cooperative (`KernelCall`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from jitrt.codegen.target import Target

_LIMIT = 1 << 22  # looks, seconds of them, after which a program stops with an error


@triton.jit
def fill(
    y,  # (steps, batch, width) of 16-bit floats, dense along the last
    STEPS: tl.constexpr,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    Y_STRIDES: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
):
    """Set every element of the first `STEPS` rows to the NaN that stands for "not yet"."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = at // WIDTH
    place = row // BATCH * Y_STRIDES[0] + row % BATCH * Y_STRIDES[1] + at % WIDTH
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    tl.store(y + place, tl.full((BLOCK,), -1, tl.int16).to(y.dtype.element_ty, bitcast=True), mask=row < STEPS * BATCH)


PUT = "{ .reg .pred p; setp.ne.u32 p, $3, 0; @p st.relaxed.gpu.global.b16 [$1], $2; mov.u32 $0, 0; }"
"""PTX: store the 16 bits $2 at $1 if $3."""


def poll(words: int, width: int, target: Target, *, all_wanted: bool, pause: int) -> tuple[str, str]:
    """(PTX, its register constraints) that loads `words` words of `width` 16-bit elements until no element has all bits
    set. Operands are, for every element, its pointer, whether it is wanted, and the step, for before step 0 there is
    nothing to wait for; the first of a word stands for all. An unwanted word is 0; `all_wanted` says there is none.

    A load that comes too early costs a whole round trip more: the first one is made after `pause` cycles."""
    registers, elements = words * width // 2, words * width
    vector = {1: "", 2: ".v2", 4: ".v4"}[width // 2]
    lines = [] if all_wanted else [f"mov.u32 ${i}, 0;" for i in range(registers)]
    lines += ["mov.u32 polls, 0;"]
    if pause:
        lines += ["mov.u32 since, %clock;", "PAUSE:", "mov.u32 now, %clock;", "sub.u32 now, now, since;"]
        lines += [f"setp.lt.u32 p, now, {pause};", "@p bra PAUSE;"]
    lines.append("AGAIN:")
    for word in range(words):
        names = ", ".join(f"${word * width // 2 + i}" for i in range(width // 2))
        first = registers + word * width
        if not all_wanted:
            lines.append(f"setp.ne.u32 p, ${first + elements}, 0;")
        guard = "" if all_wanted else "@p "
        lines.append(f"{guard}ld.relaxed.gpu.global{vector}.b32 {{{names}}}, [${first}];")
    # A half has all bits set if it is negative and its other bits carry.
    carry = ["and.b32 some, {x}, 0x7fff7fff;", "add.u32 some, some, 0x00010001;", "and.b32 some, some, {x};"]
    if target.arch >= 90:
        lines.append("mov.b32 all, $0;")
        lines += [f"max.u16x2 all, all, ${i};" for i in range(1, registers)]
        lines += [line.format(x="all") for line in carry]
    else:
        lines.append("mov.b32 all, 0;")
        for i in range(registers):
            lines += [*(line.format(x=f"${i}") for line in carry), "or.b32 all, all, some;"]
        lines.append("mov.b32 some, all;")
    lines += ["and.b32 some, some, 0x80008000;", f"setp.eq.u32 p, ${registers + 2 * elements}, 0;"]
    lines += ["@p mov.u32 some, 0;", "add.u32 polls, polls, 1;", f"setp.gt.u32 p, polls, {_LIMIT};", "@p trap;"]
    lines += ["setp.ne.u32 p, some, 0;", "@p bra AGAIN;"]
    text = "\n".join(["{", ".reg .pred p;", ".reg .b32 polls, all, some, since, now;", *lines, "}"])
    return text, ",".join(["=&r"] * registers + ["l"] * elements + ["r"] * 2 * elements)
