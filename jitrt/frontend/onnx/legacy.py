"""What operators of opsets before 7 said otherwise."""

from __future__ import annotations

from jitrt.frontend.onnx.node import Call
from jitrt.graph.graph import Value


def aligned(n: Call, a: Value, b: Value) -> Value:
    """The second operand of an elementwise operator with dimensions for numpy's broadcasting: up to opset 6 attribute
    `axis` says which dimension of the first its own begin at (by default they end where those of the first end)."""
    axis = n.attribute("axis")
    if n.opset >= 7 or axis is None or not n.attribute("broadcast", 0):
        return b
    after = a.type.rank - axis % max(a.type.rank, 1) - b.type.rank
    if after < 0:
        n.refuse(f"axis={axis}: {b.type} does not fit into {a.type} from there on")
    return n.b.reshape(b, (*b.type.shape, *[1] * after))
