"""Where in the arena each value lies: storages that are never live at the same time share bytes.

Where launches run side by side, time is not the order of the nodes: two storages may share bytes only if all that
touches the one must have run before anything writes the other. Else the second of two branches would have to wait for
the first, to reuse its memory.

A result may lie where an operand lay that dies with it (see in_place.py); the two then count as one block.

Greedy by size: the largest first, each at the lowest offset free for as long as it lives; several orders are tried and
the smallest arena kept. The same idea as Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020 (arXiv:2001.03288).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from jitrt.graph.graph import Graph, Node
from jitrt.passes.in_place import InPlace, Offers, find_in_place
from jitrt.passes.storage import is_structural, root_of, storage_of

__all__ = ["ALIGNMENT", "Block", "MemoryPlan", "lifetimes", "peak", "plan_memory", "root_of"]

_PRICE = 1.25  # times the smallest arena: what branches that share no memory may cost
ALIGNMENT = 256  # bytes; every block starts at a multiple, so that vector loads and TMA descriptors are aligned


@dataclass(frozen=True)
class Block:
    """Bytes that must exist from step `first` to step `last`, both included; a step is a position among the nodes that
    launch something."""

    name: str
    nbytes: int
    first: int
    last: int
    workspace: bool = False  # of the region whose output has that name; else a storage

    def overlaps(self, other: Block) -> bool:
        """Whether both are live at some step."""
        return self.first <= other.last and other.first <= self.last


Together = Callable[[Block, Block], bool]
"""Whether two blocks may be live at the same time."""


@dataclass(frozen=True)
class MemoryPlan:
    """`offsets` maps each storage in the arena, by the name of the value that owns it, to its first byte; `workspace`
    does so for regions, by the name of their output. `naive_bytes` is the sum of all blocks, what would be needed
    without sharing; `lower_bound` the most that is live at one step: no plan for this order can be smaller. `placed` is
    every block with its first byte, storages first, then workspaces. `in_place` says which results took the place of an
    operand and why others did not."""

    offsets: Mapping[str, int]
    workspace: Mapping[str, int]
    arena_bytes: int
    naive_bytes: int
    lower_bound: int
    placed: tuple[tuple[Block, int], ...]
    in_place: InPlace = field(default_factory=InPlace)

    def to_json(self) -> dict[str, object]:
        """Plain data, for a plan's notes: bytes, and lifetimes in layers of the plan."""
        return {
            "arena_bytes": self.arena_bytes,
            "naive_bytes": self.naive_bytes,
            "lower_bound_bytes": self.lower_bound,
            "blocks": [{**asdict(block), "offset": start} for block, start in self.placed],
            "in_place": dict(self.in_place.over),
            "not_in_place": dict(self.in_place.refused),
        }


def plan_memory(
    graph: Graph,
    workspace: Mapping[str, int] | None = None,
    *,
    parallel: bool = False,
    in_place: Offers | None = None,
) -> MemoryPlan:
    """Plan the arena of an optimised graph. `workspace` gives bytes a region needs while it runs, by its output's name;
    `in_place` the operands that its kernel may overwrite.

    Graph inputs, outputs and constants lie elsewhere. A storage lives from the first write into it to the last read of
    anything in it. With `parallel` branches do not share memory, unless that would take too much more of it.
    """
    waits = _waits(graph)
    steps = {value.name: step for step, node in enumerate(waits) for value in node.outputs}
    blocks = lifetimes(graph.nodes, graph)
    wanted = [(name, _aligned(nbytes)) for name, nbytes in (workspace or {}).items() if nbytes]
    scratch = [Block(name, nbytes, steps[name], steps[name], workspace=True) for name, nbytes in wanted]
    sizes = {block.name: block.nbytes for block in blocks}
    found = find_in_place(graph, sizes, in_place or {}, waits if parallel else None)
    ways = [
        (each, [*_merged(blocks, each), *scratch]) for each in ((found, found.undone()) if found.over else (found,))
    ]
    chosen, everything = min(ways, key=lambda way: _extent(way[1], arrange(way[1])))
    places = arrange(everything)
    if parallel:
        apart = arrange(everything, _side_by_side(waits, chosen, everything))
        if _extent(everything, apart) <= _PRICE * _extent(everything, places):
            places = apart
    start = {block.name: first_byte for block, first_byte in places.items() if not block.workspace}
    offsets = {block.name: start[chosen.place_of(block.name)] for block in blocks}
    placed = [(block, offsets[block.name]) for block in blocks]
    return MemoryPlan(
        offsets=offsets,
        workspace={block.name: places[block] for block in scratch},
        arena_bytes=_extent(everything, places),
        naive_bytes=sum(block.nbytes for block in (*blocks, *scratch)),
        lower_bound=peak(everything),
        placed=(*placed, *((block, places[block]) for block in scratch)),
        in_place=chosen,
    )


