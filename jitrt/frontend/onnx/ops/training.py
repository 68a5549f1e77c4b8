"""One step of an optimiser: operands are the learning rate, the count of steps, then groups of tensors alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitrt.frontend.layers.arithmetic import binary, choose, scaled
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value
from jitrt.graph import ops as g

_DOMAIN = "ai.onnx.preview.training"


@onnx_op("Adagrad", domain=_DOMAIN)
def adagrad(n: Call, rate: Value, count: Value, *tensors: Value) -> tuple[Value, ...]:
    def step(x: Value, gradient: Value, history: Value) -> tuple[Value, ...]:
        gradient = _regularized(n, x, gradient)
        history = n.add(g.Add(), history, n.add(g.Mul(), gradient, gradient))
        size = _plus(n, n.add(g.Sqrt(), history), n.attribute("epsilon", 0.0))
        return _moved(n, x, decayed, n.add(g.Div(), gradient, size)), history

    steps = n.b.operand(count, rate.type.dtype)
    decayed = n.add(g.Div(), rate, _plus(n, scaled(n.b, steps, n.attribute("decay_factor", 0.0)), 1.0))
    return _each(step, tensors, 3)


@onnx_op("Adam", domain=_DOMAIN)
def adam(n: Call, rate: Value, count: Value, *tensors: Value) -> tuple[Value, ...]:
    alpha, beta = n.attribute("alpha", 0.9), n.attribute("beta", 0.999)

    def step(x: Value, gradient: Value, mean: Value, square: Value) -> tuple[Value, ...]:
        gradient = _regularized(n, x, gradient)
        mean = n.add(g.Add(), scaled(n.b, mean, alpha), scaled(n.b, gradient, 1 - alpha))
        squared = n.add(g.Mul(), gradient, gradient)
        square = n.add(g.Add(), scaled(n.b, square, beta), scaled(n.b, squared, 1 - beta))
        size = _plus(n, n.add(g.Sqrt(), square), n.attribute("epsilon", 1e-6))
        new = _moved(n, x, adjusted, n.add(g.Div(), mean, size))
        return scaled(n.b, new, 1 - n.attribute("norm_coefficient_post", 0.0)), mean, square

    def rest(base: float) -> Value:
        """1 - base^count."""
        power = n.add(g.Pow(), n.graph.scalar(base, dtype), n.b.operand(count, dtype))
        return binary(n.b, g.Sub(), 1, power, dtype)

    dtype = rate.type.dtype
    corrected = n.add(g.Div(), n.add(g.Mul(), rate, n.add(g.Sqrt(), rest(beta))), rest(alpha))
    adjusted = n.add(g.Where(), binary(n.b, g.Greater(), count, 0, count.type.dtype), corrected, rate)
    return _each(step, tensors, 4)


@onnx_op("Momentum", domain=_DOMAIN)
def momentum(n: Call, rate: Value, count: Value, *tensors: Value) -> tuple[Value, ...]:
    alpha, mode = n.required("alpha"), n.required("mode")
    if mode not in ("standard", "nesterov"):
        n.refuse(f"mode {mode!r}, expected 'standard' or 'nesterov'")

    def step(x: Value, gradient: Value, velocity: Value) -> tuple[Value, ...]:
        gradient = _regularized(n, x, gradient)
        velocity = n.add(g.Add(), scaled(n.b, velocity, alpha), n.add(g.Mul(), beta, gradient))
        way = velocity if mode == "standard" else n.add(g.Add(), gradient, scaled(n.b, velocity, alpha))
        return _moved(n, x, rate, way), velocity

    later = binary(n.b, g.Greater(), count, 0, count.type.dtype)
    beta = choose(n.b, later, n.required("beta"), 1.0, rate.type.dtype)
    return _each(step, tensors, 3)


def _each(step: Callable[..., tuple[Value, ...]], tensors: Sequence[Value], parts: int) -> tuple[Value, ...]:
    """`step` of every optimised tensor and what belongs to it: first all tensors are given, then all gradients, then
    each kind of state; results come in the same order, without gradients."""
    count = len(tensors) // parts
    results = [step(*tensors[i::count]) for i in range(count)]
    return tuple(value for kind in zip(*results, strict=True) for value in kind)


def _regularized(n: Call, x: Value, gradient: Value) -> Value:
    weight = n.attribute("norm_coefficient", 0.0)
    return n.add(g.Add(), scaled(n.b, x, weight), gradient) if weight else gradient


def _plus(n: Call, x: Value, number: float) -> Value:
    return binary(n.b, g.Add(), x, number, x.type.dtype)


def _moved(n: Call, x: Value, rate: Value, way: Value) -> Value:
    return n.add(g.Sub(), x, n.add(g.Mul(), rate, way))
