"""A network in the making, for the tests of rules, and what the passes make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitrt.graph import DType, Graph, Layout, TensorType, Value, f32, interpret
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Conv, Linear, MaxPool, Region, Relu
from jitrt.kernels.base import accepts, supports
from jitrt.passes import PassContext, Proposal, Verdict
from jitrt.passes.base import fewer_kernels
from jitrt.passes.fuse_pointwise import fuse_pointwise
from jitrt.passes.fuse_vertical import fuse_vertical
from jitrt.passes.layout import layout
from jitrt.passes.pipeline import optimize


class Net:
    """A graph of one input `x`, grown call by call; weights are random, but the same in every run."""

    def __init__(self, *shape: int, dtype: DType = f32, declared: Layout | None = None):
        self.graph, self.dtype = Graph("net"), dtype
        self.rng = np.random.default_rng(5)
        self.x = self.graph.add_input("x", TensorType(dtype, shape, declared))

    def __call__(self, op: Op, *operands: Value, name: str | None = None) -> Value:
        return self.graph.add(op, *operands, name=name, loc=f"model.py:{len(self.graph.nodes)}")

    def weight(self, *shape: int) -> Value:
        return self.graph.add_constant(self.rng.standard_normal(shape).astype(self.dtype.numpy))

    def conv(
        self,
        x: Value,
        filters: int,
        size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        name: str | None = None,
    ) -> Value:
        """relu(conv(x) + bias), padded by half a filter."""
        pad = (size // 2, size // 2)
        weight = self.weight(filters, x.type.shape[1] // groups, size, size)
        y = self(Conv((stride, stride), (pad, pad), (1, 1), groups), x, weight)
        y = self(Add(), y, self.weight(filters, 1, 1), name=None if relu else name)
        return self(Relu(), y, name=name) if relu else y

    def linear(self, x: Value, filters: int) -> Value:
        return self(Add(), self(Linear(), x, self.weight(filters, x.type.shape[-1])), self.weight(filters))

    def pool(self, x: Value) -> Value:
        """A kernel of its own, whatever is around."""
        return self(MaxPool((3, 3), (1, 1), (1, 1)), x)

    def fused(self, *outputs: Value, **context: Any) -> Graph:
        """The graph as the rules find it."""
        self.graph.mark_output(*outputs)
        for step in (layout, fuse_vertical, fuse_pointwise):
            step(self.graph, PassContext(**context))
        return self.graph

    def optimized(
        self, *outputs: Value, signed: str, faster: bool | None = True, tf32: bool = False
    ) -> tuple[list[str], list[str], list[str]]:
        """(the ops of each kernel; what the rules whose names begin with `signed` did; what they did not), the meaning
        being the same."""
        self.graph.mark_output(*outputs)
        context = PassContext("tf32" if tf32 else "fp32", accepts, verdict(faster), supports=supports)
        after = optimize(self.graph, context)
        inputs = [self.rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in self.graph.inputs]
        exact, expected = self.dtype == f32, interpret(self.graph, inputs, exact=True)
        bound = {"rtol": 1e-4, "atol": 1e-5} if exact else {"rtol": 1e-2, "atol": 0.1}
        for actual, wanted in zip(interpret(after, inputs, exact=exact), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, **bound)
        bodies = [node.op.body for node in after.nodes if isinstance(node.op, Region)]
        kernels = ["+".join(node.op.name for node in body.nodes) for body in bodies]
        decisions = [d for d in context.report if d.pass_name.startswith(signed)]
        return kernels, [d.text for d in decisions if d.applied], [d.text for d in decisions if not d.applied]


def verdict(faster: bool | None) -> Callable[[Sequence[Proposal]], list[Verdict]]:
    """A judge that finds every proposal faster, or every one slower, or cannot measure."""
    if faster is None:
        return fewer_kernels
    one = Verdict(1.0, "faster") if faster else Verdict(-1.0, "slower")
    return lambda proposals: [one for _ in proposals]
