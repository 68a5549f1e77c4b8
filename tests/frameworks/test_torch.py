"""torchvision's and Hugging Face's models through torch.onnx."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests.frameworks.common import agrees, kernels, kernels_of, layout_copies, op_names, op_names_of, operators

pytestmark = pytest.mark.slow


@functools.cache
def resnet50() -> tuple[Any, Any]:
    """ResNet-50 as if it had been trained: with statistics and biases that are not all 1 and 0."""
    import torch

    from jitrt.bench.models import load_model

    torch.manual_seed(0)
    model, make_input = load_model("resnet50", size=64)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model, make_input(2)


def exported(model: Any, inputs: tuple[Any, ...], **options: Any) -> onnx.ModelProto:
    import torch

    return torch.onnx.export(model, inputs, dynamo=True, verbose=False, **options).model_proto


@functools.cache
def onnx_resnet50() -> onnx.ModelProto:
    model, x = resnet50()
    return exported(model, (x,))


def test_resnet50(package: Callable[..., Any]) -> None:
    torch = package("torch", "onnxscript")
    model, x = resnet50()
    with torch.no_grad():
        wanted = model(x).numpy()
    proto = onnx_resnet50()
    agrees(proto, {proto.graph.input[0].name: x.numpy()}, [wanted])


def test_resnet50_has_the_same_kernels_as_from_pytorch(package: Callable[..., Any]) -> None:
    """So it is as fast: kernels are tuned for regions and where their operands lie, whichever front end made them."""
    package("torch", "onnxscript")
    from jitrt.frontend.torch.importer import import_torch

    model, x = resnet50()
    ours, theirs = kernels_of(onnx_resnet50()), kernels(import_torch(model, (x,)).graph)
    texts = [[node.op.body.text(names=False, locations=False) for node in graph.nodes] for graph in (ours, theirs)]
    assert texts[0] == texts[1]
    assert [node.output.type for node in ours.nodes] == [node.output.type for node in theirs.nodes]
    assert {node.op.name for node in ours.nodes} == {"region"}  # neither a copy nor so much as a view


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "shufflenet_v2_x0_5"])
def test_layouts(name: str, package: Callable[..., Any]) -> None:
    """Images are NCHW at the borders and NHWC between, without a kernel that only moves them."""
    torch = package("torch", "onnxscript")
    from jitrt.bench.models import load_model

    model, make_input = load_model(name, size=64)
    x = make_input(1)
    proto = exported(model, (x,))
    graph = kernels_of(proto)
    assert not layout_copies(graph)
    images = [region.output.type for region in graph.nodes if {"conv", "max_pool"} & set(op_names_of(region))]
    images = [type for type in images if type.shape[2] > 1]
    assert images and all(type.strides[1] < min(type.strides[2:]) for type in images)
    with torch.no_grad():
        agrees(proto, {proto.graph.input[0].name: x.numpy()}, [model(x).numpy()])


def bert() -> tuple[Any, tuple[Any, ...]]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=200
    )
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 10:] = 0
    return BertForSequenceClassification(config).eval(), (torch.randint(0, 200, (2, 16)), mask)


def vit() -> tuple[Any, tuple[Any, ...]]:
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
        hidden_act="gelu_pytorch_tanh",
    )
    return ViTModel(config, add_pooling_layer=False).eval(), (torch.randn(2, 3, 32, 32),)


def llama() -> tuple[Any, tuple[Any, ...]]:
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=200,
        use_cache=False,
    )
    return LlamaModel(config).eval(), (torch.randint(0, 200, (2, 16)),)


@pytest.mark.parametrize(
    ("make", "raised"),
    [
        (bert, {"layer_norm": 5, "gelu": 2, "softmax": 2}),
        (vit, {"layer_norm": 5, "gelu": 2, "softmax": 2}),
        (llama, {"rms_norm": 5, "silu": 2, "softmax": 2}),
    ],
)
def test_transformers(make: Callable[[], Any], raised: dict[str, int], package: Callable[..., Any]) -> None:
    torch = package("torch", "transformers", "onnxscript")
    model, inputs = make()
    with torch.no_grad():
        wanted = model(*inputs)[0].numpy()
    proto = exported(model, inputs)
    given = {info.name: x.numpy() for info, x in zip(proto.graph.input, inputs, strict=True)}
    agrees(proto, given, [np.asarray(wanted)])
    names = op_names(kernels_of(proto))
    assert {name: names.count(name) for name in raised} == raised


def test_what_the_old_exporter_spells_out_is_raised(package: Callable[..., Any]) -> None:
    """Opset 14 has neither LayerNormalization nor Gelu; TorchScript's exporter writes them out."""
    torch = package("torch", "transformers", "onnxscript")
    import io
    import warnings

    model, inputs = bert()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(ids, mask).logits

    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(Logits().eval(), inputs, file, dynamo=False, opset_version=14)
        wanted = model(*inputs).logits.numpy()
    proto = onnx.load_from_string(file.getvalue())
    assert {"ReduceMean", "Erf"} <= operators(proto) and not {"LayerNormalization", "Gelu"} & operators(proto)
    given = {info.name: x.numpy() for info, x in zip(proto.graph.input, inputs, strict=True)}
    agrees(proto, given, [wanted])
    names = op_names(kernels_of(proto))
    assert (names.count("layer_norm"), names.count("gelu"), names.count("erf"), names.count("reduce_mean")) == (
        5,
        2,
        0,
        0,
    )
