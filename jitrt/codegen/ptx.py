"""What ptxas gets wrong, said in PTX that it gets right.

A packed addition of which one half is used, with a constant, becomes an addition of 0 to that half:

    mov.b32 %r3, 65538;  add.s16x2 %r4, %r2, %r3;  mov.b32 {%rs1, %rs2}, %r4;      // 65538 is 1 above, 2 below
    VIADD.16x2 R0, R0, 0x0                                                         // what ptxas makes of %rs2

Seen in ptxas 12.8 to 13.1 for sm_90 and sm_100 (https://github.com/triton-lang/triton/issues/11581 is the same bug).
LLVM adds two halves at once wherever it can show that indices fit 16 bits: an image of 7 by 7, a few programs.
"""

from __future__ import annotations

import re
from typing import Any

_PACKED_ADD = re.compile(r"add\.[su]16x2\s+([^,;]+), *([^,;]+), *([^;]+);")
_HALVES = (
    "{{ .reg .b16 %low, %high, %low2, %high2; mov.b32 {{%low, %high}}, {left}; mov.b32 {{%low2, %high2}}, {right}; "
    "add.s16 %low, %low, %low2; add.s16 %high, %high, %high2; mov.b32 {out}, {{%low, %high}}; }}"
)


def without_packed_adds(ptx: str) -> str:
    """PTX that adds 16-bit halves one at a time; the same text if it does already.

    >>> without_packed_adds("add.s16x2 %r1, %r2, %r3;").count("add.s16 ")
    2
    """
    return _PACKED_ADD.sub(lambda m: _HALVES.format(out=m[1], left=m[2], right=m[3]), ptx)


def corrected(built: Any, backend: Any, options: Any) -> bytes:
    """The cubin of what `triton.compile` built with these options of this backend, assembled anew if its PTX is of the
    kind that ptxas gets wrong."""
    ptx = built.asm["ptx"]
    safe = without_packed_adds(ptx)
    cubin: bytes = built.asm["cubin"] if safe == ptx else backend.make_cubin(safe, {}, options, backend.target.arch)
    return cubin
