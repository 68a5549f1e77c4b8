"""Models from other frameworks: exported as their users do, and run here.

The tests in this folder need the packages of the extra `frameworks` and take seconds to minutes each, so they are
marked slow; where a package is missing they are skipped and say which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

import jitrt
from jitrt.compiler import Options, optimize_graph
from jitrt.frontend.onnx import import_onnx
from jitrt.graph import Graph, Node
from jitrt.graph.ops import Region


def operators(model: onnx.ModelProto) -> set[str]:
    """Names of the operators a model has, those of ONNX without a domain."""
    return {f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node}


def agrees(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], wanted: Sequence[np.ndarray], *, tolerance: float = 1e-4
) -> None:
    """Run a model on the reference target, all of it in jitrt's own ops, and compare with what its framework says:
    labels exactly, numbers relative to the largest one."""
    engine = jitrt.compile(model, dict(inputs), target="reference", strict=True)
    found = engine(*inputs.values())
    results = found if isinstance(found, list | tuple) else [found]
    assert len(results) == len(wanted)
    for ours, theirs in zip(results, wanted, strict=True):
        assert ours.shape == theirs.shape
        if theirs.dtype.kind == "i":
            assert ours.dtype.kind == "i"
            np.testing.assert_array_equal(ours, theirs)
        else:
            largest = float(np.abs(theirs).max())
            assert largest > 0, "a model that says nothing shows nothing"
            np.testing.assert_allclose(ours / largest, theirs / largest, atol=tolerance)


def kernels(graph: Graph, precision: str = "fp16") -> Graph:
    """A graph as its kernels compute it."""
    return optimize_graph(graph, Options(precision=precision)).graph


def kernels_of(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    return kernels(import_onnx(model, shapes=shapes).graph)


def op_names_of(node: Node) -> list[str]:
    """The ops inside one kernel; none of what is no kernel."""
    return [inner.op.name for inner in node.op.body.nodes] if isinstance(node.op, Region) else []


def op_names(graph: Graph) -> list[str]:
    """The ops inside all kernels of a graph, in order."""
    return [name for node in graph.nodes for name in op_names_of(node)]


def layout_copies(graph: Graph) -> list[str]:
    """The regions of a graph that move a tensor as a whole into another order, beside its inputs and outputs."""
    copies = []
    for region in graph.nodes:
        if not isinstance(region.op, Region) or region.output in graph.outputs:
            continue
        moves = set(op_names_of(region)) <= {"cast", "contiguous"}
        if moves and not any(value in graph.inputs for value in region.inputs):
            copies.append(f"{region.inputs[0].type} -> {region.output.type}")
    return copies
