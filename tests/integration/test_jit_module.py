"""A jitted module is a module: it can be a part of another, be copied, pickled, exported, and told what modules are."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import jitrt
from jitrt.errors import OptionError

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))

    def train(self, mode: bool = True) -> Net:
        self.told = mode
        return super().train(mode)


def jitted(thing: Any) -> Any:
    return jitrt.jit(thing, target="reference")


@pytest.fixture
def net() -> Net:
    """A network whose body is jitted, and has an engine."""
    made = Net().eval()
    made.body = jitted(made.body)
    with torch.no_grad():
        torch.testing.assert_close(made(X), Net()(X))
    assert len(made.body.specialisations) == 1
    return made


def test_it_is_what_it_was(net: Net) -> None:
    plain = Net()
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in net.named_modules()] == [name for name, _ in plain.named_modules()]
    assert isinstance(net.body, nn.Sequential)
    assert isinstance(net.body[1], nn.ReLU)
    assert len(net.body) == 3
    assert type(net.body[:2]) is nn.Sequential
    assert "jitrt.jit(Sequential) with 1 specialisation(s)" in repr(net)


def test_what_a_class_overrides_is_called() -> None:
    fast = jitted(Net())
    assert fast.eval() is fast
    assert fast.told is fast.original.told is False
    fast.told = True
    assert fast.original.told is True


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.double(),
        lambda net: net.load_state_dict({name: x * 2 for name, x in net.state_dict().items()}),
        lambda net: net.apply(lambda module: None),
        lambda net: net.body.half(),
        lambda net: net.body.load_state_dict(net.body.state_dict()),
    ],
)
def test_what_changes_its_weights_from_above_too_is_noticed(net: Net, change: Callable[[Net], Any]) -> None:
    change(net)
    assert len(net.body.specialisations) == 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_have_weights_and_engines_of_their_own(net: Net, again: Callable[[Net], Net]) -> None:
    other = again(net)
    with torch.no_grad():
        other.body[2].weight.zero_()
        torch.testing.assert_close(net(X), Net()(X))
        assert not torch.allclose(other(X), net(X))
    assert len(other.body.specialisations) == 1


@jitrt.jit(target="reference")
def triple(x: torch.Tensor) -> torch.Tensor:
    return x * 3


def test_functions_are_copied_and_pickled_too() -> None:
    assert pickle.loads(pickle.dumps(triple)) is triple
    assert copy.deepcopy(triple) is triple
    unnamed = jitted(torch.nn.functional.relu)
    torch.testing.assert_close(pickle.loads(pickle.dumps(unnamed))(X), X.relu())


@pytest.mark.parametrize(
    "trace",
    [
        lambda model: torch.export.export(model, (X,), strict=False).module(),
        lambda model: torch.export.export(model, (X,), strict=True).module(),
        lambda model: torch.jit.trace(model, X, check_trace=False),
        lambda model: torch.compile(model, backend="eager", fullgraph=True),
        jitted,
    ],
    ids=["export", "strict export", "jit.trace", "torch.compile", "jitrt.jit"],
)
def test_others_trace_through_it(trace: Callable[[Any], Any]) -> None:
    class WithFunction(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return triple(super().forward(x))

    net = WithFunction().eval()
    net.body = jitted(net.body)
    with torch.no_grad():
        torch.testing.assert_close(trace(net)(X), 3 * Net()(X))
    assert len(net.body.specialisations) == len(triple.specialisations) == 0


def test_threads_run_while_others_build() -> None:
    """`torch.compiler.is_compiling` is true in every thread while one builds; the rest must not run what it traces."""
    fast, model = jitted(Net().eval()), Net().eval()
    sizes = [1 + i % 3 for i in range(12)]
    with torch.no_grad():
        expected = [model(torch.full((n, 3), 0.5)).tolist() for n in sizes]
    got: dict[int, Any] = {}

    def run(i: int) -> None:
        with torch.no_grad():
            got[i] = fast(torch.full((sizes[i], 3), 0.5)).tolist()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(len(sizes))] == [[pytest.approx(row, abs=1e-5) for row in x] for x in expected]
    assert len(fast.specialisations) == 3


class Scaled:
    """Instances that are all equal, and have no hash."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __eq__(self, other: object) -> bool:
        return True

    @jitrt.jit(target="reference")
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_instances_that_compare_equal_are_not_the_same() -> None:
    assert (Scaled(2.0).apply(X) / X).mean() == 2
    a, b = Scaled(2.0), Scaled(3.0)
    torch.testing.assert_close(a.apply(X), 2 * X)
    torch.testing.assert_close(b.apply(X), 3 * X)


def test_an_instance_that_cannot_be_referred_to_weakly_is_refused() -> None:
    class Slotted:
        __slots__ = ()

        @jitrt.jit(target="reference")
        def apply(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(OptionError, match="Slotted has no room for: add '__weakref__'"):
        Slotted().apply(X)


def test_numbers_that_are_equal_and_not_the_same() -> None:
    divide = jitted(lambda x, a: x / a)
    assert divide(torch.ones(1), 0.0) == float("inf")
    assert divide(torch.ones(1), -0.0) == float("-inf")
    for _ in range(3):
        assert divide(X, float("nan")).isnan().all()
    assert len(divide.specialisations) == 3


def test_without_inputs_the_result_is_still_a_tensor() -> None:
    for function in (
        jitted(lambda: torch.ones(3)),
        torch.compile(lambda: torch.ones(3), backend="jitrt", options={"target": "reference"}),
    ):
        torch.testing.assert_close(function(), torch.ones(3))


def test_an_autocast_region_around_the_call_has_an_engine_of_its_own() -> None:
    model = nn.Linear(3, 3).eval()
    for fast in (jitted(model), torch.compile(model, backend="jitrt", options={"target": "reference"})):
        with torch.no_grad():
            outside = fast(X)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                inside = fast(X)
            assert (inside.dtype, outside.dtype, fast(X).dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_an_autocast_region_in_a_graph_of_dynamos() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = x @ x.t()
        return torch.logcumsumexp(y.float(), 0) + y  # no importer: the graph is taken apart

    fast = torch.compile(function, backend="jitrt", options={"target": "reference"})
    with pytest.warns(jitrt.errors.JitrtWarning, match="logcumsumexp"):
        got = fast(X)
    torch.testing.assert_close(got, function(X), rtol=2e-2, atol=2e-2)


class Kinds:
    factor = 3.0

    @jitrt.jit(target="reference")
    @staticmethod
    def plain(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    @jitrt.jit(target="reference")
    def below(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @classmethod
    @jitrt.jit(target="reference")
    def of_class(cls, x: torch.Tensor) -> torch.Tensor:
        return x * cls.factor


def test_static_and_class_methods() -> None:
    for owner in (Kinds, Kinds()):
        torch.testing.assert_close(owner.below(X), 2 * X)
        torch.testing.assert_close(owner.of_class(X), 3 * X)
        torch.testing.assert_close(owner.plain(X), 2 * X)
    with pytest.raises(OptionError, match=r"not a classmethod; put @jitrt.jit below @classmethod"):
        jitrt.jit(classmethod(lambda cls, x: x))
