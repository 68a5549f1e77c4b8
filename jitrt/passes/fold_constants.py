"""Compute now what depends on constants alone."""

from __future__ import annotations

import numpy as np

from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Array, Trait
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass

_FREE_BYTES = 1 << 16  # a result up to this size is folded however small its inputs
_KERNEL_BYTES = 1 << 22  # and up to this one if it would take a kernel at every call (a gather of position biases)
_MOST_BYTES = 1 << 28  # of all results together, beside 8 times the constants there are: each may be twice its inputs,
_MOST_TIMES = 8  # and thirty nodes in a chain that each double what they are given are a thousand million times it


def fold_constants(graph: Graph, context: PassContext) -> None:
    """Replace each node all of whose inputs are constants by its result, unless that is much larger than they are: an
    `expand` of one number should not become megabytes of weights. What has no elements is known whatever it comes from.
    """
    left = _MOST_BYTES + _MOST_TIMES * sum(value.type.nbytes for value in graph.constants.values())
    for node in list(graph.nodes):
        if not node.inputs or len(node.outputs) != 1 or node.has(Trait.OPAQUE):
            continue
        if node.output.type.numel == 0 and node.output not in graph.outputs:
            _replace(graph, node, np.empty(node.output.type.shape))
            context.applied(node, f"{node.op.name} has no elements: dropped")
            continue
        if not all(value.is_constant for value in node.inputs):
            continue
        size, given = node.output.type.nbytes, sum(value.type.nbytes for value in node.inputs)
        if size > max(2 * given, _KERNEL_BYTES if node.has(Trait.ANCHOR) else _FREE_BYTES):
            context.refused(node, f"{node.op.name} of constants not folded: {given} bytes would become {size}")
        elif node.output in graph.outputs:
            context.refused(node, f"{node.op.name} of constants not folded: it is an output of the graph")
        elif size > left:
            context.refused(node, f"{node.op.name} of constants not folded: too much has been folded before it")
        else:
            left -= size
            _fold(graph, node, context)
    graph.drop_unused_constants()


def _fold(graph: Graph, node: Node, context: PassContext) -> None:
    with np.errstate(all="ignore"):
        (result,) = node.op.eval(*(value.data for value in node.inputs if value.data is not None))
    context.applied(node, f"{node.op.name} of constants computed at build time")
    _replace(graph, node, np.asarray(result))


def _replace(graph: Graph, node: Node, data: Array) -> None:
    constant = graph.add_constant(data.astype(node.output.type.dtype.numpy), f"{node.op.name}.folded")
    bypass(graph, node, constant)
