"""What ptxas or Triton get wrong, said in PTX that comes out right.

A packed addition of which one half is used, with a constant, becomes an addition of 0 to that half:

    mov.b32 %r3, 65538;  add.s16x2 %r4, %r2, %r3;  mov.b32 {%rs1, %rs2}, %r4;      // 65538 is 1 above, 2 below
    VIADD.16x2 R0, R0, 0x0                                                         // what ptxas makes of %rs2

Seen in ptxas 12.8 to 13.1 for sm_90 and sm_100 (https://github.com/triton-lang/triton/issues/11581 is the same bug).
LLVM adds two halves at once wherever it can show that indices fit 16 bits: an image of 7 by 7, a few programs.

A product (wgmma) whose left operand lies in registers may be under way still when its loop begins anew and computes the
next left operand into the same registers:

    wgmma.mma_async {sums}, {%r1, ...}, ...;  wgmma.commit_group;  wgmma.wait_group 1;  @%p1 bra LOOP;      // Triton's
    HGMMA R24, R104, ... gsb0;  WARPGROUP.DEPBAR.LE gsb0, 0x1;  @P1 BRA LOOP;  LOOP: LDSM R104, ...         // ptxas's

PTX forbids that ("wgmma.wait_group: accessing the input register ... is undefined behavior"); Triton 3.6 and 3.7 do it
(https://github.com/triton-lang/triton/issues/9433, where it gave wrong numbers on an H100), ptxas before 13.3 leaves it
so (#11781 there). The last wait of the loop waits for all products instead.

The absolute value of a 16-bit integer, widened: that of -32768 is itself in 16 bits, but ptxas widens first:

    abs.s16 %rs2, %rs1;  cvt.s32.s16 %r1, %rs2;          PRMT R5, R2, 0x9910, RZ;  IABS R7, R5

The larger of the number and its negative is what PTX says.

What threads copy into shared memory (cp.async) must pass a fence before the tensor cores of sm_100 read it there:

    cp.async.wait_group 2;  bar.sync 0;  fence.proxy.async.shared::cta;  tcgen05.mma ...;

Triton 3.6 and 3.7.0 leave the fence out, which gave wrong numbers on B200s (https://github.com/pytorch/pytorch/issues/181248);
3.7.1 has it. On sm_90 3.6 leaves it out before wgmma, too, as all versions did before, and nobody saw it matter there.
"""

from __future__ import annotations

import re

_PACKED_ADD = re.compile(r"add\.[su]16x2\s+([^,;]+), *([^,;]+), *([^;]+);")
_HALVES = (
    "{{ .reg .b16 %low, %high, %low2, %high2; mov.b32 {{%low, %high}}, {left}; mov.b32 {{%low2, %high2}}, {right}; "
    "add.s16 %low, %low, %low2; add.s16 %high, %high, %high2; mov.b32 {out}, {{%low, %high}}; }}"
)

_ABSOLUTE = re.compile(r"abs\.s16\s+([^,;]+), *([^;]+);")

_LEFT_IN_REGISTERS = re.compile(r"wgmma\.mma_async[^;]*\},\s*\{")
_WAIT = "wgmma.wait_group.sync.aligned "
_FENCE = "\tfence.proxy.async.shared::cta;"
_LABEL = re.compile(r"\s*([$\w]+):")
_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+([$\w]+);")


def safe(ptx: str) -> str:
    """PTX that says the same, and that ptxas gets right."""
    return fenced(waiting_in_loops(without_short_absolutes(without_packed_adds(ptx))))


def waiting_in_loops(ptx: str) -> str:
    """PTX whose loops end with no product under way that reads registers; the same text if there is no such loop."""
    if not _LEFT_IN_REGISTERS.search(ptx):
        return ptx
    lines = ptx.split("\n")
    seen: set[str] = set()
    last = None  # the wait after which no product was started
    for at, line in enumerate(lines):
        if label := _LABEL.match(line):
            seen.add(label[1])
        branch = _BRANCH.search(line)
        if _WAIT in line:
            last = at
        elif "wgmma." in line:
            last = None
        elif last is not None and branch is not None and branch[1] in seen:
            lines[last] = re.sub(rf"({_WAIT})\d+", r"\g<1>0", lines[last])
    return "\n".join(lines)


def fenced(ptx: str) -> str:
    """PTX in which a fence stands between copies that arrived and tcgen05.mma; the same text if it does already."""
    if "tcgen05.mma" not in ptx:
        return ptx
    out: list[str] = []
    waited, unfenced = False, None  # unfenced: where a fence would belong
    for line in ptx.split("\n"):
        if "tcgen05.mma" in line and unfenced is not None:
            out.insert(unfenced, _FENCE)
        if "tcgen05.mma" in line or "fence.proxy.async" in line:
            unfenced = None
        out.append(line)
        if waited and "bar.sync" in line:
            unfenced = len(out)
        waited = "cp.async.wait_group" in line
    return "\n".join(out)


def without_packed_adds(ptx: str) -> str:
    """PTX that adds 16-bit halves one at a time; the same text if it does already.

    >>> without_packed_adds("add.s16x2 %r1, %r2, %r3;").count("add.s16 ")
    2
    """
    return _PACKED_ADD.sub(lambda m: _HALVES.format(out=m[1], left=m[2], right=m[3]), ptx)


def without_short_absolutes(ptx: str) -> str:
    """PTX that takes the larger of a 16-bit integer and its negative; the same text if it does already.

    >>> without_short_absolutes("abs.s16 %rs2, %rs1;")
    '{ .reg .b16 %less; neg.s16 %less, %rs1; max.s16 %rs2, %rs1, %less; }'
    """
    return _ABSOLUTE.sub(r"{ .reg .b16 %less; neg.s16 %less, \2; max.s16 \1, \2, %less; }", ptx)
