"""Outputs of a graph that share memory with its inputs: `y = x.t()`. An engine's outputs are its own, but whoever
writes to such a one (after a graph break, perhaps) must find it in the input too: PyTorch makes these, as views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from jitrt.frontend.torch.scope import storage_key

Views = dict[int, Callable[..., torch.Tensor]]


def views_of(program: ExportedProgram) -> Views:
    """What makes each output that is a view of an input, by its number, from the flat inputs."""
    placeholders = program.graph.find_nodes(op="placeholder")
    kinds = [spec.kind for spec in program.graph_signature.input_specs]
    inputs = [node for node, kind in zip(placeholders, kinds, strict=True) if kind == InputKind.USER_INPUT]
    shared = {key for key in map(storage_key, inputs) if key is not None}
    outputs = program.graph.output_node().args[0]
    assert isinstance(outputs, Sequence)
    views: Views = {}
    for number, output in enumerate(outputs):
        if isinstance(output, fx.Node) and storage_key(output) in shared:
            view = _cut_out(program.graph_module, inputs, output)
            if view is not None:
                views[number] = view
    return views


def _cut_out(module: fx.GraphModule, inputs: Sequence[fx.Node], output: fx.Node) -> fx.GraphModule | None:
    """The part of a graph that makes `output`; None if more than inputs goes into it."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            for operand in node.all_input_nodes:
                copy(operand)
            copies[node] = graph.node_copy(node, copies.__getitem__)
        return copies[node]

    needed, waiting = set(inputs), [output]
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder" and node not in needed:
            return None
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    graph.output(copy(output))
    return fx.GraphModule(module, graph)
