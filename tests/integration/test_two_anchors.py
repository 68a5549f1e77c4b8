"""A network of four kernels, each with two anchors, from graph to plan and run in the interpreter."""

from __future__ import annotations

import numpy as np

from jitrt.compiler import Options
from jitrt.graph import Graph, TensorType, Value, f32, interpret
from jitrt.graph.op import Op
from jitrt.graph.ops import AdaptiveAvgPool, Add, Conv, HardSwish, Linear, MaxPool, Relu, Reshape
from jitrt.testing import plan_interpreted
from tests.passes.nets import verdict


def test_stem_and_pool_separable_convolution_and_pool_and_head() -> None:
    rng = np.random.default_rng(0)
    net = Graph("net")

    def weight(*shape: int) -> Value:
        fan = max(1, int(np.prod(shape[1:])))
        return net.add_constant((rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def conv(x: Value, filters: int, size: int, stride: int, groups: int, act: Op) -> Value:
        pad = size // 2
        op = Conv((stride, stride), ((pad, pad), (pad, pad)), (1, 1), groups)
        y = net.add(op, x, weight(filters, x.type.shape[1] // groups, size, size))
        return net.add(act, net.add(Add(), y, weight(filters, 1, 1)))

    x = net.add_input("x", TensorType(f32, (2, 3, 22, 18)))
    y = net.add(MaxPool((3, 3), (2, 2), (1, 1)), conv(x, 20, 7, 2, 1, Relu()))
    y = conv(conv(y, 20, 3, 1, 20, HardSwish()), 24, 1, 1, 1, Relu())
    y = net.add(MaxPool((2, 2), (2, 2), (0, 0)), conv(y, 24, 3, 1, 1, Relu()))
    y = net.add(Reshape((2, 24)), net.add(AdaptiveAvgPool((1, 1)), y))
    net.mark_output(net.add(Add(), net.add(Linear(), y, weight(10, 24)), weight(10)))

    planned = plan_interpreted(net, Options(precision="fp16"), judge=verdict(True))
    templates = [layer.tactic.split("(")[0] for layer in planned.plan.layers]
    assert templates == ["stem_pool", "depthwise_pointwise", "conv_pool", "mean_linear"]
    image = rng.standard_normal((2, 3, 22, 18)).astype(np.float32)
    (got,) = planned.run([image])
    (wanted,) = interpret(net, [image], exact=True)
    np.testing.assert_allclose(got, wanted, rtol=5e-3, atol=5e-3)
