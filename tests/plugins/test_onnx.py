"""Plugins in ONNX models, by domain and name."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import planted_plugins
import pytest
import torch
import triton
import triton.language as tl
from onnx import TensorProto, helper

import jitrt
from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import import_onnx


@jitrt.plugin(
    "planted::fast_gelu",
    reference=lambda x, scale=1.0: torch.nn.functional.gelu(x) * scale,
    elementwise=True,
    onnx=("example.org", "FastGelu"),
)
@triton.jit
def fast_gelu(x, scale):
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476)) * scale


def model(nodes: list[onnx.NodeProto], functions: Any = ()) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4, 6)) for name in ("x", "y", "z")]
    opsets = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in ("", "planted", "example.org")]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:])
    return helper.make_model(graph, opset_imports=opsets, functions=functions)


def swish_add(*names: str) -> onnx.NodeProto:
    return helper.make_node("swish_add", list(names), ["s"], domain="planted")


RELU = helper.make_node("Relu", ["s"], ["z"])


def test_a_plugin_is_the_operator_of_its_name() -> None:
    graph = import_onnx(model([swish_add("x", "y"), RELU])).graph
    assert [node.op.name for node in graph.nodes] == ["planted::swish_add", "relu"]
    assert graph.nodes[0].op == planted_plugins.swish_add.op()
    assert jitrt.explain(model([swish_add("x", "y"), RELU])).kernels.total() == 1  # the relu goes along
    x, y = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    (z,) = jitrt.onnx.InferenceSession(model([swish_add("x", "y"), RELU]), providers=["CPUExecutionProvider"]).run(
        None, {"x": x, "y": y}
    )
    np.testing.assert_allclose(z, np.maximum(x / (1 + np.exp(-x)) + y, 0), rtol=1e-5, atol=1e-6)


def test_it_goes_before_the_functions_of_a_model_and_takes_attributes() -> None:
    node = helper.make_node("FastGelu", ["x"], ["z"], domain="example.org", scale=0.5)
    body = helper.make_function(
        "example.org",
        "FastGelu",
        ["x"],
        ["y"],
        [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])],
        [helper.make_opsetid("", 18)],
        ["scale"],
    )
    (made,) = import_onnx(model([node], [body])).graph.nodes
    assert made.op == fast_gelu.op(scale=0.5)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (swish_add("x", ""), r"plugin planted::swish_add takes x, y; one of them is left out"),
        (
            helper.make_node("FastGelu", ["x"], ["s"], domain="example.org", size=2.0),
            "plugin planted::fast_gelu: .* has no attribute size; it has: scale",
        ),
        (
            helper.make_node("FastGelu", ["x"], ["s"], domain="example.org", scale="much"),
            r"plugin planted::fast_gelu: .*scale is 'much'; by its default, 1.0, it is a number",
        ),
    ],
)
def test_a_node_that_the_plugin_does_not_fit(node: onnx.NodeProto, reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        import_onnx(model([node, RELU]))


def test_without_plugins_neither_torch_nor_triton_is_loaded() -> None:
    code = (
        "import sys; from jitrt.frontend.onnx.plugins import plugin_importer; assert plugin_importer('a', 'b') is None;"
        "print([m for m in ('torch', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
