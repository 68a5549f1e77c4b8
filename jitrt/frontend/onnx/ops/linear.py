"""Matrix products, and determinants."""

from __future__ import annotations

from jitrt.frontend.builder import fixed
from jitrt.frontend.layers import linear as layers
from jitrt.frontend.layers.arithmetic import scaled
from jitrt.frontend.layers.determinant import determinant
from jitrt.frontend.layers.einsum import einsum
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_LINEAR = (DType.f32, DType.f16, DType.bf16)  # what the kernels of linear layers take


def product(n: Call, left: Value, right: Value) -> Value:
    """left @ right; by a matrix of weights a linear layer, which has the better kernels."""
    if right.type.rank == 2 and left.type.rank >= 2 and left.type.dtype in _LINEAR and fixed(right):
        return n.add(g.Linear(), left, n.b.permute(right, (1, 0)))
    return layers.matmul(n.b, left, right)


@onnx_op("MatMul")
def matmul(n: Call, left: Value, right: Value) -> Value:
    if 0 in (left.type.rank, right.type.rank):
        n.refuse("of a tensor of rank 0")
    return product(n, left, right)


@onnx_op("Gemm")
def gemm(n: Call, a: Value, b: Value, c: Value | None = None) -> Value:
    """alpha * op(a) @ op(b) + beta * c."""
    if (a.type.rank, b.type.rank) != (2, 2):
        n.refuse(f"of tensors of ranks {a.type.rank} and {b.type.rank}")
    left = layers.transposed(n.b, a) if n.attribute("transA", 0) else a
    if a.type.dtype in _LINEAR and fixed(b):
        y = n.add(g.Linear(), left, b if n.attribute("transB", 0) else layers.transposed(n.b, b))
    else:
        y = layers.matmul(n.b, left, layers.transposed(n.b, b) if n.attribute("transB", 0) else b)
    y = scaled(n.b, y, factor(n, "alpha", y))
    beta = factor(n, "beta", y)
    if c is None or beta == 0:
        return y
    return n.add(g.Add(), y, scaled(n.b, c, beta))


def factor(n: Call, name: str, y: Value) -> float:
    """An attribute that multiplies; that of integers is a whole number."""
    number = n.attribute(name, 1.0)
    if not y.type.dtype.is_float and number != int(number):
        n.refuse(f"{name} = {number} with integers")
    return float(number) if y.type.dtype.is_float else int(number)


@onnx_op("Einsum")
def einsum_(n: Call, *operands: Value) -> Value:
    try:
        return einsum(n.b, n.required("equation"), operands)
    except ValueError as error:
        n.refuse(str(error))


@onnx_op("Det")
def det(n: Call, x: Value) -> Value:
    try:
        return determinant(n.b, x)
    except ValueError as error:
        n.refuse(str(error))
