from __future__ import annotations

import numpy as np
import pytest

from jitrt.errors import ShapeError
from jitrt.graph import Graph, TensorType, Value, f16, f32
from jitrt.graph.op import Trait
from jitrt.graph.ops import (
    Add,
    Concat,
    Conv,
    Expand,
    Linear,
    Neg,
    Permute,
    ReduceMean,
    Region,
    Relu,
    Reshape,
    Slice,
    Softmax,
)
from jitrt.graph.types import Layout
from jitrt.kernels.base import accepts as kernels_accept
from jitrt.passes import PassContext, one_anchor
from jitrt.passes.eliminate_concat import eliminate_concat
from jitrt.passes.fuse_pointwise import fuse_pointwise
from jitrt.passes.fuse_vertical import fuse_vertical
from jitrt.passes.hazards import Footprint, Hazards
from jitrt.passes.layout import layout
from jitrt.passes.plan_memory import plan_memory
from jitrt.passes.storage import is_structural, root_of, storage_of


class _Net:
    def __init__(self, *shapes: tuple[int, ...]):
        self.graph = Graph("net")
        self.inputs = [self.graph.add_input(f"x{i}", TensorType(f32, shape)) for i, shape in enumerate(shapes)]

    def __call__(self, op, *operands, name=None) -> Value:
        return self.graph.add(op, *operands, name=name)

    def conv(self, x, filters, name=None):
        weight = self.graph.add_constant(np.ones((filters, x.type.shape[1], 1, 1), np.float32))
        return self(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, weight, name=name)

    def run(self, apply, *outputs: Value, accepts=one_anchor):
        self.graph.mark_output(*outputs)
        for run in (layout, fuse_vertical, fuse_pointwise):
            run(self.graph, PassContext())
        outcome = apply(eliminate_concat, self.graph, accepts=accepts)
        for node in outcome.graph.nodes:
            assert isinstance(node.op, Region) or is_structural(node)
        return outcome, {v.name: v for v in outcome.graph.values()}


def _copies(graph: Graph) -> int:
    return sum(isinstance(n.op, Region) and n.op.body.nodes[0].op.name == "contiguous" for n in graph.nodes)


def test_operands_are_written_into_their_slices(apply):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    both = net(Concat(1), net.conv(x, 2, "a"), net.conv(x, 3, "b"), name="both")
    outcome, values = net.run(apply, net(Softmax(1), both))
    assert values["both"].type.layout == Layout((80, 1, 20, 5))
    assert values["a"].type.layout == Layout((80, 1, 20, 5), 0, "both")
    assert values["b"].type.layout == Layout((80, 1, 20, 5), 2, "both")
    assert outcome.done == ["2 of 2 operands of concat written in place"]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_along_any_axis(apply, axis):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    outcome, _ = net.run(apply, net(Softmax(1), net(Concat(axis), net.conv(x, 3), net.conv(x, 3))))
    assert outcome.done == ["2 of 2 operands of concat written in place"]


def test_growing_features_share_one_storage(apply):
    """DenseNet: each layer reads the concat of all before it."""
    net = _Net((2, 3, 4, 4))
    features = [net.conv(net.inputs[0], 2, "f0")]
    for step in range(1, 4):
        joined = features[0] if step == 1 else net(Concat(1), *features, name=f"c{step}")
        features.append(net.conv(joined, 2, f"f{step}"))
    outcome, values = net.run(apply, net(Softmax(1), net(Concat(1), *features, name="all")))
    assert _copies(outcome.graph) == 0
    assert [values[f"f{i}"].type.layout.storage for i in range(4)] == ["all"] * 4
    assert [values[f"f{i}"].type.offset for i in range(4)] == [0, 2, 4, 6]
    assert values["c3"].type.layout == Layout(values["all"].type.strides, 0, "all")
    assert "concat is a view: its operands lie side by side already" in outcome.done


def test_nested_concats_resolve_to_the_outermost(apply):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    inner = net(Concat(1), net.conv(x, 2, "a"), net.conv(x, 2, "b"), name="inner")
    outer = net(Concat(1), net.conv(x, 4, "first"), inner, name="outer")
    outcome, values = net.run(apply, net(Softmax(1), outer))
    assert _copies(outcome.graph) == 0
    assert [values[n].type.layout.storage for n in ("a", "b", "first", "inner")] == ["outer"] * 4
    assert [values[n].type.offset for n in ("first", "inner", "a", "b")] == [0, 4, 4, 6]


