"""How a pass is tested: a graph before, the graph expected after, both as text; and the answers must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from jitrt.graph import Graph, interpret, parse, verify
from jitrt.graph.numbered import numbered
from jitrt.graph.op import Array
from jitrt.passes import PassContext, Report

Run = Callable[[Graph, PassContext], None]


@dataclass(frozen=True)
class Outcome:
    """A graph after a pass, and what the pass reported."""

    graph: Graph
    report: Report

    @property
    def done(self) -> list[str]:
        return [decision.text for decision in self.report if decision.applied]

    @property
    def refused(self) -> list[str]:
        return [decision.text for decision in self.report if not decision.applied]


def canonical(graph: Graph) -> Graph:
    """The same graph with values numbered in order and constants in order of first use: two graphs that differ only in
    names become equal. Inputs and outputs keep their names."""
    return numbered(graph, keep={*graph.inputs, *graph.outputs})


def inputs_for(graph: Graph) -> list[Array]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs]


@pytest.fixture
def rewrites() -> Callable[..., Outcome]:
    """`rewrites(pass, before, after, **context)`: run the pass on `before`, compare with `after` (None: unchanged)."""

    def check(
        run: Run, before: str | Graph, after: str | None = None, *, tolerance: float = 1e-5, **context: Any
    ) -> Outcome:
        graph = parse(before) if isinstance(before, str) else before.clone()
        verify(graph)
        original = graph.clone()
        settings = PassContext(pass_name=run.__name__, **context)
        run(graph, settings)
        verify(graph)
        expected = original if after is None else parse(after)
        assert str(canonical(graph)) == str(canonical(expected))
        inputs = inputs_for(original)
        for actual, wanted in zip(interpret(graph, inputs, exact=True), interpret(original, inputs, exact=True)):
            np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance)
        return Outcome(graph, settings.report)

    return check


@pytest.fixture
def apply() -> Callable[..., Outcome]:
    """`apply(pass, graph, **context)`: run the pass on a copy, verified, and return what came of it."""

    def run_on(run: Run, before: str | Graph, **context: Any) -> Outcome:
        graph = parse(before) if isinstance(before, str) else before.clone()
        settings = PassContext(pass_name=run.__name__, **context)
        run(graph, settings)
        verify(graph)
        return Outcome(graph, settings.report)

    return run_on
