"""What the README shows runs as it stands; what needs a GPU runs here in numpy, or up to the plan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import jitrt
from jitrt.errors import JitrtWarning

README = (Path(__file__).parents[1] / "README.md").read_text()


def snippet(holding: str) -> str:
    (block,) = [code for code in re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S) if holding in code]
    return str(block)


def run(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.fixture
def names() -> dict[str, Any]:
    """What the snippets take for granted."""
    torch.manual_seed(0)
    return {"model": nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval(), "x": torch.randn(2, 8), "torch": torch}


def test_the_network_that_the_readme_defines() -> None:
    names = run(snippet("jitrt.Network("))
    assert names["odds"].shape == (1, 10)
    np.testing.assert_allclose(names["odds"].sum(), 1, rtol=1e-5)
    assert [node.loc.partition(":")[0] for node in names["net"].graph.nodes] == ["README.md"] * 7


def test_what_it_decorates(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made = run(snippet("@jitrt.jit"), **names)
    with torch.no_grad():
        for call in (made["predict"], made["fast"]):
            with pytest.warns(JitrtWarning, match="no NVIDIA GPU"):
                assert torch.equal(call(names["x"]), names["model"](names["x"]))


def test_the_plan_it_builds(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    build, loaded, use = snippet("engine.save(").partition('engine = jitrt.load("resnet50.plan")')
    assert loaded
    run(build.replace("precision=", 'target="sm_90", tune="heuristic", precision='), **names, jitrt=jitrt)
    assert jitrt.verify("resnet50.plan").plan.arch == 90
    engine = jitrt.compile(names["model"], names["x"], target="reference")
    made = run(use, **names, engine=engine)
    torch.testing.assert_close(made["y"], names["model"](names["x"]))


def test_the_onnx_file_it_builds_and_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    ports = [helper.make_tensor_value_info(name, 1, ("n", 3, "h", "w")) for name in ("image", "scores")]
    node = helper.make_node("Relu", ["image"], ["scores"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:])), "model.onnx")
    made = run(snippet('{"image": (').replace("precision=", 'target="reference", precision='), jitrt=jitrt)
    assert made["engine"].plan.inputs[0].shape == (8, 3, 64, 64)
    monkeypatch.setattr("jitrt.onnx.providers._missing_gpu", lambda: "no GPU")
    with pytest.warns(JitrtWarning, match="no GPU; CPUExecutionProvider"):
        made = run(snippet("as onnxruntime"), image=-np.ones((1, 3, 2, 2), np.float32))
    assert not made["scores"].any()


def test_the_backend_it_names(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    code = snippet("backend=").strip()
    options = eval(code.partition("options=")[2].removesuffix(")"))
    assert jitrt.compile(names["model"], names["x"], target="reference", **options)(names["x"]).shape == (2, 4)
    assert re.fullmatch(r"torch\.compile\(.*\)", code)
    run(code, **names)  # finds the backend and checks its name; nothing is built before the first call
