"""Patterns of ops, and rules that replace what matches one.

A pattern is written as the computation it stands for, in functions named like the ops:

    lambda g, x, y: g.add(g.mul(x, g.sigmoid(x)), y)

Its parameters beside `g` are variables, each one value. Attributes that are given must be equal, others may be
anything; a number matches a constant that holds nothing else. The operands of `add`, `mul` and the like match in either
order. Ops whose names are no identifiers are `g.op("ns::swish_add", x, y)`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jitrt.errors import PluginError
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import OPS
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, remove_dead
from jitrt.passes.proposal import Match

Number = bool | int | float
_COMMUTATIVE = ("add", "mul", "maximum", "minimum", "equal", "not_equal", "logical_and", "logical_or")


@dataclass(frozen=True)
class Variable:
    """Any one value, the same wherever the name stands."""

    name: str


@dataclass(frozen=True)
class Application:
    """An op by name, with the attributes that must be equal, on operands."""

    op: str
    operands: tuple[Term, ...]
    attributes: Mapping[str, Any]


Term = Variable | Application | Number


class _Ops:
    """`self.add(...)` is `self.op("add", ...)`."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *operands, **attributes: self.op(name, *operands, **attributes)

    def op(self, name: str, *operands: Any, **attributes: Any) -> Any:
        raise NotImplementedError


class _Writing(_Ops):
    """Makes a pattern."""

    def op(self, name: str, *operands: Any, **attributes: Any) -> Any:
        if name not in OPS:
            raise PluginError(f"there is no op {name!r}")
        fields = {field.name for field in dataclasses.fields(OPS[name])}
        unknown = attributes.keys() - fields
        if unknown:
            raise PluginError(f"{name} has no attribute {', '.join(sorted(unknown))}")
        return Application(name, operands, attributes)


class Rewriting(_Ops):
    """Adds nodes in the place of `root`: the `g` of a rule's `rewrite`."""

    def __init__(self, graph: Graph, root: Node):
        self.graph, self._root = graph, root

    def op(self, name: str, *operands: Any, **attributes: Any) -> Any:
        if name not in OPS:
            raise PluginError(f"there is no op {name!r}")
        first = next((x for x in operands if isinstance(x, Value)), None)
        if first is None:
            raise PluginError(f"{name} needs a value of the graph among its operands, not numbers alone")
        values = [x if isinstance(x, Value) else self.graph.scalar(x, first.type.dtype) for x in operands]
        made = self.graph.append(OPS[name](**attributes), values, loc=self._root.loc, before=self._root)
        return made.output


@dataclass(frozen=True)
class Found:
    """A place that a pattern fits: the value of each variable, and the nodes, the last of which makes the result."""

    values: Mapping[str, Value]
    nodes: tuple[Node, ...]

    def node(self, op: str) -> Node:
        """The first node of an op, for its attributes. Raises PluginError if there is none."""
        for node in self.nodes:
            if node.op.name == op:
                return node
        raise PluginError(f"the pattern has no {op}")


def write_pattern(pattern: Callable[..., Any]) -> Application:
    """The pattern that a function writes. Raises PluginError if it writes none."""
    names = [name for name in inspect.signature(pattern).parameters if name != "g"]
    written = call(pattern, {"g": _Writing(), **{name: Variable(name) for name in names}})
    if not isinstance(written, Application):
        raise PluginError(f"a pattern returns what an op of it makes, not {written!r}")
    return written


def match_at(pattern: Application, root: Node) -> Found | None:
    """How a pattern fits the graph that ends in `root`; None if it does not."""
    if len(root.outputs) != 1:
        return None
    for values, nodes in _match(pattern, root.output, {}):
        return Found(values, tuple(dict.fromkeys(nodes)))
    return None


_Partial = tuple[dict[str, Value], list[Node]]


def _match(term: Term, value: Value, values: dict[str, Value]) -> Iterator[_Partial]:
    """Every way that a term fits a value, given what variables are bound to."""
    if isinstance(term, Variable):
        if values.get(term.name, value) is value:
            yield {**values, term.name: value}, []
        return
    if not isinstance(term, Application):
        if value.data is not None and value.data.size == 1 and value.data.item() == term:
            yield values, []
        return
    node = value.producer
    if node is None or node.op.name != term.op or len(node.inputs) != len(term.operands):
        return
    if any(getattr(node.op, name) != wanted for name, wanted in term.attributes.items()):
        return
    orders = [list(node.inputs)]
    if term.op in _COMMUTATIVE:
        orders.append(orders[0][::-1])
    for operands in orders:
        for bound, nodes in _match_all(list(zip(term.operands, operands, strict=True)), values):
            yield bound, [*nodes, node]


