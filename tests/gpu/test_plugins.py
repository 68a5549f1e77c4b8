"""Plugins on a real GPU: used from PyTorch end to end, wrong ones refused, and those that write where they must not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))  # workers import the planted plugins by name

import planted_plugins

import jitrt
from jitrt.codegen.target import target_of
from jitrt.errors import PluginError
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.ops import Relu
from jitrt.kernels.base import Problem
from jitrt.knobs import environment
from jitrt.passes.apply_rules import unregister
from jitrt.tune.select import select

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


class Model(nn.Module):
    """A plugin of every kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.linear = nn.Linear(16, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ops.planted.swish_add(self.conv(x), x.mean(1, keepdim=True).expand(-1, 16, -1, -1).contiguous())
        z = torch.ops.planted.scale_rows(self.linear(torch.relu(y).mean((2, 3))), y[:, 0, 0, 0].contiguous())
        total = torch.ops.planted.row_sum(z, power=2)
        return torch.ops.planted.squash(z, total[:, None], 0.5) + 1


LOADED = """
import sys
for name in ("torch", "triton", "onnx"): sys.modules[name] = None
import numpy as np, jitrt
folder = sys.argv[1]
np.save(f"{folder}/y.npy", jitrt.load(f"{folder}/model.plan")(np.load(f"{folder}/x.npy")))
"""


def test_plugins_of_every_kind_from_torch_to_a_plan_that_needs_no_torch(tmp_path: Path) -> None:
    model, x = Model().eval().cuda(), torch.randn(4, 3, 32, 32, device="cuda")
    with torch.no_grad():
        wanted = model(x)
    engine = jitrt.compile(model, (x,), precision="fp16", tune="5s")
    for layer in engine.plan.layers:
        print(f"{layer.microseconds:8.2f} us  {layer.text}  {layer.tactic}")
    tactics = {layer.tactic.split("(")[0] for layer in engine.plan.layers}
    assert {"planted::swish_add", "planted::scale_rows", "planted::row_sum"} <= tactics
    assert any("planted::squash" in layer.text for layer in engine.plan.layers)
    assert engine.compare(model, x).worst < 5e-3
    engine.save(tmp_path / "model.plan")
    np.save(tmp_path / "x.npy", x.cpu().numpy())
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", LOADED, str(tmp_path)], check=True, env=environment(path))
    loaded = torch.from_numpy(np.load(tmp_path / "y.npy")).to(wanted.device)
    assert float((loaded - wanted).norm() / wanted.norm()) < 5e-3


def test_a_plugin_is_tuned_over_its_configurations_once_and_then_known() -> None:
    body = Graph("region")
    x, y = (body.add_input(name, TensorType(f16, (512, 1000))) for name in "xy")
    body.mark_output(body.add(Relu(), body.add(jitrt.plugins.find("planted::swish_add").op(), x, y)))
    problem = Problem(body, (False, False), (16, 16, 16))
    (first,) = select([problem], target_of(90), mode="exhaustive", device=0)
    assert first.source == "measured"
    assert len(first.tried) == len(planted_plugins.CONFIGS)
    (second,) = select([problem], target_of(90), mode="exhaustive", device=0)
    assert (second.source, second.tactic, second.binaries) == ("cache", first.tactic, first.binaries)


def test_a_wrong_kernel_is_refused_with_the_first_element_that_differs() -> None:
    with pytest.raises(PluginError) as refusal:
        jitrt.compile(lambda x: torch.ops.planted.wrong(x), (torch.randn(4, 100, device="cuda"),), tune="5s")
    print(refusal.value)
    assert "a region with planted::wrong" in str(refusal.value)
    assert "1 of 400 elements (first at [0, 77]: expected " in str(refusal.value)
    assert ", got 1000)" in str(refusal.value)


@pytest.mark.parametrize(("name", "found"), [("beyond", "bytes outside the output"), ("stray", "crashed")])
def test_a_kernel_that_writes_out_of_bounds_is_caught_and_this_process_lives_on(name: str, found: str) -> None:
    operator, x = getattr(torch.ops.planted, name), torch.randn(1000, device="cuda")
    with pytest.raises(PluginError, match=found):
        jitrt.compile(lambda x: operator(x), (x,), tune="5s")
    assert float((operator(x) - 2 * x).abs().max()) == 0  # this process's own context was never touched


def test_a_rule_brings_a_plugin_into_a_model_that_does_not_name_it() -> None:
    jitrt.fusion_rule(
        "planted_rule",
        pattern=lambda g, x, y: g.add(g.mul(x, g.sigmoid(x)), y),
        rewrite=lambda g, x, y: g.op("planted::swish_add", x, y),
        judged=True,
    )
    try:
        x, y = (torch.randn(64, 1000, device="cuda") for _ in range(2))
        engine = jitrt.compile(lambda x, y: x * torch.sigmoid(x) + y, (x, y), tune="5s")
    finally:
        unregister("planted_rule")
    told = [d for d in engine.plan.notes["decisions"] if d["pass_name"] == "planted_rule"]  # type: ignore[attr-defined]
    print(told)
    assert len(told) == 1
    assert " us instead of " in told[0]["text"]
    assert told[0]["applied"] == any("planted::swish_add" in layer.text for layer in engine.plan.layers)
    assert engine.compare(lambda x, y: x * torch.sigmoid(x) + y, x, y).worst < 1e-5
