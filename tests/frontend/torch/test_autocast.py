"""Autocast regions: the casts that PyTorch makes below the trace are in the graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jitrt.frontend.torch import import_torch
from jitrt.frontend.torch.arrays import from_numpy, to_numpy
from jitrt.graph import interpret

half = torch.bfloat16
torch.manual_seed(0)
linear = nn.Linear(8, 8).eval()
conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
x, y = torch.randn(8, 8), torch.randn(8, 8)


def autocast(**options: Any) -> torch.autocast:
    return torch.autocast("cpu", dtype=half, **options)


def in_a_region(function: Any, *inputs: torch.Tensor) -> tuple[Any, ...]:
    def regional(*tensors: torch.Tensor) -> Any:
        with autocast():
            return function(*tensors)

    return regional, *inputs


def nested(x: torch.Tensor) -> Any:
    with autocast():
        a = linear(x)
        with autocast(enabled=False):
            b = linear(a.float())
        return a, b, linear(b)


def outside_too(x: torch.Tensor) -> Any:
    with autocast():
        a = linear(x)
    return a, a.float() + 1, linear(x)


CASES = {
    "16-bit products": in_a_region(
        lambda x, y: [x @ y, torch.addmm(y[0], x, y), F.linear(x, y, y[0]), torch.bmm(x[None], y[None])], x, y
    ),
    "made of products": in_a_region(lambda x, y: [torch.einsum("ij,jk->ik", x, y), F.bilinear(x, y, x[None])], x, y),
    "conv": in_a_region(conv, torch.randn(1, 3, 6, 6)),
    "attention": in_a_region(lambda x: attention(x, x, x)[0], x[None]),
    "a mask is cast, a choice is not": in_a_region(
        lambda x, m: F.scaled_dot_product_attention(x, x, x, m) + F.scaled_dot_product_attention(x, x, x, m > 0),
        x[None, None],
        y,
    ),
    "the widest": in_a_region(lambda x, y: [torch.cat([x, y.to(half)]), torch.stack([x.to(half), y.to(half)])], x, y),
    "not on a list": in_a_region(lambda x, y: [x.to(half) + y, x.to(half).relu(), x.exp()], x, y),
    "norms of mixed types": in_a_region(lambda x, y: [F.layer_norm(x.to(half), (8,), y[0]), linear(x)], x, y),
    "float64": in_a_region(lambda x: x @ x, x.double()),
    "taken apart": in_a_region(lambda x, y: F.cosine_similarity(linear(x), y), x, y),
    "in place": in_a_region(lambda x: F.relu_(linear(x)).add_(1), x),
    "nested": (nested, x),
    "outside too": (outside_too, x),
}


@pytest.mark.parametrize("case", CASES)
def test_regions_mean_what_they_mean_in_torch(case: str) -> None:
    function, *inputs = CASES[case]
    with torch.no_grad():
        expected = function(*inputs)
    imported = import_torch(function, inputs)
    got = imported.outputs.build([from_numpy(a) for a in interpret(imported.graph, [to_numpy(x) for x in inputs])])
    for ours, torchs in zip(*(made if isinstance(made, list | tuple) else [made] for made in (got, expected))):
        assert ours.dtype == torchs.dtype
        torch.testing.assert_close(ours, torchs, rtol=2e-2, atol=2e-2)


def test_a_region_around_the_import_counts() -> None:
    with autocast():
        inside = import_torch(linear, (x,)).graph
        assert torch.is_autocast_enabled("cpu")
    outside = import_torch(linear, (x,)).graph
    assert [graph.outputs[0].type.dtype.value for graph in (inside, outside)] == ["bf16", "f32"]
