"""Operands that an operator does not take: each is refused by name, before anything is built."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import GraphError, UnsupportedOpError
from jitrt.frontend.onnx import fallback
from jitrt.frontend.onnx.registry import Unsupported, onnx_op
from jitrt.graph import interpret
from tests.frontend.onnx.graphs import load


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("text", "known", "arrays", "reason"),
    [
        ("y = MatMul (x, w)", "", {"x": floats(), "w": floats(3)}, "of a tensor of rank 0"),
        ("y = Gemm (x, w)", "", {"x": floats(2, 3, 4), "w": floats(4, 5)}, "of tensors of ranks 3 and 2"),
        ('y = Pad <mode = "reflect"> (x, p)', "p", {"x": floats(2, 0), "p": ints(0, 1, 0, 0)}, "which is empty"),
        (
            'y = RoiAlign <coordinate_transformation_mode = "pixel", output_height = 2, output_width = 2> (x, r, i)',
            "",
            {"x": floats(1, 2, 4, 4), "r": floats(1, 4), "i": ints(0)},
            "coordinate_transformation_mode 'pixel'",
        ),
        ("y = STFT (x, s, w)", "s", {"x": floats(1, 8, 1), "s": np.array(0), "w": floats(4)}, "frames of 4, 0 apart"),
        (
            "y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i, s)",
            "s",
            {"x": floats(1, 1, 2, 2), "i": np.zeros((1, 1, 2, 2), np.int64), "s": ints(1, 1, 2)},
            "output_shape",
        ),
    ],
    ids=lambda part: part.split(" (")[0] if isinstance(part, str) and part.startswith("y = ") else "",
)
def test_operands(text: str, known: str, arrays: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        load(text, known=known, **arrays)


def test_an_operator_has_one_importer_a_version() -> None:
    with pytest.raises(ValueError, match="::Gemm since 1 already has an importer"):
        onnx_op("Gemm")(lambda n: None)


@pytest.mark.parametrize("fails", [True, False])
def test_a_step_on_the_host_that_goes_wrong_as_it_runs(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(step: fallback.HostStep, inputs: Any) -> list[np.ndarray]:
        if fails:
            raise Unsupported(f"ONNX's reference of {step.title} fails: it is out of order")
        return [floats(1)]

    graph = load_step()
    monkeypatch.setattr(fallback, "_evaluate", evaluate)
    with pytest.raises(GraphError, match="out of order" if fails else r"the reference's result has shape \(1,\), not"):
        interpret(graph, [floats(2, 3)])


def load_step() -> Any:
    """A graph of one step on the host: dropout in training mode with a seed, which the reference computes."""
    from jitrt.frontend.onnx import import_onnx
    from tests.frontend.onnx.graphs import model

    proto = model("y = Dropout <seed = 1> (x, r, t)", x=floats(2, 3), r=floats(), t=np.array(True))
    given = {"r": np.float32(0.5), "t": np.array(True)}
    return import_onnx(proto, constants=given, fallback=True).graph
