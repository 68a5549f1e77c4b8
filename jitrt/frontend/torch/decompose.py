"""Operators without an importer of their own, as the operators PyTorch makes them of.

Only these: what has an importer stays whole, since one node says more than the ten it can be taken apart into.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._dynamo.convert_frame import compile_lock
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx

from jitrt.frontend.torch.autocast import Regions, entered


def decompose(node: torch.fx.Node, regions: Regions) -> torch.fx.GraphModule | None:
    """The graph of an operator node, from its input nodes (`node.all_input_nodes`, in order) to its results, with the
    casts of the autocast regions it lies in; None if PyTorch does not say what the operator is made of."""
    target, operands = node.target, node.all_input_nodes
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if target not in decomposition_table and not target._can_decompose():
        return None
    examples = [operand.meta.get("val") for operand in operands]
    if not all(isinstance(example, torch.Tensor) for example in examples):
        return None
    mode = detect_fake_mode(examples)
    if mode is None:
        return None

    def call(*tensors: torch.Tensor) -> list[Any]:
        given = dict(zip(operands, tensors, strict=True))
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), given.__getitem__)
        result = target(*args, **kwargs)
        return list(result) if isinstance(result, (tuple, list)) else [result]

    # This operator alone: those it is made of may have importers.
    table = {target: decomposition_table[target]} if target in decomposition_table else {}
    with compile_lock, torch.no_grad(), entered(regions), mode:
        graph: torch.fx.GraphModule = make_fx(call, decomposition_table=table)(*examples)
    if any(inner.target is target for inner in graph.graph.nodes):
        return None  # it is made of itself
    return graph
