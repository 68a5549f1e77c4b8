"""Properties over random small networks: passes preserve meaning, layouts and memory plans are sound, text round-trips.

`run_in_memory` is a machine with one flat arena: every region reads and writes through the strides, offsets and arena
addresses the passes chose, so that a wrong layout, a storage shared too early or an order that is not legal changes the
answer (fresh memory holds NaN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jitrt.graph import Graph, TensorType, Value, f32, interpret, parse, verify
from jitrt.graph.op import Array, Trait
from jitrt.graph.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Cast,
    Clamp,
    Concat,
    Contiguous,
    Conv,
    Dropout,
    Expand,
    Greater,
    LayerNorm,
    Linear,
    Maximum,
    MaxPool,
    Mul,
    Neg,
    Pad,
    Permute,
    ReduceMean,
    Region,
    Relu,
    Reshape,
    Sigmoid,
    Slice,
    Softmax,
    Sub,
    Where,
)
from jitrt.graph.types import Layout, channels_last
from jitrt.passes import PassContext, one_anchor, optimize, plan_memory, root_of
from jitrt.passes.plan_memory import ALIGNMENT
from jitrt.passes.storage import is_structural

# -- random graphs ---------------------------------------------------------------------------------------------------


class _Builder:
    """Adds random nodes on top of the values made so far."""

    def __init__(self, draw: st.DrawFn):
        self.draw = draw
        self.graph = Graph("random")
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        shape = (
            draw(st.integers(1, 2)),
            draw(st.sampled_from([2, 4])),
            draw(st.integers(1, 5)),
            draw(st.integers(1, 5)),
        )
        self.values = [self.input("x", shape)]
        if draw(st.booleans()):
            self.values.append(self.input("y", shape))

    def input(self, name: str, shape: tuple[int, ...]) -> Value:
        layout = Layout(channels_last(shape)) if self.draw(st.booleans()) else None
        return self.graph.add_input(name, TensorType(f32, shape, layout))

    def constant(self, *shape: int) -> Value:
        return self.graph.add_constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def pick(self, wanted: Callable[[Value], bool] = lambda value: True) -> Value:
        return self.draw(st.sampled_from([v for v in self.values if wanted(v)]))

    def image(self) -> Value:
        return self.pick(lambda v: v.type.rank == 4)

    def step(self) -> None:
        kind = self.draw(st.sampled_from(sorted(_STEPS)))
        made = _STEPS[kind](self)
        if made is not None:
            self.values.append(made)

    def add(self, op: object, *operands: Value) -> Value:
        return self.graph.add(op, *operands, loc=f"line {len(self.graph.nodes)}")  # type: ignore[arg-type]


def _conv(b: _Builder) -> Value:
    x = b.image()
    c = x.type.shape[1]
    size = b.draw(st.sampled_from([1, 3]))
    groups = b.draw(st.sampled_from([1, c]))
    filters = b.draw(st.sampled_from([1, 2])) * groups
    stride = b.draw(st.integers(1, 2))
    y = b.add(
        Conv((stride, 1), ((size // 2, size // 2),) * 2, (1, 1), groups),
        x,
        b.constant(filters, c // groups, size, size),
    )
    if b.draw(st.booleans()):
        y = b.add(Add(), y, b.constant(filters, 1, 1))
    return _normalised(b, y) if b.draw(st.booleans()) else y


def _normalised(b: _Builder, x: Value) -> Value:
    c = x.type.shape[1]
    return b.add(BatchNorm(), x, *(b.constant(c) for _ in range(4)))


def _unary(b: _Builder) -> Value:
    op = b.draw(st.sampled_from([Relu(), Sigmoid(), Neg(), Dropout(), Contiguous(), Clamp(-1.0, 2.0), Cast(f32)]))
    return b.add(op, b.pick())


def _binary(b: _Builder) -> Value:
    x = b.pick()
    y = b.pick(lambda v: v.type.shape == x.type.shape)
    op = b.draw(st.sampled_from([Add(), Sub(), Mul(), Maximum()]))
    return b.add(op, *b.draw(st.permutations([x, y])))


def _scaled(b: _Builder) -> Value:
    x = b.image()
    c = x.type.shape[1]
    other = b.draw(st.sampled_from([b.constant(c, 1, 1), b.constant(1), b.constant(), b.constant(1, c, 1, 1)]))
    op = b.draw(st.sampled_from([Add(), Sub(), Mul()]))
    return b.add(op, *b.draw(st.permutations([x, other])))


def _excited(b: _Builder) -> Value:
    x = b.image()
    gate = b.add(Sigmoid(), b.add(AdaptiveAvgPool((1, 1)), x))
    if b.draw(st.booleans()):
        gate = b.add(Expand(x.type.shape), gate)
    return b.add(Mul(), x, gate)


def _chosen(b: _Builder) -> Value:
    x = b.pick()
    return b.add(Where(), b.add(Greater(), x, b.constant()), x, b.constant())


def _pooled(b: _Builder) -> Value | None:
    x = b.image()
    if min(x.type.shape[2:]) < 2:
        return None
    if b.draw(st.booleans()):
        x = b.add(Pad(((0, 0), (0, 0), (1, 1), (1, 1)), b.draw(st.sampled_from([0.0, -np.inf]))), b.add(Relu(), x))
    padding = b.draw(st.sampled_from([(0, 0), (1, 1)]))
    op = b.draw(
        st.sampled_from(
            [MaxPool((2, 2), (1, 2), padding), AvgPool((2, 2), (2, 1), padding), MaxPool((1, 1), (1, 1), (0, 0))]
        )
    )
    if isinstance(op, AvgPool) and isinstance(x.producer and x.producer.op, Pad):
        return None  # a mean over -inf says nothing
    return b.add(op, x)


def _padded_conv(b: _Builder) -> Value:
    x = b.image()
    c = x.type.shape[1]
    before = b.draw(st.sampled_from([((0, 0), (1, 0)), ((1, 1), (2, 0))]))
    x = b.add(Pad(((0, 0), (0, 0), *before)), x)
    size = (1, 1) if min(x.type.shape[2:]) < 2 else (2, 2)
    return b.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, b.constant(2, c, *size))


def _concatenated(b: _Builder) -> Value:
    x = b.pick(lambda v: v.type.rank >= 2)
    axis = b.draw(st.integers(0, x.type.rank - 1))

    def fits(v: Value) -> bool:
        return v.type.rank == x.type.rank and all(
            p == q for d, (p, q) in enumerate(zip(v.type.shape, x.type.shape, strict=True)) if d != axis
        )

    return b.add(Concat(axis), x, *(b.pick(fits) for _ in range(b.draw(st.integers(0, 2)))))


def _sliced(b: _Builder) -> Value:
    x = b.pick(lambda v: v.type.rank >= 2)
    starts, stops, steps = [], [], []
    for size in x.type.shape:
        start = b.draw(st.integers(0, size - 1))
        starts.append(start)
        stops.append(b.draw(st.integers(start + 1, size)))
        steps.append(b.draw(st.integers(1, 2)))
    return b.add(Slice(tuple(starts), tuple(stops), tuple(steps)), x)


def _permuted(b: _Builder) -> Value:
    x = b.pick(lambda v: v.type.rank >= 2)
    return b.add(Permute(tuple(b.draw(st.permutations(range(x.type.rank))))), x)


def _reshaped(b: _Builder) -> Value:
    x = b.pick(lambda v: v.type.rank >= 2)
    n, *rest = x.type.shape
    if b.draw(st.booleans()):
        return b.add(Reshape((n, int(np.prod(rest)))), x)
    halves = (rest[0] // 2, 2) if rest[0] % 2 == 0 else (1, rest[0])
    return b.add(Reshape((n, *halves, *rest[1:])), x)


def _shuffled(b: _Builder) -> Value | None:
    x = b.image()
    y = b.pick(lambda v: v.type.shape == x.type.shape)
    n, c, h, w = x.type.shape
    both = b.add(Concat(1), b.add(Relu(), x), y)
    split = b.add(Permute((0, 2, 1, 3, 4)), b.add(Reshape((n, 2, c, h, w)), both))
    return b.add(Reshape((n, 2 * c, h, w)), split)


def _channel_mixed(b: _Builder) -> Value:
    """ConvNeXt's block: everything on the last dimension between two permutes."""
    x = b.image()
    c = x.type.shape[1]
    last = b.add(Permute((0, 2, 3, 1)), x)
    normal = b.add(LayerNorm(1), last, b.constant(c), b.constant(c))
    mixed = b.add(Add(), b.add(Linear(), normal, b.constant(c, c)), b.constant(c))
    back = b.add(Permute((0, 3, 1, 2)), mixed)
    return b.add(Add(), b.add(Mul(), back, b.constant(c, 1, 1)), x)


