"""Horizontal fusion: siblings that read the same tensor in the same way become one wide kernel.

Siblings are regions around a dense convolution (same filter size, stride, padding, dilation) or a linear, with the same
epilogue up to their weights: any number of them. Their weights and per-channel operands are joined along the output
channels; each gets its channels of the wide result as a view, so nothing is copied. Epilogues of at most a bias and a
ReLU are made the same: a bias of 0, and the larger of the sum and a number of the channel's own, 0 or -inf.

A sibling that goes on into a concat has to lie there already when the wide kernel writes it. It does if it is the first
operand: the wide result then lies across the concat's edge, in a storage that begins with the channels of the other
siblings, and the concat is a view of the rest of it.

    concat(a, p, q), b: siblings a and b      ->  wide = [b a];  all = concat(wide, p, q);  concat = all[b:]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Concat, Conv, Linear, Maximum, Region, Relu, Slice
from jitrt.graph.rebuild import rebuild
from jitrt.graph.types import Layout, TensorType, strides_in_order
from jitrt.passes.base import PassContext
from jitrt.passes.edit import readers
from jitrt.passes.proposal import Match
from jitrt.passes.region import only_anchor, relaid, supersede
from jitrt.passes.storage import moved_types, owns_storage


@dataclass(frozen=True)
class _Sibling:
    """A region that could be one of several. `alike` is what its siblings must share to read the input together, `key`
    what they must share to be merged as they are; `axes` is the channel axis of each operand, None for the shared
    input. `end` is its epilogue if that is at most a bias and a ReLU."""

    node: Node
    alike: Hashable
    key: Hashable
    axis: int
    axes: tuple[int | None, ...]
    end: _End | None

    @property
    def channels(self) -> int:
        return self.node.output.type.shape[self.axis]


@dataclass(frozen=True)
class _End:
    """An epilogue: perhaps a bias, one number a channel, and perhaps a ReLU."""

    bias: Value | None
    relu: bool


class FuseHorizontal:
    """The rule of horizontal fusion."""

    name = "fuse_horizontal"

    def find(self, graph: Graph, context: PassContext) -> list[Match]:
        groups: dict[Hashable, dict[Hashable, list[_Sibling]]] = defaultdict(lambda: defaultdict(list))
        found = [s for node in graph.nodes if (s := _sibling(node)) is not None]
        for sibling in found:
            if sibling.node.output not in graph.outputs:
                groups[sibling.alike][sibling.key].append(sibling)
        for sibling in found:
            if sibling.node.output in graph.outputs and sibling.alike in groups:
                context.refused(sibling.node, "not merged with its siblings: its result is an output of the graph")
        matches: list[Match] = []
        for by_key in groups.values():
            kinds = _kinds(by_key.values())
            if len(kinds) > 1:
                context.refused(
                    kinds[0][0].node, f"{len(kinds)} kinds of siblings are not merged: their epilogues differ"
                )
            for siblings in kinds:
                matches += _matches(graph, siblings, context)
        return matches

    def rewrite(self, graph: Graph, values: Sequence[Value]) -> None:
        siblings = [_sibling(value.producer) for value in values if value.producer is not None]
        _merge(graph, [sibling for sibling in siblings if sibling is not None])


def _kinds(by_key: Iterable[list[_Sibling]]) -> list[list[_Sibling]]:
    """Siblings that can be merged: of the same key, or with epilogues that can be made the same."""
    plain: dict[Hashable, list[_Sibling]] = {}
    others = []
    for siblings in by_key:
        if siblings[0].end is None:
            others.append(siblings)
        else:
            type = siblings[0].node.output.type
            plain.setdefault((type.dtype, type.memory_order), []).extend(siblings)
    return [*plain.values(), *others]


def _sibling(node: Node) -> _Sibling | None:
    """What `node` is as a sibling; None if it is no region around a dense convolution or linear with weights only."""
    if not isinstance(node.op, Region) or not owns_storage(node.output):
        return None
    body, anchor = node.op.body, only_anchor(node)
    if anchor is None or not isinstance(anchor.op, Conv | Linear) or body.outputs[0].uses:
        return None
    if isinstance(anchor.op, Conv) and anchor.op.groups != 1:
        return None
    axis = 1 if isinstance(anchor.op, Conv) else anchor.output.type.rank - 1
    from_right = anchor.output.type.rank - axis
    channels = anchor.output.type.shape[axis]
    live = [v for v in node.inputs if not v.is_constant]
    if len(live) != 1 or anchor.inputs[1] not in body.inputs:
        return None
    axes: list[int | None] = []
    for inner, outer in zip(body.inputs, node.inputs, strict=True):
        at = 0 if inner is anchor.inputs[1] else inner.type.rank - from_right
        if outer is live[0]:
            if not _feeds_only(inner, anchor):
                return None  # what is added again after the anchor would have to be as wide as the result
            axes.append(None)
        elif at < 0 or inner.type.shape[at] != channels or _feeds(inner, anchor) != (inner is anchor.inputs[1]):
            return None
        else:
            axes.append(at)
    filter = anchor.inputs[1].type.shape[2:] if isinstance(anchor.op, Conv) else ()
    alike = (live[0].name, anchor.op, filter)
    return _Sibling(node, alike, _key(body, anchor, axis, axes), axis, tuple(axes), _end(node, anchor, axis))


def _end(region: Node, anchor: Node, axis: int) -> _End | None:
    assert isinstance(region.op, Region)
    body = region.op.body
    outer = dict(zip(body.inputs, region.inputs, strict=True))
    if body.nodes[0] is not anchor or anchor.output.type.dtype != region.output.type.dtype:
        return None
    number = (anchor.output.type.shape[axis], *[1] * (anchor.output.type.rank - axis - 1))
    steps, bias = body.nodes[1:], None
    if steps and isinstance(steps[0].op, Add):
        value = next((v for v in steps[0].inputs if v is not anchor.output), None)
        if value not in outer or value.type.shape != number or not outer[value].is_constant:
            return None
        bias, steps = outer[value], steps[1:]
    relu = [isinstance(step.op, Relu) for step in steps]
    return _End(bias, bool(relu)) if relu in ([], [True]) else None


def _feeds(value: Value, anchor: Node) -> bool:
    return any(user is anchor or any(_feeds(v, anchor) for v in user.outputs) for user in value.users)


def _feeds_only(value: Value, anchor: Node) -> bool:
    """Whether all that is made of a value goes into the anchor; what has no reader is the region's result."""
    users = value.users
    return bool(users) and all(u is anchor or all(_feeds_only(v, anchor) for v in u.outputs) for u in users)


