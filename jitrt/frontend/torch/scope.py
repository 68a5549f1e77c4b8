"""What each torch node stands for, and what an in-place write does to the tensors that share its memory.

The graph has no memory: every op makes a new value. A write `y.relu_()` therefore makes a new value and rebinds to it
every torch node that lies in the same storage, views included.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any

import torch

from jitrt.frontend.layers.index import put_slice
from jitrt.frontend.torch.complex import Complex
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import Unsupported
from jitrt.graph import Node, Trait, Value
from jitrt.graph.op import Op
from jitrt.graph.ops import Identity, Permute, Reshape, Slice


class Scope:
    """The bindings of one torch graph: node -> Value (or module, or tuple), dropped after the node's last use.

    `outer` is the scope of the graph that calls this one. A storage is what two tensors share if a write to one is
    seen through the other; it is found by comparing the fake tensors that tracing left on the nodes.
    """

    def __init__(self, graph: torch.fx.Graph, outer: Scope | None = None):
        self.outer = outer
        self.values: dict[torch.fx.Node, Any] = {}
        self.storages: dict[int, Hashable] = {}
        self.roots: set[Value] = outer.roots if outer else set()  # what storages hold since their last write
        position = {node: i for i, node in enumerate(graph.nodes)}
        self._last_read: dict[torch.fx.Node, list[torch.fx.Node]] = {}
        for node in graph.nodes:
            if node.users:
                self._last_read.setdefault(max(node.users, key=position.__getitem__), []).append(node)

    def bind(self, node: torch.fx.Node, value: Any, storage: Hashable = None) -> None:
        """Let `node` stand for `value`; `storage` is the caller's name for its memory, if it comes from outside."""
        self.values[node] = value
        key = storage_key(node)
        if storage is not None and key is not None:
            self.storages[key] = storage

    def storage(self, node: torch.fx.Node) -> Hashable:
        """The name of the memory a node's tensor lies in, the same for all that share it; None if it is no tensor."""
        key = storage_key(node)
        return None if key is None else self.storages.get(key, ("local", id(self), key))

    def release(self, reader: torch.fx.Node) -> None:
        """Forget the nodes that `reader` was the last to read, and itself if nobody reads it."""
        for node in (*self._last_read.get(reader, ()), *(() if reader.users else (reader,))):
            self.values.pop(node, None)

    def chain(self) -> Iterator[Scope]:
        """This scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def write(self, ctx: Context, node: torch.fx.Node, new: Value, part: Part) -> None:
        """The tensor of `node` (this part of it) now holds `new`: rebind it and whatever else lies in its storage and
        is still read.

        Raises Unsupported for a write through a view that cannot be followed.
        """
        old, storage = part.of(self.values[node]), self.storage(node)
        root, path = self._view_path(old)
        new_root, new_path = self._view_path(new)
        if new_root is root and [step.op for step in new_path] == [step.op for step in path]:
            return  # x[:3] += 1 writes its result twice: through the view, and then from the view to itself
        sharing = [
            (scope, other)
            for scope in self.chain()
            for other, value in scope.values.items()
            if isinstance(value, Value | Complex) and scope.storage(other) == storage
        ]
        if any(part not in parts_of(scope.values[other]) for scope, other in sharing):
            raise Unsupported("in-place, of what is seen as complex numbers and as real ones")
        if all(part.of(scope.values[other]) is old for scope, other in sharing):
            changed = {old: new}
        else:
            # Everything in this storage becomes a view of what its root now holds, the written tensor included.
            new_root = write_back(ctx, path, new)
            self.roots.add(new_root)
            changed = {}
            for value in dict.fromkeys(part.of(scope.values[other]) for scope, other in sharing):
                other_root, other_path = self._view_path(value)
                if other_root is not root:
                    raise Unsupported("in-place, through a view that jitrt cannot follow")
                changed[value] = replay(ctx, other_path, new_root)
        for scope, other in sharing:
            scope.values[other] = part.put(scope.values[other], changed[part.of(scope.values[other])])

    def _view_path(self, value: Value) -> tuple[Value, list[Node]]:
        """The value that `value` is a view of, and the view nodes that lead from there to it."""
        path: list[Node] = []
        while value not in self.roots and value.producer is not None and value.producer.has(Trait.VIEW):
            path.append(value.producer)
            value = value.producer.inputs[0]
        return value, path[::-1]


class Part(Enum):
    """What of a tensor a graph value stands for: all of it, or of a complex one its real or imaginary part."""

    WHOLE = ""
    REAL = "real"
    IMAG = "imag"

    def of(self, value: Any) -> Value:
        """This part of a Value or Complex."""
        return value if self is Part.WHOLE else getattr(value, self.value)

    def put(self, value: Any, new: Value) -> Any:
        """The same with this part replaced."""
        return new if self is Part.WHOLE else replace(value, **{self.value: new})


def parts_of(value: Value | Complex) -> tuple[Part, ...]:
    """What a value consists of."""
    return (Part.REAL, Part.IMAG) if isinstance(value, Complex) else (Part.WHOLE,)


def storage_key(node: torch.fx.Node) -> int | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    try:
        return value.untyped_storage()._cdata
    except NotImplementedError:  # a sparse tensor, or one inside torch.func
        return None


def replay(ctx: Context, path: list[Node], value: Value) -> Value:
    """The same views of another value."""
    for node in path:
        value = ctx.add(node.op, value)
    return value


def write_back(ctx: Context, path: list[Node], new: Value) -> Value:
    """What the root of a view path holds once the view at its end holds `new`."""
    for node in reversed(path):
        new = _write_one(ctx, node.op, node.inputs[0], new)
    return new


def _write_one(ctx: Context, op: Op, base: Value, new: Value) -> Value:
    """`base` after `new` was written through the view `op` of it."""
    match op:
        case Identity():
            return new
        case Reshape():
            return ctx.reshape(new, base.type.shape)
        case Permute():
            order = tuple(op.order.index(d) for d in range(len(op.order)))
            return ctx.permute(new, order)
        case Slice():
            return put_slice(ctx, base, new, op)
    raise Unsupported(f"in-place, through a view that jitrt cannot follow ({op.name})")
