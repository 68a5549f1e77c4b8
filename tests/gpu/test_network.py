"""Networks defined by hand, and pruned models, on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import jitrt
from jitrt import Network

pytestmark = pytest.mark.gpu


def made() -> Network:
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    net = Network("by_hand")
    x = net.add_input("x", (2, 3, 32, 32))
    y = net.add_conv(x, 16, 3, weights=weights(16, 3, 3, 3), bias=weights(16, 1)[:, 0], stride=2, padding=1)
    y = net.add_batch_norm(y, mean=np.zeros(16, np.float32), var=np.ones(16, np.float32))
    y = net.add_pool(net.add_activation(y, "silu", name="features"), "max", 2)
    y = net.add_conv(y, 16, 3, weights=weights(16, 16, 3, 3), padding="same") + y
    net.mark_output(net.add_softmax(net.add_linear(net.add_flatten(y), 10, weights=weights(10, 1024))), "odds")
    net.mark_output(net.add_reduce(y, "max", (2, 3)), "peaks")
    return net


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_a_network_runs(precision: str, bound: float) -> None:
    net, x = made(), np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)
    engine = jitrt.compile(net, precision=precision, tune="heuristic", cache=False)
    reference = jitrt.compile(net, target="reference")
    for got, wanted in zip(engine(x), reference(x), strict=True):
        assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < bound
    one = jitrt.compile(net, precision=precision, tune="heuristic", cache=False, outputs=["odds"])
    assert len(one.plan.layers) < len(engine.plan.layers)
    assert np.linalg.norm(one(x) - reference(x)[0]) / np.linalg.norm(reference(x)[0]) < bound


class Heads(nn.Module):
    """A main head and an auxiliary one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.aux, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.stem(x).relu()
        return {"logits": self.head(y.mean((2, 3))), "aux": self.aux(y)}


def test_a_pruned_model_returns_what_is_left() -> None:
    torch.manual_seed(0)
    model, x = Heads().eval().cuda(), torch.randn(2, 3, 16, 16, device="cuda")
    engine = jitrt.compile(model, (x,), outputs=["logits"], tune="heuristic", cache=False)
    result = engine(x)
    assert list(result) == ["logits"]
    with torch.no_grad():
        torch.testing.assert_close(result["logits"], model(x)["logits"], rtol=1e-3, atol=1e-4)
