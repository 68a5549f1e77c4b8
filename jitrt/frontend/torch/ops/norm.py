"""Normalisations, at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitrt.errors import TrainingModeError
from jitrt.frontend.layers import norm as layers
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import register
from jitrt.graph import Value
from jitrt.graph import ops as g


@register("aten.batch_norm.default")
def batch_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Value:
    if mean is None or var is None:
        return layers.batch_statistics_norm(ctx, x, weight, bias, eps)
    if training:
        where = ctx.loc or "unknown location"
        raise TrainingModeError(f"batch norm at {where} takes its statistics from the batch. Call model.eval() first.")
    return layers.batch_norm(ctx, x, weight, bias, mean, var, eps)


@register("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    momentum: float,
    eps: float,
) -> tuple[Any, ...]:
    return batch_norm(ctx, x, weight, bias, mean, var, False, momentum, eps), None, None


@register("aten.layer_norm.default")
def layer_norm(
    ctx: Context,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    return layers.layer_norm(ctx, x, len(normalized_shape), weight, bias, eps)


@register("aten.group_norm.default")
def group_norm(
    ctx: Context,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    return layers.group_norm(ctx, x, groups, weight, bias, eps)


@register("aten.instance_norm.default")
def instance_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if not use_input_stats:
        return batch_norm(ctx, x, weight, bias, mean, var, False, momentum, eps)
    return layers.instance_norm(ctx, x, weight, bias, eps)


@register("aten.rms_norm.default")
def rms_norm(
    ctx: Context, x: Value, normalized_shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    return layers.rms_norm(ctx, x, len(normalized_shape), weight, eps)


_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")


@register(*(f"aten.{name}.default" for name in _DROPOUTS))
def dropout(ctx: Context, x: Value, p: float, train: bool) -> Value:
    if train and p > 0:
        where = ctx.loc or "unknown location"
        raise TrainingModeError(
            f"dropout at {where} is in training mode. Call model.eval() first; F.dropout always is, unless it is told "
            "training=False."
        )
    return ctx.add(g.Dropout(), x)


@register("aten.native_dropout.default")
def native_dropout(ctx: Context, x: Value, p: float, train: bool | None) -> tuple[Any, ...]:
    return dropout(ctx, x, p, bool(train)), None
