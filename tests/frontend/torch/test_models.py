"""torchvision's networks come through the importer whole, and mean the same as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jitrt.bench.models import load_model, settle
from jitrt.frontend.torch import import_torch
from jitrt.graph import interpret, verify

# Image sizes: small, but with enough pixels in the last stage for batch-norm statistics that are not chance.
SIZES = {
    "resnet18": 64,
    "vgg19": 32,
    "googlenet": 80,
    "inception_v3": 107,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "squeezenet1_1": 64,
    "shufflenet_v2_x1_0": 64,
    "regnet_y_400mf": 64,
    "resnext50_32x4d": 64,
    "convnext_tiny": 32,
}


@pytest.mark.parametrize("name", SIZES)
def test_the_graph_computes_what_pytorch_computes(name: str) -> None:
    model, make_input = load_model(name, size=SIZES[name])
    settle(model, make_input(4))
    x = make_input(2, seed=1)
    graph = import_torch(model, (x,)).graph
    verify(graph)
    assert all(node.loc for node in graph.nodes)
    with torch.no_grad():
        expected = model(x).numpy()
    largest: list[float] = []
    (got,) = interpret(
        graph, [x.numpy()], observe=lambda node, outputs: largest.append(float(np.abs(outputs[0]).max()))
    )
    assert np.linalg.norm(got - expected) <= 1e-4 * np.linalg.norm(expected)
    assert 0.3 < expected.std() < 10  # neither vanishes nor overflows
    assert max(largest) < 100


# Larger members of families above: how many convolutions and batch norms they have.
LARGER = {
    "resnet50": (53, 53),
    "resnet152": (155, 155),
    "mobilenet_v3_large": (62, 46),
    "regnet_x_400mf": (71, 71),
}


@pytest.mark.parametrize("name", LARGER)
def test_larger_members_of_a_family_are_imported(name: str) -> None:
    model, make_input = load_model(name, size=32)
    graph = import_torch(model, (make_input(2),)).graph
    verify(graph)
    kinds = [node.op.name for node in graph.nodes]
    assert (kinds.count("conv"), kinds.count("batch_norm")) == LARGER[name]
