"""The same model through torch and layer by layer: one graph text, names and lines left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jitrt
from jitrt import Network
from jitrt.frontend.network import Tensor
from jitrt.frontend.torch import import_torch


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return torch.softmax(self.head(torch.flatten(y, 1)), -1)


def batch_norm(net: Network, x: Tensor, norm: nn.Module) -> Tensor:
    return net.add_batch_norm(
        x, mean=norm.running_mean, var=norm.running_var, weights=norm.weight, bias=norm.bias, eps=norm.eps
    )


def conv(net: Network, x: Tensor, layer: nn.Module, **options: Any) -> Tensor:
    weights, bias = layer.weight, layer.bias
    return net.add_conv(x, weights.shape[0], weights.shape[2:], weights=weights, bias=bias, **options)


def linear(net: Network, x: Tensor, layer: nn.Linear) -> Tensor:
    return net.add_linear(x, layer.out_features, weights=layer.weight, bias=layer.bias)


def small(net: Network, x: Tensor, model: Small) -> Tensor:
    y = batch_norm(net, conv(net, x, model.conv, padding=1), model.norm)
    y = net.add_pool(net.add_activation(y, "relu"), "max", 2)
    return net.add_softmax(linear(net, net.add_flatten(y), model.head))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.reduce = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 3, 1)
        self.three, self.five = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(6, 2, 5, padding=2, groups=2)
        self.project = nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [
            torch.relu(self.one(x)),
            torch.relu(self.three(torch.relu(self.reduce(x)))),
            torch.relu(self.five(x)),
            torch.relu(self.project(F.max_pool2d(x, 3, 1, 1))),
            F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        ]
        return torch.cat(branches, 1)


def inception(net: Network, x: Tensor, model: Inception) -> Tensor:
    def activated(y: Tensor, layer: nn.Conv2d, **options: Any) -> Tensor:
        return net.add_activation(conv(net, y, layer, **options), "relu")

    branches = [
        activated(x, model.one),
        activated(activated(x, model.reduce), model.three, padding="same"),
        activated(x, model.five, padding=[(2, 2), (2, 2)], groups=2),
        activated(net.add_pool(x, "max", 3, stride=1, padding=1), model.project),
        net.add_pool(x, "average", 3, stride=1, padding=1, count_include_pad=False),
    ]
    return net.add_concat(branches, axis=1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, 2, 1, bias=False)
        self.second, self.norm = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.short = nn.Conv2d(4, 8, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.second(F.silu(self.first(x))))
        return F.relu(y + self.short(x)).mean((2, 3))


def residual(net: Network, x: Tensor, model: Residual) -> Tensor:
    y = net.add_activation(conv(net, x, model.first, stride=2, padding=1), "silu")
    y = batch_norm(net, conv(net, y, model.second, padding=(1, 1)), model.norm)
    y = y + conv(net, x, model.short, stride=(2, 2))
    return net.add_reduce(net.add_activation(y, "relu"), "mean", (2, 3))


class Attention(nn.Module):
    """A transformer block, written out: no recurrence, but a sequence."""

    def __init__(self, width: int = 8, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.before(x)).split(c, -1)
        q, k, v = (y.reshape(n, t, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(c // self.heads), -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.after(x)), approximate="tanh"))


def attention(net: Network, x: Tensor, model: Attention) -> Tensor:
    n, t, c = x.shape
    size = c // model.heads

    def norm(y: Tensor, layer: nn.LayerNorm) -> Tensor:
        return net.add_layer_norm(y, weights=layer.weight, bias=layer.bias, eps=layer.eps)

    parts = net.add_split(linear(net, norm(x, model.before), model.qkv), [c] * 3, -1)
    q, k, v = (net.add_transpose(net.add_reshape(y, (n, t, model.heads, size)), 1, 2) for y in parts)
    weights = net.add_softmax(q @ net.add_transpose(k) / math.sqrt(size))
    x = x + linear(net, net.add_reshape(net.add_transpose(weights @ v, 1, 2), (n, t, c)), model.out)
    hidden = net.add_activation(linear(net, norm(x, model.after), model.up), "gelu", approximate=True)
    return x + linear(net, hidden, model.down)


MODELS: list[tuple[type[nn.Module], Callable[..., Tensor], tuple[int, ...]]] = [
    (Small, small, (2, 3, 8, 8)),
    (Inception, inception, (2, 6, 7, 7)),
    (Residual, residual, (2, 4, 9, 9)),
    (Attention, attention, (2, 5, 8)),
]


@pytest.mark.parametrize(("kind", "build", "shape"), MODELS, ids=[m[0].__name__ for m in MODELS])
def test_the_same_model_both_ways_is_the_same_graph(
    kind: type[nn.Module], build: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    x = torch.randn(shape)
    net = Network()
    net.mark_output(build(net, net.add_input("x", shape), model))
    through_torch = import_torch(model, (x,)).graph
    assert net.graph.text(names=False, locations=False) == through_torch.text(names=False, locations=False)
    engine = jitrt.compile(net, target="reference")
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(engine(x.numpy()), expected, rtol=1e-4, atol=1e-5)
