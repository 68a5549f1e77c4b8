"""Elementwise layers and activations: every elementwise op of the graph, and functions made of them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from jitrt.frontend.builder import Builder, Number
from jitrt.frontend.layers import activation, arithmetic
from jitrt.frontend.network.arrays import dtype_of
from jitrt.frontend.network.frame import Frame, layer
from jitrt.frontend.network.tensor import Operand, Tensor
from jitrt.graph import DType, Value, f32
from jitrt.graph import ops as g
from jitrt.graph.dtype import promote
from jitrt.graph.op import OPS, Op
from jitrt.graph.ops.elementwise import Elementwise

_Build = Callable[..., Value]  # (builder, *values, **attributes)

# Made of several ops, and called by the names of their functions.
_ACTIVATIONS: tuple[_Build, ...] = (
    activation.elu,
    activation.selu,
    activation.celu,
    activation.swish,
    activation.thresholded_relu,
    activation.mish,
    activation.log_sigmoid,
    activation.softplus,
    activation.softsign,
    activation.tanhshrink,
    activation.hardshrink,
    activation.softshrink,
    activation.threshold,
)
_OF_ONE: tuple[_Build, ...] = (
    arithmetic.trunc,
    arithmetic.frac,
    arithmetic.tan,
    arithmetic.asin,
    arithmetic.acos,
    arithmetic.sinh,
    arithmetic.cosh,
    arithmetic.asinh,
    arithmetic.acosh,
    arithmetic.atanh,
    arithmetic.sinc,
    arithmetic.signbit,
    arithmetic.is_finite,
    arithmetic.is_infinite,
)
_OF_TWO: tuple[_Build, ...] = (
    arithmetic.atan2,
    arithmetic.xlogy,
    arithmetic.logaddexp,
    arithmetic.hypot,
    arithmetic.copysign,
    arithmetic.heaviside,
)
_NAMES = {"max": "maximum", "min": "minimum", "and": "logical_and", "or": "logical_or", "not": "logical_not"}
# What integers may go into; the rest makes fractions of them.
_ON_INTEGERS = {"relu", "abs", "neg", "sign", "floor", "ceil", "clamp", "round", "trunc", "logical_not"}


@layer
def add_activation(net: Frame, x: Tensor, kind: str, *, name: str | None = None, **attributes: float) -> Value:
    """A function of one tensor: "relu", "sigmoid", "tanh", "gelu", "silu", "hard_swish", "leaky_relu", "mish"...

    `attributes` are the function's own, such as slope=0.2 of "leaky_relu" or low=0, high=6 of "clamp"; an unknown kind
    or attribute raises NetworkError, which names those there are.
    """
    value = net.value(x)
    build, known, needed = _activations()[net.choose("activation", kind, _activations())]
    net.call(kind)
    for attribute, number in attributes.items():
        if attribute not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            net.refuse(f"{kind} has no attribute {attribute!r}; {there}")
        if not isinstance(number, bool | int | float):
            net.refuse(f"{attribute} is {number!r}; give a number")
    if missing := [attribute for attribute in needed if attribute not in attributes]:
        net.refuse(f"{kind} needs {' and '.join(missing)}")
    _check_fractions(net, kind, value.type.dtype)
    return build(net.builder, value, **{k: float(v) if type(v) is int else v for k, v in attributes.items()})


@layer
def add_prelu(net: Frame, x: Tensor, slope: Any, *, name: str | None = None) -> Value:
    """x if x > 0 else slope * x; `slope` has one number, or one a channel (dimension 1)."""
    value = net.floating(x)
    factor = net.parameter("slope", slope, value.type.dtype)
    if factor.type.numel != 1 and factor.type.shape != value.type.shape[1:2]:
        net.refuse(
            f"slope has shape {factor.type.shape}, expected one number, or one a channel: {value.type.shape[1:2]}"
        )
    return activation.prelu(net.builder, value, factor)


@layer
def add_glu(net: Frame, x: Tensor, axis: int = -1, *, name: str | None = None) -> Value:
    """The first half of x along an axis times the sigmoid of the second."""
    value = net.floating(x)
    at = net.axis(axis, value.type.rank)
    if value.type.shape[at] % 2:
        net.refuse(f"axis {at} has {value.type.shape[at]} elements, which make no two halves")
    return activation.glu(net.builder, value, at)


@layer
def add_elementwise(net: Frame, kind: str, *operands: Operand, name: str | None = None) -> Value:
    """A function of one, two or three operands, which broadcast: "add", "sub", "mul", "div", "pow", "max", "min",
    "equal", "less", "and", "where"..., or of one, "exp", "sqrt", "neg"...

    Operands are tensors, numbers or arrays, at least one a tensor. Two dtypes meet in the wider one; a number takes the
    tensor's, unless it has a fraction and the tensor has not.
    """
    if not isinstance(kind, str):
        net.refuse(f"got a {type(kind).__name__} for what to do; it comes first: net.add_elementwise('add', x, y)")
    given = [net.number_or_value(x) for x in operands]
    if not any(isinstance(x, Value) for x in given):
        net.refuse("no operand is a tensor; compute it in numpy")
    kind = _NAMES.get(kind, kind)
    arity, build = _elementwise()[net.choose("elementwise layer", kind, {**_elementwise(), **_NAMES})]
    net.call(kind)
    if len(given) != arity:
        net.refuse(f"{kind} takes {arity} operand(s), got {len(given)}")
    condition = given[:1] if kind == "where" else []
    if any(not isinstance(x, Value) for x in condition):
        net.refuse("the condition is a number; choose in Python")
    dtype = _common_dtype(given[len(condition) :])
    if arity == 1 or kind in ("div", "pow"):
        _check_fractions(net, kind, dtype)
    if kind.startswith("logical") and dtype != DType.b8:
        net.refuse(f"{kind} of {dtype.numpy} numbers; compare first, for example add_elementwise('not_equal', x, 0)")
    for x in given:
        if type(x) is int and not dtype.is_float and not _holds(dtype, x):
            net.refuse(f"{x} is no {dtype.numpy}; cast the tensor to a wider type first")
    return build(net.builder, *condition, *(net.builder.operand(x, dtype) for x in given[len(condition) :]))


@layer
def add_cast(net: Frame, x: Tensor, dtype: Any, *, name: str | None = None) -> Value:
    """The same numbers in another dtype; floats to integers are cut off, anything to bool is `x != 0`."""
    return net.builder.operand(net.value(x), dtype_of(dtype))


@layer
def add_scale(
    net: Frame, x: Tensor, *, scale: Any = None, shift: Any = None, power: Any = None, name: str | None = None
) -> Value:
    """(x * scale + shift) ** power; each a number, a vector of one number a channel (dimension 1), or an array or
    tensor that broadcasts."""
    value = net.value(x)
    _check_fractions(net, "a scale", value.type.dtype)
    if scale is None and shift is None and power is None:
        net.refuse("give scale, shift or power; without any the layer does nothing")
    for what, given, op in (("scale", scale, g.Mul()), ("shift", shift, g.Add()), ("power", power, g.Pow())):
        if given is not None:
            value = net.builder.add(op, value, _factor(net, what, given, value))
    return value


def _factor(net: Frame, what: str, given: Any, x: Value) -> Value:
    if isinstance(given, bool | int | float):
        return net.builder.operand(given, x.type.dtype)
    factor = net.parameter(what, given, x.type.dtype)
    if factor.type.rank != 1 or x.type.rank == 1:
        return factor
    if factor.type.shape[0] != x.type.shape[1]:
        net.refuse(f"{what} has {factor.type.shape[0]} numbers, x has {x.type.shape[1]} channels")
    return net.builder.per_channel(factor, x.type.rank)


def _check_fractions(net: Frame, kind: str, dtype: DType) -> None:
    if not dtype.is_float and kind not in _ON_INTEGERS:
        net.refuse(f"{kind} of {dtype.numpy} numbers: cast them first with net.add_cast(x, 'float32')")


def _holds(dtype: DType, number: int) -> bool:
    limits = np.iinfo(np.int64 if dtype == DType.b8 else dtype.numpy)
    return bool(limits.min <= number <= limits.max)


def _common_dtype(operands: Sequence[Value | Number]) -> DType:
    """Where the dtypes meet: the widest tensor's; fractions among integers make float32."""
    first, *rest = [x.type.dtype for x in operands if isinstance(x, Value)]
    for dtype in rest:
        first = promote(first, dtype)
    numbers = [x for x in operands if not isinstance(x, Value)]
    if any(isinstance(x, float) for x in numbers) and not first.is_float:
        return f32
    return DType.i64 if first == DType.b8 and any(not isinstance(x, bool) for x in numbers) else first


