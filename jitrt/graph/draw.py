"""Pictures of a graph in text: the branches that meet in one node, side by side, as papers draw an inception module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.errors import GraphError
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Cast, Concat, Conv, ConvTranspose, Region
from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class Module:
    """Branches from one value to one joining node; each is a list of nodes, first to last."""

    source: Value
    join: Node
    branches: tuple[tuple[Node, ...], ...]


def find_module(graph: Graph, index: int = 0) -> Module:
    """The `index`-th concat whose operands are chains that start at one common value: an inception module.

    Raises GraphError if there are not so many."""
    found = [m for node in graph.nodes if isinstance(node.op, Concat) for m in [_module(node)] if m is not None]
    if index >= len(found):
        raise GraphError(f"graph {graph.name} has {len(found)} modules of parallel branches, no number {index}")
    return found[index]


def _module(join: Node) -> Module | None:
    chains = [_chain(value) for value in join.inputs]
    if len(chains) < 2:
        return None
    # The source is the first value, going up, that every branch comes from.
    common = set.intersection(*({v for _, v in chain} for chain in chains))
    source = next((v for _, v in chains[0] if v in common), None)
    if source is None:
        return None
    branches = []
    for chain in chains:
        nodes = [node for node, v in chain[: [v for _, v in chain].index(source)]]
        branches.append(tuple(node for node in reversed(nodes) if node is not None))
    if not all(branches):
        return None
    return Module(source, join, tuple(branches))


def _chain(value: Value) -> list[tuple[Node | None, Value]]:
    """(producer, value) going up from `value` along the first operand that is no constant."""
    out: list[tuple[Node | None, Value]] = [(value.producer, value)]
    while value.producer is not None:
        live = [v for v in value.producer.inputs if not v.is_constant]
        if not live:
            break
        value = live[0]
        out.append((value.producer, value))
    return out


def label(node: Node) -> str:
    """A node as a person would name it: "conv 3x3 + bias + relu". Casts inside a kernel cost nothing and go unsaid."""
    if not isinstance(node.op, Region):
        return _name(node)
    return " + ".join(_name(n) for n in node.op.body.nodes if not isinstance(n.op, Cast)) or "cast"


def _name(node: Node) -> str:
    if isinstance(node.op, Conv | ConvTranspose):
        return f"{node.op.name} " + "x".join(map(str, node.inputs[1].type.shape[2:]))
    kernel = getattr(node.op, "kernel", None)
    if kernel:
        return f"{node.op.name} {'x'.join(map(str, kernel))}"
    bias = node.op.name == "add" and any(v.type.rank == 3 and v.type.shape[1:] == (1, 1) for v in node.inputs)
    return "bias" if bias else node.op.name


def draw_module(module: Module) -> str:
    """The module as columns of boxes, the source above and the join below.

    >>> print(draw_module(find_module(graph)))        # doctest: +SKIP
    """
    columns = [[label(n) for n in branch if not n.has(Trait.VIEW)] for branch in module.branches]
    widths = [max(len(text) for text in column) + 4 for column in columns]
    height = max(len(column) for column in columns)
    total = sum(widths) + 2 * (len(widths) - 1)
    lines = [_size(module.source.type).center(total).rstrip(), _rail(widths, "┌", "┬", "┐")]
    for row in range(height):
        lines += _boxes(columns, widths, row)
    lines += [
        _rail(widths, "└", "┴", "┘"),
        f"{label(module.join)}  {_size(module.join.output.type)}".center(total).rstrip(),
    ]
    return "\n".join(lines)


def _boxes(columns: Sequence[Sequence[str]], widths: Sequence[int], row: int) -> list[str]:
    top: list[str] = []
    middle: list[str] = []
    bottom: list[str] = []
    for column, width in zip(columns, widths, strict=True):
        if row >= len(column):
            line = "│".center(width)
            for part in (top, middle, bottom):
                part.append(line)
            continue
        top.append("┌" + "┴".center(width - 2, "─") + "┐")
        middle.append("│" + column[row].center(width - 2) + "│")
        bottom.append("└" + "┬".center(width - 2, "─") + "┘")
    return ["  ".join(part).rstrip() for part in (top, middle, bottom)]


def _rail(widths: Sequence[int], left: str, between: str, right: str) -> str:
    """A horizontal line that the middles of all columns hang on."""
    middles, start = [], 0
    for width in widths:
        middles.append(start + len("│".center(width)[: "│".center(width).index("│")]))
        start += width + 2
    line = [" "] * (middles[-1] + 1)
    for position in range(middles[0], middles[-1] + 1):
        line[position] = "─"
    for position in middles[1:-1]:
        line[position] = between
    line[middles[0]], line[middles[-1]] = left, right
    return "".join(line)


def _size(type: TensorType) -> str:
    return f"{type.dtype.value}[{', '.join(map(str, type.shape))}]"
