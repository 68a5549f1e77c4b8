"""Barriers in shared memory that come into being at once.

Before each `mbarrier.init` Triton asks anew which thread shall execute it, and ptxas fences each by itself: some 16 ns
on an H200, while everything else waits; 0.7 of the 7 us that a convolution of 14x14 pixels takes with 46 of them.

    elect.sync %r472|%p78, -1;  and.pred %p25, %p77, %p78;  add.s32 %r419, %r473, 227712;
    @%p25 mbarrier.init.shared::cta.b64 [%r419], 1;                              // and so on, one after the other

Here one thread initialises all of them between one branch and its label.
"""

from __future__ import annotations

import re

_INIT = re.compile(r"\s*@%p\d+ (mbarrier\.init\.shared::cta\.b64 \[%r\d+\], \d+;)")
_BETWEEN = re.compile(r"\s*(//|elect\.sync|and\.pred|add\.s32|$)")  # what Triton writes between two
_FEW = 2  # that are not worth it


def at_once(ptx: str) -> str:
    """PTX whose barriers are initialised in one go, by the first thread; the same text if they are few, or if anything
    else happens between them."""
    lines = ptx.split("\n")
    found = {at: match[1] for at, line in enumerate(lines) if (match := _INIT.match(line))}
    if len(found) <= _FEW:
        return ptx
    first, last = min(found), max(found)
    if not all(at in found or _BETWEEN.match(lines[at]) for at in range(first, last)):
        return ptx
    for at in found:
        lines[at] = ""
    lines[last] = "\n\t".join([_BEGIN, *found.values()]) + _END
    return "\n".join(lines)


_BEGIN = """\
\t{ .reg .pred %other; .reg .b32 %thread; mov.u32 %thread, %tid.x; setp.ne.u32 %other, %thread, 0;
\t@%other bra $INITIALISED;"""
_END = """ }
$INITIALISED:"""