def test_views_of_what_moves_move_along(apply):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    a = net.conv(x, 4, "a")
    part = net(Slice((0, 2, 0, 0), (2, 4, 4, 4), (1, 1, 1, 1)), a, name="part")
    both = net(Concat(1), net.conv(x, 1), a, name="both")
    _, values = net.run(apply, net(Softmax(1), both), net(Softmax(1), part))
    assert values["part"].type.layout == Layout((80, 1, 20, 5), 3, "both")


def test_an_operand_seen_through_a_view_is_placed_through_it(apply):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    turned = [net(Permute((0, 2, 3, 1)), net.conv(x, 2, name)) for name in "ab"]
    outcome, values = net.run(apply, net(Softmax(1), net(Concat(3), *turned, name="both")))
    assert _copies(outcome.graph) == 0
    assert values["b"].type.layout == Layout((64, 1, 16, 4), 2, "both")


def test_a_channel_shuffle_is_written_interleaved(apply):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    pieces = [net(Reshape((2, 1, 2, 4, 4)), net.conv(x, 2, name)) for name in "ab"]
    stack = net(Permute((0, 2, 1, 3, 4)), net(Concat(1), *pieces))
    outcome, values = net.run(apply, net(Softmax(1), net(Reshape((2, 4, 4, 4)), stack)))
    assert _copies(outcome.graph) == 0
    assert values["a"].type.strides == values["b"].type.strides == (64, 2, 16, 4)
    assert values["b"].type.offset == 1


def _reasons(apply, make, **options):
    net = _Net((2, 3, 4, 4), (2, 3, 4, 4))
    operand, outputs = make(net)
    joined = net(Concat(1), net.conv(net.inputs[0], 2), operand)
    outcome, _ = net.run(apply, net(Softmax(1), joined), *outputs, **options)
    assert _copies(outcome.graph) == len(outcome.refused) == 1
    assert outcome.done == ["1 of 2 operands of concat written in place"]
    return outcome.refused[0].removeprefix("an operand of concat is copied: ")


def test_what_cannot_be_placed_is_copied_with_a_reason(apply):
    def constant(net):
        return net.graph.add_constant(np.ones((2, 1, 4, 4), np.float32)), ()

    def output(net):
        y = net.conv(net.inputs[0], 2)
        return y, (y,)

    def part(net):
        y = net.conv(net.inputs[0], 2, "y")
        return net(Slice((0, 1, 0, 0), (2, 2, 4, 4), (1, 1, 1, 1)), y), (net(Neg(), y),)

    def rigid(net):
        y = net.conv(net.inputs[0], 2)
        return y, (net(Softmax(0), net(Reshape((64,)), net(Permute((0, 2, 3, 1)), y))),)

    assert _reasons(apply, lambda net: (net.inputs[1], ())) == "it is an input of the graph"
    assert _reasons(apply, constant) == "it is a constant"

    def repeated(net):
        y = net(ReduceMean((1,), True), net.conv(net.inputs[0], 2), name="y")
        return net(Expand((2, 3, 4, 4)), y), ()

    def uneven(net):
        """Images and channels are one dimension of what was computed, evenly spaced; in the concat they are not."""
        return net(Reshape((2, 3, 4, 4)), net(Softmax(2), net(Reshape((6, 4, 4)), net.inputs[0]))), ()

    assert _reasons(apply, output) == "it is an output of the graph, which has memory of its own"
    assert _reasons(apply, part) == "it is a part of a value whose rest would lie outside its slice"
    assert _reasons(apply, repeated) == "it repeats elements of a smaller value"
    assert _reasons(apply, uneven) == "no strides write it in the order that the views before the concat ask for"
    assert _reasons(apply, rigid) == "reshape of it would need a copy there"


