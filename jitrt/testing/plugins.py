"""Check what users bring: a plugin's kernel against its reference, a rule's rewrite against what it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.interpret import interpret
from jitrt.graph.types import TensorType
from jitrt.graph.verify import verify
from jitrt.kernels.base import templates
from jitrt.passes.base import PassContext
from jitrt.passes.pattern import PatternRule
from jitrt.plugins.registry import find
from jitrt.testing.check import check_problem, make_problem
from jitrt.tune.operands import draw
from jitrt.tune.tolerance import disagreement, tolerance


def check_plugin(
    name: str,
    *operands: TensorType | Sequence[int],
    dtype: str = "f32",
    target: Target = TARGETS[90],
    **attributes: Any,
) -> None:
    """Run every configuration of a plugin in Triton's interpreter, on operands of these types (or shapes, of `dtype`),
    and compare with its reference: on random numbers, and on NaN, infinities and zeros unless it lets those spread.

    Raises KernelError saying what is wrong and at which element first, or that something was written outside the
    result; PluginError or ShapeError for operands that the plugin does not take. Small, odd shapes find most.

    >>> check_plugin("ns::swish_add", (3, 37), (3, 37), dtype="f16")       # doctest: +SKIP
    """
    plugin = find(name)
    body = Graph("region")
    types = [x if isinstance(x, TensorType) else TensorType(DType(dtype), tuple(x)) for x in operands]
    values = [body.add_input(label, type) for label, type in zip(plugin.operands, types)]
    body.mark_output(body.add(plugin.op(**attributes), *values))
    problem = make_problem(body)
    template = templates()["pointwise" if plugin.elementwise else name]
    configs = template.candidates(problem, target)[: 1 if plugin.elementwise else None]
    for config in configs:
        template.lower(problem, config, target)  # a declaration that cannot be used says so here
    check_problem(problem, template, configs, target=target)


def check_rule(rule: PatternRule, graph: Graph) -> Graph:
    """The graph with a rule applied wherever it fits, after seeing that it means the same on random inputs.

    Raises KernelError if it does not, or if the rule fits nowhere (with its reasons).

    >>> check_rule(rule, graph)                                            # doctest: +SKIP
    """
    after, context = graph.clone(), PassContext()
    matches = rule.find(after, context)
    if not matches:
        told = "; ".join(decision.text for decision in context.report) or "nothing fits its pattern"
        raise KernelError(f"rule {rule.name}: {told}")
    for match in matches:
        rule.rewrite(after, match.values)
    verify(after)
    rng = np.random.default_rng(0)
    arrays = [draw(value.type, rng) for value in graph.inputs]
    pairs = zip(interpret(graph, arrays, exact=True), interpret(after, arrays, exact=True), strict=True)
    for output, (wanted, got) in zip(graph.outputs, pairs, strict=True):
        wrong = disagreement(got, wanted, output.type.dtype, tolerance(output.type.dtype))
        if wrong is not None:
            raise KernelError(f"rule {rule.name} changes what %{output.name} means: {wrong}")
    return after