def _classified(b: _Builder) -> Value:
    x = b.image()
    n, c, h, w = x.type.shape
    flat = b.add(Reshape((n, c * h * w)), x)
    return b.add(Add(), b.add(Linear(), flat, b.constant(3, c * h * w)), b.constant(3))


def _reduced(b: _Builder) -> Value:
    x = b.pick(lambda v: v.type.rank >= 2)
    axis = b.draw(st.integers(0, x.type.rank - 1))
    return b.add(b.draw(st.sampled_from([ReduceMean((axis,), True), ReduceMean((axis,), False), Softmax(axis)])), x)


_STEPS: dict[str, Callable[[_Builder], Value | None]] = {
    f.__name__: f
    for f in (
        _conv,
        _unary,
        _binary,
        _scaled,
        _excited,
        _chosen,
        _pooled,
        _padded_conv,
        _concatenated,
        _sliced,
        _permuted,
        _reshaped,
        _shuffled,
        _channel_mixed,
        _classified,
        _reduced,
    )
}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A valid graph of some ten nodes and a few outputs: views, inputs and values read further on among them."""
    builder = _Builder(draw)
    for _ in range(draw(st.integers(2, 9))):
        builder.step()
    outputs = draw(st.lists(st.sampled_from(builder.values[-4:]), min_size=1, max_size=3))
    builder.graph.mark_output(builder.values[-1], *outputs)
    verify(builder.graph)
    return builder.graph


def _inputs(graph: Graph) -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs]


# -- a machine with a memory -----------------------------------------------------------------------------------------


def _strided(buffer: Array, value: Value, start: int = 0) -> Array:
    """The window of a byte buffer that holds `value`, its storage beginning at byte `start`."""
    size = value.type.dtype.itemsize
    strides = [stride * size for stride in value.type.strides]
    return np.ndarray(value.type.shape, value.type.dtype.numpy, buffer, start + value.type.offset * size, strides)


def run_in_memory(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of an optimised graph, each region reading and writing where the layouts and the plan say."""
    plan = plan_memory(graph)
    arena = np.full(plan.arena_bytes, 0xFF, np.uint8)
    own: dict[str, Array] = {}
    for value in {*graph.inputs, *graph.constants.values(), *graph.outputs}:
        root = root_of(graph, value)
        own[root.name] = np.full((root.type.offset + root.type.span) * root.type.dtype.itemsize, 0xFF, np.uint8)
    for value, array in zip(graph.inputs, inputs, strict=True):
        _strided(own[value.name], value)[...] = array
    for value in graph.constants.values():
        _strided(own[value.name], value)[...] = value.data

    def array(value: Value) -> Array:
        root = root_of(graph, value)
        if root.name in own:
            return _strided(own[root.name], value)
        return _strided(arena, value, plan.offsets[root.name])

    for node in graph.nodes:
        if not isinstance(node.op, Region):
            assert is_structural(node), f"{node!r} would need a kernel"
            continue
        (result,) = node.op.eval(*(array(v) for v in node.inputs))
        array(node.output)[...] = result
    return [array(value).copy() for value in graph.outputs]


