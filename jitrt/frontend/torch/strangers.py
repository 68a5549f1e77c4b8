"""Operators that could not be imported: what is said of them, and what stands for them until all are found."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jitrt.frontend.torch.arrays import DTYPES
from jitrt.graph import TensorType, Value, f32


@dataclass(frozen=True)
class Stranger:
    """A node that could not be imported: its operator, with the reason if only this form of it is unknown."""

    node: torch.fx.Node
    operator: str
    location: str
    follows: bool = False  # it reads what another stranger made, whose sizes depend on values: that one is the cause


def operator_name(node: torch.fx.Node) -> str:
    """An operator's name: aten.add.Tensor, wrap_with_autocast, torch._functorch.predispatch._add_batch_dim."""
    target = node.target
    return f"{target.__module__}.{target.__qualname__}" if inspect.isfunction(target) else str(target)


def of_two_types(operands: Sequence[Any]) -> str:
    """What to do about floating-point operands of an operator that takes one type."""
    types = {x.type.dtype.value for x in operands if isinstance(x, Value) and x.type.dtype.is_float}
    if len(types) < 2:
        return ""
    return (
        f". PyTorch takes no {' with '.join(sorted(types))} there either: convert the inputs or the model, as with "
        "x.float() or model.half(). A build with precision='fp16' or 'bf16' takes float32 models and inputs."
    )


def stand_in(example: Any) -> Any:
    """A value of the right type outside any graph, so that import goes on to find further unsupported operators."""
    if isinstance(example, (tuple, list)):
        return [stand_in(x) for x in example]
    if not isinstance(example, torch.Tensor):
        return None
    shape = tuple(size if isinstance(size, int) else 1 for size in example.shape)
    return Value("unsupported", TensorType(DTYPES.get(example.dtype, f32), shape))


def depends_on_values(example: Any) -> bool:
    """Whether it is a tensor whose sizes are known at run time only, or a number of that kind."""
    if isinstance(example, (tuple, list)):
        return any(map(depends_on_values, example))
    if isinstance(example, torch.Tensor):
        return not all(isinstance(size, int) for size in example.shape)
    return isinstance(example, torch.SymInt | torch.SymFloat | torch.SymBool)
