"""Custom layers in a Network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import jitrt
from jitrt import Network
from jitrt.errors import NetworkError, PluginError, ShapeError
from jitrt.frontend.torch import import_torch
from jitrt.graph.op import OPS
from jitrt.plugins import Plugin, registry


@pytest.fixture(scope="module")
def gate() -> Iterator[Plugin]:
    @jitrt.plugin("network::gate", reference=lambda x, y, scale=1.0: torch.tanh(x) * y * scale, elementwise=True)
    @triton.jit
    def made(x, y, scale):  # type: ignore[no-untyped-def]
        return (1 - 2 / (tl.exp(2 * x) + 1)) * y * scale

    yield made
    registry.forget("network::gate")
    OPS.pop("network::gate", None)


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "itself"])
def test_a_plugin_is_a_layer_like_any_other(gate: Plugin, by_name: bool) -> None:
    net = Network("gated")
    x = net.add_input("x", (5, 7))
    y = net.add_plugin("network::gate" if by_name else gate, net.add_activation(x, "relu"), x, scale=2)
    net.mark_output(y + 1)
    assert y.name == "gate"
    data = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    through_torch = import_torch(lambda x: gate(x.relu(), x, scale=2.0) + 1, (data,))
    assert net.graph.text(names=False, locations=False) == through_torch.graph.text(names=False, locations=False)
    expected = torch.tanh(data.relu()) * data * 2 + 1
    engine = jitrt.compile(net, target="reference")
    assert len(engine.plan.layers) == 1  # in one kernel with its neighbours
    np.testing.assert_allclose(engine(data.numpy()), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_refusals(gate: Plugin) -> None:
    net = Network()
    x = net.add_input("x", (5, 7))
    with pytest.raises(
        PluginError, match=r"test_plugin.py:.*: add_plugin: there is no plugin 'network::gait'; did you mean"
    ):
        net.add_plugin("network::gait", x, x)
    with pytest.raises(PluginError, match=r"test_plugin.py:.*: network::gate has no attribute size; it has: scale"):
        net.add_plugin(gate, x, x, size=3)
    with pytest.raises(ShapeError, match=r"test_plugin.py:.* takes x, y; got 1 operands"):
        net.add_plugin(gate, x)
    with pytest.raises(NetworkError, match=r"test_plugin.py:.* belongs to the network 'other'"):
        net.add_plugin(gate, x, Network("other").add_input("y", (5, 7)))
