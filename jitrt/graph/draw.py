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
    """The `index`-th concat whose operands are chains that start at one common value: an inception module. A region
    that results in a concat is one too, or the last node of some of the branches of another.

    Raises GraphError if there are not so many."""
    joins = [node for node in graph.nodes if isinstance(node.op, Concat)]
    inner = {value.producer for node in joins for value in node.inputs}
    joins += [node for node in graph.nodes if _is_group(node) and node not in inner]
    found = [m for node in sorted(joins, key=graph.nodes.index) for m in [_module(node)] if m is not None]
    if index >= len(found):
        raise GraphError(f"graph {graph.name} has {len(found)} modules of parallel branches, no number {index}")
    return found[index]


def _is_group(node: Node | None) -> bool:
    """Whether a node is a region that results in a concat."""
    if node is None or not isinstance(node.op, Region):
        return False
    last = node.op.body.outputs[0].producer
    return last is not None and isinstance(last.op, Concat)


def _module(join: Node) -> Module | None:
    chains = [chain for value in (join.outputs if _is_group(join) else join.inputs) for chain in _chains(value)]
    if len(chains) < 2 and not _is_group(join):
        return None
    # The source is the first value, going up, that every branch comes from.
    common = set.intersection(*({v for _, v in chain[1:]} for chain in chains))
    source = next((v for _, v in chains[0] if v in common), None)
    if source is None:
        return None
    branches = []
    for chain in chains:
        nodes = [node for node, v in chain[: [v for _, v in chain].index(source)]]
        branches.append(tuple(node for node in reversed(nodes) if node is not None))
    return Module(source, join, tuple(branches))


def _chains(value: Value) -> list[list[tuple[Node | None, Value]]]:
    """Ways up from `value`, as (producer, value): along the first operand that is no constant, and along every one of a
    region that results in a concat."""
    here = (value.producer, value)
    live = [] if value.producer is None else list(dict.fromkeys(v for v in value.producer.inputs if not v.is_constant))
    ways = live if _is_group(value.producer) else live[:1]
    return [[here, *chain] for way in ways for chain in _chains(way)] or [[here]]


def label(node: Node) -> str:
    """A node as a person would name it: "conv 3x3 + bias + relu". Casts inside a kernel cost nothing and go unsaid."""
    if not isinstance(node.op, Region):
        return _name(node)
    return label_of(node.op.body)


def label_of(body: Graph) -> str:
    """A region's body in these words."""
    return " + ".join(_name(n) for n in body.nodes if not isinstance(n.op, Cast)) or "cast"


def _name(node: Node) -> str:
    if isinstance(node.op, Conv | ConvTranspose):
        return f"{node.op.name} " + "x".join(map(str, node.inputs[1].type.shape[2:]))
    kernel = getattr(node.op, "kernel", None)
    if kernel:
        return f"{node.op.name} {'x'.join(map(str, kernel))}"
    bias = node.op.name == "add" and any(v.type.rank == 3 and v.type.shape[1:] == (1, 1) for v in node.inputs)
    return "bias" if bias else node.op.name


@dataclass(frozen=True)
class _Box:
    """A node in a picture: it stands under the middles of columns `first` to `last`, which it may belong to alike."""

    text: str
    first: int
    last: int


def draw_module(module: Module) -> str:
    """The module as columns of boxes, the source above and the join below. A node that begins several branches is one
    box across them all. A concat whose operands all lie in its own storage is drawn as what it is: a place in memory.

    >>> print(draw_module(find_module(graph)))        # doctest: +SKIP
    """
    columns = [[n for n in branch if not n.has(Trait.VIEW)] for branch in module.branches]
    rows = [_row(columns, row) for row in range(max(map(len, columns)))]
    widths = _widths(len(columns), [box for row in rows for box in row])
    total = sum(widths) + 2 * (len(widths) - 1)
    lines = [_size(module.source.type).center(total).rstrip()]
    lines.append(_rail([_middle(widths, box) for box in rows[0]], "┌", "┬", "┐"))
    for number, row in enumerate(rows):
        lines += _boxes(widths, row, number == 0)
    every = [_middle(widths, _Box("", i, i)) for i in range(len(columns))]
    join = "(each branch wrote its part of)" if _is_in_place(module.join) else label(module.join)
    if _is_group(module.join):
        join = ""  # drawn as the last box already
    lines += [_rail(every, "└", "┴", "┘"), f"{join}  {_size(module.join.output.type)}".strip().center(total).rstrip()]
    return "\n".join(lines)


def _is_in_place(join: Node) -> bool:
    """Whether every operand lies in the result's storage."""
    return all(v.type.layout is not None and v.type.layout.storage == join.output.name for v in join.inputs)


def _row(columns: Sequence[Sequence[Node]], row: int) -> list[_Box]:
    boxes: list[_Box] = []
    nodes = [column[row] if row < len(column) else None for column in columns]
    for at, node in enumerate(nodes):
        if node is not None and at and node is nodes[at - 1]:
            boxes[-1] = _Box(boxes[-1].text, boxes[-1].first, at)
        else:
            boxes.append(_Box("" if node is None else label(node), at, at))
    return boxes


def _widths(count: int, boxes: Sequence[_Box]) -> list[int]:
    """The width of each column, so that every box holds its text."""
    widths = [5] * count
    for box in sorted(boxes, key=lambda box: box.last - box.first):
        missing = max(0, len(box.text) + 4 - _width(widths, box))
        columns = box.last - box.first + 1
        for at in range(columns):
            widths[box.first + at] += missing // columns + (at < missing % columns)
    return widths


def _width(widths: Sequence[int], box: _Box) -> int:
    return sum(widths[box.first : box.last + 1]) + 2 * (box.last - box.first)


def _middle(widths: Sequence[int], box: _Box) -> int:
    """The position in a line that a box's own line comes from above at."""
    start = sum(widths[: box.first]) + 2 * box.first
    return start + "│".center(_width(widths, box)).index("│")


def _boxes(widths: Sequence[int], row: Sequence[_Box], is_first: bool) -> list[str]:
    top: list[str] = []
    middle: list[str] = []
    bottom: list[str] = []
    for box in row:
        width = _width(widths, box)
        start = sum(widths[: box.first]) + 2 * box.first
        if not box.text:
            for part in (top, middle, bottom):
                part.append("│".center(width))
            continue
        below = [_middle(widths, _Box("", i, i)) - start for i in range(box.first, box.last + 1)]
        above = [_middle(widths, box) - start] if is_first else below
        top.append(_edge(width, above, "┌", "┴", "┐"))
        middle.append("│" + box.text.center(width - 2) + "│")
        bottom.append(_edge(width, below, "└", "┬", "┘"))
    return ["  ".join(part).rstrip() for part in (top, middle, bottom)]


def _edge(width: int, joints: Sequence[int], left: str, joint: str, right: str) -> str:
    line = [left, *"─" * (width - 2), right]
    for position in joints:
        line[position] = joint
    return "".join(line)


def _rail(middles: Sequence[int], left: str, between: str, right: str) -> str:
    """A horizontal line that everything at `middles` hangs on."""
    if len(middles) == 1:
        return " " * middles[0] + "│"
    width = middles[-1] - middles[0] + 1
    return " " * middles[0] + _edge(width, [m - middles[0] for m in middles[1:-1]], left, between, right)


def _size(type: TensorType) -> str:
    return f"{type.dtype.value}[{', '.join(map(str, type.shape))}]"
