"""Scales and shifts by constants after a normalisation are its weight and bias.

    group_norm(x, w, b) * c + d  ->  group_norm(x, w * c, b * c + d)

Exporters put them into nodes of their own. Done in float64, rounded once.
"""

from __future__ import annotations

import numpy as np

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Array
from jitrt.graph.ops import Add, GroupNorm, LayerNorm, Mul, RmsNorm
from jitrt.passes.apply_rules import claimed
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader


def fold_norm_scale(graph: Graph, context: PassContext) -> None:
    """Fold every chain of multiplications and additions that start at a normalisation with constant parameters."""
    claims = claimed(graph, context)
    for norm in list(graph.nodes):
        if norm in claims or not isinstance(norm.op, GroupNorm | LayerNorm | RmsNorm):
            continue
        if any(not value.is_constant for value in norm.inputs[1:]):
            continue
        parameters = [value.data.astype(np.float64) for value in norm.inputs[1:] if value.data is not None]
        folded = []
        while (reader := only_reader(graph, norm.output)) is not None:
            changed = None if reader in claims else _with(norm, reader, parameters)
            if changed is None or not bypass(graph, reader, norm.output):
                break
            parameters = changed
            folded.append(reader.op.name)
        if folded:
            _set(graph, norm, parameters)
            context.applied(norm, f"{' + '.join(folded)} folded into the parameters of {norm.op.name}")
    graph.drop_unused_constants()


def _with(norm: Node, reader: Node, parameters: list[Array]) -> list[Array] | None:
    """The parameters with what the reader does, if they can express it."""
    if not isinstance(reader.op, Mul | Add) or reader.output.type.logical() != norm.output.type.logical():
        return None
    others = [value for value in reader.inputs if value is not norm.output]
    number = _as_parameter(norm, others[0]) if len(others) == 1 else None
    if number is None:
        return None
    if isinstance(reader.op, Mul):
        changed = [array * number for array in parameters]
    elif len(parameters) == 2:
        changed = [parameters[0], parameters[1] + number]
    else:
        return None  # an RMS norm has no bias
    largest = float(np.finfo(np.float32).max) if norm.inputs[1].type.dtype.itemsize > 2 else 65504.0
    return None if any(np.any(np.abs(array) > largest) for array in changed) else changed


def _as_parameter(norm: Node, value: Value) -> Array | None:
    """A constant in the shape of the norm's parameters, if it varies along no other dimension."""
    if value.data is None or value.type.rank > norm.output.type.rank:
        return None
    full = value.data.astype(np.float64).reshape((1,) * (norm.output.type.rank - value.type.rank) + value.type.shape)
    shape = norm.inputs[1].type.shape
    first = 1 if isinstance(norm.op, GroupNorm) else norm.output.type.rank - len(shape)
    kept = full.shape[first : first + len(shape)]
    if full.size != np.prod(kept):
        return None
    return np.broadcast_to(full.reshape(kept), shape)


def _set(graph: Graph, norm: Node, parameters: list[Array]) -> None:
    for index, array in enumerate(parameters):
        old = norm.inputs[1 + index]
        graph.set_input(norm, 1 + index, graph.add_constant(array.astype(old.type.dtype.numpy), old.name))
