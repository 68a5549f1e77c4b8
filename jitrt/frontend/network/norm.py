"""Normalisations, of floats. A weight left out is 1, a bias left out 0; parameters have the dtype of x."""

from __future__ import annotations

from typing import Any

from jitrt.frontend.layers import norm as layers
from jitrt.frontend.network.conv import spatial_dims
from jitrt.frontend.network.frame import Frame, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import Value


def _channels(net: Frame, x: Value) -> tuple[int]:
    if x.type.rank < 2:
        net.refuse(f"x has shape {x.type.shape}, expected (n, c, ...)")
    return (x.type.shape[1],)


@layer
def add_batch_norm(
    net: Frame,
    x: Tensor,
    *,
    mean: Any,
    var: Any,
    weights: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    name: str | None = None,
) -> Value:
    """(x - mean) / sqrt(var + eps) * weights + bias with given statistics, one number a channel (dimension 1) each."""
    value = net.floating(x)
    k, dtype = _channels(net, value), value.type.dtype
    w = net.optional_weights("weights", weights, k, dtype)
    b = net.optional_weights("bias", bias, k, dtype)
    statistics = net.weights("mean", mean, k, dtype), net.weights("var", var, k, dtype)
    return layers.batch_norm(net.builder, value, w, b, *statistics, net.number("eps", eps, least=0))


@layer
def add_layer_norm(
    net: Frame,
    x: Tensor,
    *,
    weights: Any = None,
    bias: Any = None,
    dims: int = 1,
    eps: float = 1e-5,
    name: str | None = None,
) -> Value:
    """(x - mean) / sqrt(var + eps) * weights + bias over the last `dims` dimensions; parameters have their shape."""
    value = net.floating(x)
    shape = _last(net, value, dims)
    w = net.optional_weights("weights", weights, shape, value.type.dtype)
    b = net.optional_weights("bias", bias, shape, value.type.dtype)
    return layers.layer_norm(net.builder, value, len(shape), w, b, net.number("eps", eps, least=0))


@layer
def add_rms_norm(
    net: Frame, x: Tensor, *, weights: Any = None, dims: int = 1, eps: float | None = None, name: str | None = None
) -> Value:
    """x / sqrt(mean(x * x) + eps) * weights over the last `dims` dimensions; without eps, the dtype's own."""
    value = net.floating(x)
    shape = _last(net, value, dims)
    w = net.optional_weights("weights", weights, shape, value.type.dtype)
    return layers.rms_norm(net.builder, value, len(shape), w, None if eps is None else net.number("eps", eps, least=0))


@layer
def add_group_norm(
    net: Frame,
    x: Tensor,
    groups: int,
    *,
    weights: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    name: str | None = None,
) -> Value:
    """(x - mean) / sqrt(var + eps) over each of `groups` groups of channels, times weights plus bias a channel."""
    value = net.floating(x)
    k = _channels(net, value)
    (number,) = net.sizes("groups", groups, 1)
    if k[0] % number:
        net.refuse(f"groups is {number}, which does not divide the {k[0]} channels of x")
    w = net.optional_weights("weights", weights, k, value.type.dtype)
    b = net.optional_weights("bias", bias, k, value.type.dtype)
    return layers.group_norm(net.builder, value, number, w, b, net.number("eps", eps, least=0))


@layer
def add_instance_norm(
    net: Frame, x: Tensor, *, weights: Any = None, bias: Any = None, eps: float = 1e-5, name: str | None = None
) -> Value:
    """Each channel of each image by its own mean and variance, times weights plus bias a channel."""
    value = net.floating(x)
    k = _channels(net, value)
    w = net.optional_weights("weights", weights, k, value.type.dtype)
    b = net.optional_weights("bias", bias, k, value.type.dtype)
    return layers.instance_norm(net.builder, value, w, b, net.number("eps", eps, least=0))


@layer
def add_lrn(
    net: Frame,
    x: Tensor,
    size: int,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    name: str | None = None,
) -> Value:
    """Local response normalisation: x / (k + alpha * mean of x * x over `size` neighbouring channels) ** beta."""
    value = net.floating(x)
    spatial_dims(net, value)
    (number,) = net.sizes("size", size, 1)
    numbers = (net.number(what, given) for what, given in (("alpha", alpha), ("beta", beta), ("k", k)))
    return layers.local_response_norm(net.builder, value, number, *numbers)


def _last(net: Frame, x: Value, dims: int) -> tuple[int, ...]:
    (number,) = net.sizes("dims", dims, 1)
    if number > x.type.rank:
        net.refuse(f"dims is {number}; x has {x.type.rank} dimensions")
    return x.type.shape[x.type.rank - number :]
