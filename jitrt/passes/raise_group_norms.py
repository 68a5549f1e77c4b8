"""A group norm that was taken for an instance norm, or a layer norm, of a reshaped tensor becomes one op again.

    reshape(instance_norm(reshape(x, (n, groups, ...))), x.shape)  ->  group_norm(x, groups)

ONNX had no group norm before opset 18, so exporters write this. It costs a kernel less, and above all the two copies
between which the images would be channels-first.
"""

from __future__ import annotations

import numpy as np

from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Array
from jitrt.graph.ops import GroupNorm, LayerNorm, Reshape
from jitrt.passes.apply_rules import claimed
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader, remove_dead


def raise_group_norms(graph: Graph, context: PassContext) -> None:
    """Raise every norm between two reshapes that undo each other."""
    claims = claimed(graph, context)
    for back in list(graph.nodes):
        norm = back.inputs[0].producer if isinstance(back.op, Reshape) else None
        apart = norm.inputs[0].producer if norm is not None and isinstance(norm.op, GroupNorm | LayerNorm) else None
        if norm is None or apart is None or not isinstance(apart.op, Reshape):
            continue
        rule = next((claims[node] for node in (apart, norm, back) if node in claims), None)
        reason = f"rule {rule} is written for it" if rule else _refuse(graph, apart, norm, back)
        if reason is not None:
            context.refused(norm, f"not raised to group_norm: {reason}")
            continue
        x = apart.inputs[0]
        groups, channels = norm.inputs[0].type.shape[1], x.type.shape[1]
        assert isinstance(norm.op, GroupNorm | LayerNorm)
        parameters = [np.repeat(_per_group(norm, index, groups), channels // groups) for index in (1, 2)]
        operands = [graph.add_constant(array, norm.inputs[1 + i].name) for i, array in enumerate(parameters)]
        raised = graph.append(GroupNorm(groups, norm.op.eps), [x, *operands], loc=norm.loc, before=back)
        bypass(graph, back, raised.output)
        context.applied(raised, f"reshape, {norm.op.name} and reshape are one group_norm")
    remove_dead(graph)


def _refuse(graph: Graph, apart: Node, norm: Node, back: Node) -> str | None:
    x, rows = apart.inputs[0].type, norm.inputs[0].type
    if back.output.type != x or x.rank < 2 or rows.rank < 3 or rows.shape[0] != x.shape[0]:
        return "what follows is not the shape from before"
    groups = rows.shape[1]
    if groups == 0 or x.shape[1] % groups:
        return f"{groups} groups of {x.shape[1]} channels"
    if isinstance(norm.op, GroupNorm) and norm.op.groups != groups:
        return f"it has {norm.op.groups} groups of its own"
    if isinstance(norm.op, LayerNorm) and norm.op.dims != rows.rank - 2:
        return f"it normalises the last {norm.op.dims} dimensions"
    parameters = [value.data for value in norm.inputs[1:] if value.data is not None]
    if len(parameters) < 2:
        return "its parameters are no constants"
    if isinstance(norm.op, LayerNorm) and any(np.unique(array).size != 1 for array in parameters):
        return "its parameters vary within a group"
    if only_reader(graph, norm.output) is not back:
        return "its result has other readers"
    return None


def _per_group(norm: Node, index: int, groups: int) -> Array:
    data = norm.inputs[index].data
    assert data is not None
    return data if isinstance(norm.op, GroupNorm) else np.full(groups, data.flat[0])
