"""Further families of functions for `test_ops`: x and y are (2, 4, 6, 5), i are integers (4, 6), m is x > 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

aten = torch.ops.aten
Functions = dict[str, Callable[..., Any]]

_NAMES = "trunc frac tan sinh cosh asinh sinc exp2 erfc deg2rad rad2deg sgn positive round log1p expm1 atan signbit"
UNARY = [*_NAMES.split(), "isinf", "isfinite", "isposinf", "isneginf"]
EDGES = torch.tensor([0.0, -0.0, 0.5, 1.5, -2.5, 1e-5, 100.0, float("inf"), float("-inf"), float("nan")])

MATH: Functions = {
    "unary": lambda x, y, i, m: [getattr(aten, name)(x) for name in UNARY],
    "edges": lambda x, y, i, m: [
        getattr(aten, name)(EDGES + 0 * x.sum()) for name in (*UNARY, "sign") if name != "tan"
    ],
    "of integers": lambda x, y, i, m: [getattr(aten, name)(i) for name in ("sinc", "trunc", "isinf", "atan")],
    "is of integers": lambda x, y, i, m: (aten.isfinite(i), aten.isposinf(i), aten.isneginf(i), aten.signbit(i)),
    "decimals": lambda x, y, i, m: (x.round(decimals=2), (100 * x).round(decimals=-1)),
    "inverse": lambda x, y, i, m: [getattr(aten, name)(x.tanh()) for name in ("asin", "acos", "atanh")],
    "acosh": lambda x, y, i, m: (torch.acosh(1 + x.abs()), torch.acosh(1e6 * (1 + x.abs())), torch.asinh(1e6 * x)),
    "logs": lambda x, y, i, m: (torch.log2(x.abs() + 0.1), torch.log10(x.abs() + 0.1), torch.log2(i.abs() + 1)),
    "logit": lambda x, y, i, m: (torch.logit(x.sigmoid()), torch.logit(x, eps=0.1)),
    "atan2": lambda x, y, i, m: (torch.atan2(x, y), torch.atan2(x.round(), y.round()), torch.atan2(i, i[:1])),
    "of two": lambda x, y, i, m: [
        getattr(aten, name)(x, y) for name in ("hypot", "logaddexp", "logaddexp2", "heaviside", "fmax", "fmin")
    ],
    "of two edges": lambda x, y, i, m: [
        getattr(aten, name)(EDGES[:, None] + 0 * x.sum(), EDGES) for name in ("logaddexp", "fmax", "fmin", "copysign")
    ],
    "fmax of integers": lambda x, y, i, m: (torch.fmax(i, i[:1]), torch.fmin(i, i[:1])),
    "copysign": lambda x, y, i, m: (torch.copysign(x, y), torch.copysign(x, -1.0), aten.copysign(i, -2)),
    "xlogy": lambda x, y, i, m: (torch.xlogy(x.relu(), y.abs()), torch.xlogy(2, y.abs()), torch.xlogy(x, 3)),
    "nan_to_num": lambda x, y, i, m: (
        torch.nan_to_num(EDGES + x.sum()),
        torch.nan_to_num(EDGES + x.sum(), 1.0, 2.0, -3.0),
        torch.nan_to_num(i),
    ),
    "remainder": lambda x, y, i, m: (
        torch.remainder(x, y.abs() + 0.3),
        torch.remainder(x, -0.7),
        torch.remainder(i, 5),
        torch.remainder(7, i * 2 + 1),
        i % -4,
    ),
    "fmod": lambda x, y, i, m: (torch.fmod(x, y.abs() + 0.3), torch.fmod(x, 0.7), torch.fmod(i, 5), torch.fmod(i, -5)),
    "divisions of integers": lambda x, y, i, m: (
        i // 5,
        i // -5,
        torch.div(i, 5, rounding_mode="trunc"),
        torch.div(i, -5, rounding_mode="floor"),
        torch.div(x, 0.3, rounding_mode="trunc"),
    ),
    "xor": lambda x, y, i, m: (torch.logical_xor(x, m), m ^ (y > 0), i ^ 5, i ^ i[:1], m ^ True),
    "bits": lambda x, y, i, m: (i & 6, i | 9, ~i, i & i[:1], i | i[:1], torch.logical_and(i, i[:1])),
    "bits by name": lambda x, y, i, m: (
        aten.bitwise_xor.Tensor(i, i),
        aten.bitwise_xor.Scalar(i, 3),
        aten.__xor__.Scalar(i, 3),
        aten.__xor__.Tensor(i, i),
        aten.bitwise_and.Scalar(i, 3),
    ),
    "shifts": lambda x, y, i, m: (i << 2, i >> 1, 3 << (i & 3), 99 >> (i & 3), i << (i & 3), i >> (i & 3)),
    "shifts by name": lambda x, y, i, m: [
        function(i, by)
        for name in ("left", "right")
        for shift, short in [(getattr(aten, f"bitwise_{name}_shift"), getattr(aten, f"__{name[0]}shift__"))]
        for function, by in [(shift.Tensor, i & 7), (shift.Tensor_Scalar, 2), (short.Tensor, i & 7), (short.Scalar, 2)]
    ],
    "bits as another type": lambda x, y, i, m: (x.view(torch.int32), x.view(torch.float32), i.view(torch.float64)),
    "unsigned": lambda x, y, i, m: [
        i.to(to).to(torch.float32) * 0.3 for to in (torch.uint16, torch.uint32, torch.uint64)
    ],
    "clamp of integers": lambda x, y, i, m: (i.clamp(-(2**40), 2**40 + 1), i.clamp(0, 3), i.clamp(0.5, 2.5)),
}

ACTIVATIONS: Functions = {
    "modules": lambda x, y, i, m: [
        module(x)
        for module in (
            torch.nn.ReLU6(),
            torch.nn.SELU(),
            torch.nn.CELU(0.7),
            torch.nn.Softsign(),
            torch.nn.Tanhshrink(),
            torch.nn.Hardshrink(0.3),
            torch.nn.Softshrink(0.3),
            torch.nn.Threshold(0.1, 20.0),
            torch.nn.LogSigmoid(),
            torch.nn.RReLU().eval(),
            torch.nn.Hardtanh(-0.2, 0.6),
            torch.nn.GLU(1),
            torch.nn.Softmin(1),
            torch.nn.Softmax2d(),
            torch.nn.GELU("tanh"),
            torch.nn.Hardswish(),
            torch.nn.Softplus(3.0, 25.0),
        )
    ],
    "edges": lambda x, y, i, m: [
        f(EDGES + 0 * y.sum()) for f in (F.hardshrink, F.softshrink, F.celu, lambda z: F.threshold(z, 0.0, 1.0))
    ],
    "integers": lambda x, y, i, m: (F.relu6(i), F.hardtanh(i, -2, 3)),
    "elu with scales": lambda x, y, i, m: aten.elu(x, 0.5, 2.0, 3.0),
    "softshrink by nothing": lambda x, y, i, m: F.softshrink(x, 0.0),
}
AT, BACK = torch.tensor([[3, 0, 5], [1, 1, 2]]), torch.tensor([-1, 2, 0, -6])

INDEX: Functions = {
    "embedding": lambda x, y, i, m: (F.embedding(AT + 0 * i[:1, :1].abs(), x[0, 0]), F.embedding(i.abs() % 6, x[1, 2])),
    "bags": lambda x, y, i, m: (
        F.embedding_bag(i.abs() % 6, x[0, 0], mode="sum"),
        F.embedding_bag(i.abs() % 6, x[0, 0], mode="mean"),
        F.embedding_bag(i.abs() % 6, x[0, 0], mode="max"),
        F.embedding_bag(i.abs() % 6, x[0, 0], mode="sum", per_sample_weights=y[0, :, :, 0]),
    ),
    "index_select": lambda x, y, i, m: (x.index_select(2, AT[0]), x.index_select(-1, i[2].abs() % 5)),
    "index": lambda x, y, i, m: (x[:, :, AT], i[AT % 4], x[..., i[0].abs() % 5], x[:, :, BACK], x[1][BACK[:2]]),
    "index by several": lambda x, y, i, m: (
        x[:, BACK % 4, BACK],
        x[AT % 2, :, AT],
        x[0, AT % 4, :, BACK[:1] % 5],
        x[BACK[:2] % 2, torch.tensor([[-1], [2]])],
    ),
    "gather": lambda x, y, i, m: (
        torch.gather(x[0, 0], 1, i[:, :4].abs() % 5),
        torch.gather(i, 0, AT % 4),
        torch.take_along_dim(x, i.abs()[None, None, :, :5] % 6, 2),
        torch.take_along_dim(i, AT),
        torch.take(x, AT),
    ),
    "flip": lambda x, y, i, m: (x.flip(2), x.flip(0, -1), torch.fliplr(i), torch.flipud(i)),
    "roll": lambda x, y, i, m: (
        x.roll(2, 3),
        x.roll((1, -1), (2, 3)),
        i.roll(5),
        x.roll(6, 2),
        x.roll((1, 2), (2, 2)),
        x.roll(-7, 3),
    ),
    "repeat_interleave": lambda x, y, i, m: (x.repeat_interleave(3, 1), i.repeat_interleave(2)),
    "unfold": lambda x, y, i, m: (x.unfold(2, 3, 2), i.unfold(0, 2, 1), i.unfold(1, 6, 1)),
    "im2col": lambda x, y, i, m: (F.unfold(x, 3), F.unfold(x, (2, 3), (1, 2), (1, 2), (2, 1)), F.unfold(x[0], 2)),
    "col2im": lambda x, y, i, m: (
        F.fold(x.reshape(1, 8, 30), (7, 6), 2),
        F.fold(x.reshape(-1)[:96].reshape(6, 16), (7, 9), (2, 3), (1, 2), (1, 1), (2, 2)),
    ),
    "one_hot": lambda x, y, i, m: F.one_hot(i.abs() % 5, 5),
    "topk": lambda x, y, i, m: (*x.topk(3), *x.topk(2, 1, False), *i.int().topk(4, 0), x.topk(1, 2)[1]),
    "sort": lambda x, y, i, m: (
        *x.sort(),
        *x.sort(1, True),
        *torch.sort(m, dim=2, stable=True),
        x.argsort(2),
        torch.argsort(m, dim=3, descending=True, stable=True),
        torch.msort(x),
    ),
    "argmax": lambda x, y, i, m: (x.argmax(), x.argmin(1), x.argmax(2, True), i.argmin(0), x.argmin(None, True)),
    "max and where": lambda x, y, i, m: (*x.max(1), *x.min(2, True), *i.max(0)),
    "cumsum": lambda x, y, i, m: (
        x.cumsum(2),
        i.cumsum(0),
        m.cumsum(1),
        x.cumprod(3),
        x.half().cumsum(1),
        x.sum().cumsum(0),
    ),
    "triangles": lambda x, y, i, m: (x.tril(), i.triu(1), m[0, 0].tril(-1), x.triu(-2)),
    "diagonal": lambda x, y, i, m: (i.diagonal(), x.diagonal(1, 2, 3), x.diagonal(-2, -1, 1), i.diag()),
}

REDUCE: Functions = {
    "prod": lambda x, y, i, m: (x.prod(), x.prod(2), i[:, :2].prod(0, keepdim=True), x.half().prod(3)),
    "any": lambda x, y, i, m: (m.any(), m.any(1), x.any(2, True), i.all(), m.all(3), torch.any(m, (1, 2))),
    "all": lambda x, y, i, m: (torch.all(m, dim=(0, 3), keepdim=True), m.amax(1), m.max(), i.to(torch.uint8).all()),
    "counts": lambda x, y, i, m: (torch.count_nonzero(x), torch.count_nonzero(i, 0), torch.count_nonzero(x, (1, 2))),
    "nansum": lambda x, y, i, m: ((x / m).nansum(1), x.nansum()),
    "norms": lambda x, y, i, m: [
        torch.linalg.vector_norm(x, ord, (1, 2)) for ord in (3, 0, 0.5, float("inf"), -float("inf"), 2, 1)
    ],
    "aminmax": lambda x, y, i, m: (*torch.aminmax(x), *torch.aminmax(x, dim=2, keepdim=True)),
    "std_mean": lambda x, y, i, m: (
        *torch.std_mean(x, 1),
        *torch.std_mean(x, (1, 2), correction=0),
        *aten.std_mean.default(x, False),
        *aten.std_mean.dim(x, [1], True, True),
    ),
}
RESAMPLE: Functions = {
    "nearest": lambda x, y, i, m: (
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, scale_factor=(1.7, 0.6)),
        F.interpolate(x, size=(7, 13)),
        F.interpolate(x, size=(7, 13), mode="nearest-exact"),
        F.interpolate(x, scale_factor=2.3, mode="nearest-exact", recompute_scale_factor=True),
        F.interpolate(x, size=(6, 5)),
    ),
    "linear": lambda x, y, i, m: [
        F.interpolate(x, mode=mode, align_corners=corners, **how)
        for mode in ("bilinear", "bicubic")
        for corners in (False, True)
        for how in ({"scale_factor": 2}, {"size": (3, 11)}, {"scale_factor": (1.7, 0.6)}, {"size": (1, 5)})
    ],
    "antialias": lambda x, y, i, m: [
        F.interpolate(x, mode=mode, align_corners=corners, antialias=True, **how)
        for mode in ("bilinear", "bicubic")
        for corners in (False, True)
        for how in ({"size": (3, 11)}, {"scale_factor": (0.4, 0.6)}, {"size": (1, 5)})
    ],
    "other ranks": lambda x, y, i, m: (
        F.interpolate(x[0], scale_factor=3),
        F.interpolate(x[0], 9, mode="nearest-exact"),
        F.interpolate(x[0], 9, mode="linear"),
        F.interpolate(x[None], (3, 9, 4)),
        F.interpolate(x[None], (3, 9, 4), mode="nearest-exact"),
        F.interpolate(x[None], (3, 9, 4), mode="trilinear"),
        F.interpolate(x, (3, 3), mode="area"),
    ),
    "forms": lambda x, y, i, m: (
        aten.upsample_nearest1d(x[0], [9]),
        aten.upsample_nearest2d(x, [9, 9], 1.5, 1.8),
        aten.upsample_nearest3d(x[None], [3, 9, 9]),
        aten._upsample_nearest_exact1d(x[0], [9]),
        aten._upsample_nearest_exact2d(x, [9, 9]),
        aten._upsample_nearest_exact3d(x[None], [3, 9, 9]),
        aten.upsample_linear1d(x[0], [9], True),
        aten.upsample_bilinear2d(x, [9, 9], False, 1.5, 1.8),
        aten.upsample_trilinear3d(x[None], [3, 9, 9], False),
        aten.upsample_bicubic2d(x, [9, 9], True),
        aten._upsample_bilinear2d_aa(x, [3, 4], False, 0.5, 0.8),
        aten._upsample_bicubic2d_aa(x, [3, 4], True),
    ),
    "pad": lambda x, y, i, m: [
        F.pad(x, padding, mode=mode)
        for mode in ("reflect", "replicate", "circular")
        for padding in ((1, 2, 0, 3), (-1, 2, 2, -2), (4, 0, 0, 0))
    ],
    "pad more": lambda x, y, i, m: (
        F.pad(x[0], (2, 1), mode="reflect"),
        F.pad(x[None], (1, 1, 2, 0, 0, 3), mode="replicate"),
        aten.reflection_pad1d(x[0], [1, 2]),
        aten.reflection_pad2d(x, [1, 2, 0, 1]),
        aten.reflection_pad3d(x[None], [1, 2, 0, 1, 1, 0]),
        aten.replication_pad1d(x[0], [1, 2]),
        aten.replication_pad2d(x, [1, 2, 0, 1]),
        aten.replication_pad3d(x[None], [1, 2, 0, 1, 1, 0]),
        torch.nn.CircularPad2d(2)(x),
    ),
}


def _attention(x: Any, y: Any, **how: Any) -> Any:
    return F.scaled_dot_product_attention(x, y, y, **how)


ATTENTION: Functions = {
    "plain": lambda x, y, i, m: (_attention(x, y), _attention(x, y[:, :, :3], scale=0.3), _attention(x[0], y[0])),
    "causal": lambda x, y, i, m: (_attention(x, y, is_causal=True), _attention(x, y[:, :, :3], is_causal=True)),
    "masks": lambda x, y, i, m: (
        _attention(x, y, attn_mask=x[:, :, :, :1] > y[..., 0].unsqueeze(2)),
        _attention(x, y, attn_mask=torch.ones(6, 6, dtype=torch.bool).triu()),
        _attention(x, y, attn_mask=torch.arange(6.0).masked_fill(torch.arange(6) > 3, -torch.inf)[None]),
        _attention(x, y, attn_mask=x[:1, :1] @ y[:1, :1].mT),
    ),
    "rows that see nothing": lambda x, y, i, m: (
        _attention(x, y, attn_mask=torch.ones(6, 6, dtype=torch.bool).tril(-1)),
        _attention(x, y, attn_mask=(x[..., :1] > 0).expand(2, 4, 6, 6)),
        _attention(x, y, attn_mask=torch.log((x[..., :1] > 0).float()).expand(2, 4, 6, 6)),
    ),
    "grouped": lambda x, y, i, m: (
        _attention(x, y[:, :2], enable_gqa=True),
        _attention(x, y[:, :1], enable_gqa=True, is_causal=True),
        _attention(x, y[:, :2], enable_gqa=True, attn_mask=x @ x.mT),
        _attention(x, y[:, :2], enable_gqa=True, attn_mask=(x @ x.mT)[:, :1]),
    ),
}

MADE_OF: Functions = {  # what has no importer of its own
    "products": lambda x, y, i, m: (
        torch.einsum("nchw,nkhw->nck", x, y),
        torch.einsum("nchw,wk->nkhc", x, y[0, 0, :5]),
        torch.outer(x[0, 0, 0], y[0, 0, 0]),
        torch.tensordot(x, y, dims=([1, 2], [1, 2])),
        torch.kron(x[0, 0], y[0, 0]),
    ),
    "shapes": lambda x, y, i, m: (
        torch.tile(i, (2, 1, 3)),
        torch.hstack([x, y]),
        torch.rot90(x, 1, (2, 3)),
        torch.diag_embed(i),
        *torch.meshgrid(x[0, 0, 0], y[0, 0, 0], indexing="ij"),
        *torch.tensor_split(x, 3, 2),
        torch.multiply(x, torch.empty_like(y).fill_(2)),
        x.new_empty(3).fill_(1) + torch.empty(3).fill_(2),
        torch.empty_permuted((2, 3), (1, 0)).fill_(2),
    ),
    "bilinear": lambda x, y, i, m: (
        F.bilinear(x[0], y[0], y.reshape(-1)[:75].reshape(3, 5, 5), x[0, 0, 0, :3]),
        F.bilinear(x[0, 0], y[0, 0, :, :2], y.reshape(-1)[:30].reshape(3, 5, 2)),
    ),
    "grid_sample": lambda x, y, i, m: (
        F.grid_sample(x, y[..., :2].tanh(), align_corners=False),
        F.grid_sample(x, y[..., :2], padding_mode="border", align_corners=True),
        F.affine_grid(y[:, 0, :2, :3], (2, 4, 6, 5), align_corners=False),
    ),
    "places": lambda x, y, i, m: (torch.bucketize(x, y[0, 0, 0].sort().values), x.quantile(0.3, 1), torch.diff(x)),
    "in-place views": lambda x, y, i, m: x.clone().unsqueeze_(0).squeeze_(0).transpose_(0, 1).mul_(2),
    "norms": lambda x, y, i, m: (torch.norm(x, 3.0, 1), torch.norm(x), F.cosine_similarity(x, y), i[:, :4].trace()),
    "response": lambda x, y, i, m: (F.local_response_norm(x, 3), F.local_response_norm(x, 4, 0.1, 0.5, 2.0)),
    "divisors": lambda x, y, i, m: (
        F.avg_pool2d(x, 2, divisor_override=3),
        F.avg_pool2d(x, 3, 2, 1, True, True, 7),
        F.avg_pool2d(x[0], 3, 2, 1, True, False, 7),
        F.avg_pool3d(x, 2, divisor_override=5),
    ),
    "lp_pool": lambda x, y, i, m: (F.lp_pool2d(x, 2.0, 2), F.lp_pool2d(x.abs(), 3.0, (2, 3), 2, True)),
    "losses": lambda x, y, i, m: (F.mse_loss(x, y), F.cross_entropy(x[0, 0], i[0].abs() % 5)),
    "attention": lambda x, y, i, m: F.multi_head_attention_forward(
        x[0],
        y[0],
        y[0],
        5,
        1,
        x[0, :3].reshape(-1)[:75].reshape(15, 5),
        None,
        None,
        None,
        False,
        0.0,
        x[0, 0, :5],
        None,
    )[0],
}
SCATTER: Functions = {
    "put": lambda x, y, i, m: (
        x.scatter(2, i.abs().reshape(2, 2, 6, 1) % 6, y),
        x.scatter(-1, i[:2].reshape(2, 1, 3, 2).abs() % 5, 7.5),
        i.scatter(1, i[:3, 1:2].abs() % 6, i),
    ),
    "reduced": lambda x, y, i, m: (
        x.scatter_add(0, i[:, :5].reshape(1, 4, 1, 5).abs() % 2, y),
        *(x.scatter_reduce(1, i.abs()[None, :, :, None] % 4, y, how) for how in ("sum", "prod", "amin", "amax")),
    ),
    "by several": lambda x, y, i, m: (
        aten.index_put(x, [i[:2, 0].abs() % 2, i[:2, :1].abs() % 4], y[:1, 0]),
        aten.index_put(x, [None, i[0].abs() % 4, i[0].abs() % 6], y[:, 0, :, :], True),
        aten.index_put(x, [i[0, :2] % 2, None, i[:1, :2] % 6], y[:1, :2, :4], True),
        aten.index_put(x, [None, None, i[1, :2] % 6], y[:, :, :2]),
    ),
    "by a mask": lambda x, y, i, m: (
        aten.index_put(x, [m], torch.tensor(2.0)),
        aten.index_put(x, [m[:, :, 0, 0]], y[:1, 0, 0, 0]),
    ),
    "made of them": lambda x, y, i, m: (
        x.index_add(2, i[0, :3].abs() % 6, y[:, :, :3], alpha=2),
        x.index_copy(1, i[:2, 0].abs() % 4, y[:, :2]),
        x.index_fill(3, i[0, :2].abs() % 5, -1),
    ),
}
FAMILIES: dict[str, Functions] = {
    "math": MATH,
    "scatter": SCATTER,
    "activations": ACTIVATIONS,
    "index": INDEX,
    "reduce more": REDUCE,
    "made of": MADE_OF,
    "attention": ATTENTION,
    "resample": RESAMPLE,
}
