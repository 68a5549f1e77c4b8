"""Problems for `conv_pointwise`: a convolution of several taps and the 1x1 convolution of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jitrt.graph import DType, Graph, Layout, TensorType, f16
from jitrt.graph.ops import Add, Conv, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from jitrt.testing import make_problem


def bottleneck(
    shape: Sequence[int] = (2, 40, 7, 5),
    width: int = 24,
    filters: int = 56,
    kernel: int = 3,
    stride: int = 1,
    *,
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None,
    dtype: DType = f16,
    residual: bool = True,
    gap: int = 0,
    swish: bool = False,
) -> Problem:
    """relu(pointwise(relu(conv(x) + bias)) + bias (+ residual)), all that lies in memory at multiples of 16 bytes; with
    `swish` x * sigmoid(x) stands for the first relu. The result has `gap` foreign channels after each pixel."""
    body = Graph("region")

    def lie(type: TensorType, more: int = 0) -> TensorType:
        n, c, *rest = type.shape
        return type.with_layout(Layout(channels_last((n, c + more, *rest))))

    x = body.add_input("x", lie(TensorType(dtype, tuple(shape))))
    v = body.add_input("v", lie(TensorType(dtype, (width, shape[1], kernel, kernel))))
    inner = body.add_input("inner", TensorType(dtype, (width, 1, 1)))
    w = body.add_input("w", TensorType(dtype, (filters, width, 1, 1)))
    outer = body.add_input("outer", TensorType(dtype, (filters, 1, 1)))
    around = padding or ((kernel // 2,) * 2,) * 2
    first = body.add(Add(), body.add(Conv((stride, stride), around, (1, 1)), x, v), inner)
    first = body.add(Sigmoid() if swish else Relu(), first)
    first.type = lie(first.type)
    value = body.add(Add(), body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), first, w), outer)
    if residual:
        value = body.add(Add(), value, body.add_input("residual", lie(value.type)))
    value = body.add(Relu(), value)
    value.type = lie(value.type, gap)
    body.mark_output(value)
    problem = make_problem(body, weights=["v", "inner", "w", "outer"])
    return replace(problem, alignment=(16,) * len(problem.alignment))