def _key(body: Graph, anchor: Node, axis: int, axes: Sequence[int | None]) -> Hashable:
    """All of a body but the number of its output channels."""
    number = {value: index for index, value in enumerate(body.inputs)}
    parts: list[Hashable] = [_masked(v.type, at) for v, at in zip(body.inputs, axes, strict=True)]
    after = False
    for node in body.nodes:
        after = after or node is anchor
        operands = tuple(v.digest if v.is_constant else number[v] for v in node.inputs)
        number[node.output] = len(number)
        parts.append((node.op, operands, _masked(node.output.type, axis if after else None)))
    return tuple(parts)


def _masked(type: TensorType, axis: int | None) -> Hashable:
    shape = tuple(-1 if d == axis else size for d, size in enumerate(type.shape))
    return type.dtype, shape, type.memory_order


def _matches(graph: Graph, siblings: list[_Sibling], context: PassContext) -> Iterator[Match]:
    """All of them that can be merged; and, where that differs, all but those that go into a concat."""
    free = [s for s in siblings if not _concats(s.node)]
    sets = [siblings, free] if len(free) < len(siblings) else [siblings]
    for chosen in sets:
        able = list(chosen)
        while len(able) > 1:
            refused = {s.node: r for s in able if (r := _obstacle(graph, s, able, context)) is not None}
            if not refused:
                break
            for node, reason in refused.items():
                if chosen is siblings:
                    context.refused(node, f"not merged with its siblings: {reason}")
            able = [s for s in able if s.node not in refused]
        if len(able) > 1:
            anchor = only_anchor(able[0].node)
            kind = "linears" if anchor is not None and isinstance(anchor.op, Linear) else "convolutions"
            yield Match(tuple(s.node.output for s in able), f"{len(able)} sibling {kind} in one wide kernel")


