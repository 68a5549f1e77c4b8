"""Every layer as a whole plan, run without a GPU in the interpreter, against PyTorch."""

from __future__ import annotations

import pytest
import torch

from jitrt.compiler import Options
from jitrt.frontend.torch import import_torch
from jitrt.runtime.loaded import nester
from jitrt.testing import plan_interpreted
from tests.layers import LAYERS, leaves

BOUNDS = {"fp32": 1e-5, "fp16": 5e-3}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    model, tensors = make().eval(), inputs()
    imported = import_torch(model, tensors)
    planned = plan_interpreted(imported.graph, Options("fp32"), structure=imported.structure)
    outputs = planned.run([tensor.numpy() for tensor in tensors])
    with torch.no_grad():
        expected = leaves(model(*tensors))
    actual = leaves(nester(planned.plan.structure, len(outputs))([torch.from_numpy(array) for array in outputs]))
    assert len(actual) == len(expected)
    for got, wanted in zip(actual, expected):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        if wanted.is_floating_point():
            assert (got - wanted).norm() <= BOUNDS["fp32"] * wanted.norm()
        else:
            assert torch.equal(got, wanted)
