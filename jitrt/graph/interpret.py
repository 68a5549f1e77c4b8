"""Run a graph in numpy: the reference target and the oracle of every test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jitrt.errors import InputError
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Array


def interpret(
    graph: Graph,
    inputs: Sequence[Array],
    *,
    exact: bool = False,
    observe: Callable[[Node, tuple[Array, ...]], None] | None = None,
) -> tuple[Array, ...]:
    """The outputs of `graph` on `inputs` (numpy arrays of the declared logical shapes).

    Every value is rounded to its declared dtype, as separate kernels would do. With `exact=True` floating values are
    kept in float64 between ops and never rounded: the yardstick for a fused kernel. `observe` sees each node's outputs.
    Values are dropped after their last use. Raises InputError if an input does not fit.
    """
    if len(inputs) != len(graph.inputs):
        raise InputError(f"graph {graph.name} takes {len(graph.inputs)} inputs, got {len(inputs)}")
    env: dict[Value, Array] = {}
    for value, array in zip(graph.inputs, inputs, strict=True):
        if tuple(array.shape) != value.type.shape:
            raise InputError(f"input %{value.name} has shape {tuple(array.shape)}, expected {value.type.shape}")
        env[value] = _round(np.asarray(array), value, exact)
    for value in graph.constants.values():
        assert value.data is not None
        env[value] = _round(value.data, value, exact)
    remaining = {value: len(value.uses) for value in graph.values()}
    keep = set(graph.outputs)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = node.op.eval(*(env[v] for v in node.inputs))
            for value, result in zip(node.outputs, results, strict=True):
                env[value] = _round(result, value, exact)
            if observe is not None:
                observe(node, tuple(env[v] for v in node.outputs))
            for value in node.inputs:
                remaining[value] -= 1
                if remaining[value] == 0 and value not in keep:
                    env.pop(value, None)
    return tuple(env[v] for v in graph.outputs)


def _round(array: Array, value: Value, exact: bool) -> Array:
    wanted = value.type.dtype
    if exact and wanted.is_float:
        return array.astype(np.float64, copy=False)
    return array.astype(wanted.numpy, copy=False)