def _obstacle(graph: Graph, sibling: _Sibling, group: list[_Sibling], context: PassContext) -> str | None:
    """Why `sibling` cannot have its channels of the group's wide result where they would lie; None if it can."""
    value = sibling.node.output
    wide = _wide_type(group)
    moved: dict[Value, TensorType] = {}
    if _concats(sibling.node):
        edge = _edge(group)
        if edge is None or sibling not in edge.siblings:
            return "its result goes into a concat, and not as the first of its operands"
        joined = edge.concat.output
        if joined in graph.outputs or any(isinstance(user.op, Concat) for user in readers(joined)):
            return "the concat it goes into is an output, or part of another concat"
        others = wide.shape[sibling.axis] - sum(s.channels for s in edge.siblings)
        larger = _with_channels(joined.type, sibling.axis, joined.type.shape[sibling.axis] + others)
        lain = moved_types(graph, joined, Layout(larger.strides))
        if isinstance(lain, str):
            return lain
        moved.update(lain)
        wide = wide.with_layout(Layout(larger.strides))
    lain = moved_types(graph, value, Layout(wide.strides))
    if isinstance(lain, str):
        return lain
    moved.update(lain)
    for user in dict.fromkeys(user for v in moved for user in v.users if isinstance(user.op, Region)):
        reason = context.accepts(relaid(user, moved))
        if reason is not None:
            return f"no kernel could read it there: {reason}"
    return None


@dataclass(frozen=True)
class _Edge:
    """Siblings, in order, that are the first operands of a concat."""

    concat: Node
    siblings: list[_Sibling]


def _edge(group: Sequence[_Sibling]) -> _Edge | None:
    by_value = {s.node.output: s for s in group}
    for sibling in group:
        for concat in _concats(sibling.node):
            assert isinstance(concat.op, Concat)
            leading: list[_Sibling] = []
            for value in concat.inputs:
                if value not in by_value or by_value[value] in leading:
                    break
                leading.append(by_value[value])
            if leading and concat.op.axis == sibling.axis and len(leading) < len(concat.inputs):
                return _Edge(concat, leading)
    return None


def _concats(node: Node) -> list[Node]:
    return [user for user in readers(node.output) if isinstance(user.op, Concat)]


def _with_channels(type: TensorType, axis: int, channels: int) -> TensorType:
    """The type with another number of channels, dense in the same order in memory."""
    shape = (*type.shape[:axis], channels, *type.shape[axis + 1 :])
    return TensorType(type.dtype, shape, Layout(strides_in_order(shape, type.memory_order)))


def _wide_type(siblings: Sequence[_Sibling]) -> TensorType:
    first = siblings[0]
    return _with_channels(first.node.output.type, first.axis, sum(s.channels for s in siblings))


def _levelled(graph: Graph, siblings: list[_Sibling]) -> list[_Sibling]:
    """The same siblings, with one kind of epilogue."""
    if len({sibling.key for sibling in siblings}) == 1:
        return siblings
    ends = [sibling.end for sibling in siblings]
    biased, bounded = any(end and end.bias for end in ends), any(end and end.relu for end in ends)
    return [_with_end(graph, sibling, biased=biased, bounded=bounded) for sibling in siblings]


