"""Random small networks, from the graph to the launches of a plan, in any precision, with any of the candidates.

To look for longer: `python -m tests.properties.test_random_plans 500`.
"""

from __future__ import annotations

import random
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jitrt.compiler import Options, optimize_graph
from jitrt.graph import Graph, interpret
from jitrt.graph.ops import Greater, LayerNorm
from jitrt.runtime.loaded import nester
from jitrt.testing import plan_interpreted
from tests.properties.test_random_graphs import graphs

# Relative to the largest element, to the graph in float64 and to the optimised graph, rounded where kernels round.
BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 8e-2}


def check(graph: Graph, precision: str, seed: int, parallel: bool) -> None:
    """The plan of a graph, with candidates and an order drawn by `seed`, computes what the graph does."""
    if any(isinstance(node.op, Greater | LayerNorm) for node in graph.nodes):
        precision = "fp32"  # a comparison, and the norm of numbers that are nearly equal, make much of a rounding
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs]
    options = Options(precision, parallel=parallel)
    planned = plan_interpreted(graph, options, pick=random.Random(seed).choice)
    outputs = planned.run(inputs, seed=seed)
    results = nester(planned.plan.structure, len(outputs))(outputs)
    if precision == "fp32":
        expected = interpret(graph, inputs, exact=True)
    else:
        expected = interpret(optimize_graph(graph, options).graph, inputs)
    for actual, wanted in zip(results if len(expected) > 1 else [results], expected, strict=True):
        size = np.abs(wanted).max(initial=1.0)
        np.testing.assert_allclose(actual.astype(np.float64), wanted, rtol=0, atol=BOUNDS[precision] * size)


plans = given(graphs(), st.sampled_from(sorted(BOUNDS)), st.integers(0, 999), st.booleans())
test_plans_compute_what_the_graph_does = settings(max_examples=10)(plans(check))

if __name__ == "__main__":
    settings(max_examples=int(sys.argv[1]), deadline=None, derandomize=False, print_blob=True)(plans(check))()
