"""Move a permute of rows above the linear layer it follows, where that reads rows which were permuted just before.

    permute(add(linear(reshape(permute(x, (2, 0, 1, 3)), (l, n, c)), w), b), (1, 0, 2))
    -> add(linear(reshape(permute(permute(x, (2, 0, 1, 3)), (1, 0, 2, 3)), (n, l, c)), w), b)

torch.nn.MultiheadAttention counts positions before images inside, and turns its result back. Two permutes that stand on
one another are one, x is written in the order it asks for, and the linear layer reads and writes even rows.
"""

from __future__ import annotations

from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Trait
from jitrt.graph.ops import Linear, Permute, Reshape
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader, remove_dead


def lift_permutes(graph: Graph, context: PassContext) -> None:
    """Rewrite each such chain; elementwise ops in it have no other operands than numbers and vectors."""
    for node in list(graph.nodes):
        if not keeps_columns(node):
            continue
        chain = _chain_above(graph, node)
        join = chain[0].inputs[0].producer if chain else None
        if join is None or not _joins_columns(join):
            continue
        assert isinstance(node.op, Permute)
        source, rows = join.inputs[0], len(node.op.order) - 1
        order = (*node.op.order[:-1], *range(rows, source.type.rank))
        value = graph.append(Permute(order), [source], loc=node.loc, before=node).output
        joined = (*value.type.shape[:rows], join.output.type.shape[-1])
        value = graph.append(Reshape(joined), [value], loc=join.loc, before=node).output
        above = join.output
        for step in chain:
            operands = [value if operand is above else operand for operand in step.inputs]
            above = step.output
            if not isinstance(step.op, Reshape):
                value = graph.append(step.op, operands, loc=step.loc, before=node).output
        if bypass(graph, node, value):
            context.applied(node, "permute of rows moved above linear")
    remove_dead(graph)


def keeps_columns(node: Node) -> bool:
    """Whether it is a permute that leaves the last dimension where it is."""
    return isinstance(node.op, Permute) and node.op.order[-1:] == (len(node.op.order) - 1,)


def _chain_above(graph: Graph, permute: Node) -> list[Node]:
    """The linear layer above, and what leads from it to the permute: elementwise ops along the columns, and reshapes
    that count the rows otherwise for a while. Empty if something else is between, or reads something between."""
    chain: list[Node] = []
    value = permute.inputs[0]
    while only_reader(graph, value) is not None and (node := value.producer) is not None:
        chain.insert(0, node)
        if isinstance(node.op, Linear):
            return chain if node.output.type.shape == permute.inputs[0].type.shape else []
        if isinstance(node.op, Reshape):
            value = node.inputs[0]
            if value.type.shape[-1:] != node.output.type.shape[-1:]:
                return []
            continue
        wide = [v for v in node.inputs if v.type.rank > 1]
        if not node.has(Trait.ELEMENTWISE) or len(wide) != 1 or wide[0].type.shape != node.output.type.shape:
            return []
        value = wide[0]
    return []


def _joins_columns(node: Node) -> bool:
    """Whether it is a reshape of permuted rows that only joins the last dimensions."""
    if not isinstance(node.op, Reshape) or node.inputs[0].producer is None:
        return False
    rows = node.output.type.shape[:-1]
    return isinstance(node.inputs[0].producer.op, Permute) and node.inputs[0].type.shape[: len(rows)] == rows
