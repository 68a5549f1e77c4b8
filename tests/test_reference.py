"""The reference engine has an engine's surface, takes any kind of tensor and refuses what does not fit."""

from __future__ import annotations

import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import jitrt
from jitrt.errors import GradientError, InputError, TargetError
from jitrt.graph import Graph, TensorType, bf16, f32
from jitrt.graph.ops import Add, Reshape
from jitrt.reference import ReferenceEngine
from jitrt.runtime import Engine

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


@pytest.fixture(scope="module")
def engine(model: nn.Module) -> ReferenceEngine:
    made = jitrt.compile(model, (X,), target="reference")
    assert isinstance(made, ReferenceEngine)
    return made


class Array:
    """A library's array that speaks DLPack, with or without a namespace of its own."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


class StandardArray(Array):
    def __array_namespace__(self) -> Any:
        class Namespace:
            @staticmethod
            def from_dlpack(array: Any) -> StandardArray:
                return StandardArray(torch.from_dlpack(array))

        return Namespace


def test_outputs_are_of_the_inputs_kind(engine: ReferenceEngine, model: nn.Module) -> None:
    expected = model(X).detach()
    for make, kind in ((lambda x: x, torch.Tensor), (lambda x: x.numpy(), np.ndarray), (Array, np.ndarray)):
        got = engine(make(X))
        assert type(got) is kind
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-4, atol=1e-5)
    standard = engine(StandardArray(X))
    assert isinstance(standard, StandardArray)
    torch.testing.assert_close(standard.tensor, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_in_torch_and_numpy() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(bf16, (3,)))
    graph.mark_output(graph.add(Add(), x, x))
    engine = ReferenceEngine(graph)
    values = torch.tensor([1.0, 2.5, -3.0], dtype=torch.bfloat16)
    assert torch.equal(engine(values), values * 2)
    assert engine(values.float().numpy().astype(ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16


def test_non_contiguous_and_read_only_inputs(engine: ReferenceEngine) -> None:
    turned = X.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    assert torch.equal(engine(turned), engine(X))
    frozen = X.numpy().copy()
    frozen.flags.writeable = False
    assert np.array_equal(engine(frozen), engine(X.numpy()))


def test_nan_is_propagated(engine: ReferenceEngine) -> None:
    x = X.clone()
    x[1, 0, 0, 0] = float("nan")
    got = engine(x)
    assert got[1].isnan().all()
    assert not got[0].isnan().any()


def test_outputs_share_no_memory_with_inputs_or_each_other() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(f32, (2, 3)))
    flat = graph.add(Reshape((6,)), x)
    graph.mark_output(x, flat)
    given = torch.zeros(2, 3)
    a, b = ReferenceEngine(graph)(given)
    a += 1
    assert given.sum() == 0
    assert b.sum() == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"takes 1 input\(s\) \(.*\), got 0"),
        ((X, X), "got 2"),
        ((X[:1],), r"expected f32 \(2, 3, 6, 6\), got float32 \(1, 3, 6, 6\)"),
        ((X.half(),), "got float16"),
        ((X[:0],), "is empty"),
        (([1, 2],), "got a list; pass a torch tensor"),
    ],
    ids=["none", "two", "shape", "dtype", "empty", "list"],
)
def test_inputs_that_do_not_fit_are_refused(engine: ReferenceEngine, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(*inputs)


def test_an_input_with_a_gradient_is_refused(engine: ReferenceEngine) -> None:
    x = X.clone().requires_grad_()
    with pytest.raises(GradientError, match="requires a gradient"):
        engine(x)
    with torch.no_grad():
        assert torch.equal(engine(x), engine(X))


def test_a_reference_engine_cannot_be_saved(engine: ReferenceEngine, tmp_path: Any) -> None:
    with pytest.raises(TargetError, match=r"no kernels to save.*target='sm_90'"):
        engine.save(tmp_path / "x.plan")


def test_profile_names_every_layer(engine: ReferenceEngine) -> None:
    profile = engine.profile(X)
    assert len(profile.layers) == len(engine.graph.nodes)
    assert profile.graph > 0
    assert profile.serial == pytest.approx(sum(layer.microseconds for layer in profile.layers))
    assert "in numpy" in str(profile)
    assert "conv" in {part for layer in engine.plan.layers for part in layer.text.split(" + ")}


def test_inspect_and_html(engine: ReferenceEngine) -> None:
    text = str(engine.inspect())
    assert "reference target (numpy)" in text
    assert "sm_" not in text
    assert "conv + add + relu" in text
    assert "<table>" in engine._repr_html_()
    assert "layers in numpy" in repr(engine)


def test_compare_measures_the_distance(engine: ReferenceEngine, model: nn.Module) -> None:
    assert engine.compare(model, X).worst < 1e-5
    assert engine.compare(lambda x: 2 * model(x), X).worst == pytest.approx(0.5, rel=1e-3)


def test_threads_may_share_an_engine(engine: ReferenceEngine) -> None:
    inputs = [torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    expected = [engine(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(10) if not torch.equal(engine(inputs[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_has_the_surface_of_an_engine(engine: ReferenceEngine) -> None:
    for name in ("__call__", "call", "save", "profile", "inspect", "compare", "close", "plan", "_repr_html_"):
        assert hasattr(Engine, name)
        assert hasattr(engine, name)
    engine.close()


def test_a_tensor_without_values(engine: ReferenceEngine) -> None:
    with pytest.raises(InputError, match="is on meta, where tensors have no values; make it on the CPU"):
        engine(X.to("meta"))
