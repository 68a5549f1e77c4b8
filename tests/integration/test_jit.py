"""`jitrt.jit` on functions, modules, module classes and methods, on the reference target."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import jitrt
from jitrt.errors import (
    GradientError,
    ImportFailure,
    InputError,
    JitrtWarning,
    NoGpuError,
    OptionError,
    TrainingModeError,
    UnsupportedOpError,
)
from jitrt.jitted import Jitted

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


class Small(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3))) * scale


def small() -> Small:
    return Small().eval()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# -- what can be decorated ---------------------------------------------------------------------------------------------


def test_decorator_without_arguments_on_a_function() -> None:
    @jitrt.jit
    def double(x: torch.Tensor) -> torch.Tensor:
        """Twice."""
        return x * 2

    assert isinstance(double, Jitted)
    assert (double.__name__, double.__doc__) == ("double", "Twice.")


def test_decorator_with_arguments_on_a_function_that_closes_over_a_model() -> None:
    model = small()

    @jitrt.jit(target="reference")
    def predict(x: torch.Tensor) -> torch.Tensor:
        return model(x).softmax(-1)

    close(predict(X), model(X).softmax(-1))
    close(predict(X + 1), model(X + 1).softmax(-1))
    assert len(predict.specialisations) == 1


def test_a_plain_call_on_a_module() -> None:
    model = small()
    fast = jitrt.jit(model, target="reference")
    close(fast(X), model(X))
    close(fast(X, scale=2.0), model(X, scale=2.0))
    assert len(fast.specialisations) == 2
    assert repr(fast) == f"jitrt.jit({type(model).__name__}) with 2 specialisation(s)"


def test_half_precision_is_passed_on() -> None:
    model = small()
    fast = jitrt.jit(model, target="reference", precision="fp16")
    error = (fast(X) - model(X)).norm() / model(X).norm()
    assert 1e-6 < error < 5e-3


@jitrt.jit(target="reference")
class Decorated(Small):
    """A class jitted as a whole."""


def test_a_module_class() -> None:
    a, b = Decorated(0).eval(), Decorated(1).eval()
    plain = Small(0).eval()
    plain.load_state_dict(a.state_dict())
    close(a(X), plain(X))
    assert not torch.allclose(a(X), b(X))
    assert isinstance(a, Decorated)
    assert isinstance(a, nn.Module)
    assert Decorated.__name__ == "Decorated"
    again = pickle.loads(pickle.dumps(a))
    close(again(X), plain(X))
    close(copy.deepcopy(a)(X), plain(X))


def test_a_jitted_module_inside_a_jitted_one_is_traced_through() -> None:
    inner = Decorated().eval()
    outer = jitrt.jit(nn.Sequential(inner, nn.ReLU()), target="reference")
    close(outer(X), Small.forward(inner, X).relu())
    assert [node.op.name for node in outer.specialisations.engines[0].graph.nodes].count("region") > 1


def test_a_jitted_function_inside_a_jitted_one_is_traced_through() -> None:
    @jitrt.jit(target="reference")
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x * 3

    outer = jitrt.jit(lambda x: inner(x) + 1, target="reference")
    close(outer(X), X * 3 + 1)
    assert len(inner.specialisations) == 0


class WithMethod(Small):
    @jitrt.jit(target="reference")
    def embed(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return self.features(x).mean((2, 3)) * scale


def test_a_method_has_engines_for_each_instance() -> None:
    a, b = WithMethod(0).eval(), WithMethod(1).eval()
    for model in (a, b):
        close(model.embed(X, scale=2.0), model.features(X).mean((2, 3)) * 2)
    assert not torch.allclose(a.embed(X), b.embed(X))
    assert len(a.embed.specialisations) == 2
    a.embed.clear()
    assert len(a.embed.specialisations) == 0
    assert len(b.embed.specialisations) == 2
    assert isinstance(WithMethod.embed, Jitted)


def test_engines_do_not_keep_an_instance_alive() -> None:
    model, decorated = WithMethod().eval(), Decorated().eval()
    model.embed(X)
    decorated(X)
    gone = weakref.ref(model), weakref.ref(decorated)
    del model, decorated
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_results_keep_tuples_and_dataclasses() -> None:
    def model(x: torch.Tensor, pair: tuple[Any, ...]) -> Any:
        return {"a": (x + pair[0], 3)}, [pair[1] * 2]

    result = jitrt.jit(model, target="reference")(X, (X, X))
    assert isinstance(result, tuple)
    assert isinstance(result[0]["a"], tuple)
    assert result[0]["a"][1] == 3
    close(result[1][0], X * 2)


def test_one_tensor_may_be_several_results() -> None:
    def model(x: torch.Tensor) -> Any:
        y = x + 1
        return y, (x, y), X

    got = jitrt.jit(model, target="reference")(X)
    close(got, model(X))


def test_named_outputs_replace_the_functions_result() -> None:
    fast = jitrt.jit(small(), target="reference", outputs=["relu", "linear"])
    assert [x.shape for x in fast(X)] == [(2, 4, 4, 4), (2, 5)]


@pytest.mark.parametrize("thing", [3, "model", None.__class__, int], ids=str)
def test_what_cannot_be_jitted_is_refused(thing: Any) -> None:
    with pytest.raises(OptionError, match=r"jitrt\.jit"):
        jitrt.jit(thing)


# -- specialisations ---------------------------------------------------------------------------------------------------


def test_a_new_signature_compiles_a_new_specialisation() -> None:
    fast = jitrt.jit(lambda x, n=1, flag=None: x * n, target="reference")

    def count(*args: Any, **kwargs: Any) -> int:
        fast(*args, **kwargs)
        return len(fast.specialisations)

    assert count(X) == 1
    assert count(X + 1) == 1  # values do not matter
    assert count(X[:1]) == 2  # shapes do
    assert count(X.double()) == 3
    assert count(X.to(memory_format=torch.channels_last)) == 4
    assert count(X.transpose(2, 3)) == 4  # other strides are laid out anew
    assert count(X, 2) == 5  # numbers count by value
    assert count(X, 2.0) == 6
    assert count(X, True) == 7
    assert count(X, 2) == 7
    assert count(X.numpy()) == 8


def test_engines_used_longest_ago_are_dropped() -> None:
    fast = jitrt.jit(lambda x, n: x * n, target="reference", specialisations=2)
    fast(X, 1)
    first = fast.specialisations.engines[0]
    fast(X, 2)
    fast(X, 1)
    fast(X, 3)
    assert len(fast.specialisations) == 2
    assert first in fast.specialisations.engines
    close(fast(X, 2), X * 2)
    assert first not in fast.specialisations.engines


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "8"])
def test_a_bad_limit_is_refused(limit: Any) -> None:
    with pytest.raises(OptionError, match="specialisations is"):
        jitrt.jit(specialisations=limit)


def test_weights_are_frozen_until_cleared() -> None:
    model = small()
    fast = jitrt.jit(model, target="reference")
    before = fast(X)
    with torch.no_grad():
        model.head.bias.add_(1)
    assert torch.equal(fast(X), before)
    fast.clear()
    close(fast(X), before + 1)


def test_a_jitted_module_passes_on_attributes_and_methods() -> None:
    model = small()
    fast = jitrt.jit(model, target="reference")
    assert fast.head is model.head
    assert fast.eval() is fast
    fast(X)
    assert set(fast.state_dict()) == set(model.state_dict())
    assert len(fast.specialisations) == 1
    fast.load_state_dict(Small(1).state_dict())  # what the engines were built from is gone
    assert len(fast.specialisations) == 0
    close(fast(X), Small(1).eval()(X))
    assert fast.double() is fast
    close(fast(X.double()).float(), Small(1).eval()(X))
    with pytest.raises(AttributeError, match="no attribute 'tail'"):
        _ = fast.tail


def test_leaving_eval_mode_is_noticed() -> None:
    model = small()
    fast = jitrt.jit(model, target="reference")
    fast(X)
    model.train()
    with pytest.raises(TrainingModeError, match=r"model\.eval\(\)"):
        fast(X)
    model.eval()
    close(fast(X), model(X))


def test_two_threads_build_one_specialisation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from jitrt import jitted

    calls: list[float] = []
    original = jitted.import_torch

    def slow(*args: Any, **kwargs: Any) -> Any:
        calls.append(time.perf_counter())
        time.sleep(0.05)
        return original(*args, **kwargs)

    monkeypatch.setattr(jitted, "import_torch", slow)
    fast = jitrt.jit(lambda x: x + 1, target="reference")
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(fast(X))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(results) == 4
    assert all(torch.equal(result, X + 1) for result in results)


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_numpy_in_numpy_out() -> None:
    model = small()
    got = jitrt.jit(model, target="reference")(X.numpy())
    assert isinstance(got, np.ndarray)
    close(torch.from_numpy(got), model(X).detach())


def test_an_input_with_a_gradient_is_refused_while_gradients_are_enabled() -> None:
    model = small()
    fast = jitrt.jit(model, target="reference")
    x = X.clone().requires_grad_()
    with pytest.raises(GradientError, match=r"input 0 requires a gradient.*torch\.no_grad"):
        fast(x)
    with torch.no_grad():
        close(fast(x), model(x))
    with torch.inference_mode():
        close(fast(X * 1), model(X))
    assert not fast(X).requires_grad  # parameters may require one: the result does not


def test_an_argument_that_cannot_be_compared_is_refused() -> None:
    fast = jitrt.jit(lambda x, names: x, target="reference")
    with pytest.raises(InputError, match="argument args_1 is a set"):
        fast(X, {1, 2})


def test_a_parameter_is_an_input_like_any_other() -> None:
    weight = nn.Parameter(torch.ones(3), requires_grad=False)
    close(jitrt.jit(lambda w: w * 2, target="reference")(weight), weight * 2)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: torch.logcumsumexp(x, 0), UnsupportedOpError),
        (lambda x: x if x.sum() > 0 else -x, ImportFailure),
        (lambda x: x.relu_(), ImportFailure),
    ],
    ids=["unsupported", "branch", "in-place"],
)
def test_failures_of_the_importer_reach_the_caller(function: Callable[..., Any], error: type[Exception]) -> None:
    fast = jitrt.jit(function, target="reference")
    for _ in range(2):  # nothing half-made stays behind
        with pytest.raises(error):
            fast(X.clone())
    assert len(fast.specialisations) == 0


# -- without a GPU -----------------------------------------------------------------------------------------------------


@NO_GPU
def test_without_a_gpu_the_original_runs_after_one_warning() -> None:
    calls: list[int] = []

    @jitrt.jit
    def predict(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x * 2

    with pytest.warns(
        JitrtWarning, match=r"no NVIDIA GPU.*predict runs in PyTorch as it is.*target='reference'"
    ) as caught:
        assert torch.equal(predict(X), X * 2)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(predict(X), X * 2)
        assert torch.equal(predict(X[:1]), X[:1] * 2)
    assert len(calls) == 3


@NO_GPU
def test_without_a_gpu_strict_and_numpy_are_refused() -> None:
    with pytest.raises(NoGpuError, match="pass target='reference' to run <lambda> in numpy"):
        jitrt.jit(lambda x: x, strict=True)(X)
    with pytest.raises(NoGpuError, match="no NVIDIA GPU"):
        jitrt.jit(small())(X.numpy())


@NO_GPU
def test_without_a_gpu_every_call_is_checked_as_the_first() -> None:
    double = jitrt.jit(lambda x: x * 2)
    with pytest.warns(JitrtWarning):
        double(X)
    with pytest.raises(NoGpuError, match="no NVIDIA GPU"):
        double(X.numpy())
    with pytest.raises(GradientError):
        double(X.clone().requires_grad_())


@NO_GPU
def test_without_a_gpu_a_class_runs_as_it_is() -> None:
    @jitrt.jit
    class Plain(Small):
        pass

    model = Plain().eval()
    with pytest.warns(JitrtWarning, match="Plain runs in PyTorch"):
        assert torch.equal(model(X), Small.forward(model, X))
