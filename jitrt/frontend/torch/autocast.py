"""What `torch.autocast` does to an operator's operands. A trace says which operators a region holds and what they make;
the casts in front of them happen below it, in PyTorch's dispatcher, and are made explicit here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Regions = Mapping[str, torch.dtype]
"""The dtype of the autocast region that is open, by type of device."""

_DEVICES = ("cuda", "cpu")
_CAST = (torch.float32, torch.float16, torch.bfloat16)


def ambient() -> tuple[tuple[str, torch.dtype], ...]:
    """The regions that are open around the caller."""
    if not torch._C._is_any_autocast_enabled():  # the rule, and a fifth of the time
        return ()
    return tuple((device, torch.get_autocast_dtype(device)) for device in _DEVICES if torch.is_autocast_enabled(device))


@contextmanager
def entered(regions: Regions) -> Iterator[None]:
    """Be in exactly these regions: any other that is open is shut meanwhile."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if device in regions:
                stack.enter_context(torch.autocast(device, regions[device]))
            elif torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def enter(device: str, dtype: torch.dtype | None, enabled: bool, cache_enabled: bool | None) -> torch.autocast:
    """Open a region; the end is `leave`."""
    region = torch.autocast(device, dtype, enabled, cache_enabled)
    region.__enter__()
    return region


def leave(region: torch.autocast) -> None:
    """Shut a region."""
    region.__exit__(None, None, None)


def cast_to(node: torch.fx.Node, regions: Regions) -> torch.dtype | None:
    """What the floating-point operands of a traced operator (float64 apart) are cast to; None: they stay.

    PyTorch has lists of operators: some compute in the region's 16-bit type, some in float32, some in the widest of
    their operands'. The dispatcher knows which operators are on a list, the result's dtype tells which list it is. What
    is made of operators on the lists (einsum) casts if they do.
    """
    target, example = node.target, _first(node.meta.get("val"))
    if not isinstance(target, torch._ops.OpOverload) or example is None or example.dtype not in _CAST:
        return None
    chosen = regions.get(example.device.type)
    if chosen is None:
        return None
    name, overload = target._schema.name, target._schema.overload_name
    listed = torch._C._dispatch_has_kernel_for_dispatch_key(
        f"{name}.{overload}" if overload else name, f"Autocast{example.device.type.upper()}"
    )
    return example.dtype if listed or (example.dtype == chosen and target._can_decompose()) else None


def _first(value: Any) -> torch.Tensor | None:
    first = value[0] if isinstance(value, Sequence) and value else value
    return first if isinstance(first, torch.Tensor) else None
