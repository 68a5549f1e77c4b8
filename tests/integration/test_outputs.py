"""`outputs=` from a model to an engine: what is not asked for is not computed, and what is keeps its place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import jitrt
from jitrt.errors import OptionError, TrainingModeError
from jitrt.frontend.torch import import_torch
from jitrt.request import Request
from jitrt.runtime.loaded import nester
from jitrt.testing import plan_interpreted

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As in transformers: a dict whose keys are the fields of a dataclass, and None where a model has nothing."""

    loss: Any = None
    logits: Any = None
    hidden: Any = None


class Result(NamedTuple):
    logits: torch.Tensor
    aux: torch.Tensor


NESTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "dict": lambda logits, aux, hidden: {"logits": logits, "aux": aux, "hidden": (hidden, aux)},
    "tuple": lambda logits, aux, hidden: (logits, aux, [hidden]),
    "dataclass": lambda logits, aux, hidden: ModelOutput(logits=logits, hidden=(hidden, aux)),
    "named tuple": lambda logits, aux, hidden: Result(logits, aux),
}


class Heads(nn.Module):
    """GoogLeNet in small: a stem, an auxiliary head that stays live in eval mode, dropout, a main head."""

    def __init__(self, nest: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()
        self.nest = nest
        self.stem, self.body = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.aux, self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Flatten()), nn.Linear(5, 7)
        self.dropout = nn.Dropout(0.4)

    def forward(self, x: torch.Tensor) -> Any:
        stem = self.stem(x).relu()
        hidden = self.body(stem).relu()
        return self.nest(self.head(self.dropout(hidden.mean((2, 3)))), self.aux(stem), hidden)


def heads(kind: str) -> Heads:
    torch.manual_seed(0)
    return Heads(NESTS[kind]).eval()


@pytest.mark.parametrize(
    ("kind", "outputs", "expected"),
    [
        ("dict", ["logits"], lambda r: {"logits": r["logits"]}),
        ("dict", ["hidden_0"], lambda r: {"hidden": [r["hidden"][0]]}),
        ("dict", ["aux", "logits"], lambda r: {"logits": r["logits"], "aux": r["aux"]}),
        ("tuple", ["0"], lambda r: [r[0]]),
        ("tuple", ["2", "1"], lambda r: [r[1], [r[2][0]]]),
        ("dataclass", ["logits"], lambda r: {"logits": r.logits}),
        ("dataclass", ["hidden"], lambda r: {"hidden": list(r.hidden)}),
        ("named tuple", ["logits"], lambda r: [r.logits]),
    ],
)
def test_the_rest_is_pruned_and_the_nesting_kept(kind: str, outputs: Sequence[str], expected: Any) -> None:
    model = heads(kind)
    engine = jitrt.compile(model, (X,), target="reference", outputs=outputs)
    with torch.no_grad():
        torch.testing.assert_close(engine(X), expected(model(X)), rtol=1e-4, atol=1e-5)
    convolutions = sum("conv" in layer.text for layer in engine.plan.layers)
    needed = {"logits": 2, "0": 2, "hidden_0": 2}.get(outputs[0], 3)
    assert convolutions == needed, [layer.text for layer in engine.plan.layers]


def test_an_auxiliary_head_leaves_nothing_behind() -> None:
    whole, pruned = (jitrt.explain(heads("dict"), (X,), outputs=names) for names in (None, ["logits"]))
    assert {"aux.0.weight", "aux.0.bias"} <= set(whole.after.constants)
    assert not any("aux" in name for name in pruned.after.constants)
    assert [v.name for v in pruned.after.outputs] == ["logits"]
    assert pruned.kernels.total() < whole.kernels.total()
    dropped = [d.text for d in pruned.report if d.applied and "nothing reads its result" in d.text]
    assert "conv dropped: nothing reads its result" in dropped
    assert any(d.text == "dropout changes nothing: dropped" for d in pruned.report)


def test_a_pruned_plan_runs_and_nests() -> None:
    model = heads("dict")
    imported = import_torch(model, (X,))
    request, structure = Request(outputs=["logits"]).selecting(imported.graph, imported.outputs)
    planned = plan_interpreted(imported.graph, request.options)
    assert [b.name for b in planned.plan.outputs] == ["logits"]
    result = nester(structure, 1)(planned.run([X.numpy()]))
    with torch.no_grad():
        np.testing.assert_allclose(result["logits"], model(X)["logits"], rtol=1e-4, atol=1e-5)


def test_jit_prunes_too() -> None:
    model = heads("dataclass")
    fast = jitrt.jit(model, target="reference", outputs=["logits"])
    with torch.no_grad():
        torch.testing.assert_close(fast(X), {"logits": model(X).logits}, rtol=1e-4, atol=1e-5)


def test_values_inside_the_model_have_no_nesting() -> None:
    model = heads("dict")
    engine = jitrt.compile(model, (X,), target="reference", outputs=["mean", "relu"])
    mean, relu = engine(X)
    with torch.no_grad():
        torch.testing.assert_close(relu, model.stem(X).relu(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mean, model(X)["hidden"][0].mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_outputs_of_a_network() -> None:
    net = jitrt.Network()
    x = net.add_input("x", (2, 8))
    hidden = net.add_activation(x, "relu", name="hidden")
    net.mark_output(net.add_reduce(hidden, "sum", 1), "total")
    net.mark_output(net.add_softmax(x), "odds")
    data = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    one = jitrt.compile(net, target="reference", outputs=["total"])
    np.testing.assert_allclose(one(data), np.maximum(data, 0).sum(1), rtol=1e-6)
    assert not any("softmax" in layer.text for layer in one.plan.layers)
    two = jitrt.compile(net, target="reference", outputs=["odds", "hidden"])(data)
    np.testing.assert_array_equal(two[1], np.maximum(data, 0))
    with pytest.raises(
        OptionError, match=r"there is no 'totals' \(did you mean 'total'\?\); the outputs are total, odds"
    ):
        jitrt.compile(net, target="reference", outputs=["totals"])


def test_an_unknown_output_is_refused_before_anything_is_built() -> None:
    for use in (
        lambda: jitrt.compile(heads("dict"), (X,), target="sm_90", outputs=["scores"]),
        lambda: jitrt.explain(heads("dict"), (X,), outputs=["scores"]),
        lambda: jitrt.jit(heads("dict"), target="reference", outputs=["scores"])(X),
    ):
        with pytest.raises(OptionError, match="outputs: there is no 'scores'; the outputs are logits, aux, hidden"):
            use()


def test_dropout_that_drops_is_no_identity() -> None:
    with pytest.raises(TrainingModeError, match=r"dropout at .* is in training mode"):
        jitrt.compile(heads("dict").train(), (X,), target="reference", outputs=["logits"])
