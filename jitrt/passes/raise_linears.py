"""A product with a constant matrix is a linear layer.

    matmul(x, w)  ->  linear(x, w.T)

Linear layers read rows in as many dimensions as they come, merge with their siblings, and their weights are stored as
their kernels want them. Biases and scales that follow are then those of a linear layer, too.
"""

from __future__ import annotations

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Value
from jitrt.graph.ops import Linear, Matmul
from jitrt.passes.apply_rules import claimed
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass

_KERNELS = (DType.f32, DType.f16, DType.bf16)


def raise_linears(graph: Graph, context: PassContext) -> None:
    """Rewrite every product whose right operand is a constant of rank 2; one that several read is transposed once."""
    claims, transposed = claimed(graph, context), dict[Value, Value]()
    for node in list(graph.nodes):
        if not isinstance(node.op, Matmul):
            continue
        x, w = node.inputs
        if w.data is None or w.type.rank != 2:
            continue
        reason = f"it has no {x.type.dtype.value} kernel" if x.type.dtype not in _KERNELS else None
        if node in claims:
            reason = f"rule {claims[node]} is written for it"
        if reason is not None:
            context.refused(node, f"not raised to linear: {reason}")
            continue
        if w not in transposed:
            transposed[w] = graph.add_constant(np.ascontiguousarray(w.data.T), w.name)
        linear = graph.append(Linear(node.op.tf32), [x, transposed[w]], loc=node.loc, before=node)
        bypass(graph, node, linear.output)
        context.applied(linear, "matmul by a constant is a linear layer")
    graph.drop_unused_constants()
