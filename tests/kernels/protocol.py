"""What can be wrong with the protocol of a kernel of specialised warps: changes of its PTX, which must be found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from jitrt.errors import KernelError
from jitrt.testing.ptx_warps import WarpBlock

CHANGES: dict[str, tuple[str, str]] = {  # what the pattern's group becomes
    "no wait for a barrier": (r"(\{\n\t\.reg \.pred complete;.*?\n\}\n)", ""),
    "no arrival": (r"(@%p\d+ mbarrier\.arrive\.shared[^;]*;)", ""),
    "bytes that are not announced": (r"(@%p\d+ mbarrier\.arrive\.expect_tx[^;]*;)", ""),
    "too few bytes announced": (r"mbarrier\.arrive\.expect_tx[^;]*, (\d+);", "4096"),
    "too many bytes announced": (r"mbarrier\.arrive\.expect_tx[^;]*, (\d+);", "65536"),
    "no load": (r"(@%p\d+ cp\.async\.bulk\.tensor\.\dd\.shared[^;]*;)", ""),
    "no fence": (r"(fence\.proxy\.async[^;]*;)", ""),
    "no wait for products": (r"(wgmma\.wait_group[^;]*;)", ""),
    "a slot is released while it is read": (r"wgmma\.wait_group\.sync\.aligned (1);", "2"),
    "no wait for a store": (r"(cp\.async\.bulk\.wait_group[^;]*;)", ""),
    "a result's place is released while it is stored": (r"cp\.async\.bulk\.wait_group\.read \t(1);", "2"),
    "no wait for the launch before": (r"(griddepcontrol\.wait;)", ""),
    "warps do not meet before one releases a slot": (r"wgmma\.wait_group.*?(\tbar\.sync[^;]*;)", ""),
    "warps do not meet before one stores": (r"stmatrix[^;]*;[^;]*fence\.proxy.*?(\tbar\.sync[^;]*;)", ""),
}

SPLIT_CHANGES: dict[str, tuple[str, str]] = {  # of kernels in which blocks share a sum
    "warps do not meet before one announces a sum": (r"(\tbar\.sync[^;]*;)(?:(?!bar\.sync).)*?@%p\d+ atom\.", ""),
    "what announces a sum orders nothing": (r"atom\.global\.gpu\.(acq_rel)", "relaxed"),
    "warps do not meet before they know who came last": (r"@%p\d+ atom\..*?(\tbar\.sync[^;]*;)", ""),
    "a counter is not reset": (r"(@%p\d+ st\.global\.b32[^;]*;)", ""),
}


class Random(WarpBlock):
    """Teams and copies in any order."""

    seed = 1


def missed(made: str, what: str, run: Callable[[type[WarpBlock], str], object]) -> list[int]:
    """Which places of a change of the PTX `made` no machine complains of. Raises ValueError if there is none."""
    texts = list(_changed(made, *(CHANGES | SPLIT_CHANGES)[what]))
    if not texts:
        raise ValueError(f"there is nothing to change: {what}")
    return [number for number, text in enumerate(texts) if not _is_found(text, run)]


def _changed(made: str, pattern: str, other: str) -> Iterator[str]:
    for found in re.finditer(pattern, made, re.S):
        yield made[: found.start(1)] + other + made[found.end(1) :]


def _is_found(text: str, run: Callable[[type[WarpBlock], str], object]) -> bool:
    for machine in (WarpBlock, Random):
        try:
            run(machine, text)
        except KernelError:
            return True
    return False
