"""Normalisations spelled out in other ops become one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, Value, f16, f32, f64, interpret, verify
from jitrt.graph.dtype import DType
from jitrt.graph.ops import (
    Add,
    Cos,
    Div,
    GroupNorm,
    LayerNorm,
    Mul,
    Permute,
    Pow,
    Reciprocal,
    ReduceMean,
    ReduceSum,
    Reshape,
    RmsNorm,
    Rsqrt,
    Sqrt,
    Sub,
)
from jitrt.passes import PassContext
from jitrt.passes.pipeline import optimize
from jitrt.passes.raise_norms import raise_norms

EPS = 1e-3
Write = Callable[["Writer"], Value]


class Writer:
    """Writes a normalisation of `x`, along `axes`, with parameters that broadcast as `parameters` does."""

    def __init__(
        self,
        shape: tuple[int, ...] = (2, 3, 8),
        axes: tuple[int, ...] = (2,),
        parameters: tuple[int, ...] = (8,),
        dtype: DType = f32,
    ):
        rng = np.random.default_rng(0)
        self.graph, self.axes, self.dtype = Graph("spelled"), axes, dtype
        self.x = self.graph.add(Cos(), self.graph.add_input("x", TensorType(dtype, shape)))
        self.count = math.prod(shape[d] for d in axes)
        self.w, self.b = (
            self.graph.add_constant(rng.standard_normal(parameters).astype(dtype.numpy), name) for name in ("w", "b")
        )

    def op(self, op: object, *operands: Value | float) -> Value:
        values = [v if isinstance(v, Value) else self.graph.scalar(v, self.dtype) for v in operands]
        return self.graph.add(op, *values, loc="model.py:3")

    def mean(self, x: Value) -> Value:
        return self.op(ReduceMean(self.axes, keepdims=True), x)

    def centred(self) -> Value:
        return self.op(Sub(), self.x, self.mean(self.x))

    def square(self, x: Value) -> Value:
        return self.op(Mul(), x, x)

    def root(self, variance: Value) -> Value:
        return self.op(Sqrt(), self.op(Add(), variance, EPS))

    def affine(self, y: Value) -> Value:
        return self.op(Add(), self.op(Mul(), y, self.w), self.b)


def plain(w: Writer) -> Value:
    d = w.centred()
    return w.affine(w.op(Div(), d, w.root(w.mean(w.op(Pow(), d, 2)))))


def tensorflow(w: Writer) -> Value:
    average = w.mean(w.x)
    variance = w.mean(w.square(w.op(Sub(), w.x, average)))
    scale = w.op(Mul(), w.op(Rsqrt(), w.op(Add(), variance, EPS)), w.w)
    return w.op(Add(), w.op(Mul(), w.x, scale), w.op(Sub(), w.b, w.op(Mul(), average, scale)))


def squares(w: Writer) -> Value:
    average = w.op(Div(), w.op(ReduceSum(w.axes, keepdims=True), w.x), w.count)
    variance = w.op(Sub(), w.mean(w.square(w.x)), w.square(average))
    inverse = w.op(Pow(), w.op(Add(), variance, EPS), -0.5)
    return w.affine(w.op(Mul(), w.op(Sub(), w.x, average), inverse))


def reciprocal(w: Writer) -> Value:
    d, again = w.centred(), w.centred()
    return w.affine(w.op(Mul(), w.op(Reciprocal(), w.root(w.mean(w.op(Mul(), d, again)))), d))


def unsqueezed(w: Writer) -> Value:
    kept = tuple(1 if d in w.axes else size for d, size in enumerate(w.x.type.shape))
    average = w.op(Reshape(kept), w.op(ReduceMean(w.axes), w.x))
    d = w.op(Sub(), w.x, average)
    return w.affine(w.op(Div(), d, w.root(w.op(Reshape(kept), w.op(ReduceMean(w.axes), w.square(d))))))


def rms(w: Writer) -> Value:
    return w.op(Mul(), w.w, w.op(Mul(), w.x, w.op(Rsqrt(), w.op(Add(), w.mean(w.square(w.x)), EPS))))


def run(w: Writer, *outputs: Value, tolerance: float = 1e-6) -> tuple[Graph, PassContext]:
    """What the pass makes of a graph, whose results stay the same."""
    w.graph.mark_output(*outputs)
    x = 3 * np.random.default_rng(1).standard_normal(w.graph.inputs[0].type.shape).astype(w.dtype.numpy)
    before = interpret(w.graph, [x], exact=True)
    context = PassContext()
    raise_norms(w.graph, context)
    verify(w.graph)
    for after, wanted in zip(interpret(w.graph, [x], exact=True), before, strict=True):
        np.testing.assert_allclose(after, wanted, rtol=tolerance, atol=tolerance)
    return w.graph, context


def norms(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


@pytest.mark.parametrize("write", [plain, tensorflow, squares, reciprocal, unsqueezed])
def test_every_spelling_of_layer_norm(write: Write) -> None:
    w = Writer()
    count = len(w.graph.nodes)
    y = write(w)
    spelled = len(w.graph.nodes) - count
    graph, context = run(w, y)
    cos, norm = graph.nodes
    assert norm.op == LayerNorm(1, norm.op.eps) and norm.op.eps == pytest.approx(EPS)
    assert norm.loc == "model.py:3" and norm.inputs[0] is cos.output
    assert [d.text for d in context.report] == [f"{spelled} nodes are one layer_norm"]
    np.testing.assert_array_equal(norm.inputs[1].data, w.w.data)
    assert len(graph.constants) == 2


def test_rms_norm_with_and_without_weight() -> None:
    graph, context = run(w := Writer(), rms(w))
    assert norms(graph) == ["cos", "rms_norm"]
    w = Writer()
    graph, context = run(w, w.op(Div(), w.x, w.root(w.mean(w.square(w.x)))))
    assert graph.nodes[1].op == RmsNorm(1, graph.nodes[1].op.eps)
    np.testing.assert_array_equal(graph.nodes[1].inputs[1].data, np.ones(8, np.float32))
    assert [d.text for d in context.report] == ["5 nodes are one rms_norm"]


def test_several_dimensions_and_scalar_parameters() -> None:
    w = Writer(axes=(1, 2), parameters=(1,))
    graph, _ = run(w, plain(w))
    assert graph.nodes[1].op == LayerNorm(2, graph.nodes[1].op.eps)
    assert graph.nodes[1].inputs[1].type.shape == (3, 8)


def test_channels_of_images_are_turned_to_the_end_and_back() -> None:
    """ConvNeXt."""
    w = Writer((2, 6, 4, 5), axes=(1,), parameters=(6, 1, 1))
    graph, context = run(w, plain(w))
    assert norms(graph) == ["cos", "permute", "layer_norm", "permute"]
    assert [graph.nodes[i].op for i in (1, 3)] == [Permute((0, 2, 3, 1)), Permute((0, 3, 1, 2))]
    assert [d.text for d in context.report] == ["9 nodes are one layer_norm"]


@pytest.mark.parametrize(
    ("shape", "axes", "parameters"),
    [((2, 6, 4, 5), (2, 3), (6, 1, 1)), ((2, 6, 4, 5), (2, 3), (1,)), ((2, 6, 4), (2,), (6, 1))],
)
def test_instance_norm(shape: tuple[int, ...], axes: tuple[int, ...], parameters: tuple[int, ...]) -> None:
    w = Writer(shape, axes, parameters)
    graph, _ = run(w, plain(w))
    assert graph.nodes[1].op == GroupNorm(6, graph.nodes[1].op.eps)


def test_what_others_read_stays_or_is_raised_as_far_as_it_can_be() -> None:
    w = Writer()
    average = w.mean(w.x)
    d = w.op(Sub(), w.x, average)
    y = w.affine(w.op(Div(), d, w.root(w.mean(w.square(d)))))
    graph, context = run(w, y, average)
    assert "layer_norm" not in norms(graph)
    reasons = [d.text for d in context.report]
    assert reasons == ["not raised to layer_norm: the result of reduce_mean is read elsewhere too"]
    w = Writer()
    d = w.centred()
    normal = w.op(Div(), d, w.root(w.mean(w.square(d))))
    graph, _ = run(w, w.affine(normal), normal)
    assert norms(graph) == ["cos", "layer_norm", "mul", "add"]


def test_a_scale_that_is_computed_stays_behind_the_norm() -> None:
    w = Writer()
    gate = w.op(Cos(), w.x)
    graph, _ = run(w, w.op(Mul(), plain(w), gate))
    assert sorted(norms(graph)) == ["cos", "cos", "layer_norm", "mul"]


@pytest.mark.parametrize(
    "write",
    [
        # eps beside the root, not under it
        lambda w, d: w.op(Div(), d, w.op(Add(), w.op(Sqrt(), w.mean(w.square(d))), EPS)),
        # the variance of a sample, divided by one less
        lambda w, d: w.op(
            Div(), d, w.root(w.op(Div(), w.op(ReduceSum(w.axes, keepdims=True), w.square(d)), w.count - 1))
        ),
        # the deviation of something else
        lambda w, d: w.op(Div(), w.op(Add(), d, 1), w.root(w.mean(w.square(w.op(Sub(), w.x, 0.5))))),
        # dimensions that were dropped and not put back: it divides by the rows of another
        lambda w, d: w.op(Div(), d, w.root(w.op(ReduceMean((1,)), w.square(d)))),
        # a norm, without a mean
        lambda w, d: w.op(Div(), d, w.op(Sqrt(), w.op(ReduceSum(w.axes, keepdims=True), w.square(d)))),
        lambda w, d: w.op(Mul(), d, w.root(w.mean(w.square(d)))),
    ],
)
def test_what_only_looks_like_one_stays(write: Callable[[Writer, Value], Value]) -> None:
    w = Writer((8, 8), (1,))
    y = write(w, w.centred())
    before = norms(w.graph)
    graph, context = run(w, y)
    assert norms(graph) == before
    assert not list(context.report)


def test_refusals() -> None:
    w = Writer(dtype=f64)
    _, context = run(w, plain(w))
    assert [d.text for d in context.report] == ["not raised to layer_norm: no kernel normalises f64 in one go"]
    w = Writer(parameters=(3, 1))
    graph, context = run(w, rms(w))
    assert norms(graph) == ["cos", "rms_norm", "mul"]  # the weight is no part of it
    w = Writer((2, 3, 8), (1,), (8,))
    y = tensorflow(w)
    _, context = run(w, y)
    reason = "not raised to layer_norm: its parameters vary along [2], it normalises along [1]"
    assert [d.text for d in context.report] == [reason]


def test_half_precision() -> None:
    w = Writer(dtype=f16)
    graph, _ = run(w, plain(w), tolerance=2e-2)
    assert norms(graph) == ["cos", "layer_norm"]
    assert graph.nodes[1].inputs[1].type.dtype == f16


def test_it_is_in_the_pipeline() -> None:
    w = Writer()
    w.graph.mark_output(plain(w))
    regions = optimize(w.graph).nodes
    assert [node.op.name for region in regions for node in region.op.body.nodes] == ["cos", "layer_norm"]
