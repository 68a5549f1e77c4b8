"""Give every value its place in memory: strides, and for views the storage they lie in.

What convolutions and pools write is channels-last (NHWC); other nodes follow the memory order of their largest operand,
so that it stays so through a network; linear layers are row-major, which for (n, h, w, c) is the same memory. A logical
permute is therefore a view and costs nothing. A reshape is a view where strides allow; where they do not, the node that
computed the value writes it in the order the reshape needs, and only if others read it too is there a copy.

Graph inputs and outputs keep the layout their type declares, or are row-major; a convolution's weights are stored
filter, height, width, channel. Nothing but layouts changes: shapes and contents stay logical.
"""

from __future__ import annotations

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    Contiguous,
    Conv,
    ConvTranspose,
    ExactConv,
    Expand,
    GroupNorm,
    Linear,
    Matmul,
    MaxPool,
    Reshape,
    Slice,
)
from jitrt.graph.types import Layout, TensorType, channels_last, row_major, strides_in_order
from jitrt.passes.base import PassContext
from jitrt.passes.edit import only_reader, remove_dead
from jitrt.passes.storage import place, sources, storage_of
from jitrt.passes.views import strides_for_reshape, view_layout

# x is (n, c, spatial...)
SPATIAL = (Conv, ConvTranspose, MaxPool, AvgPool, AdaptiveAvgPool, AdaptiveMaxPool, GroupNorm)
_ROWS = (Linear, Matmul)


def layout(graph: Graph, context: PassContext) -> None:
    """Afterwards every value has strides, and every view names the storage it lies in."""
    for value in graph.inputs:
        value.type = value.type.with_layout(Layout(value.type.strides))
    for value in graph.constants.values():
        _lay_constant(value)
    for node in list(graph.nodes):
        if node.has(Trait.VIEW):
            _lay_view(graph, node, context)
        else:
            for value in node.outputs:
                _set(value, _declared(value) if value in graph.outputs else _strides(graph, node, value))
    for value in dict.fromkeys(graph.outputs):
        if value.producer is None:
            _copy_output(graph, value, context)
    remove_dead(graph)


def _set(value: Value, strides: tuple[int, ...]) -> None:
    value.type = value.type.with_layout(Layout(strides))


def _declared(value: Value) -> tuple[int, ...]:
    return value.type.strides  # row-major where nothing is declared


def _lay_constant(value: Value) -> None:
    """Row-major, but the filters of convolutions have their channels innermost."""
    shape = value.type.shape
    kinds = {type(node.op) for node, index in value.uses if index == 1}
    if kinds & {Conv, ExactConv}:
        _set(value, channels_last(shape))
    elif ConvTranspose in kinds:
        _set(value, strides_in_order(shape, (*range(1, len(shape)), 0)))
    else:
        _set(value, row_major(shape))


# -- nodes that compute ----------------------------------------------------------------------------------------------


def _strides(graph: Graph, node: Node, value: Value) -> tuple[int, ...]:
    shape = value.type.shape
    if isinstance(node.op, SPATIAL):
        return channels_last(shape)
    if isinstance(node.op, _ROWS) or node.has(Trait.ROW_MAJOR):
        return row_major(shape)
    model = _model(node, value)
    if model is None or (model in graph.inputs and _feeds_spatial(value)):
        # What comes from outside as NCHW is best turned around where it is first written.
        return channels_last(shape) if _feeds_spatial(value) else row_major(shape)
    order = model.type.memory_order
    if len(shape) == len(order):
        return strides_in_order(shape, order)
    kept = _kept_dimensions(node, len(order))
    if len(kept) != len(shape):
        return row_major(shape)
    return strides_in_order(shape, [kept.index(d) for d in order if d in kept])


def _model(node: Node, value: Value) -> Value | None:
    """The operand whose memory order the result follows: of those as large as the result the first computed one."""
    if node.has(Trait.ELEMENTWISE):
        like = [v for v in node.inputs if v.type.shape == value.type.shape]
    else:
        like = [v for v in node.inputs if v.type.rank >= value.type.rank]
    computed = [v for v in like if v.producer is not None]
    largest = max((v.type.numel for v in computed), default=0)
    return next((v for v in computed if v.type.numel == largest), like[0] if like else None)


def _kept_dimensions(node: Node, rank: int) -> list[int]:
    """The operand's dimensions a reduction keeps, in order."""
    axes = getattr(node.op, "axes", ())
    return [d for d in range(rank) if d not in axes]


def _feeds_spatial(value: Value) -> bool:
    """Whether, through elementwise nodes at most, a convolution or pool reads the value."""
    stack, seen = [value], {value}
    while stack:
        for node, index in stack.pop().uses:
            if isinstance(node.op, SPATIAL) and index == 0:
                return True
            if node.has(Trait.ELEMENTWISE) and node.output not in seen:
                seen.add(node.output)
                stack.append(node.output)
    return False


