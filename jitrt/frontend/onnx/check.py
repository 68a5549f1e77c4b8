"""What must hold of an ONNX model before its nodes are walked, in one pass over everything in it.

A model is somebody else's file: nothing here trusts it, takes more than linear time in its size, or recurses deeper
than `Limits.depth`. What only shows with shapes (an axis out of range, say) is the importer's to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx

from jitrt.errors import ModelError
from jitrt.frontend.onnx.rules import attribute_complaint, rules_of

Key = tuple[str, str, str]  # a function: domain, name, overload


@dataclass(frozen=True)
class Limits:
    """How much of a model is walked: `depth` subgraphs and functions inside each other; `nodes` in all, those of a
    function counted at each call and those of a loop's body each time it is unrolled; bytes of the model's `file`;
    bytes to which what is written out (sparse tensors, ranges, masks) may `grow` in all."""

    depth: int = 48
    nodes: int = 250_000
    file: int = (1 << 31) - 1  # protobuf's own
    grow: int = 1 << 30


def check(model: onnx.ModelProto, limits: Limits) -> None:
    """Raise ModelError, which names the node, value or function, unless the model holds together."""
    opsets = _versions(model)
    functions = _functions(model)
    walk = _Walk(opsets, frozenset(functions), limits)
    calls: dict[Key, list[Key]] = {}
    sizes: dict[Key, tuple[int, int]] = {}
    for key, function in functions.items():
        walk.begin(_opsets(function.opset_import, f"function {function.name!r}"), in_function=True)
        where = f"function {function.name!r}"
        names = _unique(function.input, f"input of {where}")
        _unique([*function.attribute, *(a.name for a in function.attribute_proto)], f"attribute of {where}")
        walk.nodes(function.node, (names,), 1)
        _need(function.output, (names,), f"output of {where}")
        calls[key], sizes[key] = walk.calls, (walk.count, walk.deepest)
    walk.begin(opsets, in_function=False)
    walk.graph(model.graph, (), 1)
    if not model.graph.output:
        raise ModelError("the model has no outputs")
    _bound(walk.calls, (walk.count, walk.deepest), calls, sizes, limits)


def called(node: onnx.NodeProto, position: int) -> str:
    """What errors call a node: its name, its first result's, or its position; and its operator."""
    return f"{node.name or next(iter(node.output), '') or position} ({node.op_type})"


def operator_of(node: onnx.NodeProto) -> str:
    """A node's operator, with its domain if that is not ONNX's own."""
    domain = domain_of(node.domain)
    return f"{domain}::{node.op_type}" if domain else node.op_type


class _Walk:
    """One pass over a graph and its subgraphs, or a function's body; counts what is in it and whom it calls."""

    def __init__(self, opsets: Mapping[str, int], functions: frozenset[Key], limits: Limits):
        self.functions = functions
        self.limits = limits
        self.begin(opsets, in_function=False)

    def begin(self, opsets: Mapping[str, int], *, in_function: bool) -> None:
        self.opsets = opsets
        self.in_function = in_function
        self.count = 0
        self.deepest = 1
        self.calls: list[Key] = []

    def graph(self, graph: onnx.GraphProto, scopes: tuple[set[str], ...], depth: int) -> None:
        where = f"graph {graph.name!r}"
        self.deepest = max(self.deepest, depth)
        inputs = _unique((info.name for info in graph.input), f"input of {where}")
        held = [tensor.name for tensor in graph.initializer]
        held += [sparse.values.name for sparse in graph.sparse_initializer]
        names = inputs | _unique(held, f"initialiser of {where}")
        self.nodes(graph.node, (*scopes, names), depth)
        _need((info.name for info in graph.output), (*scopes, names), f"output of {where}")

    def nodes(self, nodes: Sequence[onnx.NodeProto], scopes: tuple[set[str], ...], depth: int) -> None:
        """Check nodes in order; their results join the innermost scope."""
        own = scopes[-1]
        for position, node in enumerate(nodes):
            if not all(isinstance(text, str) for text in (node.name, node.op_type, node.domain, node.overload)):
                raise ModelError(f"node {position}: its name, operator or domain is no text")
            if not node.op_type:
                raise ModelError(f"node {called(node, position)} has no operator")
            for name in node.input:
                if name and not any(name in scope for scope in scopes):
                    raise ModelError(f"node {called(node, position)} reads {_unseen(name, nodes[position:])}")
            self.node(node, position, scopes, depth)
            for name in node.output:
                if name in own:
                    raise ModelError(f"node {called(node, position)} computes {name!r}, a name that is already taken")
                if not isinstance(name, str):
                    raise ModelError(f"node {called(node, position)}: the name of a result is no text: {name!r}")
                if name:
                    own.add(name)
        self.count += len(nodes)

    def node(self, node: onnx.NodeProto, position: int, scopes: tuple[set[str], ...], depth: int) -> None:
        domain = domain_of(node.domain)
        seen: set[str] = set()
        for attribute in node.attribute:
            if attribute.name in seen or not isinstance(attribute.name, str) or not attribute.name:
                raise ModelError(f"node {called(node, position)}: attribute {attribute.name!r} twice, or no name")
            seen.add(attribute.name)
            complaint = attribute_complaint(attribute, in_function=self.in_function)
            if complaint:
                raise ModelError(f"node {called(node, position)}: attribute {attribute.name!r} {complaint}")
            for graph in _graphs(attribute):
                if depth >= self.limits.depth:
                    raise ModelError(f"node {called(node, position)}: subgraphs nest deeper than {self.limits.depth}")
                self.graph(graph, scopes, depth + 1)
        key = (domain, node.op_type, node.overload)
        if key in self.functions:
            self.calls.append(key)
            return
        if domain == "" and domain not in self.opsets:
            raise ModelError(f"node {called(node, position)}: opset_import does not name ONNX's own operators")
        rules = rules_of(node.op_type, self.opsets.get(domain, 1), domain)
        complaint = rules.complaint(node, seen) if rules else None
        if complaint:
            raise ModelError(f"node {called(node, position)}: {complaint}")


