"""Activations made of simpler functions: they run in one kernel anyway."""

from __future__ import annotations

from jitrt.frontend.builder import Builder, Number
from jitrt.frontend.layers.arithmetic import affine, binary, choose, scaled
from jitrt.graph import DType, Value
from jitrt.graph import ops as g


def elu(b: Builder, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    """scale * (x if x > 0 else alpha * (exp(input_scale * x) - 1))."""
    if input_scale == 1:
        return scaled(b, b.add(g.Elu(float(alpha)), x), scale)
    below = scaled(b, b.add(g.Expm1(), scaled(b, x, input_scale)), alpha)
    return scaled(b, b.add(g.Where(), binary(b, g.Greater(), x, 0, x.type.dtype), x, below), scale)


def selu(b: Builder, x: Value) -> Value:
    return elu(b, x, 1.6732632423543772, 1.0507009873554805)  # the paper's constants, as in torch.nn.SELU


def celu(b: Builder, x: Value, alpha: float = 1.0) -> Value:
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))."""
    return elu(b, x, alpha, input_scale=1 / alpha)


def swish(b: Builder, x: Value, alpha: float) -> Value:
    """x * sigmoid(alpha * x)."""
    return b.add(g.Silu(), x) if alpha == 1 else b.add(g.Mul(), x, b.add(g.Sigmoid(), scaled(b, x, alpha)))


def hard_sigmoid(b: Builder, x: Value, alpha: Number, beta: Number) -> Value:
    """clip(alpha * x + beta, 0, 1); the op of that name is the one with an alpha of 1/6."""
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return b.add(g.HardSigmoid(), x)
    return b.add(g.Clamp(0.0, 1.0), affine(b, x, alpha, beta))


def thresholded_relu(b: Builder, x: Value, alpha: float) -> Value:
    """x where it is above alpha, else 0."""
    return choose(b, binary(b, g.Greater(), x, alpha, x.type.dtype), x, 0, x.type.dtype)


def mish(b: Builder, x: Value) -> Value:
    """x * tanh(log(1 + e^x)) = x * n / (n + 2) with n = e^x (e^x + 2): one exponential, and nothing cancels."""
    dtype = x.type.dtype
    limit = 5 if dtype == DType.f16 else 20  # where n / (n + 2) is 1, and n not yet infinite
    e = b.add(g.Exp(), binary(b, g.Minimum(), x, limit, dtype))
    n = b.add(g.Mul(), e, binary(b, g.Add(), e, 2, dtype))
    return b.add(g.Mul(), x, b.add(g.Div(), n, binary(b, g.Add(), n, 2, dtype)))


def log_sigmoid(b: Builder, x: Value) -> Value:
    return b.add(g.Neg(), b.add(g.Softplus(), b.add(g.Neg(), x)))


def softplus(b: Builder, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """log(1 + exp(beta * x)) / beta, and x where beta * x is above the threshold; of 20 and more they are the same."""
    steep = scaled(b, x, beta)
    smooth = scaled(b, b.add(g.Softplus(), steep), 1 / beta)
    if threshold >= 20:
        return smooth
    return b.add(g.Where(), binary(b, g.Greater(), steep, threshold, x.type.dtype), x, smooth)


def softsign(b: Builder, x: Value) -> Value:
    return b.add(g.Div(), x, binary(b, g.Add(), b.add(g.Abs(), x), 1, x.type.dtype))


def tanhshrink(b: Builder, x: Value) -> Value:
    return b.add(g.Sub(), x, b.add(g.Tanh(), x))


def hardshrink(b: Builder, x: Value, threshold: float = 0.5) -> Value:
    """0 if -threshold <= x <= threshold, else x."""
    inside = binary(b, g.LessEqual(), b.add(g.Abs(), x), threshold, x.type.dtype)
    return choose(b, inside, 0, x, x.type.dtype)


def softshrink(b: Builder, x: Value, threshold: float = 0.5) -> Value:
    """x moved towards 0 by threshold, and 0 where it would pass it."""
    return b.add(g.Sub(), x, b.add(g.Clamp(-threshold, threshold), x)) if threshold else x


def threshold(b: Builder, x: Value, limit: float, value: float) -> Value:
    """x where it is above the limit (or NaN), else value."""
    return choose(b, binary(b, g.LessEqual(), x, limit, x.type.dtype), value, x, x.type.dtype)


def prelu(b: Builder, x: Value, slope: Value) -> Value:
    """x if x > 0 else slope * x; one slope, or one a channel (dimension 1)."""
    factor = b.per_channel(slope, max(x.type.rank, 2)) if slope.type.numel > 1 else b.reshape(slope, ())
    above = binary(b, g.Greater(), x, 0, x.type.dtype)
    return b.add(g.Where(), above, x, b.add(g.Mul(), x, factor))


def glu(b: Builder, x: Value, axis: int) -> Value:
    """The first half along an axis times the sigmoid of the second."""
    half = x.type.shape[axis] // 2
    gate = b.add(g.Sigmoid(), b.slice(x, axis, half, 2 * half))
    return b.add(g.Mul(), b.slice(x, axis, 0, half), gate)