def test_a_value_in_two_concats_is_copied_into_one(apply):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    y = net.conv(x, 2, "y")
    first = net(Concat(1), y, net.conv(x, 3), name="first")
    second = net(Concat(1), net.conv(x, 4), y, name="second")
    outcome, values = net.run(apply, net(Softmax(1), first), net(Softmax(1), second))
    assert outcome.refused == ["an operand of concat is copied: it has its place in another buffer already"]
    assert values["y"].type.layout.storage == "second"
    assert _copies(outcome.graph) == 1


def test_operands_of_different_types_are_an_error_of_the_graph():
    graph = Graph("mixed")
    x, y = (graph.add_input(name, TensorType(dtype, (2, 3))) for name, dtype in (("x", f32), ("y", f16)))
    with pytest.raises(ShapeError, match="operands are f32 and f16"):
        graph.add(Concat(1), x, y)


def test_rows_that_a_linear_layer_cannot_step_through_are_copied(apply):
    """The inner concat, as a slice of the outer one, would have rows that lie in groups; a linear layer's kernel wants
    them evenly spaced."""
    net = _Net((2, 3, 8))
    (x,) = net.inputs
    w = net.graph.add_constant(np.ones((5, 8), np.float32))
    inner = net(Concat(1), net(Softmax(2), x), net(Softmax(1), x), name="inner")
    product = net(Linear(), inner, w)
    outer = net(Concat(1), inner, net(Softmax(2), net(Neg(), x)), name="outer")
    outcome, values = net.run(apply, product, net(Softmax(0), outer), accepts=kernels_accept)
    assert outcome.refused[0] == (
        "an operand of concat is copied: no kernel could use it there: "
        "the rows of this linear layer's input are not evenly spaced (at linear)"
    )
    assert values["inner"].type.layout.storage is None


def test_a_concat_that_no_reader_could_take_as_a_view_says_so(apply):
    """Its operands lie side by side in the later, larger concat; there its reader would find gaps between the rows."""
    net = _Net((2, 3, 8))
    (x,) = net.inputs
    w = net.graph.add_constant(np.ones((5, 8), np.float32))
    parts = [net(Softmax(2), net(Neg(), x) if i else x) for i in range(3)]
    inner = net(Concat(1), *parts[:2], name="inner")
    product = net(Linear(), inner, w)
    outer = net(Concat(1), *parts, name="outer")
    outcome, _ = net.run(apply, product, net(Softmax(0), outer), accepts=kernels_accept)
    reason = (
        "an operand of concat is copied: all operands lie side by side in %outer, but no kernel could use it there: "
        "the rows of this linear layer's input are not evenly spaced (at linear)"
    )
    assert outcome.refused == [reason] * 2


def _wide(net: _Net) -> Value:
    """What horizontal fusion leaves of an inception module: `wide` is three siblings in one kernel, of which the last
    belongs to the concat; it lies across the concat's edge, and the concat is a view of the larger buffer."""
    (x,) = net.inputs
    wide = net.conv(x, 9, "wide")
    first = net(Slice((0, 0, 0, 0), (2, 2, 4, 4), (1, 1, 1, 1)), wide, name="first")
    second = net(Slice((0, 2, 0, 0), (2, 5, 4, 4), (1, 1, 1, 1)), wide, name="second")
    branches = [net.conv(first, 4, "left"), net.conv(second, 3, "mid"), net.conv(x, 2, "right")]
    big = net(Concat(1), wide, *branches, name="big")
    return net(Slice((0, 5, 0, 0), (2, 18, 4, 4), (1, 1, 1, 1)), big, name="joined")


def test_siblings_across_the_edge_of_a_concat(apply):
    net = _Net((2, 3, 4, 4))
    joined = _wide(net)
    outcome, values = net.run(apply, net.conv(joined, 5, "out"))
    assert _copies(outcome.graph) == 0
    assert outcome.done == ["4 of 4 operands of concat written in place"]
    where = {v.name: (v.type.layout.storage, v.type.offset) for v in values.values() if storage_of(v) == "big"}
    assert where == {
        "wide": ("big", 0),
        "first": ("big", 0),
        "second": ("big", 2),
        "left": ("big", 9),
        "mid": ("big", 13),
        "right": ("big", 16),
        "big": (None, 0),
        "joined": ("big", 5),
    }
    assert {values[name].type.strides for name in where} == {(288, 1, 72, 18)}