def domain_of(name: str) -> str:
    """A domain's one name: ONNX's own has two."""
    return "" if name == "ai.onnx" else name


# -- versions ------------------------------------------------------------------------------------------------------


def _versions(model: onnx.ModelProto) -> dict[str, int]:
    if not model.HasField("graph"):
        raise ModelError("there is no graph in it: not an ONNX model")
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"IR version {model.ir_version}; the installed onnx {onnx.__version__} knows 1 to {onnx.IR_VERSION}: "
            "install a newer one, or export for an older"
        )
    return _opsets(model.opset_import, "the model")


def _opsets(entries: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    opsets: dict[str, int] = {}
    newest = _newest()
    for entry in entries:
        domain, version = domain_of(entry.domain), entry.version
        called_ = f"opset {version}{f' of {domain!r}' if domain else ''}"
        if opsets.setdefault(domain, version) != version:
            raise ModelError(f"{where} imports {called_} and {opsets[domain]} of the same operators")
        if not 1 <= version < 1 << 31:
            raise ModelError(f"{where} imports {called_}, which there is none of")
        if version > newest.get(domain, version):
            raise ModelError(
                f"{where} imports {called_}; the newest that the installed onnx {onnx.__version__} knows is "
                f"{newest[domain]}: install a newer one, or export for an older opset"
            )
    return opsets


@cache
def _newest() -> dict[str, int]:
    return {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}


# -- names and functions -------------------------------------------------------------------------------------------


def _unique(names: Iterable[Any], what: str) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise ModelError(f"an {what} has no name, or one that is no text: {name!r}")
        if name in seen:
            raise ModelError(f"there are two {name!r}, each an {what}")
        seen.add(name)
    return seen


def _need(names: Iterable[str], scopes: tuple[set[str], ...], what: str) -> None:
    for name in names:
        if not any(name in scope for scope in scopes):
            raise ModelError(f"{name!r}, an {what}, is computed by nothing")


def _unseen(name: Any, later: Sequence[onnx.NodeProto]) -> str:
    if any(name in node.output for node in later):
        return f"{name!r}, which is only computed later: the nodes form a cycle or are out of order"
    return f"{name!r}, which nothing before it computes"


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH and not attribute.ref_attr_name:
        yield attribute.g
    elif attribute.type == onnx.AttributeProto.GRAPHS:
        yield from attribute.graphs


def _functions(model: onnx.ModelProto) -> dict[Key, onnx.FunctionProto]:
    functions: dict[Key, onnx.FunctionProto] = {}
    for function in model.functions:
        key = (domain_of(function.domain), function.name, function.overload)
        if not function.name or not all(isinstance(part, str) for part in key):
            raise ModelError(f"a function has no name, or one that is no text: {function.name!r}")
        if key in functions:
            raise ModelError(f"there are two functions {function.name!r} of domain {function.domain!r}")
        functions[key] = function
    return functions


def _bound(
    roots: Sequence[Key],
    own: tuple[int, int],
    calls: Mapping[Key, Sequence[Key]],
    sizes: Mapping[Key, tuple[int, int]],
    limits: Limits,
) -> None:
    """Refuse functions that call each other in a circle, too deep, or to more nodes than `limits` when inlined."""
    totals: dict[Key, tuple[int, int]] = {}  # nodes when inlined, and how deep they go

    def total(size: tuple[int, int], callees: Sequence[Key]) -> tuple[int, int]:
        nodes = size[0] + sum(totals[key][0] for key in callees)
        return nodes, size[1] + max((totals[key][1] for key in callees), default=0)

    for root in dict.fromkeys([*roots, *calls]):
        path = [(root, iter(calls[root]))] if root not in totals else []
        open_keys = {root}
        while path:
            key, rest = path[-1]
            step = next((callee for callee in rest if callee not in totals), None)
            if step is None:
                path.pop()
                open_keys.discard(key)
                nodes, depth = totals[key] = total(sizes[key], calls[key])
                if depth > limits.depth:
                    raise ModelError(f"function {key[1]!r}: its calls nest deeper than {limits.depth}")
                if nodes > limits.nodes:
                    raise ModelError(f"function {key[1]!r} is more than {limits.nodes} nodes with those it calls")
            elif step in open_keys:
                circle = " -> ".join([*(name for (_, name, _), _ in path), step[1]])
                raise ModelError(f"functions call each other in a circle: {circle[-200:]}")
            else:
                open_keys.add(step)
                path.append((step, iter(calls[step])))
    nodes, depth = total(own, roots)
    if nodes > limits.nodes or depth > limits.depth:
        raise ModelError(
            f"with its functions inlined the model has {nodes} nodes, {depth} deep; jitrt imports at most "
            f"{limits.nodes}, {limits.depth} deep"
        )
