"""Drop what changes nothing: dropout and other identities, reshapes to the same shape, branches nobody reads.

`context.outputs` names the values to compute; everything only other outputs need goes too. Graph inputs stay, used or
not, so that the caller's signature does not change.
"""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.errors import OptionError
from jitrt.graph.graph import Graph
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, is_no_op, remove_dead


def eliminate_unused(graph: Graph, context: PassContext) -> None:
    """Raises OptionError if `context.outputs` names a value that is not there."""
    if context.outputs is not None:
        _select_outputs(graph, context.outputs)
    for node in list(graph.nodes):
        if not is_no_op(node):
            continue
        text = f"{node.op.name} changes nothing"
        context.applied(node, f"{text}: dropped") if bypass(graph, node, node.inputs[0]) else context.refused(
            node, f"{text}, but an output needs memory of its own"
        )
    for node in remove_dead(graph):
        context.applied(node, f"{node.op.name} dropped: nothing reads its result")


def _select_outputs(graph: Graph, names: Sequence[str]) -> None:
    values = {v.name: v for v in graph.values()}
    unknown = [name for name in names if name not in values]
    if unknown or not names:
        there = ", ".join(v.name for v in graph.outputs)
        raise OptionError(f"outputs={list(names)}: no value is named {unknown or 'nothing'}; the outputs are {there}")
    graph.outputs = [values[name] for name in names]