@cache
def _activations() -> Mapping[str, tuple[_Build, tuple[str, ...], tuple[str, ...]]]:
    """By name: how to build it, which attributes it has, and which of them it needs."""
    ops = {op.name: op for op in _ops() if op.arity == 1 and op.result is None and op not in (g.Cast, g.BitCast)}
    simple = {name: (partial(_with_attributes, op), _fields(op), ()) for name, op in ops.items()}
    made = {f.__name__: (f, *_parameters(f)) for f in _ACTIVATIONS}
    return {**simple, "relu6": (lambda b, x: b.add(g.Clamp(0.0, 6.0), x), (), ()), **made}


@cache
def _elementwise() -> Mapping[str, tuple[int, _Build]]:
    """By name: how many operands, and how to build it."""
    simple = {op.name: (op.arity, partial(_plain, op)) for op in _ops() if not _fields(op)}
    made = {f.__name__: (arity, f) for arity, functions in ((1, _OF_ONE), (2, _OF_TWO)) for f in functions}
    return {**simple, **made}


def _ops() -> Iterator[type[Elementwise]]:
    return (op for op in OPS.values() if issubclass(op, Elementwise))


def _parameters(function: _Build) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The attributes among a function's parameters, and those without a default."""
    _, _, *attributes = inspect.signature(function).parameters.values()
    return tuple(p.name for p in attributes), tuple(p.name for p in attributes if p.default is p.empty)


def _fields(op: type[Op]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(op))


def _plain(op: type[Op], b: Builder, *values: Value) -> Value:
    return b.add(op(), *values)


def _with_attributes(op: type[Op], b: Builder, x: Value, **attributes: Any) -> Value:
    return b.add(op(**attributes), x)
