"""Recurrent layers and cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitrt.errors import TrainingModeError
from jitrt.frontend.layers.rnn import Weights, recurrent
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import Value


def _layers(
    ctx: Context, params: Sequence[Value], biases: bool, count: int, dropout: float, train: bool, both: bool
) -> list[list[Weights]]:
    """PyTorch's flat list of weights by layer and direction."""
    if train and dropout > 0 and count > 1:
        where = ctx.loc or "unknown location"
        raise TrainingModeError(f"dropout between recurrent layers at {where} is active. Call model.eval() first.")
    directions = 2 if both else 1
    each = len(params) // (count * directions)
    groups = [params[start : start + each] for start in range(0, len(params), each)]
    weights = []
    for w_ih, w_hh, *rest in groups:
        b_ih, b_hh = rest[:2] if biases else (None, None)
        weights.append(Weights(w_ih, w_hh, b_ih, b_hh, *rest[2 if biases else 0 :]))
    return [weights[start : start + directions] for start in range(0, len(weights), directions)]


def _reads(ctx: Context, output: int) -> bool:
    """Whether anything reads one of the node's outputs."""
    assert ctx.node is not None
    return any(user.args[1] == output and user.users for user in ctx.node.users)


@register("aten.lstm.input")
def lstm(
    ctx: Context,
    x: Value,
    hx: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    layers = _layers(ctx, params, has_biases, num_layers, dropout, train, bidirectional)
    cell = _reads(ctx, 2)
    out = recurrent(ctx, "lstm", x, hx[0], hx[1], layers, batch_first=batch_first, cell=cell)
    return out.y, out.h, out.c


def _without_cell(ctx: Context, kind: str, x: Value, h0: Value, params: Sequence[Value], *how: Any) -> tuple[Any, ...]:
    *others, batch_first = how
    out = recurrent(ctx, kind, x, h0, None, _layers(ctx, params, *others), batch_first=batch_first)
    return out.y, out.h


@register("aten.gru.input")
def gru(ctx: Context, x: Value, h0: Value, params: Sequence[Value], *how: Any) -> tuple[Any, ...]:
    return _without_cell(ctx, "gru", x, h0, params, *how)


@register("aten.rnn_tanh.input")
def rnn_tanh(ctx: Context, x: Value, h0: Value, params: Sequence[Value], *how: Any) -> tuple[Any, ...]:
    return _without_cell(ctx, "tanh", x, h0, params, *how)


@register("aten.rnn_relu.input")
def rnn_relu(ctx: Context, x: Value, h0: Value, params: Sequence[Value], *how: Any) -> tuple[Any, ...]:
    return _without_cell(ctx, "relu", x, h0, params, *how)


@register("aten.lstm.data", "aten.gru.data", "aten.rnn_tanh.data", "aten.rnn_relu.data")
def packed(ctx: Context, *_: Any) -> None:
    raise Unsupported("(a packed sequence: run the padded batch, and mask what lies behind each sequence's end)")


def _step(ctx: Context, kind: str, x: Value, h: Value, c: Value | None, weights: Sequence[Value]) -> tuple[Any, ...]:
    """A cell is a layer of one step."""
    states = [None if s is None else ctx.reshape(s, (1, *s.type.shape)) for s in (h, c)]
    assert states[0] is not None
    layers = [[Weights(*weights)]]
    out = recurrent(ctx, kind, ctx.reshape(x, (1, *x.type.shape)), states[0], states[1], layers, cell=kind == "lstm")
    return tuple(ctx.reshape(v, v.type.shape[1:]) for v in (out.y, out.c) if v is not None)


@register("aten.lstm_cell.default")
def lstm_cell(ctx: Context, x: Value, hx: Sequence[Value], *weights: Value) -> tuple[Any, ...]:
    return _step(ctx, "lstm", x, hx[0], hx[1], weights)


@register("aten.gru_cell.default")
def gru_cell(ctx: Context, x: Value, h: Value, *weights: Value) -> Value:
    return _step(ctx, "gru", x, h, None, weights)[0]


@register("aten.rnn_tanh_cell.default")
def rnn_tanh_cell(ctx: Context, x: Value, h: Value, *weights: Value) -> Value:
    return _step(ctx, "tanh", x, h, None, weights)[0]


@register("aten.rnn_relu_cell.default")
def rnn_relu_cell(ctx: Context, x: Value, h: Value, *weights: Value) -> Value:
    return _step(ctx, "relu", x, h, None, weights)[0]