def _merged(blocks: Sequence[Block], in_place: InPlace) -> list[Block]:
    """The blocks, those in one place made one."""
    merged: dict[str, Block] = {}
    for block in blocks:
        place = in_place.place_of(block.name)
        known = merged.get(place, block)
        merged[place] = Block(place, block.nbytes, min(known.first, block.first), max(known.last, block.last))
    return list(merged.values())


def lifetimes(nodes: Sequence[Node], graph: Graph) -> list[Block]:
    """The arena's storages, were the graph's nodes run in the order of `nodes`."""
    elsewhere = {storage_of(value) for value in (*graph.inputs, *graph.constants.values(), *graph.outputs)}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    nbytes: dict[str, int] = {}
    step = 0
    for node in nodes:
        launches = not is_structural(node)
        for value in (*node.inputs, *node.outputs):
            name = storage_of(value)
            if name in elsewhere:
                continue
            size = (value.type.offset + value.type.span) * value.type.dtype.itemsize
            nbytes[name] = max(nbytes.get(name, 0), size)
            if launches:
                first.setdefault(name, step)
                last[name] = step
        step += launches
    return [Block(name, _aligned(nbytes[name]), first[name], last[name]) for name in first]


def peak(blocks: Sequence[Block]) -> int:
    """The most bytes live at one step."""
    return max((sum(b.nbytes for b in blocks if b.first <= at.first <= b.last) for at in blocks), default=0)


def arrange(blocks: Sequence[Block], together: Together = Block.overlaps) -> dict[Block, int]:
    """The first byte of every block, so that blocks that live together share none: the best of several greedy runs."""
    runs = (_place(sorted(blocks, key=order), together) for order in _ORDERS)
    return min(runs, key=lambda places: _extent(blocks, places))


_ORDERS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda block: (-block.nbytes, block.first),
    lambda block: (-block.nbytes, -(block.last - block.first), block.first),
    lambda block: (-block.nbytes * (block.last - block.first + 1), block.first),
    lambda block: (-(block.last - block.first), -block.nbytes, block.first),
    lambda block: (block.first, -block.nbytes),
    lambda block: (-block.last, -block.nbytes),
)


def _waits(graph: Graph) -> dict[Node, int]:
    """The nodes that launch something, in order, and the steps that each must wait for because it reads, itself or by
    way of others, what they write. Sets of steps are the bits of an integer."""
    before: dict[Node, int] = {}  # of all nodes
    waits: dict[Node, int] = {}
    bit: dict[Node, int] = {}
    for node in graph.nodes:
        producers = [value.producer for value in node.inputs if value.producer is not None]
        before[node] = 0
        for producer in producers:
            before[node] |= before[producer] | bit[producer]
        bit[node] = 0
        if not is_structural(node):
            bit[node] = 1 << len(waits)
            waits[node] = before[node]
    return waits


def _side_by_side(waits: Mapping[Node, int], in_place: InPlace, blocks: Sequence[Block]) -> Together:
    """Whether two blocks may be in use at the same time, were every node run as soon as what it reads is there."""
    touched: dict[str, int] = {}
    waited: dict[str, int] = {}  # the steps that all writers of a block wait for
    for step, (node, before) in enumerate(waits.items()):
        for value in (*node.inputs, *node.outputs):
            place = in_place.place_of(storage_of(value))
            touched[place] = touched.get(place, 0) | 1 << step
        for value in node.outputs:
            place = in_place.place_of(storage_of(value))
            waited[place] = waited.get(place, -1) & before
    order = list(waits.values())
    known = {
        block: (1 << block.first, order[block.first]) if block.workspace else (touched[block.name], waited[block.name])
        for block in blocks
    }

    def together(one: Block, other: Block) -> bool:
        (users, start), (other_users, other_start) = known[one], known[other]
        return bool(users & ~other_start and other_users & ~start)

    return together


def _place(blocks: Sequence[Block], together: Together) -> dict[Block, int]:
    """Each block, in this order, in the tightest gap between those placed that live with it, or above them all."""
    places: dict[Block, int] = {}
    for block in blocks:
        taken = sorted((places[other], other.nbytes) for other in places if together(other, block))
        best, waste, end = None, 0, 0
        for start, size in taken:
            gap = start - end
            if gap >= block.nbytes and (best is None or gap < waste):
                best, waste = end, gap
            end = max(end, start + size)
        places[block] = end if best is None else best
    return places


def _extent(blocks: Sequence[Block], places: Mapping[Block, int]) -> int:
    return max((places[block] + block.nbytes for block in blocks), default=0)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
