"""Every operator the importer knows, through torch.export and the reference, against PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jitrt.frontend.torch import import_torch
from jitrt.frontend.torch import registry as registry_module
from jitrt.frontend.torch.arrays import from_numpy, to_numpy
from jitrt.frontend.torch.registry import importer_of, importers
from jitrt.graph import interpret, verify
from tests.frontend.torch import more_families

aten = torch.ops.aten
Functions = dict[str, Callable[..., Any]]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = randn(2, 4, 6, 5)
Y = randn(2, 4, 6, 5, seed=1)
INTS = torch.arange(-12, 12).reshape(4, 6)
MASK = X > 0

UNARY = ["relu", "sigmoid", "tanh", "silu", "hardsigmoid", "hardswish", "exp", "erf", "sin", "cos", "abs", "neg"]
UNARY += ["sign", "floor", "ceil", "square", "relu6", "mish", "selu", "log_sigmoid", "isnan", "gelu", "elu", "softplus"]
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]

ELEMENTWISE: Functions = {
    "unary": lambda x, y, i, m: [getattr(aten, name)(x) for name in UNARY],
    "comparisons": lambda x, y, i, m: [getattr(aten, name)(x, y) for name in COMPARISONS],
    "comparisons with numbers": lambda x, y, i, m: [getattr(aten, name)(i, 3) for name in COMPARISONS],
    "log": lambda x, y, i, m: torch.log(x.abs() + 0.1),
    "sqrt": lambda x, y, i, m: torch.sqrt(x.abs()),
    "rsqrt": lambda x, y, i, m: torch.rsqrt(x.abs() + 0.1),
    "reciprocal": lambda x, y, i, m: torch.reciprocal(x.abs() + 0.1),
    "exp of integers": lambda x, y, i, m: torch.exp(i),
    "relu of integers": lambda x, y, i, m: torch.relu(i),
    "add": lambda x, y, i, m: (x + y, x + 2, 2.5 + x, i + 1, i + 1.5, torch.add(x, y, alpha=0.5)),
    "sub": lambda x, y, i, m: (x - y, x - 2, 2.5 - x, 3 - i, torch.sub(x, y, alpha=2), torch.rsub(x, y, alpha=3)),
    "mul": lambda x, y, i, m: (x * y, x * 2, i * i, x * i[:1, :5]),
    "div": lambda x, y, i, m: (x / (y.abs() + 1), x / 3, i / 4, 1 / (x.abs() + 1)),
    "div floor": lambda x, y, i, m: (torch.div(x, 0.3, rounding_mode="floor"), x // 0.3, x // (y.abs() + 0.2)),
    "div none": lambda x, y, i, m: torch.div(x, 0.3, rounding_mode=None),
    "pow": lambda x, y, i, m: (x**2, x.abs() ** y, 2.0**x, x.abs() ** 0.5),
    "maximum": lambda x, y, i, m: (torch.maximum(x, y), torch.max(x, y), torch.minimum(x, y), torch.min(x, y)),
    "clamp": lambda x, y, i, m: (
        x.clamp(-0.5, 0.5),
        x.clamp(min=0),
        x.clamp(min=0.2),
        x.clamp(max=0.3),
        i.clamp(-3, 3),
    ),
    "clamp tensors": lambda x, y, i, m: (x.clamp(y - 1, y), x.clamp(min=y), x.clamp(max=y), torch.clip(x, -1, 1)),
    "clamp_min": lambda x, y, i, m: (aten.clamp_min(x, 0.1), aten.clamp_max(x, 0.1), aten.clamp_min(x, y)),
    "clamp_max": lambda x, y, i, m: (aten.clamp_max(x, y), aten.clip(x, -1, 1), aten.clip(x, y, y + 1)),
    "hardtanh": lambda x, y, i, m: (F.hardtanh(x), F.hardtanh(x, -0.3, 0.4)),
    "leaky_relu": lambda x, y, i, m: (F.leaky_relu(x), F.leaky_relu(x, 0.3)),
    "prelu": lambda x, y, i, m: (F.prelu(x, y[0, :, 0, 0]), F.prelu(x, y[0, 0, 0, :1])),
    "elu alpha": lambda x, y, i, m: F.elu(x, 0.3),
    "gelu tanh": lambda x, y, i, m: F.gelu(x, approximate="tanh"),
    "softplus beta": lambda x, y, i, m: (F.softplus(x, 2.0), F.softplus(x, 2.0, 0.5)),
    "threshold": lambda x, y, i, m: F.threshold(x, 0.2, 7.0),
    "glu": lambda x, y, i, m: F.glu(x, 1),
    "logical": lambda x, y, i, m: (m & (y > 0), m | (y > 0), ~m, torch.logical_and(x, m), torch.logical_or(m, y)),
    "bitwise": lambda x, y, i, m: (torch.logical_not(x), aten.bitwise_and(m, True), aten.bitwise_or(m, False)),
    "where": lambda x, y, i, m: (torch.where(m, x, y), torch.where(m, x, 0.5), torch.where(m, 1.0, y)),
    "where numbers": lambda x, y, i, m: torch.where(m, 1.0, 2.0),
    "masked_fill": lambda x, y, i, m: (x.masked_fill(m, -1e4), x.masked_fill(m, y.sum())),
    "addcmul": lambda x, y, i, m: (torch.addcmul(x, y, y, value=0.5), torch.addcdiv(x, y, y.abs() + 1)),
    "lerp": lambda x, y, i, m: (torch.lerp(x, y, 0.3), torch.lerp(x, y, y)),
    "casts": lambda x, y, i, m: (x.half(), x.to(torch.int32), i.float(), i.to(torch.bool), x.double(), x.type_as(i)),
    "mixed": lambda x, y, i, m: (
        x.half() + 1.5,
        x.half() + y,
        x.half() * i[:1, :5],
        m + 1,
        i * 1.5,
        m * x,
        x + x.sum(),
    ),
    "bfloat16": lambda x, y, i, m: (x.bfloat16() + 1, x.bfloat16() + y.bfloat16(), x.bfloat16() * y.half()),
    "to": lambda x, y, i, m: (x.to("cpu"), x.to(i), aten._to_copy(x, dtype=torch.float64), x.to("cpu", torch.float16)),
    "scalar forms": lambda x, y, i, m: (
        aten.add.Scalar(x, 2, 3),
        aten.sub.Scalar(x, 2),
        aten.mul.Scalar(i, 2),
        aten.div.Scalar(i, 2),
        aten.div.Scalar_mode(x, 0.3, rounding_mode="floor"),
        aten.floor_divide.Scalar(x, 0.3),
        aten.bitwise_and.Tensor(m, m),
        aten.bitwise_or.Tensor(m, ~m),
        aten.__and__.Scalar(m, False),
        aten.__or__.Scalar(m, True),
        aten.to.other(x, i),
    ),
    "what in-place forms are made of": lambda x, y, i, m: (
        aten.copy(x, y[:1]),
        aten.copy(i, x[0, 0, 0, 0]),
        aten.fill.Scalar(x, 2),
        aten.fill.Tensor(i, x.sum()),
        aten.zero(x),
    ),
    "rank 0": lambda x, y, i, m: (x.sum() * 2, x.sum().half() + x.half(), i.sum() + 1.5),
}

SHAPE: Functions = {
    "view": lambda x, y, i, m: (x.view(2, -1), x.reshape(8, 30), x.flatten(1), x.flatten(), x.ravel(), x.view_as(y)),
    "reshape": lambda x, y, i, m: (x.transpose(1, 2).reshape(2, -1), x.unflatten(1, (2, 2)), x.reshape_as(y)),
    "squeeze": lambda x, y, i, m: (x[:1].squeeze(0), x[:1, :1].squeeze(), x[:1, :, :1].squeeze((0, 2)), x.squeeze(1)),
    "unsqueeze": lambda x, y, i, m: (x.unsqueeze(0), x.unsqueeze(-1), i[None, :, None]),
    "expand": lambda x, y, i, m: (
        i[:, None].expand(4, 3, 6),
        i[:1].expand(5, -1),
        i[:1].expand_as(i),
        i.broadcast_to(2, 4, 6),
    ),
    "permute": lambda x, y, i, m: (x.permute(0, 2, 3, 1), x.permute(0, -1, 1, 2), x.transpose(1, -1), i.t(), i.T, x.mT),
    "swapaxes": lambda x, y, i, m: (x.swapaxes(0, 1), x.swapdims(2, 3), x.adjoint(), aten.numpy_T(i)),
    "movedim": lambda x, y, i, m: (x.movedim(1, -1), x.movedim((0, 1), (2, 0)), torch.moveaxis(x, 3, 1)),
    "slice": lambda x, y, i, m: (x[:, 1:3], x[..., ::2], x[:, -2:], x[1:1], x[:, 2:1], x[:, :100], i[-3:-1, 1:-1:3]),
    "narrow": lambda x, y, i, m: (x.narrow(1, 1, 2), x.narrow(2, -3, 2), aten.narrow(x, 3, 1, 2)),
    "select": lambda x, y, i, m: (x[0], x[:, -1], x[..., 2], x.select(1, 1), x[1, 2, 3, 4]),
    "unbind": lambda x, y, i, m: (*x.unbind(1), *i.unbind()),
    "chunk": lambda x, y, i, m: (*x.chunk(2, 1), *x.chunk(3, 2), *x.chunk(4, 3), *i.chunk(2)),
    "split": lambda x, y, i, m: (*x.split(2, 1), *x.split(4, -1), *x.split([1, 3], 1), *aten.split(i, [2, 2])),
    "cat": lambda x, y, i, m: (
        torch.cat([x, y], 1),
        torch.cat([x, y.half()], -1),
        torch.cat([i]),
        torch.cat([x, x.new_zeros(0)]),
    ),
    "stack": lambda x, y, i, m: (
        torch.stack([x, y]),
        torch.stack([x, y], -1),
        torch.stack([x]),
        torch.stack([i, x[0, 0, 0, 0] * i]),
    ),
    "repeat": lambda x, y, i, m: (i.repeat(2, 1), i.repeat(3, 1, 2), i.repeat(1, 1), x.sum().repeat(3)),
    "pad": lambda x, y, i, m: (
        F.pad(x, (1, 2, 0, 3)),
        F.pad(x, (1, -1, -2, 1), value=0.5),
        F.pad(x, (0, 0)),
        F.pad(i, (1, 1)),
    ),
    "pixel shuffle": lambda x, y, i, m: (
        F.pixel_shuffle(x, 2),
        F.pixel_unshuffle(x[..., :4], 2),
        F.channel_shuffle(x, 2),
    ),
    "scatter": lambda x, y, i, m: (
        torch.slice_scatter(x, y[:, 1:3], 1, 1, 3),
        torch.slice_scatter(x, y[:, :0], 1, 4, 2),
        torch.slice_scatter(x, y[:, :, :2], 2, 1, 5, 2),
        torch.slice_scatter(x, y),
        torch.select_scatter(x, y[..., 0], -1, -2),
    ),
    "exotic forms": lambda x, y, i, m: (
        aten._unsafe_view(x, [2, 120]),
        aten.constant_pad_nd(x, [1, 1], 2),
        aten.native_channel_shuffle(x, 2),
    ),
    "upsample": lambda x, y, i, m: (
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, size=(18, 5)),
        aten.upsample_nearest2d(x, [12, 10]),
    ),
    "same": lambda x, y, i, m: (
        x.contiguous(),
        x.clone(),
        x.detach(),
        x.contiguous(memory_format=torch.channels_last),
        aten.alias(x),
    ),
    "create": lambda x, y, i, m: (
        x + torch.ones(5),
        x + torch.zeros(6, 5),
        x * torch.full((5,), 2.5),
        x + torch.arange(5),
        i + torch.eye(4, 6),
    ),
    "create like": lambda x, y, i, m: (
        torch.zeros_like(x),
        torch.ones_like(i),
        torch.full_like(x, 3),
        x.new_ones(2),
        x.new_full((3,), 2),
    ),
    "create more": lambda x, y, i, m: (
        x + torch.linspace(0, 1, 5),
        i + torch.arange(2, 8),
        i + torch.arange(0, 12, 2),
        torch.eye(3) + x.sum(),
    ),
    "scalar tensor": lambda x, y, i, m: (
        x * torch.tensor(2.5),
        x + torch.tensor([1.0, 2, 3, 4, 5]),
        x * torch.scalar_tensor(2),
    ),
}

REDUCE: Functions = {
    "mean": lambda x, y, i, m: (x.mean(), x.mean(1), x.mean((2, 3), keepdim=True), x.mean(-1), x.half().mean((1,))),
    "mean dtype": lambda x, y, i, m: (i.mean(dtype=torch.float32), x.half().sum(1, dtype=torch.float32)),
    "sum": lambda x, y, i, m: (
        x.sum(),
        x.sum((0, -1)),
        x.sum(2, keepdim=True),
        i.sum(),
        m.sum(),
        m.sum(1),
        i.to(torch.int8).sum(0),
    ),
    "max": lambda x, y, i, m: (
        x.amax(1),
        x.amin((1, 2), keepdim=True),
        x.max(),
        x.min(),
        i.max(),
        x.max(1)[0],
        x.min(2, keepdim=True)[0],
    ),
    "variance": lambda x, y, i, m: (
        x.var(),
        x.var(1),
        x.var((2, 3), unbiased=False),
        x.std(1, keepdim=True),
        x.std(),
        torch.var_mean(x, 1)[1],
    ),
    "correction": lambda x, y, i, m: (
        x.var(1, correction=0),
        x.std((1, 2), correction=2),
        aten.var(x, False),
        aten.std(x, [1], True, True),
    ),
    "var_mean": lambda x, y, i, m: (*torch.var_mean(x, 1), *torch.var_mean(x, (2,), unbiased=False, keepdim=True)),
    "more forms": lambda x, y, i, m: (
        *aten.var_mean.default(x, False),
        aten.std.default(x),
        *aten.var_mean.correction(x, [1]),
    ),
    "norms": lambda x, y, i, m: (
        x.norm(dim=1),
        F.normalize(x, dim=1),
        torch.linalg.vector_norm(x, 1, dim=(2, 3), keepdim=True),
    ),
    "logsumexp": lambda x, y, i, m: (torch.logsumexp(x, 1), torch.logsumexp(x, (2, 3), keepdim=True)),
    "logsumexp of infinities": lambda x, y, i, m: torch.logsumexp(torch.where(x > 2, x / 0, -x.abs() / 0), (1, 2)),
    "softmax": lambda x, y, i, m: (
        x.softmax(1),
        x.log_softmax(-1),
        x.half().softmax(2),
        x.softmax(0, dtype=torch.float64),
    ),
    "softmax of rank 0": lambda x, y, i, m: (
        x.sum().softmax(0),
        x.sum().log_softmax(-1),
        x.sum().mean(),
        x.sum().sum(0),
    ),
    "_softmax": lambda x, y, i, m: (aten._softmax(x, 1, False), aten._log_softmax(x, 1, False)),
}

NORM: Functions = {
    "batch_norm": lambda x, y, i, m: F.batch_norm(x, y[0, :, 0, 0], y[0, :, 1, 0].abs(), y[0, :, 2, 0], y[0, :, 3, 0]),
    "batch_norm bare": lambda x, y, i, m: F.batch_norm(x, y[0, :, 0, 0], y[0, :, 1, 0].abs(), eps=1e-3),
    "batch_norm native": lambda x, y, i, m: aten._native_batch_norm_legit_no_training(
        x, None, None, y[0, :, 0, 0], y[0, :, 1, 0].abs(), 0.1, 1e-5
    )[0],
    "batch_norm by the batch": lambda x, y, i, m: (
        F.batch_norm(x, None, None, y[0, :, 0, 0], y[0, :, 1, 0], training=True),
        nn.BatchNorm1d(4, track_running_stats=False).eval()(x[:, :, 0, 0]),
    ),
    "layer_norm": lambda x, y, i, m: (
        F.layer_norm(x, (5,)),
        F.layer_norm(x, (6, 5), y[0, 0], y[1, 0]),
        F.layer_norm(x, (5,), y[0, 0, 0]),
    ),
    "group_norm": lambda x, y, i, m: (F.group_norm(x, 2), F.group_norm(x, 4, y[0, :, 0, 0], y[1, :, 0, 0], 1e-3)),
    "instance_norm": lambda x, y, i, m: (
        F.instance_norm(x),
        F.instance_norm(x, y[0, :, 0, 0], y[0, :, 1, 0].abs(), use_input_stats=False),
    ),
    "rms_norm": lambda x, y, i, m: (F.rms_norm(x, (5,)), F.rms_norm(x, (6, 5), y[0, 0], 1e-3)),
    "dropout": lambda x, y, i, m: (
        F.dropout(x, 0.5, False),
        F.dropout2d(x, 0.5, False),
        F.alpha_dropout(x, 0.5, False),
    ),
    "dropout native": lambda x, y, i, m: (
        aten.native_dropout(x, 0.5, False)[0],
        aten.feature_alpha_dropout(x, 0.5, False),
    ),
    "dropout of nothing": lambda x, y, i, m: F.dropout(x, 0.0, True),
}


def encoder_layer(x: torch.Tensor, *, gelu: bool = False, norm_first: bool = False, **mask: Any) -> torch.Tensor:
    """As nn.TransformerEncoderLayer calls it; x is (batch, 6, 8)."""
    numbers = iter(torch.linspace(-1, 1, 8 * 100).reshape(100, 8).sin().unbind())
    rows = [torch.stack([next(numbers) for _ in range(n)]) for n in (24, 8, 12)]
    vectors = [next(numbers) for _ in range(6)]
    weights = rows[0], rows[0][:, 0], rows[1], vectors[0]
    feed = rows[2], rows[2][:, 0], rows[2].t().contiguous(), vectors[1]
    settings = 8, 2, *weights, gelu, norm_first, 1e-5, *vectors[2:6], *feed
    return aten._transformer_encoder_layer_fwd(x, *settings, **mask)


def native_attention(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, **options: Any) -> Any:
    w = torch.linspace(-1, 1, 24 * 8).reshape(24, 8).sin()
    results = aten._native_multi_head_attention(x, y, z, 8, 2, w, w[:, 0], w[:8], w[0], **options)
    return results[: 1 + options.get("need_weights", True)]


def tokens(x: torch.Tensor) -> torch.Tensor:
    """(2, 6, 8)."""
    return x.flatten()[:96].reshape(2, 6, 8)


def hidden(x: torch.Tensor) -> torch.Tensor:
    """Which of 6 tokens not to look at: never all."""
    return torch.cat([x[:, 0, :5, 0] > 0.2, x[:, 0, :1, 0] > 1e9], 1)


FAST_PATHS: Functions = {
    "encoder layer": lambda x, y, i, m: (
        encoder_layer(tokens(x)),
        encoder_layer(tokens(x), gelu=True, norm_first=True, mask=hidden(x), mask_type=1),
        encoder_layer(tokens(x), mask=torch.ones(6, 6).triu(1) > 0, mask_type=0),
    ),
    "attention": lambda x, y, i, m: (
        native_attention(tokens(x), tokens(x), tokens(x)),
        native_attention(tokens(x), tokens(y), tokens(y), average_attn_weights=False),
        native_attention(tokens(x), tokens(y), tokens(x), need_weights=False),
        native_attention(tokens(x), tokens(x), tokens(x), mask=hidden(x), mask_type=1),
    ),
}

POOL: Functions = {
    "max_pool": lambda x, y, i, m: (
        F.max_pool2d(x, 2),
        F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.max_pool2d(x, (3, 2), 1, (1, 0), (1, 2)),
    ),
    "max_pool 1, 3": lambda x, y, i, m: (
        F.max_pool1d(x[0], 3, 2),
        F.max_pool3d(x, 2),
        F.max_pool3d(x[None], (1, 2, 2)),
    ),
    "max_pool indices": lambda x, y, i, m: (
        aten.max_pool2d_with_indices(x, [2, 2])[0],
        aten.max_pool3d_with_indices(x[None], [2, 2, 2])[0],
    ),
    "avg_pool": lambda x, y, i, m: (
        F.avg_pool2d(x, 3, 2, 1),
        F.avg_pool2d(x, 3, 2, 1, True, False),
        F.avg_pool1d(x[0], 3),
        F.avg_pool3d(x, 2),
    ),
    "unbatched": lambda x, y, i, m: (F.max_pool2d(x[0], 2), F.avg_pool2d(x[0], 2), F.adaptive_avg_pool2d(x[0], 3)),
    "adaptive": lambda x, y, i, m: (
        F.adaptive_avg_pool2d(x, 1),
        F.adaptive_avg_pool2d(x, (3, None)),
        F.adaptive_max_pool2d(x, (2, 3)),
    ),
    "adaptive 1, 3": lambda x, y, i, m: (
        F.adaptive_avg_pool1d(x[0], 2),
        F.adaptive_avg_pool3d(x, 2),
        F.adaptive_max_pool1d(x[0], 2),
        F.adaptive_max_pool3d(x, 2),
    ),
}

W = {d: randn(6, 4, *([3] * d), seed=d) for d in (1, 2, 3)}
UP = {d: randn(4, 6 if d == 1 else 3, *([3] * d), seed=d) for d in (1, 2, 3)}
GROUPED, BIAS = randn(6, 2, 3, 3, seed=4), randn(6, seed=5)
W1_EVEN, W3_EVEN = randn(2, 6, 2, seed=7), randn(2, 2, 2, 3, 3, seed=8)
M = randn(5, 7, seed=6)

PRODUCTS: Functions = {
    "conv1d": lambda x, y, i, m: (F.conv1d(x[0, :, :, 0][None], W[1]), F.conv1d(x[:, :, 0], W[1], BIAS, 2, 1)),
    "conv2d": lambda x, y, i, m: (
        F.conv2d(x, W[2], BIAS),
        F.conv2d(x, W[2], None, (2, 1), (1, 2), (1, 2)),
        F.conv2d(x, GROUPED, BIAS, groups=2),
    ),
    "conv3d": lambda x, y, i, m: F.conv3d(x.unsqueeze(2).expand(2, 4, 3, 6, 5), W[3], BIAS),
    "conv named padding": lambda x, y, i, m: (
        F.conv2d(x, W[2], padding="same"),
        F.conv2d(x, W[2][..., :2, :], BIAS, padding="same", dilation=2),
    ),
    "conv named padding 1, 3": lambda x, y, i, m: (
        F.conv2d(x, W[2], padding="valid"),
        F.conv1d(x[0], W1_EVEN, padding="same"),
        F.conv3d(x, W3_EVEN, padding="same"),
    ),
    "conv unbatched": lambda x, y, i, m: F.conv2d(x[0], W[2], BIAS),
    "convolution": lambda x, y, i, m: (
        aten.convolution(x, W[2], BIAS, [1], [1], [1], False, [0], 1),
        aten.convolution(x, UP[2], BIAS, [2], [1], [1], True, [1], 2),
    ),
    "conv_transpose": lambda x, y, i, m: (
        F.conv_transpose1d(x[:, :, 0], UP[1], BIAS, 3, 1, 2),
        F.conv_transpose1d(x[0, :, 0], UP[1]),
        F.conv_transpose2d(x, UP[2], BIAS, (2, 1), (1, 0), (1, 0), 2, (1, 2)),
        F.conv_transpose3d(x.unsqueeze(2).expand(2, 4, 3, 6, 5), UP[3], BIAS, 2, groups=2),
    ),
    "linear": lambda x, y, i, m: (F.linear(x, M.t()), F.linear(x, M.t(), M[0]), F.linear(x[0, 0, 0], M.t())),
    "matmul": lambda x, y, i, m: (x @ M, x @ y.mT, x[0, 0, 0] @ M, x @ M[:, 0], M[:, 0] @ x[0, 0, 0]),
    "mm": lambda x, y, i, m: (
        torch.mm(x[0, 0], M),
        torch.bmm(x[0], y[0].mT),
        torch.mv(x[0, 0], M[:, 0]),
        torch.dot(x[0, 0, 0], M[:, 0]),
    ),
    "addmm": lambda x, y, i, m: (
        torch.addmm(M[0], x[0, 0], M),
        torch.addmm(M[0], x[0, 0], M, beta=0.5, alpha=2),
        torch.addmm(M[0], x[0, 0], M, beta=0),
    ),
    "baddbmm": lambda x, y, i, m: (
        torch.baddbmm(x[0, :, :, :1], x[0], y[0].mT),
        torch.addmv(x[0, 0, :, 0], x[0, 0], M[:, 0]),
    ),
}

FAMILIES = {
    "fast paths": FAST_PATHS,
    "elementwise": ELEMENTWISE,
    "shape": SHAPE,
    "reduce": REDUCE,
    "norm": NORM,
    "pool": POOL,
    "products": PRODUCTS,
    **more_families.FAMILIES,
}


@pytest.fixture(scope="module")
def exercised() -> set[str]:
    """The names of the operators that the tests of this file imported."""
    return set()


@pytest.fixture(autouse=True)
def _record(exercised: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def recording(target: object) -> Any:
        exercised.add(str(target))
        return importer_of(target)

    monkeypatch.setattr("jitrt.frontend.torch.importer.importer_of", recording)


def compare(got: Any, expected: Any, what: str) -> None:
    if isinstance(expected, (tuple, list)):
        assert len(got) == len(expected), what
        for index, (a, b) in enumerate(zip(got, expected)):
            compare(a, b, f"{what}[{index}]")
        return
    assert got.shape == expected.shape, what
    assert got.dtype == expected.dtype, what
    coarse = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(expected.dtype, 2e-5)
    torch.testing.assert_close(got, expected, rtol=coarse, atol=coarse, equal_nan=True, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("family", FAMILIES)
def test_family_equals_torch(family: str) -> None:
    functions = FAMILIES[family]

    def model(x: torch.Tensor, y: torch.Tensor, i: torch.Tensor, m: torch.Tensor) -> dict[str, Any]:
        return {name: function(x, y, i, m) for name, function in functions.items()}

    inputs = (X, Y, INTS, MASK)
    imported = import_torch(model, inputs)
    verify(imported.graph)
    outputs = interpret(imported.graph, [to_numpy(t) for t in inputs])
    got = imported.outputs.build([from_numpy(a) for a in outputs])
    expected = model(*inputs)
    assert list(got) == list(functions)
    for name in functions:
        compare(got[name], expected[name], name)


# Known to the importer, but PyTorch writes them another way before they get there.
UNREACHED: set[str] = set()
# Compared in test_rnn.
_CELLS = {f"aten.{kind}_cell.default" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
UNREACHED |= _CELLS | {
    f"aten.{kind}.{form}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for form in ("input", "data")
}


def test_every_importer_is_exercised(exercised: set[str]) -> None:
    """Runs last in this file: what the families above did not reach must be in the list, and nothing else."""
    if not exercised:
        pytest.skip("needs the tests before it")
    for name in exercised - set(importers()):
        namespace, operator, overload = name.split(".")
        exercised.add(f"{namespace}.{operator.removesuffix('_')}.{overload}")
    assert set(importers()) - exercised == UNREACHED


def test_every_name_is_an_operator_of_torch() -> None:
    for name in importers():
        _, operator, overload = name.split(".")
        assert str(getattr(getattr(aten, operator), overload)) == name


def test_a_name_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match=r"aten\.relu\.default already has an importer"):
        registry_module.register("aten.relu.default")(lambda ctx, x: x)
