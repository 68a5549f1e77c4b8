"""The engine of a graph of which some may run on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from jitrt import compiler
from jitrt.compiler import Options
from jitrt.errors import CompileError
from jitrt.graph import Graph, Node
from jitrt.hybrid.cut import cut
from jitrt.hybrid.engine import HybridEngine
from jitrt.hybrid.prepare import Prepared, prepare
from jitrt.hybrid.steps import forbid, imported_steps, steps_of, uncovered
from jitrt.reference import ReferenceEngine
from jitrt.runtime import Engine

Build = Callable[[Graph, Options, object], Engine]  # of (graph, options, structure of the outputs)


def build_with_fallback(
    graph: Graph,
    options: Options,
    *,
    target: str | Sequence[str] | None = None,
    structure: object = None,
    strict: bool = False,
    build: Build | None = None,
    began: float | None = None,
) -> Engine | ReferenceEngine | HybridEngine:
    """The engine of a graph, of which what has no kernel runs on the host. `target` may be "reference": then all of it
    does, in numpy. `build` makes the engine of a part, by default `jitrt.compiler.build` for the target; `began` as
    there, for the first part.

    Raises FallbackError if there are such steps and `strict` forbids them, else what `jitrt.compiler.build` raises.
    """
    steps = imported_steps(graph)
    if target == "reference":
        if strict:
            forbid(steps_of(graph, steps))
        return ReferenceEngine(compiler.optimize_for_reference(graph, options).graph, structure)

    def by_compiler(part: Graph, options: Options, structure: object) -> Engine:
        nonlocal began
        since, began = began, None
        return compiler.build(part, options, target=target, structure=structure, began=since)

    make = build or by_compiler
    whole = prepare(graph, options.outputs)
    if not steps and not whole.changed:
        try:
            return make(graph, options, structure)
        except CompileError:
            if not uncovered(graph, options, target):
                raise
    return _in_parts(whole, replace(options, outputs=None), target, structure, strict, make)


def _listed(graph: Graph) -> list[dict[str, int]]:
    """The structure of all results in a list: an engine's own outputs are distinct, two results may be one of them."""
    return [{"output": index} for index in range(len(graph.outputs))]


def _in_parts(
    whole: Prepared,
    options: Options,
    target: str | Sequence[str] | None,
    structure: object,
    strict: bool,
    make: Build,
) -> HybridEngine:
    graph, host = whole.graph, imported_steps(whole.graph)
    producers = {value.name: node for node in graph.nodes for value in node.outputs}

    def without_kernel(part: Graph) -> dict[Node, str]:
        found = uncovered(part, options, target)
        return {producers[node.outputs[0].name]: reason for node, reason in found.items()}

    if strict:
        found = [without_kernel(part.graph) for part in cut(graph, host) if not part.host]
        forbid(steps_of(graph, {node: why for each in (host, *found) for node, why in each.items()}))
    engines: dict[str, Engine] = {}  # by text: a part is the same after another one was cut again
    while True:
        refused: dict[Node, str] = {}
        parts = cut(graph, host)
        for part in parts:
            key = str(part.graph)
            if part.host or key in engines:
                continue
            try:
                engines[key] = make(part.graph, options, _listed(part.graph))
            except CompileError:
                without = without_kernel(part.graph)
                if not without:
                    raise
                refused |= without
        if not refused:
            break
        host |= refused
    steps = steps_of(graph, host)
    placed = [(part, None if part.host else engines[str(part.graph)]) for part in parts]
    return HybridEngine(whole, placed, steps, structure)
