"""Every candidate of the kernels other than convolution, verified and timed on the GPU at the networks' sizes.

The interpreter checks what a kernel says; this checks what the compiler made of it. Prints microseconds beside the
floor of memory and arithmetic.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32, f64, i32, i64
from jitrt.graph import ops as o
from jitrt.graph.op import Op
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from tests.gpu.candidates import check_candidates

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


def region(op: Op, *shapes: tuple[int, ...], dtype: DType = f16, nhwc: bool = False, gap: int = 0) -> Problem:
    """One op. With `nhwc` all 4-d tensors lie so; the output has `gap` foreign channels after each pixel."""
    body = Graph("region")
    dtypes = [i64 if i == 1 and isinstance(op, o.Gather | o.Scatter) else dtype for i in range(len(shapes))]
    inputs = [body.add_input(f"x{i}", TensorType(*both)) for i, both in enumerate(zip(dtypes, shapes, strict=True))]
    y = body.add(op, *inputs)
    if nhwc:
        for value in (v for v in (*inputs, y) if v.type.rank == 4):
            n, c, *rest = value.type.shape
            wide = (n, c + (gap if value is y else 0), *rest)
            value.type = value.type.with_layout(Layout(channels_last(wide)))
    body.mark_output(y)
    return Problem(body, (False,) * len(inputs), (16,) * (len(inputs) + 1))


def normalised(shape: tuple[int, ...], dims: int, dtype: DType = f16) -> Problem:
    return region(o.LayerNorm(dims), shape, shape[-dims:], shape[-dims:], dtype=dtype)


def dense_net_head(batch: int) -> Problem:
    """mean(relu(x * scale + shift)), as a DenseNet ends."""
    body = Graph("region")
    shape = (batch, 1024, 7, 7)
    x = body.add_input("x", TensorType(f16, shape, Layout(channels_last(shape))))
    scale, shift = (body.add_input(n, TensorType(f16, (1024, 1, 1))) for n in ("scale", "shift"))
    value = body.add(o.Relu(), body.add(o.Add(), body.add(o.Mul(), x, scale), shift))
    body.mark_output(body.add(o.ReduceMean((2, 3)), value))
    return Problem(body, (False, True, True), (16,) * 4)


def attention_scores(heads: int, tokens: int) -> Problem:
    """softmax(scores * 0.125 + mask)."""
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, (heads, tokens, tokens)))
    mask = body.add_input("mask", TensorType(f16, (heads, 1, tokens)))
    value = body.add(o.Add(), body.add(o.Mul(), x, body.scalar(0.125, f16)), mask)
    body.mark_output(body.add(o.Softmax(2), value))
    return Problem(body, (False, False), (16,) * 3)


def gated(batch: int, channels: int, size: int, gap: int) -> Problem:
    """relu(x * scale + shift) of a slice of a concat's buffer, as in a DenseNet."""
    body = Graph("region")
    shape = (batch, channels, size, size)
    x = body.add_input("x", TensorType(f16, shape, Layout(channels_last((batch, channels + gap, size, size)))))
    scale, shift = (body.add_input(n, TensorType(f16, (channels, 1, 1))) for n in ("scale", "shift"))
    y = body.add(o.Relu(), body.add(o.Add(), body.add(o.Mul(), x, scale), shift))
    y.type = y.type.with_layout(Layout(channels_last(shape)))
    body.mark_output(y)
    return Problem(body, (False, True, True), (16,) * 4)


def turned(shape: tuple[int, ...]) -> Problem:
    """A copy from NHWC to NCHW."""
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, shape, Layout(channels_last(shape))))
    body.mark_output(body.add(o.Contiguous(), x))
    return Problem(body, (False,), (16, 16))


STEM_POOL = o.MaxPool((3, 3), (2, 2), (1, 1))
BRANCH_POOL = o.AvgPool((3, 3), (1, 1), (1, 1))

