"""Results that are the same in every run: what jitrt has no importer for, and reads weights and numbers alone, PyTorch
computes while the model is imported (a window, a parametrisation of weights)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jitrt.frontend.builder import fixed
from jitrt.frontend.torch.arrays import DTYPES, from_numpy, to_numpy
from jitrt.frontend.torch.complex import Complex
from jitrt.frontend.torch.context import Context
from jitrt.graph import Value
from jitrt.graph.op import Array

Known = Value | Complex


def compute(ctx: Context, node: torch.fx.Node, args: Any, kwargs: Any) -> Known | list[Known] | None:
    """The results of an operator as constants; None if they depend on an input, on chance, or on memory it writes to,
    or are nothing that a graph can hold."""
    target, example = node.target, node.meta.get("val")
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return None
    if torch.Tag.nondeterministic_seeded in target.tags:
        return None
    examples = list(example) if isinstance(example, tuple | list) else [example]
    if not all(isinstance(x, torch.Tensor) and _is_holdable(x) for x in examples):
        return None
    operands: list[Known] = []
    torch.fx.node.map_aggregate(
        (args, kwargs), lambda x: operands.append(x) if isinstance(x, Value | Complex) else None
    )
    if not all(fixed(part) for x in operands for part in ([x.real, x.imag] if isinstance(x, Complex) else [x])):
        return None
    memo: dict[Value, Array] = {}

    def tensor_of(x: Any) -> Any:
        if isinstance(x, Complex):
            return torch.complex(tensor_of(x.real), tensor_of(x.imag))
        return from_numpy(array_of(x, memo)) if isinstance(x, Value) else x

    args, kwargs = torch.fx.node.map_aggregate((args, kwargs), tensor_of)
    try:
        with torch.no_grad():
            made = target(*args, **{**kwargs, **({"device": "cpu"} if "device" in kwargs else {})})
    except RuntimeError:  # a singular matrix, for one: then it is an operator without an importer
        return None
    values = [_constant(ctx, x) for x in (made if isinstance(made, tuple | list) else [made])]
    return values if isinstance(example, tuple | list) else values[0]


def array_of(value: Value, memo: dict[Value, Array]) -> Array:
    """What a value made of constants holds. `memo` has what is known already."""
    if value.data is not None:
        return value.data
    if value not in memo:
        node = value.producer
        assert node is not None
        results: Sequence[Array] = node.op.eval(*(array_of(x, memo) for x in node.inputs))
        memo.update(zip(node.outputs, results, strict=True))
    return memo[value]


def _constant(ctx: Context, tensor: torch.Tensor) -> Known:
    if tensor.is_complex():
        return Complex(*(_real_constant(ctx, part) for part in (tensor.real, tensor.imag)))
    return _real_constant(ctx, tensor)


def _real_constant(ctx: Context, tensor: torch.Tensor) -> Value:
    return ctx.graph.add_constant(np.array(to_numpy(tensor), order="C"))


def _is_holdable(tensor: torch.Tensor) -> bool:
    """Whether a graph can hold such a tensor."""
    dtype = tensor.dtype.to_real() if tensor.dtype.is_complex else tensor.dtype
    return dtype in DTYPES and tensor.layout is torch.strided and all(isinstance(size, int) for size in tensor.shape)
