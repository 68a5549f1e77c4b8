"""Graph, Node and Value, with use lists that edits keep true."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jitrt.errors import GraphError
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array, Op, Trait
from jitrt.graph.types import TensorType

_NOT_IN_NAMES = re.compile(r"[\s,(){}\[\]<>=@%'\"]")  # what the text form uses itself; front ends may hand in any name


def is_name(text: str) -> bool:
    """Whether a value may be called so: other names are changed to something the text form can hold."""
    return bool(text) and _NOT_IN_NAMES.search(text) is None


class Value:
    """One tensor of the graph: a graph input, a constant (`data` is set) or an output of `producer`."""

    __slots__ = ("_digest", "data", "name", "producer", "type", "uses")

    def __init__(self, name: str, type: TensorType, producer: Node | None = None, data: Array | None = None):
        self.name = name
        self.type = type
        self.producer = producer
        self.data = data
        self.uses: list[tuple[Node, int]] = []
        self._digest: str | None = None

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def users(self) -> list[Node]:
        """The nodes that read this value, each once, in order of first use."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    @property
    def digest(self) -> str:
        """SHA-256 of a constant's dtype, shape and row-major bytes, 16 hex digits."""
        if self.data is None:
            raise GraphError(f"%{self.name} is no constant")
        if self._digest is None:
            hasher = hashlib.sha256(str(self.type.logical()).encode())
            hasher.update(np.ascontiguousarray(self.data).tobytes())
            self._digest = hasher.hexdigest()[:16]
        return self._digest

    def __reduce__(self) -> Any:
        """Without producer and uses, which the graph puts back: a long chain would be a deep recursion."""
        return Value, (self.name, self.type, None, self.data)

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One application of an op. `loc` is the user's source line or the ONNX node's name."""

    __slots__ = ("inputs", "loc", "op", "outputs")

    def __init__(self, op: Op, inputs: list[Value], loc: str):
        self.op = op
        self.inputs = inputs
        self.outputs: list[Value] = []
        self.loc = loc

    @property
    def output(self) -> Value:
        """The only output. Raises GraphError if there are several."""
        if len(self.outputs) != 1:
            raise GraphError(f"{self.op.name} has {len(self.outputs)} outputs")
        return self.outputs[0]

    def has(self, trait: Trait) -> bool:
        return bool(self.op.traits & trait)

    def __reduce__(self) -> Any:
        """Without operands and results, which the graph puts back."""
        return Node, (self.op, [], self.loc)

    def __repr__(self) -> str:
        return f"{', '.join('%' + v.name for v in self.outputs)} = {self.op.name}"


class Graph:
    """A list of nodes in topological order, with inputs, constants and outputs.

    Edits (`replace_uses`, `erase`, `insert`) keep use lists true and may be made while iterating over `list(g.nodes)`.
    """

    def __init__(self, name: str = "graph"):
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self.constants: dict[str, Value] = {}
        self._names: set[str] = set()
        self._next = 0
        self._suffixes: dict[str, int] = {}  # the first that may be free, for a name that is taken

    # -- building ----------------------------------------------------------------------------------------------

    def add_input(self, name: str, type: TensorType) -> Value:
        value = Value(self._fresh(name), type)
        self.inputs.append(value)
        return value

    def add_constant(self, data: Array, name: str | None = None, type: TensorType | None = None) -> Value:
        """A constant. Its type is read off `data` unless given (to carry a layout)."""
        data = np.asarray(data)
        value = Value(self._fresh(name or "c"), type or TensorType(DType.of(data.dtype), data.shape), data=data)
        self.constants[value.name] = value
        return value

    def scalar(self, number: float | int | bool, dtype: DType) -> Value:
        """A constant of rank 0."""
        return self.add_constant(np.asarray(number).astype(dtype.numpy))

    def add(self, op: Op, *inputs: Value, loc: str = "", name: str | None = None) -> Value:
        """Append a one-output node and return its output."""
        return self.append(op, inputs, loc=loc, names=[name] if name else None).output

    def append(
        self,
        op: Op,
        inputs: Sequence[Value],
        *,
        loc: str = "",
        names: Sequence[str] | None = None,
        types: Sequence[TensorType] | None = None,
        before: Node | None = None,
    ) -> Node:
        """Add a node at the end, or just before `before`. `types` overrides `op.infer` (to carry layouts)."""
        out_types = types if types is not None else op.infer(*(v.type for v in inputs))  # first: it may raise
        node = Node(op, list(inputs), loc)
        for index, value in enumerate(node.inputs):
            value.uses.append((node, index))
        for index, type in enumerate(out_types):
            node.outputs.append(Value(self._fresh(names[index] if names else None), type, producer=node))
        if before is None:
            self.nodes.append(node)
        else:
            self.nodes.insert(self.nodes.index(before), node)
        return node

    def mark_output(self, *values: Value) -> None:
        self.outputs.extend(values)

    # -- editing -----------------------------------------------------------------------------------------------

    def replace_uses(self, old: Value, new: Value) -> None:
        """Make every reader of `old`, graph outputs included, read `new`."""
        if old is new:
            return
        for node, index in old.uses:
            node.inputs[index] = new
            new.uses.append((node, index))
        old.uses = []
        self.outputs = [new if v is old else v for v in self.outputs]

    def set_input(self, node: Node, index: int, value: Value) -> None:
        """Make one operand of one node read `value`."""
        node.inputs[index].uses.remove((node, index))
        node.inputs[index] = value
        value.uses.append((node, index))

    def erase(self, node: Node) -> None:
        """Remove a node none of whose outputs is read. Raises GraphError otherwise."""
        for value in node.outputs:
            if value.uses or value in self.outputs:
                raise GraphError(f"cannot erase {node!r}: %{value.name} is still read")
        for index, value in enumerate(node.inputs):
            value.uses.remove((node, index))
        for value in node.outputs:
            self._discard(value.name)
        self.nodes.remove(node)

    def drop_unused_constants(self, among: Iterable[Value] | None = None) -> int:
        """Forget constants nobody reads (of all, or `among` these); returns how many."""
        candidates = list(self.constants.values() if among is None else among)
        outputs = set(self.outputs)
        dead = [v for v in candidates if not v.uses and v not in outputs]
        for value in dead:
            del self.constants[value.name]
            self._discard(value.name)
        return len(dead)

    def sort(self) -> None:
        """Put the nodes in topological order, keeping today's wherever that is legal. Raises GraphError on a cycle."""
        done: set[Node] = set()
        ordered: list[Node] = []
        for root in self.nodes:
            stack: list[tuple[Node, Iterator[Node]]] = []
            open_nodes: set[Node] = set()
            if root not in done:
                stack.append((root, _producers(root)))
                open_nodes.add(root)
            while stack:
                node, rest = stack[-1]
                step = next((p for p in rest if p not in done), None)
                if step is None:
                    stack.pop()
                    open_nodes.discard(node)
                    done.add(node)
                    ordered.append(node)
                elif step in open_nodes:
                    raise GraphError(f"the graph has a cycle through {step!r}")
                else:
                    stack.append((step, _producers(step)))
                    open_nodes.add(step)
        self.nodes = ordered

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name, with a suffix if that one is taken. Layouts that name its storage follow."""
        self.rename_all({value: name})

    def rename_all(self, names: Mapping[Value, str]) -> None:
        """Give values other names, one after the other as `rename` does, in one pass over the graph."""
        changed = {}
        for value, name in names.items():
            old = value.name
            self._discard(old)
            value.name = self._fresh(name)
            changed[old] = value.name
        self.constants = {v.name: v for v in self.constants.values()}
        for other in self.values():
            layout = other.type.layout
            if layout is not None and layout.storage in changed:
                other.type = other.type.with_layout(replace(layout, storage=changed[layout.storage]))

    def set_data(self, value: Value, data: Array) -> None:
        """Give a constant other contents; its type follows and loses its layout."""
        if not value.is_constant:
            raise GraphError(f"%{value.name} is no constant")
        value.data, value.type, value._digest = data, TensorType(DType.of(data.dtype), data.shape), None

    # -- reading -----------------------------------------------------------------------------------------------

    def values(self) -> Iterator[Value]:
        """Every value: inputs, constants, then node outputs in order."""
        yield from self.inputs
        yield from self.constants.values()
        for node in self.nodes:
            yield from node.outputs

    def clone(self) -> Graph:
        """A copy that shares ops and constant data but no Node or Value."""
        from jitrt.graph.rebuild import rebuild

        return rebuild(self)

    def text(self, *, locations: bool = True, names: bool = True) -> str:
        """The text form, which `parse` reads. Without `locations` and `names` it is what two graphs built in different
        ways have in common: the title is "_", values are numbered (see `numbered`), source lines left out."""
        from jitrt.graph.numbered import numbered
        from jitrt.graph.text import to_text

        if names:
            return to_text(self, locations=locations)
        graph = numbered(self)
        graph.name = "_"
        return to_text(graph, locations=locations)

    def __repr__(self) -> str:
        """One line; `str` gives the text form."""
        of, to = (", ".join(map(repr, values)) for values in (self.inputs, self.outputs))
        return f"Graph({self.name!r}, inputs [{of}], {len(self.nodes)} nodes, outputs [{to}])"

    def __str__(self) -> str:
        return self.text()

    def __eq__(self, other: object) -> bool:
        """Same text: same ops, attributes, types, names and constants (by digest)."""
        return isinstance(other, Graph) and str(self) == str(other)

    __hash__ = object.__hash__

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: nodes and values one by one, and beside them how they hang together."""
        nodes = [(node, node.inputs, node.outputs) for node in self.nodes]
        values = [(value, value.producer, value.uses) for value in self.values()]
        return {**vars(self), "_links": (nodes, values)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        nodes, values = state.pop("_links")
        vars(self).update(state)
        for node, inputs, outputs in nodes:
            node.inputs, node.outputs = inputs, outputs
        for value, producer, uses in values:
            value.producer, value.uses = producer, uses

    def _repr_html_(self) -> str:
        from jitrt.graph.html import to_html

        return to_html(self)

    def _fresh(self, wanted: str | None) -> str:
        if wanted is None:
            while str(self._next) in self._names:
                self._next += 1
            wanted = str(self._next)
        wanted = _NOT_IN_NAMES.sub("_", wanted)
        name, suffix = wanted, self._suffixes.get(wanted, 1)
        while name in self._names:
            name, suffix = f"{wanted}_{suffix}", suffix + 1
        if name != wanted:
            self._suffixes[wanted] = suffix
        self._names.add(name)
        return name

    def _discard(self, name: str) -> None:
        """Make a name free again."""
        self._names.discard(name)
        self._suffixes.clear()


def _producers(node: Node) -> Iterator[Node]:
    return iter([v.producer for v in node.inputs if v.producer is not None])


def anchors_of(graph: Graph) -> list[Node]:
    """The nodes that do real work (trait ANCHOR), in order."""
    return [node for node in graph.nodes if node.has(Trait.ANCHOR)]


def live_nodes(graph: Graph, roots: Iterable[Value] | None = None) -> set[Node]:
    """The nodes that the outputs (or `roots`) depend on."""
    stack = [v.producer for v in (graph.outputs if roots is None else roots) if v.producer is not None]
    live: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in live:
            continue
        live.add(node)
        stack.extend(_producers(node))
    return live