def _with_end(graph: Graph, sibling: _Sibling, *, biased: bool, bounded: bool) -> _Sibling:
    """The sibling with a bias, if it has to be, and bounded from below."""
    node, end, anchor = sibling.node, sibling.end, only_anchor(sibling.node)
    assert end is not None and anchor is not None and isinstance(node.op, Region)
    operands = [node.inputs[node.op.body.inputs.index(value)] for value in anchor.inputs]
    made = [graph.append(anchor.op, operands, loc=node.loc, types=[anchor.output.type], before=node)]

    def then(op: Op, each: Value) -> None:
        last = made[-1].output
        made.append(graph.append(op, [last, each], loc=node.loc, types=[last.type], before=node))

    def numbers(number: float) -> Value:
        shape = (sibling.channels, *[1] * (node.output.type.rank - sibling.axis - 1))
        return graph.add_constant(np.full(shape, number, node.output.type.dtype.numpy))

    if biased:
        then(Add(), numbers(0.0) if end.bias is None else end.bias)
    if bounded:
        then(Maximum(), numbers(0.0 if end.relu else -np.inf))
    made[-1].output.type = node.output.type
    levelled = _sibling(supersede(graph, node, made, made[-1].output))
    assert levelled is not None
    return levelled


def _merge(graph: Graph, siblings: list[_Sibling]) -> None:
    siblings = _levelled(graph, siblings)
    edge = _edge(siblings)
    leading = [] if edge is None else edge.siblings
    ordered = [*(s for s in siblings if s not in leading), *leading]
    axis, first = ordered[0].axis, min((s.node for s in ordered), key=graph.nodes.index)
    type = _wide_type(ordered)
    region = graph.append(_wide_region(ordered), _operands(graph, ordered), loc=first.loc, types=[type], before=first)
    start = 0
    for sibling in ordered:
        old = sibling.node.output
        _stand_in(graph, old, region.output, axis, start, before=first)
        start += sibling.channels
    for sibling in ordered:
        graph.erase(sibling.node)
    if edge is not None:
        joined = edge.concat.output
        rest = edge.concat.inputs[len(leading) :]
        larger = _with_channels(joined.type, axis, start + sum(v.type.shape[axis] for v in rest))
        whole = graph.append(
            edge.concat.op, [region.output, *rest], loc=edge.concat.loc, types=[larger], before=edge.concat
        )
        _stand_in(graph, joined, whole.output, axis, start - sum(s.channels for s in leading), before=edge.concat)
        graph.erase(edge.concat)


def _wide_region(siblings: Sequence[_Sibling]) -> Region:
    """The first sibling's body with the channels of all."""
    first, anchor = siblings[0], only_anchor(siblings[0].node)
    assert isinstance(first.node.op, Region) and anchor is not None
    body = first.node.op.body
    channels = sum(s.channels for s in siblings)
    axes = dict(zip(body.inputs, first.axes, strict=True))
    axes |= {node.output: first.axis for node in body.nodes[body.nodes.index(anchor) :]}

    def widened(value: Value) -> TensorType:
        axis = axes.get(value)
        return value.type if axis is None else _with_channels(value.type, axis, channels)

    return Region(rebuild(body, type=widened))


def _operands(graph: Graph, siblings: Sequence[_Sibling]) -> list[Value]:
    operands = []
    for index, axis in enumerate(siblings[0].axes):
        values = [s.node.inputs[index] for s in siblings]
        if axis is None:
            operands.append(values[0])
            continue
        data = np.concatenate([value.data for value in values if value.data is not None], axis)
        type = _with_channels(values[0].type, axis, data.shape[axis])
        operands.append(graph.add_constant(data, values[0].name, type))
    return operands


def _stand_in(graph: Graph, old: Value, source: Value, axis: int, start: int, *, before: Node) -> None:
    """Let the channels of `source` from `start` on stand for `old`, which they equal, as a view of that name."""
    layout = Layout(source.type.strides, start * source.type.strides[axis], source.name)
    types = moved_types(graph, old, layout)
    assert not isinstance(types, str)
    for value, type in types.items():
        value.type = type
    part = Slice.along(source.type.shape, axis, start, start + old.type.shape[axis])
    view = graph.append(part, [source], loc=before.loc, types=[old.type], before=before)
    name = old.name
    graph.replace_uses(old, view.output)
    graph.rename(old, f"{name}.apart")
    graph.rename(view.output, name)
    view.output.type = replace(view.output.type, layout=layout)
