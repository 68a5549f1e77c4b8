"""Keras models and frozen TensorFlow graphs through tf2onnx."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.frameworks import export_tensorflow
from tests.frameworks.common import agrees, kernels_of, layout_copies, op_names, operators

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def exported(package: Callable[..., Any], tmp_path: Path) -> Callable[[str], onnx.ModelProto]:
    """`exported("vgg19")`: the model of that name, which agrees with its framework."""
    package("tensorflow", "tf2onnx", load=False)

    def export(name: str) -> onnx.ModelProto:
        command = [sys.executable, export_tensorflow.__file__, name, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=560)
        assert done.returncode == 0, done.stderr[-2000:]
        proto = onnx.load(tmp_path / "model.onnx")
        x, y = np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy")
        agrees(proto, {proto.graph.input[0].name: x}, [y])
        return proto

    return export


def test_keras_vgg19_as_in_the_post(exported: Callable[[str], onnx.ModelProto]) -> None:
    graph = kernels_of(exported("vgg19"))
    assert not layout_copies(graph)
    names = op_names(graph)
    assert [names.count(name) for name in ("conv", "linear", "softmax")] == [16, 3, 1]
    assert (names.count("max_pool"), names.count("reduce_max")) == (4, 1)  # the last one is over the whole image


def test_keras_layers_that_are_spelled_out(exported: Callable[[str], onnx.ModelProto]) -> None:
    names = op_names(kernels_of(exported("spelled_out")))
    wanted = ("layer_norm", "gelu", "silu", "hard_sigmoid", "softplus", "reduce_mean", "erf")
    assert [names.count(name) for name in wanted] == [2, 1, 1, 1, 1, 0, 0]


def test_a_frozen_graph(exported: Callable[[str], onnx.ModelProto]) -> None:
    proto = exported("frozen")
    assert "HardSwish" not in operators(proto)
    graph = kernels_of(proto)
    assert not layout_copies(graph)
    names = op_names(graph)
    assert [names.count(name) for name in ("conv", "hard_swish", "silu", "batch_norm", "div")] == [3, 1, 1, 0, 0]