PROBLEMS = {
    "ResNet's pool, batch 1": region(STEM_POOL, (1, 64, 112, 112), nhwc=True),
    "ResNet's pool, batch 128": region(STEM_POOL, (128, 64, 112, 112), nhwc=True),
    "ResNet's pool, float32": region(STEM_POOL, (8, 64, 112, 112), nhwc=True, dtype=f32),
    "ResNet's pool, bfloat16 NCHW": region(STEM_POOL, (2, 64, 112, 112), dtype=bf16),
    "Inception's branch pool, batch 8": region(BRANCH_POOL, (8, 192, 35, 35), nhwc=True),
    "Inception's branch pool, batch 128": region(BRANCH_POOL, (128, 192, 17, 17), nhwc=True),
    "GoogLeNet's pool, batch 128": region(o.MaxPool((3, 3), (1, 1), (1, 1)), (128, 192, 28, 28), nhwc=True),
    "GoogLeNet's pool into a concat": region(o.MaxPool((3, 3), (2, 2), (0, 0)), (8, 480, 28, 28), nhwc=True, gap=32),
    "adaptive pool, uneven windows": region(o.AdaptiveAvgPool((6, 6)), (8, 256, 13, 13), nhwc=True),
    "three-dimensional pool": region(o.AvgPool((2, 2, 2), (2, 2, 2), (0, 0, 0)), (2, 32, 8, 28, 28)),
    "global mean, batch 1": region(o.ReduceMean((2, 3), True), (1, 2048, 7, 7), nhwc=True),
    "global mean, batch 128": region(o.ReduceMean((2, 3), True), (128, 2048, 7, 7), nhwc=True),
    "squeeze, batch 1": region(o.ReduceMean((2, 3), True), (1, 32, 112, 112), nhwc=True),
    "squeeze, batch 8, odd channels": region(o.ReduceMean((2, 3), True), (8, 72, 28, 28), nhwc=True),
    "DenseNet's head, batch 1": dense_net_head(1),
    "maximum of everything": region(o.ReduceMax((0, 1, 2, 3)), (16, 64, 56, 56)),
    "sum of columns, float32": region(o.ReduceSum((0,)), (5000, 333), dtype=f32),
    "attention scores, ViT-B/16 batch 1": attention_scores(12, 197),
    "attention scores, BERT batch 8": attention_scores(96, 128),
    "class probabilities": region(o.Softmax(1), (128, 1000)),
    "log-probabilities of a vocabulary": region(o.LogSoftmax(1), (16, 50257)),
    "softmax over channels": region(o.Softmax(1), (4, 21, 128, 128)),
    "layer norm, ConvNeXt batch 1": normalised((1, 56, 56, 96), 1),
    "layer norm, ConvNeXt batch 128": normalised((128, 28, 28, 192), 1),
    "layer norm, ViT batch 8": normalised((8, 197, 768), 1),
    "RMS norm, 7B decoder": region(o.RmsNorm(1), (8, 128, 4096), (4096,)),
    "layer norm, long rows": normalised((8, 40000), 1, f32),
    "group norm": region(o.GroupNorm(32), (1, 320, 64, 64), (320,), (320,), nhwc=True),
    "embedding, BERT batch 8": region(o.Gather(0), (30522, 768), (1024, 1)),
    "a token into a cache of keys": region(o.Scatter(2), (8, 32, 2048, 128), (8, 1, 1, 1), (8, 32, 1, 128)),
    "sums by group, float32": region(o.Scatter(0, "add"), (1000, 256), (512, 1), (512, 256), dtype=f32),
    "argmax of a vocabulary": region(o.ArgMax(1), (16, 50257)),
    "running sum": region(o.CumSum(1), (64, 4096), dtype=f32),
    "five best of a thousand": region(o.TopK(1, 5), (128, 1000), dtype=f32),
    "sorting rows": region(o.TopK(1, 1000), (128, 1000), dtype=f32),
    "bilinear upsampling": region(o.Resize((112, 112), "linear"), (8, 64, 56, 56), nhwc=True),
    "bicubic, NCHW": region(o.Resize((112, 112), "cubic"), (2, 64, 56, 56)),
    "reflection": region(o.Extend(((0, 0), (0, 0), (1, 1), (1, 1)), "reflect"), (8, 64, 56, 56), nhwc=True),
    "pad": region(o.Pad(((0, 0), (0, 0), (1, 1), (1, 1))), (8, 64, 56, 56), nhwc=True),
    "scores, ViT-B/16 batch 1": region(o.Matmul(), (12, 197, 64), (12, 64, 197)),
    "product of odd sizes, bfloat16": region(o.Matmul(), (3, 2, 77, 45), (2, 45, 131), dtype=bf16),
    "product, float32": region(o.Matmul(), (300, 200), (200, 100), dtype=f32),
    "product, tf32": region(o.Matmul(True), (512, 512), (512, 512), dtype=f32),
    "product, float64": region(o.Matmul(), (4, 200, 70), (4, 70, 90), dtype=f64),
    "product of integers": region(o.Matmul(), (300, 200), (200, 100), dtype=i32),
    "DenseNet's bn and relu": gated(8, 96, 56, 160),
    "NHWC to NCHW": turned((8, 256, 28, 28)),
    "NHWC to NCHW, seven wide": turned((8, 512, 7, 7)),
}


def test_every_candidate_is_right() -> None:
    check_candidates(PROBLEMS)
