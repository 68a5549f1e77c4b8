"""Problems of 1x1 convolutions and linear layers over many rows, for the tests of `gemm_tma`."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.graph import DType, Graph, TensorType, f16, verify
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Cast, Conv, Linear, Relu
from jitrt.kernels.base import Problem
from tests.kernels.convolutions import gapped, nhwc


def pointwise_problem(
    shape: Sequence[int],
    filters: int,
    *,
    stride: int = 1,
    dtype: DType = f16,
    residual: bool = False,
    bias: bool = True,
    then: Sequence[Op] = (Relu(),),
    gap: int = 0,
    input_gap: int = 0,
    out: DType | None = None,
    alignment: int = 16,
) -> Problem:
    """then(conv(x) + bias + residual), channels last, `gap` and `input_gap` channels of somebody else's after each
    pixel of the result and of x."""
    body = Graph("region")
    x = body.add_input("x", gapped(TensorType(dtype, tuple(shape)), input_gap))
    dims = len(shape) - 2
    w = body.add_input("w", nhwc(TensorType(dtype, (filters, shape[1], *(1,) * dims))))
    value = body.add(Conv((stride,) * dims, ((0, 0),) * dims, (1,) * dims, 1), x, w)
    if bias:
        value = body.add(Add(), value, body.add_input("bias", TensorType(dtype, (filters, *(1,) * dims))))
    if residual:
        value = body.add(Add(), value, body.add_input("residual", nhwc(value.type)))
    for op in then:
        value = body.add(op, value)
    if out is not None:
        value = body.add(Cast(out), value)
    value.type = gapped(value.type, gap)
    body.mark_output(value)
    verify(body)
    weights = tuple(v.name in ("w", "bias") for v in body.inputs)
    return Problem(body, weights, (alignment,) * (len(body.inputs) + 1))


def linear_problem(shape: Sequence[int], filters: int, *, dtype: DType = f16, then: Sequence[Op] = ()) -> Problem:
    """then(linear(x) + bias)."""
    body = Graph("region")
    x = body.add_input("x", TensorType(dtype, tuple(shape)))
    w = body.add_input("w", TensorType(dtype, (filters, shape[-1])))
    value = body.add(Add(), body.add(Linear(), x, w), body.add_input("bias", TensorType(dtype, (filters,))))
    for op in then:
        value = body.add(op, value)
    body.mark_output(value)
    return Problem(body, (False, True, True), (16,) * 4)
