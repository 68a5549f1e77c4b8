"""Activations; what is made of several functions is in `frontend.layers.activation`."""

from __future__ import annotations

from jitrt.frontend.builder import axis_of
from jitrt.frontend.layers import activation
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.ops.elementwise import clamp
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import Value
from jitrt.graph import ops as g

for _name in ("selu", "mish", "log_sigmoid"):
    register(f"aten.{_name}.default")(getattr(activation, _name))


@register("aten.relu6.default")
def relu6(ctx: Context, x: Value) -> Value:
    return clamp(ctx, x, 0, 6)


@register("aten.hardtanh.default")
def hardtanh(ctx: Context, x: Value, low: Number = -1.0, high: Number = 1.0) -> Value:
    return clamp(ctx, x, low, high)


@register("aten.leaky_relu.default")
def leaky_relu(ctx: Context, x: Value, negative_slope: float = 0.01) -> Value:
    return ctx.add(g.LeakyRelu(float(negative_slope)), x)


@register("aten.rrelu.default")
def rrelu(
    ctx: Context, x: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: object = None
) -> Value:
    if training:
        raise Unsupported("in training mode, which draws a slope for every element; call model.eval() first")
    return leaky_relu(ctx, x, (lower + upper) / 2)


@register("aten.prelu.default")
def prelu(ctx: Context, x: Value, weight: Value) -> Value:
    return activation.prelu(ctx, x, weight)


@register("aten.elu.default")
def elu(ctx: Context, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    return activation.elu(ctx, x, alpha, scale, input_scale)


@register("aten.celu.default")
def celu(ctx: Context, x: Value, alpha: float = 1.0) -> Value:
    return activation.celu(ctx, x, alpha)


@register("aten.gelu.default")
def gelu(ctx: Context, x: Value, *, approximate: str = "none") -> Value:
    return ctx.add(g.Gelu(approximate == "tanh"), x)


@register("aten.softplus.default")
def softplus(ctx: Context, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    return activation.softplus(ctx, x, beta, threshold)


@register("aten.hardshrink.default")
def hardshrink(ctx: Context, x: Value, lambd: Number = 0.5) -> Value:
    return activation.hardshrink(ctx, x, lambd)


@register("aten.softshrink.default")
def softshrink(ctx: Context, x: Value, lambd: Number = 0.5) -> Value:
    return activation.softshrink(ctx, x, lambd)


@register("aten.threshold.default")
def threshold(ctx: Context, x: Value, threshold: Number, value: Number) -> Value:
    return activation.threshold(ctx, x, threshold, value)


@register("aten.glu.default")
def glu(ctx: Context, x: Value, dim: int = -1) -> Value:
    return activation.glu(ctx, x, axis_of(dim, x.type.rank))