# -- views -----------------------------------------------------------------------------------------------------------


def _lay_view(graph: Graph, node: Node, context: PassContext) -> None:
    source, value = node.inputs[0], node.output
    if value in graph.outputs:
        _lay_output_view(graph, node, context)
        return
    if source.is_constant:
        _fold_view(graph, node)
        return
    found = view_layout(node.op, source.type, value.type.shape)
    if found is None:
        assert isinstance(node.op, Reshape)
        strides = strides_for_reshape(source.type, value.type.shape)
        if _write_as(graph, source, Layout(strides)):
            context.applied(node, "its input is written in the order this reshape needs: no copy")
        else:
            source = _copy(graph, source, strides, node)
            context.refused(node, f"a copy before reshape: {_why_copied(graph, node.inputs[0])}")
            graph.set_input(node, 0, source)
        found = view_layout(node.op, source.type, value.type.shape)
        assert found is not None
    value.type = value.type.with_layout(Layout(found.strides, found.offset, storage_of(source)))


def _lay_output_view(graph: Graph, node: Node, context: PassContext) -> None:
    """A view the graph returns owns its storage: what it shows is written there, or copied."""
    value = node.output
    declared = Layout(_declared(value))
    value.type = value.type.with_layout(declared)
    if _write_as(graph, node.inputs[0], declared, view=node):
        context.applied(node, f"the output {node.op.name} is written directly by what computes it")
    else:
        copy = graph.append(Contiguous(), [value], loc=node.loc)
        graph.outputs = [copy.output if v is value else v for v in graph.outputs]
        name = value.name
        graph.rename(value, f"{name}.view")
        graph.rename(copy.output, name)
        copy.output.type = value.type.with_layout(declared)
        context.refused(node, f"a copy of the output {node.op.name}: {_why_copied(graph, node.inputs[0])}")
        _lay_view(graph, node, context)


def _write_as(graph: Graph, value: Value, layout: Layout, view: Node | None = None) -> bool:
    """Have the node that computed `value` write it at `layout`; False if that is not possible.

    With `view`, the layout is that of the output of `view`, a view of `value`, which owns the storage from now on.
    Only values nobody else reads change: others have been laid out for what they are.
    """
    target = value if view is None else view.output
    placed = place(target, layout)
    if placed is None:
        return False
    computed, root_layout = placed
    chain = list(sources(target))
    if computed.producer is None:
        return False
    between = [value] if view is None else []
    between += [node.inputs[0] for node in chain]
    if any(only_reader(graph, v) is None for v in between):
        return False
    storage = None if view is None else target.name
    computed.type = computed.type.with_layout(Layout(root_layout.strides, root_layout.offset, storage))
    for node in reversed(chain):
        if node is not view:
            found = view_layout(node.op, node.inputs[0].type, node.output.type.shape)
            assert found is not None
            layout_there = Layout(found.strides, found.offset, storage or computed.name)
            node.output.type = node.output.type.with_layout(layout_there)
    return True


def _why_copied(graph: Graph, value: Value) -> str:
    computed = value
    for node in sources(value):
        computed = node.inputs[0]
        if isinstance(node.op, Slice | Expand):
            return f"it shows part of %{computed.name} through {node.op.name}"
    if computed.producer is None:
        return f"%{computed.name} is {'a constant' if computed.is_constant else 'an input of the graph'}"
    if computed in graph.outputs:
        return f"%{computed.name} is an output of the graph"
    return f"%{computed.name} has other readers, which want it as it is"


def _copy(graph: Graph, value: Value, strides: tuple[int, ...], before: Node) -> Value:
    type: TensorType = value.type.with_layout(Layout(strides))
    return graph.append(Contiguous(), [value], loc=before.loc, types=[type], before=before).output


def _copy_output(graph: Graph, value: Value, context: PassContext) -> None:
    """An output that is an input or a constant needs memory of its own."""
    type = value.type.with_layout(Layout(_declared(value)))
    copy = graph.append(Contiguous(), [value], types=[type])
    what = "a constant" if value.is_constant else "an input"
    context.refused(copy, f"a copy of an output: it is {what} of the graph")
    graph.outputs = [copy.output if v is value else v for v in graph.outputs]


def _fold_view(graph: Graph, node: Node) -> None:
    """A view of a constant is a constant, of the same bytes: stride 0 where it was expanded."""
    source, value = node.inputs[0], node.output
    assert source.data is not None
    (data,) = node.op.eval(source.data)
    found = view_layout(node.op, source.type, value.type.shape)
    strides = found.strides if found is not None else row_major(value.type.shape)
    constant = graph.add_constant(data, source.name, TensorType(value.type.dtype, value.type.shape, Layout(strides)))
    graph.replace_uses(value, constant)
