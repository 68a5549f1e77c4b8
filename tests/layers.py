"""Small modules, one a layer of torch.nn or a family of functions, that the plan tests and the GPU tests share.

Each is a model and a function that makes its inputs; outputs may be tensors or tuples of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def _activations(x: torch.Tensor) -> torch.Tensor:
    first = F.relu6(x) + F.selu(x) * F.celu(x, 0.7) + F.elu(x, 0.3) * F.mish(x)
    second = F.softsign(x) + F.tanhshrink(x) + F.hardshrink(x, 0.3) + F.softshrink(x, 0.3) + F.threshold(x, 0.1, -1.0)
    third = F.logsigmoid(x) + F.hardtanh(x, -0.4, 0.6) + F.gelu(x, approximate="tanh") + F.rrelu(x) + F.hardswish(x)
    return first + second + third


def _trigonometry(x: torch.Tensor) -> torch.Tensor:
    bounded = x.tanh() * 0.9
    first = torch.atan(x) + torch.asin(bounded) * torch.acos(bounded) + torch.atanh(bounded) + torch.sinh(bounded)
    second = torch.cosh(bounded) + torch.asinh(x) * torch.acosh(1 + x.abs()) + torch.tan(bounded)
    return first + second + torch.log1p(x.abs()) * torch.expm1(bounded) + torch.log2(1 + x.abs()) + torch.exp2(bounded)


def _arithmetic(x: torch.Tensor, y: torch.Tensor) -> Any:
    y = y.abs() + 0.5
    smooth = torch.atan2(x, y) + torch.hypot(x, y) + torch.logaddexp(x, y) + torch.lerp(x, y, 0.3)
    return smooth + torch.addcmul(x, x, y, value=0.5) + torch.fmax(x, y) + torch.clamp(x, -y, y), x.isfinite() ^ (x > y)


def _integers(i: torch.Tensor, j: torch.Tensor) -> Any:
    return (
        i // 3,
        i % 5,
        torch.fmod(i, 4),
        (i & 6) | (j ^ 3),
        i.clamp(-2, 3),
        (i == j) | (i > 2),
        i.cumsum(1),
        i.argmax(1),
    )


def _reductions(x: torch.Tensor) -> Any:
    return (
        x.prod(3),
        torch.linalg.vector_norm(x, 3.0, (1, 2)),
        x.var((0, 2)),
        x.std(1, keepdim=True),
        (x > 2.5).any(1),
        (x > -2).all((2, 3)),
        torch.count_nonzero(x > 0, 1),
        x.logsumexp(2),
    )


def _indexing(x: torch.Tensor, index: torch.Tensor) -> Any:
    return x[:, index], x[..., index % 2, index % 3], x.flip(1, 3).relu(), x.roll((1, 2), (2, 3)), x.unfold(3, 2, 1)


def _attention(mask: str) -> Callable[..., torch.Tensor]:
    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        given: dict[str, Any] = {"none": {}, "causal": {"is_causal": True}}.get(mask, {})
        if mask == "bool":
            given = {"attn_mask": torch.ones(6, 9, dtype=torch.bool, device=q.device).tril(3)}
        if mask == "additive":
            given = {"attn_mask": torch.arange(54.0, device=q.device).reshape(6, 9).cos(), "scale": 0.2}
        return F.scaled_dot_product_attention(q, k, v, **given)

    return call


def _up(mode: str, corners: bool | None = None, **how: Any) -> nn.Module:
    how = how or {"scale_factor": 2}
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(mode=mode, align_corners=corners, **how), nn.ReLU())


Inputs = tuple[torch.Tensor, ...]


def _image(*shape: int) -> Callable[[], Inputs]:
    return lambda: (torch.randn(*(shape or (2, 3, 6, 5))),)


def _tokens(*shape: int, below: int = 11) -> Callable[[], Inputs]:
    return lambda: (torch.randint(0, below, shape),)


def _queries() -> Inputs:
    return torch.randn(2, 3, 6, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)


def _pair() -> Inputs:
    return torch.randn(2, 3, 6, 5), torch.randn(3, 1, 5)


def _whole_numbers() -> Inputs:
    return torch.randint(-9, 10, (3, 7)), torch.randint(-9, 10, (7,))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "activations": (lambda: Apply(_activations), _image()),
    "glu": (lambda: nn.GLU(1), _image(2, 4, 3, 5)),
    "prelu": (lambda: nn.PReLU(3), _image()),
    "softmin": (lambda: nn.Softmin(2), _image()),
    "softmax2d": (lambda: nn.Softmax2d(), _image()),
    "log softmax": (lambda: nn.LogSoftmax(1), _image()),
    "trigonometry": (lambda: Apply(_trigonometry), _image()),
    "arithmetic": (lambda: Apply(_arithmetic), _pair),
    "integers": (lambda: Apply(_integers), _whole_numbers),
    "reductions": (lambda: Apply(_reductions), _image()),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True), _image(2, 3, 9, 8)),
    "average pool": (lambda: nn.AvgPool2d(3, 2, 1, True, False), _image()),
    "average pool with a divisor": (lambda: nn.AvgPool2d(3, 2, 1, True, divisor_override=5), _image()),
    "adaptive pools": (
        lambda: Apply(lambda x: F.adaptive_avg_pool2d(x, (3, 2)) + F.adaptive_max_pool2d(x, (3, 2))),
        _image(),
    ),
    "lp pool": (lambda: nn.LPPool2d(2, 3, 2), _image(2, 3, 9, 8)),
    "local response norm": (lambda: nn.LocalResponseNorm(3), _image(2, 5, 4, 3)),
    "layer norm": (lambda: nn.LayerNorm((6, 5)), _image()),
    "group norm": (lambda: nn.GroupNorm(2, 4), _image(2, 4, 3, 5)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), _image()),
    "rms norm": (lambda: nn.RMSNorm(5), _image()),
    "reflection pad": (lambda: nn.Sequential(nn.ReflectionPad2d((1, 2, 3, 0)), nn.Conv2d(3, 4, 3)), _image()),
    "replication pad": (lambda: nn.ReplicationPad2d((4, 2, 3, 0)), _image()),
    "circular pad": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), _image()),
    "upsample nearest": (lambda: _up("nearest"), _image()),
    "upsample nearest exact": (lambda: _up("nearest-exact", size=(7, 13)), _image()),
    "upsample bilinear": (lambda: _up("bilinear", False), _image()),
    "upsample bilinear by corners": (lambda: _up("bilinear", True, size=(4, 9)), _image()),
    "upsample bicubic": (lambda: _up("bicubic", False, scale_factor=1.7), _image()),
    "antialiased": (
        lambda: Apply(lambda x: F.interpolate(x, (4, 3), mode="bicubic", antialias=True, align_corners=False)),
        _image(2, 3, 9, 8),
    ),
    "upsample linear": (lambda: nn.Upsample(scale_factor=3, mode="linear"), _image(2, 3, 5)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(11, 8), nn.LayerNorm(8)), _tokens(2, 5)),
    "indexing": (lambda: Apply(_indexing), lambda: (torch.randn(2, 5, 4, 3), torch.tensor([3, -1, 0, 2]))),
    "gather": (
        lambda: Apply(lambda x, i: (torch.gather(x, 1, i), x.index_select(0, i[0]) * 2)),
        lambda: (torch.randn(6, 5), torch.randint(0, 5, (4, 3))),
    ),
    "topk": (lambda: Apply(lambda x: (*x.topk(3, 1), x.sort(0, True)[0])), _image(7, 40)),
    "topk of long rows": (lambda: Apply(lambda x: x.topk(4, 1)), _image(1, 5000)),
    "argmax": (lambda: Apply(lambda x: (x.argmax(1), x.argmin(), *x.max(2), *x.min(0, keepdim=True))), _image(4, 5, 6)),
    "running sums": (lambda: Apply(lambda x: (x.cumsum(1), x.relu().cumsum(2) * 2, x.cumprod(3))), _image()),
    "triangles": (lambda: Apply(lambda x: (x.tril(), x.triu(1), x.diagonal(0, 2, 3))), _image()),
    "shuffles": (
        lambda: Apply(lambda x: (F.pixel_shuffle(x, 2), F.channel_shuffle(x, 4), F.pixel_unshuffle(x, 2))),
        _image(2, 8, 4, 6),
    ),
    "unfold": (lambda: nn.Unfold((2, 3), padding=(1, 0), stride=2), _image()),
    "fold": (lambda: nn.Fold((7, 6), (2, 3), padding=(0, 1), stride=2), _image(2, 12, 9)),
    "einsum": (
        lambda: Apply(lambda x, y: torch.einsum("bihw,bjhw->bij", x, y)),
        lambda: (torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)),
    ),
    "baddbmm": (
        lambda: Apply(lambda c, a, b: torch.baddbmm(c, a, b, beta=0.5, alpha=2.0)),
        lambda: (torch.randn(1, 5, 6), torch.randn(2, 5, 4), torch.randn(2, 4, 6)),
    ),
    "attention": (lambda: Apply(_attention("none")), _queries),
    "attention, causal": (lambda: Apply(_attention("causal")), _queries),
    "attention, bool mask": (lambda: Apply(_attention("bool")), _queries),
    "attention, additive mask": (lambda: Apply(_attention("additive")), _queries),
    "multi-head attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), _image(2, 5, 8)),
}


def leaves(value: Any) -> list[torch.Tensor]:
    """The tensors of a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in value for leaf in leaves(part)]
