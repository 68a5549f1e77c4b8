"""Group norms written as instance norms of reshaped images, and the scales after norms."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f16, f32, interpret, verify
from jitrt.graph.ops import Add, Cos, GroupNorm, LayerNorm, Mul, Reshape, RmsNorm
from jitrt.passes import PassContext
from jitrt.passes.fold_norm_scale import fold_norm_scale
from jitrt.passes.pipeline import optimize
from jitrt.passes.raise_group_norms import raise_group_norms

RNG = np.random.default_rng(0)


def reshaped(norm, apart, *, parameters=None, back=(2, 6, 4, 5), shape=(2, 6, 4, 5), live=False, read_twice=False):
    """reshape(norm(reshape(x))) * w + b, as exporters write a group norm."""
    graph = Graph("group")
    x = graph.add(Cos(), graph.add_input("x", TensorType(f32, shape)))
    rows = graph.add(Reshape(apart), x)
    size = (apart[1],) if isinstance(norm, GroupNorm) else apart[-norm.dims :]
    arrays = [RNG.standard_normal(size) for _ in range(2)] if parameters is None else [np.full(size, parameters)] * 2
    arrays = [array.astype(np.float32) for array in arrays]
    given = [graph.add_input(n, TensorType(f32, size)) if live else graph.add_constant(a) for n, a in zip("wb", arrays)]
    normal = graph.add(norm, rows, *given, loc="model.py:3")
    y = graph.add(Reshape(back), normal)
    w, b = (graph.add_constant(RNG.standard_normal((6, 1, 1)).astype(np.float32)) for _ in range(2))
    graph.mark_output(graph.add(Add(), graph.add(Mul(), y, w), b) if back == shape else y)
    if read_twice:
        graph.mark_output(normal)
    return graph


def run(step, graph):
    inputs = [np.random.default_rng(2).standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs]
    before = interpret(graph, inputs, exact=True)
    context = PassContext()
    step(graph, context)
    verify(graph)
    for after, wanted in zip(interpret(graph, inputs, exact=True), before):
        np.testing.assert_allclose(after, wanted, rtol=1e-5, atol=1e-5)
    return [d.text for d in context.report]


@pytest.mark.parametrize(
    ("norm", "apart", "parameters"),
    [
        (GroupNorm(3), (2, 3, 40), None),
        (GroupNorm(3), (2, 3, 2, 20), 1.5),
        (LayerNorm(1), (2, 3, 40), 0.5),
        (LayerNorm(2), (2, 2, 3, 20), 1.0),
    ],
)
def test_reshaped_norms_become_a_group_norm_with_its_scale(norm, apart, parameters):
    graph = reshaped(norm, apart, parameters=parameters)
    assert run(raise_group_norms, graph) == [f"reshape, {norm.name} and reshape are one group_norm"]
    assert [node.op for node in graph.nodes] == [Cos(), GroupNorm(apart[1]), Mul(), Add()]
    assert run(fold_norm_scale, graph) == ["mul + add folded into the parameters of group_norm"]
    assert [node.op for node in graph.nodes] == [Cos(), GroupNorm(apart[1])]
    assert graph.nodes[1].loc == "model.py:3"
    assert len(graph.constants) == 2


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (reshaped(GroupNorm(3), (2, 3, 40), back=(2, 3, 8, 5)), "what follows is not the shape from before"),
        (reshaped(GroupNorm(4), (2, 4, 30)), "4 groups of 6 channels"),
        (reshaped(GroupNorm(1), (2, 3, 40)), "it has 1 groups of its own"),
        (reshaped(LayerNorm(1), (2, 3, 8, 5)), "it normalises the last 1 dimensions"),
        (reshaped(GroupNorm(3), (2, 3, 40), live=True), "its parameters are no constants"),
        (reshaped(LayerNorm(1), (2, 3, 40)), "its parameters vary within a group"),
        (reshaped(GroupNorm(3), (2, 3, 40), read_twice=True), "its result has other readers"),
    ],
)
def test_refusals(graph, reason):
    before = [node.op for node in graph.nodes]
    assert run(raise_group_norms, graph) == [f"not raised to group_norm: {reason}"]
    assert [node.op for node in graph.nodes] == before


def scaled(norm, shape, factors, *, dtype=f32, read_twice=False, number=None):
    """norm(x) * factor, + factor, ...: each of the given shape."""
    graph = Graph("scaled")
    x = graph.add_input("x", TensorType(dtype, shape))
    size = (shape[1],) if isinstance(norm, GroupNorm) else shape[-norm.dims :]
    count = 1 if isinstance(norm, RmsNorm) else 2
    y = graph.add(norm, x, *(graph.add_constant(RNG.standard_normal(size).astype(dtype.numpy)) for _ in range(count)))
    if read_twice:
        graph.mark_output(y)
    for op, factor in factors:
        array = RNG.standard_normal(factor) if number is None else np.full(factor, number)
        y = graph.add(op, y, graph.add_constant(array.astype(dtype.numpy)))
    graph.mark_output(y)
    return graph


@pytest.mark.parametrize(
    ("norm", "factors", "left"),
    [
        (LayerNorm(1), [(Mul(), (5,)), (Add(), (1, 5)), (Mul(), ())], 0),
        (LayerNorm(2), [(Mul(), (5,)), (Add(), (4, 1))], 0),
        (RmsNorm(1), [(Mul(), (5,)), (Add(), (5,)), (Mul(), (5,))], 2),
        (GroupNorm(3), [(Add(), (6, 1, 1)), (Mul(), (1,))], 0),
        (GroupNorm(3), [(Add(), (5,)), (Mul(), (1,))], 2),
        (LayerNorm(1), [(Mul(), (4, 5))], 1),
        (LayerNorm(1), [(Mul(), (3, 1, 1, 1, 1))], 1),  # it makes five dimensions of four
    ],
)
def test_scales_and_shifts_go_into_the_parameters(norm, factors, left):
    graph = scaled(norm, (2, 6, 4, 5), factors)
    texts = run(fold_norm_scale, graph)
    assert len(graph.nodes) == 1 + left
    assert len(texts) == (left < len(factors))


def test_what_others_read_and_what_would_overflow_stays():
    assert not run(fold_norm_scale, scaled(LayerNorm(1), (2, 6, 4, 5), [(Mul(), (5,))], read_twice=True))
    graph = scaled(LayerNorm(1), (2, 3, 4, 5), [(Mul(), ()), (Mul(), ())], dtype=f16, number=1000.0)
    context = PassContext()
    fold_norm_scale(graph, context)
    assert [node.op for node in graph.nodes] == [LayerNorm(1), Mul()]


def test_both_are_in_the_pipeline():
    regions = optimize(reshaped(GroupNorm(3), (2, 3, 40))).nodes
    names = [node.op.name for region in regions for node in region.op.body.nodes]
    assert names == ["cos", "group_norm"]
