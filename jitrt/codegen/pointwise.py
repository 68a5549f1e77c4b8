"""Every elementwise op as an expression in Triton, the twin of its numpy formula in `graph.ops.elementwise`.

Floats are computed in float32 (float64 stays), so an expression never rounds in between. NaN propagates as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jitrt.graph import ops
from jitrt.graph.dtype import DType
from jitrt.graph.op import Op

_NAN = "propagate_nan=tl.PropagateNan.ALL"

TRITON_TYPES = {
    DType.f64: "fp64",
    DType.f32: "fp32",
    DType.f16: "fp16",
    DType.bf16: "bf16",
    DType.i64: "i64",
    DType.i32: "i32",
    DType.i16: "i16",
    DType.i8: "i8",
    DType.u64: "u64",
    DType.u32: "u32",
    DType.u16: "u16",
    DType.u8: "u8",
    DType.b8: "i1",
}
_LANGUAGE_TYPES = {
    DType.f64: "tl.float64",
    DType.f32: "tl.float32",
    DType.f16: "tl.float32",  # registers hold 16-bit floats as float32
    DType.bf16: "tl.float32",
    DType.i64: "tl.int64",
    DType.i32: "tl.int32",
    DType.i16: "tl.int16",
    DType.i8: "tl.int8",
    DType.u64: "tl.uint64",
    DType.u32: "tl.uint32",
    DType.u16: "tl.uint16",
    DType.u8: "tl.uint8",
    DType.b8: "tl.int1",
}


def register_type(dtype: DType) -> str:
    """The type a value of `dtype` has inside a kernel."""
    return _LANGUAGE_TYPES[dtype]


def triton_dtype(dtype: DType) -> Any:
    """The `tl` dtype object of `register_type`, to hand to a kernel as a constexpr."""
    import triton.language as tl

    return getattr(tl, register_type(dtype).removeprefix("tl."))


def storage_dtype(dtype: DType) -> Any:
    """The `tl` dtype object of elements of `dtype` in memory."""
    import triton.language as tl

    return {DType.f16: tl.float16, DType.bf16: tl.bfloat16}.get(dtype, triton_dtype(dtype))


def literal(number: float | int | bool) -> str:
    """A Python number as Triton source."""
    if isinstance(number, float) and not math.isfinite(number):
        return f'float("{number}")'
    return repr(number)


def _pow(a: str, b: str) -> str:
    square, cube = f"{a} * {a}", f"{a} * {a} * {a}"
    known = {"-1.0": f"1 / {a}", "0.5": f"tl.sqrt({a})", "2.0": square, "2": square, "3.0": cube, "3": cube}
    return known.get(b.strip("()")) or _two("power", a, b)


def _cast(dtype: DType, x: str) -> str:
    if dtype == DType.b8:
        return f"{x} != 0"
    if dtype in (DType.f16, DType.bf16):  # round, although the register stays float32
        return f"({x}).to({'tl.float16' if dtype == DType.f16 else 'tl.bfloat16'})"
    if not dtype.is_float and dtype not in (DType.i32, DType.i64):
        return f"special.to_integer({x}, {register_type(dtype)})"
    return x  # the result's register type does the rest


def _bit_cast(op: Any, x: str) -> str:
    """16-bit floats are float32 in registers, and become what they are in memory for this."""
    stored = {DType.f16: "tl.float16", DType.bf16: "tl.bfloat16"}
    x = f"({x}).to({stored[op.source]})" if op.source in stored else x
    return f"({x}).to({stored.get(op.dtype, register_type(op.dtype))}, bitcast=True)"


def _two(name: str, a: str, b: str) -> str:
    """A function of `special` of two operands, the first of which must be a tensor."""
    return f"special.{name}({a if a.isidentifier() else f'tl.zeros_like({b}) + {a}'}, {b})"


_SIXTH = "0.16666666666666666"  # the division takes three times as long
_GELU_TANH = "0.7978845608028654 * ({x} + 0.044715 * {x} * {x} * {x})"

EXPRESSIONS: dict[type[Op], Callable[..., str]] = {
    ops.Relu: lambda op, x: f"tl.maximum({x}, 0, {_NAN})",
    ops.Sigmoid: lambda op, x: f"1 / (1 + tl.exp(-{x}))",
    ops.Tanh: lambda op, x: f"special.tanh({x})",
    ops.Silu: lambda op, x: f"{x} / (1 + tl.exp(-{x}))",
    ops.HardSigmoid: lambda op, x: f"tl.minimum(tl.maximum({x} + 3, 0.0, {_NAN}), 6.0, {_NAN}) * {_SIXTH}",
    ops.HardSwish: lambda op, x: f"{x} * tl.minimum(tl.maximum({x} + 3, 0.0, {_NAN}), 6.0, {_NAN}) * {_SIXTH}",
    ops.Softplus: lambda op, x: f"tl.maximum({x}, 0.0, {_NAN}) + special.log1p(tl.exp(-tl.abs({x})))",
    ops.Exp: lambda op, x: f"tl.exp({x})",
    ops.Log: lambda op, x: f"tl.log({x})",
    ops.Sqrt: lambda op, x: f"tl.sqrt({x})",
    ops.Rsqrt: lambda op, x: f"tl.rsqrt({x})",
    ops.Reciprocal: lambda op, x: f"1 / {x}",
    ops.Erf: lambda op, x: f"tl.erf({x})",
    ops.Sin: lambda op, x: f"tl.sin({x})",
    ops.Cos: lambda op, x: f"tl.cos({x})",
    ops.Abs: lambda op, x: f"tl.abs({x})",
    ops.Neg: lambda op, x: f"-{x}",
    ops.Sign: lambda op, x: f"special.sign({x})",
    ops.Floor: lambda op, x: f"tl.floor({x})",
    ops.Ceil: lambda op, x: f"tl.ceil({x})",
    ops.Add: lambda op, a, b: f"{a} + {b}",
    ops.Sub: lambda op, a, b: f"{a} - {b}",
    ops.Mul: lambda op, a, b: f"{a} * {b}",
    ops.Div: lambda op, a, b: f"{a} / {b}",
    ops.Pow: lambda op, a, b: _pow(a, b),
    ops.Maximum: lambda op, a, b: f"tl.maximum({a}, {b}, {_NAN})",
    ops.Minimum: lambda op, a, b: f"tl.minimum({a}, {b}, {_NAN})",
    ops.Equal: lambda op, a, b: f"{a} == {b}",
    ops.NotEqual: lambda op, a, b: f"{a} != {b}",
    ops.Less: lambda op, a, b: f"{a} < {b}",
    ops.LessEqual: lambda op, a, b: f"{a} <= {b}",
    ops.Greater: lambda op, a, b: f"{a} > {b}",
    ops.GreaterEqual: lambda op, a, b: f"{a} >= {b}",
    ops.LogicalAnd: lambda op, a, b: f"({a} != 0) & ({b} != 0)",
    ops.LogicalOr: lambda op, a, b: f"({a} != 0) | ({b} != 0)",
    ops.LogicalNot: lambda op, x: f"{x} == 0",
    ops.Where: lambda op, c, a, b: f"tl.where({c}, {a}, {b})",
    ops.Clamp: lambda op, x: f"special.clamp({x}, {literal(op.low)}, {literal(op.high)})",
    ops.LeakyRelu: lambda op, x: f"tl.where({x} > 0, {x}, {literal(op.slope)} * {x})",
    ops.Elu: lambda op, x: f"tl.where({x} > 0, {x}, {literal(op.alpha)} * (tl.exp({x}) - 1))",
    ops.Gelu: lambda op, x: (
        f"{x} / (1 + tl.exp(-2 * ({_GELU_TANH.format(x=x)})))"
        if op.approximate
        else f"0.5 * {x} * (1 + tl.erf({x} * 0.7071067811865476))"
    ),
    ops.Round: lambda op, x: f"special.round({x})",
    ops.Log1p: lambda op, x: f"special.log1p({x})",
    ops.Expm1: lambda op, x: f"special.expm1({x})",
    ops.Atan: lambda op, x: f"special.atan({x})",
    ops.FloorDiv: lambda op, a, b: _two("floor_div", a, b),
    ops.TruncDiv: lambda op, a, b: _two("trunc_div", a, b),
    ops.Remainder: lambda op, a, b: _two("remainder", a, b),
    ops.Fmod: lambda op, a, b: _two("fmod", a, b),
    ops.BitwiseAnd: lambda op, a, b: f"{a} & {b}",
    ops.BitwiseOr: lambda op, a, b: f"{a} | {b}",
    ops.BitwiseXor: lambda op, a, b: f"{a} ^ {b}",
    ops.ShiftLeft: lambda op, a, b: _two("shift_left", a, b),
    ops.ShiftRight: lambda op, a, b: _two("shift_right", a, b),
    ops.BitCast: lambda op, x: _bit_cast(op, x),
    ops.Contiguous: lambda op, x: x,
    ops.Cast: lambda op, x: _cast(op.dtype, x),
}


def _rounded_gelu(x: str) -> str:
    """x * Phi(x) with one exponential: log2 of 1 - Phi(|x|) is the polynomial in |x| of its degree for which the result
    y is least off, at most 0.25 max(|y| 2^-12, 2^-24), where half a step of float16 is |y| 2^-12 or more. An eighth of
    erf's instructions, and infinities and NaN become what they become through erf."""
    log = repr(_GELU[-1])
    for number in _GELU[-2::-1]:
        log = f"({number!r} + tl.abs({x}) * {log})"
    return f"{x} * tl.where({x} > 0, 1 - tl.exp2({log}), tl.exp2({log}))"


_GELU = (
    *(-1.0000886994105107, -1.1496563730835097, -0.4630507114728408),
    *(-0.04904918499084744, 0.006074109366269696, -0.00034640692289312597),
)


def expression(op: Op, *operands: str, rounded: bool = False) -> str:
    """Triton source for one elementwise op over operand expressions (each a name or a literal). If the result is
    `rounded` to 16 bits, it need not be more exact than that."""
    if rounded and isinstance(op, ops.Gelu) and not op.approximate:
        return _rounded_gelu(*operands)
    return EXPRESSIONS[type(op)](op, *operands)
