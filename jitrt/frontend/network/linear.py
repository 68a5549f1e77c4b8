"""Matrix products."""

from __future__ import annotations

from typing import Any

from jitrt.frontend.layers import linear as layers
from jitrt.frontend.network.frame import Frame, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import Value


@layer
def add_linear(
    net: Frame, x: Tensor, features: int, *, weights: Any, bias: Any = None, name: str | None = None
) -> Value:
    """Fully connected layer over the last dimension: x (..., c) times weights (features, c) transposed, plus bias
    (features,)."""
    value = net.value(x)
    if value.type.rank == 0:
        net.refuse("x is a single number; it needs a last dimension to be multiplied along")
    (k,) = net.sizes("features", features, 1)
    dtype = value.type.dtype
    w = net.weights("weights", weights, (k, value.type.shape[-1]), dtype, "features, last dimension of x")
    return layers.linear(net.builder, value, w, net.optional_weights("bias", bias, (k,), dtype, "one number a feature"))


@layer
def add_matmul(
    net: Frame,
    a: Any,
    b: Any,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    name: str | None = None,
) -> Value:
    """numpy's matmul: (..., m, c) times (..., c, k); leading dimensions broadcast. Either operand may be an array.

    A transposed operand has its last two dimensions exchanged first.
    """
    left, right = (net.parameter(which, x) for which, x in (("a", a), ("b", b)))
    if transpose_a:
        left = _transposed(net, left)
    if transpose_b:
        right = _transposed(net, right)
    if 0 in (left.type.rank, right.type.rank):
        net.refuse("an operand is a single number; use add_elementwise('mul', ...)")
    return layers.matmul(net.builder, left, right)


def _transposed(net: Frame, x: Value) -> Value:
    if x.type.rank < 2:
        net.refuse(f"an operand of shape {x.type.shape} has no two dimensions to exchange")
    return net.builder.permute(x, (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2))