# -- the properties --------------------------------------------------------------------------------------------------


def _close(actual: Sequence[Array], expected: Sequence[Array]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-4, atol=1e-4)


def bare(body: Graph) -> str | None:
    """A stingy set of kernels: an anchor takes nothing along."""
    return "an anchor runs alone" if len(body.nodes) > 1 and any(n.has(Trait.ANCHOR) for n in body.nodes) else None


def dense_only(body: Graph) -> str | None:
    """Kernels that want dense operands and write dense results."""
    if not all(v.type.is_dense for v in (*body.inputs, *body.outputs)) and any(n.has(Trait.ANCHOR) for n in body.nodes):
        return "not dense"
    return one_anchor(body)


@given(graphs(), st.sampled_from([one_anchor, bare, dense_only]))
@settings(max_examples=150)
def test_optimising_preserves_what_the_graph_computes(graph: Graph, accepts: Callable[[Graph], str | None]) -> None:
    inputs = _inputs(graph)
    optimised = optimize(graph, PassContext(accepts=accepts))
    expected = interpret(graph, inputs, exact=True)
    _close(interpret(optimised, inputs, exact=True), expected)
    assert [v.type.strides for v in optimised.outputs] == [v.type.strides for v in graph.outputs]
    assert [v.type for v in optimised.inputs] == [v.type.with_layout(Layout(v.type.strides)) for v in graph.inputs]


@given(graphs(), st.sampled_from(["fp32", "fp16", "bf16"]), st.sampled_from([one_anchor, bare, dense_only]))
@settings(max_examples=150)
def test_layouts_and_memory_plan_are_sound(
    graph: Graph, precision: str, accepts: Callable[[Graph], str | None]
) -> None:
    inputs = _inputs(graph)
    optimised = optimize(graph, PassContext(precision, accepts))  # type: ignore[arg-type]
    for actual, expected in zip(run_in_memory(optimised, inputs), interpret(optimised, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


@given(graphs())
def test_no_two_live_blocks_share_bytes(graph: Graph) -> None:
    optimised = optimize(graph)
    scratch = {node.output.name: 100 * i for i, node in enumerate(optimised.nodes) if isinstance(node.op, Region)}
    plan = plan_memory(optimised, scratch)
    assert plan.lower_bound <= plan.arena_bytes <= plan.naive_bytes
    for i, (a, start_a) in enumerate(plan.placed):
        assert start_a % ALIGNMENT == 0
        assert start_a + a.nbytes <= plan.arena_bytes
        for b, start_b in plan.placed[:i]:
            if a.overlaps(b):
                assert start_a + a.nbytes <= start_b or start_b + b.nbytes <= start_a


@given(graphs())
def test_text_round_trips(graph: Graph) -> None:
    for each in (graph, optimize(graph)):
        data = {value.digest: value.data for value in each.constants.values() if value.data is not None}
        copy = parse(str(each), data)
        verify(copy)
        assert copy == each
        assert str(copy) == str(each)


@given(graphs())
def test_optimising_leaves_the_original_alone(graph: Graph) -> None:
    before = str(graph)
    optimize(graph, PassContext("fp16"))
    verify(graph)
    assert str(graph) == before
