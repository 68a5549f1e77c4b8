"""Elements at given positions, and elements put there."""

from __future__ import annotations

from jitrt.frontend.layers import index as layers
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.shape import axis_of
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value


@onnx_op("Gather")
def gather(n: Call, x: Value, index: Value) -> Value:
    axis = axis_of(n, n.attribute("axis", 0), x.type.rank)
    steps = _progression(n, x, index, axis)
    if steps is None:
        return layers.take(n.b, x, index, axis)
    part = n.b.slice(x, axis, steps.start, steps[-1] + 1, steps.step)
    return n.b.reshape(part, (*x.type.shape[:axis], *index.type.shape, *x.type.shape[axis + 1 :]))


def _progression(n: Call, x: Value, index: Value, axis: int) -> range | None:
    """The known positions as a range that goes up, if they are one: a slice then takes them, which is a view."""
    known, size = n.known(index), x.type.shape[axis]
    if known is None or known.size == 0:
        return None
    at = [int(number) + size * (number < 0) for number in known.ravel()]
    if not all(0 <= number < size for number in at):
        n.refuse(f"positions {min(at)} to {max(at)} of a dimension of {size}")
    step = at[1] - at[0] if len(at) > 1 else 1
    if step <= 0:
        return None
    found = range(at[0], at[-1] + 1, step)
    return found if at == list(found) else None


@onnx_op("GatherElements")
def gather_elements(n: Call, x: Value, index: Value) -> Value:
    return layers.gather(n.b, x, index, axis_of(n, n.attribute("axis", 0), x.type.rank))
