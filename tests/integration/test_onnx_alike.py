"""A network from ONNX has the kernels it has from PyTorch, and none that only turns images around.

The model is written as exporters write it: NCHW, batch norms as nodes, the head as pool, flatten and Gemm.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from jitrt.compiler import Options, optimize_graph
from jitrt.frontend.onnx import import_onnx
from jitrt.frontend.torch.importer import import_torch
from jitrt.graph import Graph, interpret

SHAPE = (2, 3, 32, 32)


class Network(nn.Module):
    """A stem, a residual block with a shortcut, a channel norm as ConvNeXt's spelled out, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.first, self.first_norm = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.second, self.second_norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.short, self.short_norm = nn.Conv2d(16, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32)
        self.weight, self.bias = nn.Parameter(torch.rand(32, 1, 1)), nn.Parameter(torch.randn(32, 1, 1))
        self.head = nn.Linear(32, 10)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                    assert tensor is not None
                    tensor.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(self.stem_norm(self.stem(x)).relu(), 3, 2, 1)
        y = self.first_norm(self.first(x)).relu()
        x = (self.second_norm(self.second(y)) + self.short_norm(self.short(x))).relu()
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-6)
        x = self.weight * x + self.bias
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def as_onnx(model: Network) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    held = {
        name: tensor.detach().numpy() for name, tensor in model.state_dict().items() if tensor.dtype.is_floating_point
    }
    held |= {"two": np.float32(2), "eps": np.float32(1e-6)}

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"v{len(nodes)}"], **attributes))
        return f"v{len(nodes) - 1}"

    def conv(x: str, name: str, size: int, stride: int) -> str:
        pads = [size // 2] * 4
        x = add("Conv", x, f"{name}.weight", kernel_shape=[size, size], strides=[stride, stride], pads=pads)
        parameters = [f"{name}_norm.{each}" for each in ("weight", "bias", "running_mean", "running_var")]
        return add("BatchNormalization", x, *parameters, epsilon=1e-5)

    x = add("Relu", conv("x", "stem", 3, 2))
    x = add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    y = conv(add("Relu", conv(x, "first", 3, 2)), "second", 3, 1)
    x = add("Relu", add("Add", y, conv(x, "short", 1, 2)))
    centred = add("Sub", x, add("ReduceMean", x, axes=[1]))
    variance = add("ReduceMean", add("Pow", centred, "two"), axes=[1])
    x = add("Div", centred, add("Sqrt", add("Add", variance, "eps")))
    x = add("Add", add("Mul", "weight", x), "bias")
    y = add("Gemm", add("Flatten", add("GlobalAveragePool", x)), "head.weight", "head.bias", transB=1)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, (2, 10))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def kernels(graph: Graph) -> Graph:
    return optimize_graph(graph, Options(precision="fp16")).graph


def test_from_onnx_as_from_pytorch() -> None:
    torch.manual_seed(0)
    model = Network().eval()
    x = torch.randn(SHAPE)
    imported = import_onnx(as_onnx(model)).graph
    with torch.no_grad():
        np.testing.assert_allclose(interpret(imported, [x.numpy()])[0], model(x).numpy(), rtol=1e-4, atol=1e-4)
    ours, theirs = kernels(imported), kernels(import_torch(model, (x,)).graph)
    # A kernel is tuned for its region and where its operands lie: what is equal here is equally fast.
    described = [
        [
            (node.op.body.text(names=False, locations=False) if node.op.name == "region" else str(node.op))
            for node in g.nodes
        ]
        for g in (ours, theirs)
    ]
    assert described[0] == described[1]
    assert [node.output.type.strides for node in ours.nodes] == [node.output.type.strides for node in theirs.nodes]
    bodies = {
        node.output.type: [each.op.name for each in node.op.body.nodes]
        for node in ours.nodes
        if node.op.name == "region"
    }
    assert sum("layer_norm" in body for body in bodies.values()) == 1
    assert not any(set(body) <= {"cast", "contiguous"} for body in bodies.values())  # no kernel only moves images
    images = [type for type, body in bodies.items() if "conv" in body]
    assert images and all(type.strides[1] == 1 for type in images)
