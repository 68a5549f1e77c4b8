"""Results written over an operand: whole plans in the interpreter, which notices a program that reads another's result;
and every reason for which a kernel does not offer it."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.compiler import Options
from jitrt.graph import DType, Graph, TensorType, Value, f16, f32, interpret
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Cast, Conv, Exp, Matmul, MaxPool, Mul, Permute, Region, Relu, Softmax
from jitrt.kernels.base import Problem, Template, templates
from jitrt.kernels.in_place import in_place_offers
from jitrt.passes import optimize
from jitrt.testing import plan_interpreted


class Net:
    """A graph to grow."""

    def __init__(self, *shape: int) -> None:
        self.graph, self.rng = Graph("net"), np.random.default_rng(0)
        self.x = self.graph.add_input("x", TensorType(f32, shape))

    def __call__(self, op: Op, *operands: Value, name: str | None = None) -> Value:
        return self.graph.add(op, *operands, name=name)

    def conv(self, x: Value, filters: int, size: int, groups: int = 1, name: str | None = None) -> Value:
        w = self.rng.standard_normal((filters, x.type.shape[1] // groups, size, size)) / size
        padding = ((size // 2, size // 2),) * 2
        return self(Conv((1, 1), padding, (1, 1), groups), x, self.graph.add_constant(w.astype(np.float32)), name=name)

    def pool(self, x: Value, name: str) -> Value:
        """A kernel of its own, whatever is around."""
        return self(MaxPool((3, 3), (1, 1), (1, 1)), x, name=name)


def residual(middle: str, *shape: int) -> Graph:
    """A shortcut around two convolutions, around a depthwise one, or into a pointwise kernel. For tests/gpu too."""
    net = Net(*(shape or (2, 24, 7, 5)))
    channels = net.x.type.shape[1]
    start = net.pool(net.x, "start")
    inner = net(Relu(), net.conv(start, channels, 1))
    if middle == "pointwise":
        inner = net.pool(inner, "inner")
        net.graph.mark_output(inner)  # so that nothing joins it
        added = net(Mul(), inner, start)
    else:
        added = net(Add(), net.conv(inner, channels, 3, groups=channels if middle == "depthwise" else 1), start)
    net.graph.mark_output(net.pool(net(Relu(), added, name="sum"), "end"))
    return net.graph


@pytest.mark.parametrize(
    ("middle", "wanted"),
    [
        ("conv", {"SPLIT_K": 1, "EARLY": False}),
        ("conv", {"SPLIT_K": 1, "EARLY": True}),
        ("conv", {"SPLIT_K": 2}),
        ("depthwise", {}),
        ("pointwise", {"FLAT": True}),
    ],
)
def test_a_shortcut_is_overwritten_by_the_sum(middle: str, wanted: dict[str, object]) -> None:
    graph = residual(middle)
    planned = plan_interpreted(
        graph,
        Options("fp16"),
        pick=lambda found: next((c for c in found if wanted.items() <= dict(c.tactic.config).items()), found[0]),
    )
    (tactic,) = [tactic for layer, (_, tactic) in zip(planned.plan.layers, planned.layers) if layer.name == "sum"]
    assert wanted.items() <= dict(tactic.config).items(), "there is no such candidate"
    assert planned.plan.notes["memory"]["in_place"]["sum"] == "start"  # type: ignore[index]
    x = [np.random.default_rng(1).standard_normal((2, 24, 7, 5)).astype(np.float32)]
    for actual, expected in zip(planned.run(x, seed=1), interpret(graph, x, exact=True), strict=True):
        np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=2e-2, atol=2e-2)


def test_a_product_is_written_over_what_is_added_to_it() -> None:
    graph = Graph("product")
    a, b = (graph.add_input(name, TensorType(f32, (3, 17, 17))) for name in "ab")
    bias = graph.add(Softmax(2), b, name="bias")
    product = graph.add(Add(), graph.add(Matmul(), a, b), bias, name="sum")
    graph.mark_output(graph.add(Softmax(1), product))
    planned = plan_interpreted(graph)
    assert planned.plan.notes["memory"]["in_place"] == {"sum": "bias"}  # type: ignore[index]
    arrays = [np.random.default_rng(i).standard_normal((3, 17, 17)).astype(np.float32) for i in range(2)]
    (expected,) = interpret(graph, arrays, exact=True)
    np.testing.assert_allclose(planned.run(arrays)[0], expected, rtol=1e-4, atol=1e-5)


def offers(graph: Graph, name: str, template: str, **config: object) -> dict[str, str | None]:
    """What the kernel of the region that makes %name offers."""
    optimized = optimize(graph)
    node = next(n for n in optimized.nodes if isinstance(n.op, Region) and n.output.name == name)
    problem, kind = Problem.of(node), templates()[template]
    target = TARGETS[90]
    return in_place_offers(node, problem, kind, kind.lower(problem, kind.candidates(problem, target)[0], target))


def test_what_other_programs_read_stays() -> None:
    net = Net(1, 8, 5, 5)
    start = net.pool(net.x, "start")
    net.graph.mark_output(net.pool(net(Add(), net.conv(start, 8, 3), start, name="sum"), "end"))
    assert offers(net.graph, "sum", "conv2d") == {"start": "other programs of conv2d read it too, as x"}


def test_what_a_row_is_made_of_stays() -> None:
    net = Net(4, 33)
    net.graph.mark_output(net(Softmax(1), net(Softmax(0), net.x, name="first"), name="second"))
    assert offers(net.graph, "second", "softmax") == {
        "first": "several programs of softmax may read the same element of it"
    }


def test_other_places_and_sizes_stay() -> None:
    graph = Graph("mixed")
    x = graph.add_input("x", TensorType(f32, (4, 4)))
    half = graph.add_input("half", TensorType(f16, (4, 4)))
    row = graph.add_input("row", TensorType(f32, (4,)))
    turned = graph.add(Permute((1, 0)), graph.add_input("y", TensorType(f32, (4, 4))), name="turned")
    total = graph.add(Add(), graph.add(Add(), graph.add(Add(), x, turned), graph.add(Cast(DType.f32), half)), row)
    graph.mark_output(graph.add(Exp(), total, name="out"))
    assert offers(graph, "out", "pointwise") == {
        "x": None,
        "turned": "its elements lie in other strides than the result's",
        "half": "its elements have another size: f16, not f32",
    }


def test_a_template_makes_no_promise_it_was_not_asked_for() -> None:
    assert not Template.in_place
    assert {t.name for t in templates().values() if t.in_place} >= {
        "conv2d",
        "depthwise",
        "matmul",
        "pointwise",
        "stem",
    }
    assert not any(templates()[name].in_place for name in ("softmax", "norm", "pool", "reduce", "pad"))
