"""Recurrent layers over a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jitrt.frontend.layers.rnn import Weights, recurrent
from jitrt.frontend.network.frame import Frame, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import DType, Value
from jitrt.graph.ops.rnn import GATES


@layer
def add_lstm(
    net: Frame,
    x: Tensor,
    hidden: int,
    *,
    weights: Mapping[str, Any],
    layers: int = 1,
    bidirectional: bool = False,
    projection: int = 0,
    batch_first: bool = False,
    h0: Any = None,
    c0: Any = None,
    cell: bool = False,
    name: str | None = None,
) -> tuple[Value, ...]:
    """LSTM over x (steps, batch, inputs), or (batch, steps, inputs) if `batch_first`, as torch.nn.LSTM.

    `weights` are called as in torch.nn.LSTM's state_dict (which may be given as it is): weight_ih_l0 (4 * hidden,
    inputs), weight_hh_l0 (4 * hidden, hidden), bias_ih_l0 and bias_hh_l0 (4 * hidden) or neither, with a projection
    weight_hr_l0 (projection, hidden), then _l1...; the second direction's end in _reverse. Gates in the order i f g o.

    Results in (y, h): the state after every step, directions side by side, and the last one of each layer and
    direction; with `cell` in (y, h, c). `h0` and `c0` are (layers * directions, batch, size), 0 unless given.
    """
    value = net.floating(x)
    h0, c0, parts = _checked(
        net, "lstm", value, hidden, weights, layers, bidirectional, projection, batch_first, h0, c0
    )
    out = recurrent(net.builder, "lstm", value, h0, c0, parts, batch_first=batch_first, cell=cell)
    return (out.y, out.h) if out.c is None else (out.y, out.h, out.c)


@layer
def add_gru(
    net: Frame,
    x: Tensor,
    hidden: int,
    *,
    weights: Mapping[str, Any],
    layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    h0: Any = None,
    name: str | None = None,
) -> tuple[Value, ...]:
    """GRU, as torch.nn.GRU: as `add_lstm`, with 3 * hidden rows of weights in the order r z n. Results in (y, h)."""
    value = net.floating(x)
    h0, _, parts = _checked(net, "gru", value, hidden, weights, layers, bidirectional, 0, batch_first, h0, None)
    out = recurrent(net.builder, "gru", value, h0, None, parts, batch_first=batch_first)
    return out.y, out.h


@layer
def add_rnn(
    net: Frame,
    x: Tensor,
    hidden: int,
    kind: str = "tanh",
    *,
    weights: Mapping[str, Any],
    layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    h0: Any = None,
    name: str | None = None,
) -> tuple[Value, ...]:
    """h = tanh (or relu) of W_ih x + W_hh h, as torch.nn.RNN: as `add_lstm`, with `hidden` rows. Results in (y, h)."""
    value = net.floating(x)
    net.choose("recurrent layer", kind, ("tanh", "relu"))
    h0, _, parts = _checked(net, kind, value, hidden, weights, layers, bidirectional, 0, batch_first, h0, None)
    out = recurrent(net.builder, kind, value, h0, None, parts, batch_first=batch_first)
    return out.y, out.h


def _checked(
    net: Frame,
    kind: str,
    x: Value,
    hidden: int,
    weights: Mapping[str, Any],
    layers: int,
    bidirectional: bool,
    projection: int,
    batch_first: bool,
    h0: Any,
    c0: Any,
) -> tuple[Value, Value | None, Sequence[Sequence[Weights]]]:
    """(h0, c0, weights by layer and direction)."""
    if x.type.rank != 3:
        net.refuse(f"x has shape {x.type.shape}, expected (steps, batch, inputs) or (batch, steps, inputs)")
    (size,), (count,) = net.sizes("hidden", hidden, 1), net.sizes("layers", layers, 1)
    (projected,) = net.sizes("projection", projection, 1, least=0)
    directions = ("", "_reverse") if bidirectional else ("",)
    batch, dtype, out = x.type.shape[0 if batch_first else 1], x.type.dtype, projected or size
    wanted = dict(_wanted(kind, x.type.shape[2], size, projected, count, directions))
    given = _names(net, weights, wanted)
    values = {key: net.weights(key, weights[key], wanted[key], dtype) for key in given}
    parts = [
        [Weights(*(values.get(f"{what}_l{number}{end}") for what in _WHAT)) for end in directions]  # type: ignore[arg-type]
        for number in range(count)
    ]
    states = count * len(directions)
    first = _state(net, "h0", h0, (states, batch, out), dtype)
    return first, _state(net, "c0", c0, (states, batch, size), dtype) if kind == "lstm" else None, parts


_WHAT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # in the order of `Weights`


def _wanted(
    kind: str, inputs: int, size: int, projected: int, count: int, directions: Sequence[str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shape of every parameter, by PyTorch's name."""
    rows, out = GATES[kind] * size, projected or size
    for number in range(count):
        width = inputs if number == 0 else out * len(directions)
        shapes = ((rows, width), (rows, out), (rows,), (rows,), *([(projected, size)] if projected else []))
        for end in directions:
            yield from ((f"{what}_l{number}{end}", shape) for what, shape in zip(_WHAT, shapes))


def _names(net: Frame, weights: Any, wanted: Mapping[str, Any]) -> list[str]:
    """The names of `wanted` that are given: all, or all but the biases."""
    if not isinstance(weights, Mapping):
        net.refuse(f"weights is a {type(weights).__name__}; give a dict with the names {', '.join(wanted)}")
    biased = any(key.startswith("bias") for key in weights)
    needed = [key for key in wanted if biased or not key.startswith("bias")]
    missing, unknown = [key for key in needed if key not in weights], [key for key in weights if key not in wanted]
    if missing or unknown:
        texts = [
            f"{what} {', '.join(keys)}" for what, keys in (("lack", missing), ("have an unknown", unknown)) if keys
        ]
        net.refuse(f"weights {' and '.join(texts)}; a layer like this one has {', '.join(needed)}")
    return needed


def _state(net: Frame, what: str, given: Any, shape: tuple[int, ...], dtype: DType) -> Value:
    if given is None:
        return net.builder.full(shape, 0, dtype)
    return net.weights(what, given, shape, dtype, "layers x directions, batch, size")
