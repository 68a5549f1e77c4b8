"""jitrt.bench.fold: every pattern it rewrites and those it leaves alone; off the GPU a fused module is two calls."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jitrt.bench.fold import cudnn_fused


def kinds(module: torch.fx.GraphModule) -> Counter[str]:
    """What is left: module classes and function names, with counts."""
    found: Counter[str] = Counter()
    for node in module.graph.nodes:
        if node.op == "call_module":
            found[type(module.get_submodule(node.target)).__name__] += 1
        elif node.op in ("call_function", "call_method"):
            found[getattr(node.target, "__name__", str(node.target))] += 1
    return found


class ConvBn(nn.Module):
    def __init__(self, inside: int = 4, outside: int = 4, **kwargs: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1, **kwargs)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class Model(nn.Module):
    """Two conv+bn branches and whatever `rule` makes of them."""

    def __init__(self, rule: str, **kwargs: object) -> None:
        super().__init__()
        self.a, self.b, self.rule = ConvBn(**kwargs), ConvBn(**kwargs), rule
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        if self.rule == "relu":
            return self.relu(a)
        if self.rule == "function relu, dropout":
            return self.drop(F.relu(a, inplace=True))
        if self.rule == "method relu":
            return a.relu()
        if self.rule == "residual":
            a += x
            return self.relu(a)
        if self.rule == "residual first":
            return torch.relu(x + a)
        if self.rule == "two convolutions":
            return self.relu(a + self.b(x))
        if self.rule == "read twice":
            return self.relu(a) + a
        if self.rule == "broadcast":
            return self.relu(a + x.mean((2, 3), keepdim=True))
        if self.rule == "plus one":
            return self.relu(a + 1)
        if self.rule == "twice":
            return self.relu(a + a)
        return torch.tanh(a)


def settled(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Batch-norm statistics that are not 0 and 1, so that a folding mistake shows."""
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval()


@pytest.mark.parametrize(
    ("rule", "kwargs", "expected"),
    [
        ("relu", {}, {"ConvRelu": 1}),
        ("relu", {"bias": False}, {"ConvRelu": 1}),
        ("function relu, dropout", {}, {"ConvRelu": 1}),
        ("method relu", {}, {"ConvRelu": 1}),
        ("residual", {}, {"ConvAddRelu": 1}),
        ("residual first", {}, {"ConvAddRelu": 1}),
        ("two convolutions", {}, {"ConvAddRelu": 1, "Conv2d": 1}),
        ("read twice", {}, {"Conv2d": 1, "ReLU": 1, "add": 1}),
        ("broadcast", {}, {"Conv2d": 1, "mean": 1, "add": 1, "ReLU": 1}),
        ("plus one", {}, {"Conv2d": 1, "add": 1, "ReLU": 1}),
        ("twice", {}, {"Conv2d": 1, "add": 1, "ReLU": 1}),
        ("no relu", {}, {"Conv2d": 1, "tanh": 1}),
        ("relu", {"groups": 2}, {"Conv2d": 1, "ReLU": 1}),
        ("relu", {"padding_mode": "reflect"}, {"Conv2d": 1, "ReLU": 1}),
    ],
)
def test_patterns(rule: str, kwargs: dict[str, object], expected: dict[str, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 5)
    model = settled(Model(rule, **kwargs), x)
    with torch.no_grad():
        rewritten = cudnn_fused(model, (x,))
        assert kinds(rewritten) == expected
        torch.testing.assert_close(rewritten(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_siblings_bias_moves_into_the_fused_convolution() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 5)
    with torch.no_grad():
        rewritten = cudnn_fused(settled(Model("two convolutions"), x), (x,))
    (plain,) = (m for m in rewritten.modules() if isinstance(m, nn.Conv2d))
    assert plain.bias is None


def test_the_model_given_is_left_alone() -> None:
    x = torch.randn(2, 4, 7, 5)
    model = settled(Model("two convolutions"), x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        cudnn_fused(model, (x,))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