def test_siblings_across_an_edge_wait_for_what_they_read_and_for_nothing_else(apply):
    """Readers of one part of a storage are writers of another: no byte is shared, nobody waits without need."""
    net = _Net((2, 3, 4, 4))
    outcome, _ = net.run(apply, net.conv(_wide(net), 5, "out"))
    graph = outcome.graph
    plan = plan_memory(graph, {"left": 100, "mid": 100}, parallel=True)
    assert set(plan.offsets) == {"big"}
    assert [block.name for block, _ in plan.placed if block.workspace] == ["left", "mid"]

    def footprint(value: Value) -> Footprint:
        root = root_of(graph, value).name
        space = "arena" if root in plan.offsets else root
        return Footprint.of(space, plan.offsets.get(root, 0) + 4 * value.type.offset, value.type)

    hazards, steps, waits = Hazards(), [], {}
    for node in graph.nodes:
        if isinstance(node.op, Region):
            name = node.output.name
            writes = [footprint(node.output)]
            if name in plan.workspace:
                writes.append(Footprint.block("arena", plan.workspace[name], 100))
            after = hazards.add([footprint(v) for v in node.inputs if not v.is_constant], writes)
            steps.append(name)
            waits[name] = {steps[i] for i in after}
    assert waits == {"wide": set(), "left": {"wide"}, "mid": {"wide"}, "right": set(), "out": {"left", "mid", "right"}}


def test_an_operand_used_twice_is_copied_once(apply):
    net = _Net((2, 3, 4, 4))
    y = net.conv(net.inputs[0], 2)
    outcome, _ = net.run(apply, net(Softmax(1), net(Concat(1), y, y, name="both")))
    assert outcome.refused == ["an operand of concat is copied: it is an operand twice"]
    assert _copies(outcome.graph) == 1


def test_a_place_no_kernel_can_use_is_refused(apply):
    def dense(body: Graph) -> str | None:
        anchors = [n for n in body.nodes if n.has(Trait.ANCHOR)]
        return "the rows are not dense" if anchors and not body.outputs[0].type.is_dense else None

    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    both = net(Concat(1), net.conv(x, 2), net(Relu(), net(Add(), x, x)))
    outcome, _ = net.run(apply, net(Softmax(1), both), accepts=dense)
    assert outcome.refused == ["an operand of concat is copied: no kernel could use it there: the rows are not dense"]


def test_a_concat_that_is_an_output_is_the_output(apply):
    net = _Net((2, 3, 4, 4))
    (x,) = net.inputs
    _, values = net.run(apply, net(Concat(1), net.conv(x, 2, "a"), net.conv(x, 2, "b"), name="out"))
    assert values["out"].type.layout == Layout((64, 16, 4, 1))
    assert values["b"].type.layout == Layout((64, 16, 4, 1), 32, "out")


def test_a_concat_of_inputs_side_by_side_is_a_view(apply):
    net = _Net((2, 4))
    halves = [net(Slice((0, s), (2, s + 2), (1, 1)), net.inputs[0]) for s in (0, 2)]
    outcome, values = net.run(apply, net(Softmax(1), net(Concat(1), *halves, name="whole")))
    assert values["whole"].type.layout == Layout((4, 1), 0, "x0")
    assert _copies(outcome.graph) == 0


def test_an_output_is_no_view_even_of_what_lies_side_by_side(apply):
    net = _Net((2, 4))
    halves = [net(Slice((0, s), (2, s + 2), (1, 1)), net.inputs[0]) for s in (0, 2)]
    outcome, values = net.run(apply, net(Concat(1), *halves, name="whole"))
    assert values["whole"].type.layout == Layout((4, 1))
    assert _copies(outcome.graph) == 2


def test_a_concat_placed_in_an_outer_one_is_no_view_of_a_third(apply):
    net = _Net((2, 4, 2, 2))
    halves = [net(Slice((0, s, 0, 0), (2, s + 2, 2, 2), (1, 1, 1, 1)), net.inputs[0]) for s in (0, 2)]
    inner = net(Concat(1), *halves, name="inner")
    outcome, values = net.run(apply, net(Softmax(1), net(Concat(1), inner, net.conv(net.inputs[0], 2), name="outer")))
    assert values["inner"].type.layout.storage == "outer"
    assert _copies(outcome.graph) == 2
