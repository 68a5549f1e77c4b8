"""Elementwise ops: one output element from the elements at the same broadcast index.

Each has a formula in numpy here and the same formula in Triton in `codegen.pointwise`; a test compares the two tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.dtype import DType, promote
from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType, broadcast_shapes


@dataclass(frozen=True)
class Elementwise(Op):
    """Base: operands broadcast, the output dtype is their promotion."""

    traits: ClassVar[Trait] = Trait.ELEMENTWISE
    arity: ClassVar[int] = 1
    result: ClassVar[DType | None] = None  # a fixed output dtype, for comparisons

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(len(types) == self.arity, f"takes {self.arity} operands, got {len(types)}")
        shape = broadcast_shapes(*(t.shape for t in types))
        self.check(shape is not None, f"shapes {[list(t.shape) for t in types]} do not broadcast")
        assert shape is not None
        dtype = types[0].dtype
        for type in types[1:]:
            dtype = promote(dtype, type.dtype)
        return (TensorType(self.result or dtype, shape),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(self.formula(*(wide(a) for a in arrays))),)

    def formula(self, *arrays: Array) -> Array:
        raise NotImplementedError


def _simple(op_name: str, arity: int, function: Callable[..., Array], doc: str, result: DType | None = None) -> type:
    """An elementwise op without attributes."""

    @dataclass(frozen=True)
    class Simple(Elementwise):
        name: ClassVar[str] = op_name

        def formula(self, *arrays: Array) -> Array:
            return function(*arrays)

    Simple.arity, Simple.result, Simple.__doc__ = arity, result, doc
    Simple.__name__ = Simple.__qualname__ = "".join(part.title() for part in op_name.split("_"))
    return Simple


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def erf(x: Array) -> Array:
    """The error function, through math.erf in float64: exact, and only ever the reference."""
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype) if x.size else x


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def power(a: Array, b: Array) -> Array:
    """a ** b. Integers wrap around, and negative exponents of integers give 0 but for 1 and -1."""
    if np.result_type(a, b).kind == "f":
        return np.power(a, b)
    whole = np.power(a, np.maximum(b, 0))
    inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0))
    return np.where(b < 0, inverse, whole) if np.any(b < 0) else whole


Relu = _simple("relu", 1, lambda x: np.maximum(x, x.dtype.type(0)), "max(x, 0); NaN stays NaN")
Sigmoid = _simple("sigmoid", 1, sigmoid, "1 / (1 + exp(-x))")
Tanh = _simple("tanh", 1, np.tanh, "tanh(x)")
Silu = _simple("silu", 1, lambda x: x * sigmoid(x), "x * sigmoid(x)")
HardSigmoid = _simple("hard_sigmoid", 1, lambda x: np.clip(x + 3, 0, 6) / 6, "clip(x + 3, 0, 6) / 6")
HardSwish = _simple("hard_swish", 1, lambda x: x * np.clip(x + 3, 0, 6) / 6, "x * clip(x + 3, 0, 6) / 6")
Softplus = _simple("softplus", 1, _softplus, "log(1 + exp(x))")
Exp = _simple("exp", 1, np.exp, "e^x")
Log = _simple("log", 1, np.log, "natural logarithm")
Sqrt = _simple("sqrt", 1, np.sqrt, "square root")
Rsqrt = _simple("rsqrt", 1, lambda x: 1 / np.sqrt(x), "1 / sqrt(x)")
Reciprocal = _simple("reciprocal", 1, lambda x: 1 / x, "1 / x")
Erf = _simple("erf", 1, erf, "the error function")
Sin = _simple("sin", 1, np.sin, "sine")
Cos = _simple("cos", 1, np.cos, "cosine")
Abs = _simple("abs", 1, np.abs, "|x|")
Neg = _simple("neg", 1, np.negative, "-x")
Sign = _simple("sign", 1, np.sign, "-1, 0 or 1")
Floor = _simple("floor", 1, np.floor, "largest integer not above x")
Ceil = _simple("ceil", 1, np.ceil, "smallest integer not below x")
Add = _simple("add", 2, np.add, "a + b")
Sub = _simple("sub", 2, np.subtract, "a - b")
Mul = _simple("mul", 2, np.multiply, "a * b")
Div = _simple("div", 2, np.divide, "a / b, true division")
Pow = _simple("pow", 2, power, "a ** b; integers wrap around")
Maximum = _simple("maximum", 2, np.maximum, "max(a, b); NaN if either is")
Minimum = _simple("minimum", 2, np.minimum, "min(a, b); NaN if either is")
Equal = _simple("equal", 2, np.equal, "a == b", DType.b8)
NotEqual = _simple("not_equal", 2, np.not_equal, "a != b", DType.b8)
Less = _simple("less", 2, np.less, "a < b", DType.b8)
LessEqual = _simple("less_equal", 2, np.less_equal, "a <= b", DType.b8)
Greater = _simple("greater", 2, np.greater, "a > b", DType.b8)
GreaterEqual = _simple("greater_equal", 2, np.greater_equal, "a >= b", DType.b8)
LogicalAnd = _simple("logical_and", 2, np.logical_and, "a and b", DType.b8)
LogicalOr = _simple("logical_or", 2, np.logical_or, "a or b", DType.b8)
LogicalNot = _simple("logical_not", 1, np.logical_not, "not a", DType.b8)


@dataclass(frozen=True)
class Where(Elementwise):
    """condition ? a : b; the dtype is the promotion of a and b."""

    name: ClassVar[str] = "where"
    arity: ClassVar[int] = 3

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(types[0].dtype == DType.b8, f"the condition is {types[0].dtype.value}, expected b8")
        (out,) = super().infer(*types)
        return (out.with_dtype(promote(types[1].dtype, types[2].dtype)),)

    def formula(self, *arrays: Array) -> Array:
        return np.where(*arrays)


@dataclass(frozen=True)
class Cast(Elementwise):
    """Convert to `dtype`: the one elementwise op that rounds inside a fused kernel too. Floats to integers truncate and
    wrap around, as long as 64 bits hold them (32 for 8 and 16 bits on a GPU); anything to b8 is `x != 0`."""

    name: ClassVar[str] = "cast"
    dtype: DType

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (super().infer(*types)[0].with_dtype(self.dtype),)

    def formula(self, *arrays: Array) -> Array:
        (x,), to = arrays, self.dtype.numpy
        if x.dtype.kind != "f" or to.kind not in "iu":
            return x.astype(to)
        # What numpy's own conversion to narrow and unsigned integers does with negative numbers depends on the CPU.
        whole = x.astype(np.int64).astype(to)
        return np.where(x < 0, whole, x.astype(np.uint64)) if to == np.uint64 else whole


@dataclass(frozen=True)
class Clamp(Elementwise):
    """min(max(x, low), high); NaN stays NaN. ReLU6 is Clamp(0, 6)."""

    name: ClassVar[str] = "clamp"
    low: float = -3.4e38
    high: float = 3.4e38

    def formula(self, *arrays: Array) -> Array:
        return np.clip(arrays[0], arrays[0].dtype.type(self.low), arrays[0].dtype.type(self.high))


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """x if x > 0 else slope * x."""

    name: ClassVar[str] = "leaky_relu"
    slope: float = 0.01

    def formula(self, *arrays: Array) -> Array:
        return np.where(arrays[0] > 0, arrays[0], arrays[0].dtype.type(self.slope) * arrays[0])


@dataclass(frozen=True)
class Elu(Elementwise):
    """x if x > 0 else alpha * (exp(x) - 1)."""

    name: ClassVar[str] = "elu"
    alpha: float = 1.0

    def formula(self, *arrays: Array) -> Array:
        x = arrays[0]
        return np.where(x > 0, x, x.dtype.type(self.alpha) * np.expm1(np.minimum(x, 0)))


@dataclass(frozen=True)
class Gelu(Elementwise):
    """x * Phi(x): exact through erf, or the tanh approximation."""

    name: ClassVar[str] = "gelu"
    approximate: bool = False

    def formula(self, *arrays: Array) -> Array:
        x = arrays[0]
        if self.approximate:
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
            return (0.5 * x * (1 + np.tanh(inner))).astype(x.dtype)
        return (0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(x.dtype)