def _match_all(pairs: Sequence[tuple[Term, Value]], values: dict[str, Value]) -> Iterator[_Partial]:
    if not pairs:
        yield values, []
        return
    (term, value), *rest = pairs
    for bound, nodes in _match(term, value, values):
        for all_bound, more in _match_all(rest, bound):
            yield all_bound, [*nodes, *more]


@dataclass(frozen=True)
class PatternRule:
    """A `jitrt.passes.proposal.Rule` over ops: where `pattern` fits and `check` has no objection, `replace` builds
    what stands there instead. `judged` asks which is faster first. `source` is the digest of its definition."""

    name: str
    pattern: Application
    replace: Callable[..., Any]
    check: Callable[..., str | None] | None
    judged: bool
    source: str

    def find(self, graph: Graph, context: PassContext) -> list[Match]:
        """Last places first, none of which share a node."""
        matches: list[Match] = []
        taken: set[Node] = set()
        for root in reversed(graph.nodes):
            found = match_at(self.pattern, root)
            if found is None or not taken.isdisjoint(found.nodes):
                continue
            reason = _read_elsewhere(graph, found) or self._objection(found)
            if reason is not None:
                context.refused(root, f"not replaced: {reason}")
                continue
            taken.update(found.nodes)
            text = " + ".join(node.op.name for node in found.nodes)
            matches.append(Match(tuple(node.output for node in found.nodes), f"{text} replaced"))
        return matches

    def rewrite(self, graph: Graph, values: Sequence[Value]) -> None:
        """Raises PluginError if what `replace` builds is no value of the type that it stands for."""
        root = values[-1].producer
        assert root is not None
        found = match_at(self.pattern, root)
        assert found is not None
        wanted = root.output
        made = self._call("rewrite", self.replace, {**found.values, "g": Rewriting(graph, root), "match": found})
        if not isinstance(made, Value):
            raise PluginError(f"rule {self.name}: rewrite returns a {type(made).__name__}, not a value of the graph")
        if made.type.logical() != wanted.type.logical():
            raise PluginError(f"rule {self.name}: rewrite makes {made.type.logical()} of {wanted.type.logical()}")
        name, is_output = wanted.name, wanted in graph.outputs
        if not bypass(graph, root, made):
            raise PluginError(f"rule {self.name}: an output of the graph would be one of its inputs or constants")
        if not is_output and made.producer is not None:
            graph.rename(made, name)
        remove_dead(graph)

    def _objection(self, found: Found) -> str | None:
        if self.check is None:
            return None
        reason = self._call("check", self.check, {**found.values, "match": found})
        if reason is not None and not isinstance(reason, str):
            raise PluginError(
                f"rule {self.name}: check returns {reason!r}; return None where the rule may be applied, and a text "
                "that says why where it may not"
            )
        return reason

    def _call(self, what: str, function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        try:
            return call(function, given)
        except Exception as error:  # the user's own code raises what it likes
            told = str(error) if isinstance(error, PluginError) else f"raises {type(error).__name__}: {error}"
            raise PluginError(f"rule {self.name}: {what}: {told}") from error


def _read_elsewhere(graph: Graph, found: Found) -> str | None:
    for node in found.nodes[:-1]:
        value = node.output
        if value in graph.outputs or any(user not in found.nodes for user in value.users):
            return f"the result of {node.op.name} is read elsewhere too"
    return None


def call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call a user's function with those of `given` that it has parameters for. Raises PluginError for another one."""
    check_parameters(function, given)
    parameters = inspect.signature(function).parameters
    return function(**{name: value for name, value in given.items() if name in parameters})


def check_parameters(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Raise PluginError if a user's function has a parameter that is none of `given`."""
    parameters = inspect.signature(function).parameters
    unknown = [name for name, p in parameters.items() if name not in given and p.default is p.empty]
    if unknown:
        raise PluginError(f"takes {', '.join(unknown)}, but is offered {', '.join(given)}")
