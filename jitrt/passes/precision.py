"""Compute in the precision that was asked for.

fp16 and bf16: every float32 value inside the graph becomes 16-bit, weights included; inputs and outputs keep their
declared dtype, with a cast at the border that fusion puts into the first and the last kernel. Sums stay float32 inside
every kernel.

Vectors that elementwise ops add or multiply, biases above all, stay float32: they cost next to nothing, and rounding
them is the larger part of the error (Inception-v3 with random weights: 6.1e-3 with biases in float16, 3.8e-3 without).
What they are added to is float32 from there on, inside the kernel, until a cast at the end of the elementwise chain.

An op that does not take the 16-bit type (a plugin declared without it) keeps its float32, with casts around it.

tf32: products of float32 operands may be rounded to tf32. fp32, and graphs that hold no float32: nothing.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np

from jitrt.errors import OptionError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Array, Trait
from jitrt.graph.ops import Cast
from jitrt.passes.base import PassContext

_HALF = {"fp16": DType.f16, "bf16": DType.bf16}


def precision(graph: Graph, context: PassContext) -> None:
    """Raises OptionError if a weight does not fit the 16-bit type."""
    if context.tf32:
        _allow_tf32(graph, context)
    elif context.precision in _HALF:
        _Narrow(graph, _HALF[context.precision], context).run()


def _allow_tf32(graph: Graph, context: PassContext) -> None:
    for node in graph.nodes:
        has_switch = any(field.name == "tf32" for field in dataclasses.fields(node.op))
        if has_switch and node.inputs[0].type.dtype == DType.f32:
            node.op = dataclasses.replace(node.op, tf32=True)  # type: ignore[call-arg]
            context.applied(node, f"{node.op.name} in tf32")


class _Narrow:
    """One run of the pass: float32 becomes `half`."""

    def __init__(self, graph: Graph, half: DType, context: PassContext):
        self.graph, self.half, self.context = graph, half, context
        self.kept: set[Node] = set()  # views of inputs, which stay as they are declared
        self.wide: set[Value] = set()  # float32 on the way through an elementwise chain

    def run(self) -> None:
        nodes = list(self.graph.nodes)
        outputs = [v for v in dict.fromkeys(self.graph.outputs) if v.type.dtype == DType.f32]
        for value in list(self.graph.constants.values()):
            self._constant(value)
        for value in self.graph.inputs:
            if value.type.dtype == DType.f32:
                self._input(value)
        for node in nodes:
            if node not in self.kept:
                self._node(node)
        for value in outputs:
            self._output(value)

    def _constant(self, value: Value) -> None:
        if value.type.dtype != DType.f32 or not value.uses or _is_elementwise_vector(value):
            return
        if not any(node.op.takes(self.half) for node in value.users):
            return
        assert value.data is not None
        data = _rounded(value.data, self.half)
        if np.any(np.isinf(data) & np.isfinite(value.data)):
            largest = float(np.max(np.abs(value.data[np.isfinite(value.data)])))
            reader = value.users[0]
            reason = f"the constant %{value.name} holds {largest:g}, which {self.half.value} cannot"
            self.context.refused(reader, reason)
            hint = "use precision='bf16' or 'fp32'" if self.half == DType.f16 else "use precision='fp32'"
            where = f" ({reader.op.name} at {reader.loc})" if reader.loc else f" (read by {reader.op.name})"
            raise OptionError(f"precision={self.context.precision!r}: {reason}{where}; {hint}")
        if value.type.rank == 0 and value.data != 0 and data == 0:
            self.context.refused(value.users[0], f"the number {float(value.data):g} is 0 in {self.half.value}")
        if value in self.graph.outputs:
            narrow = self.graph.add_constant(data, value.name)
            for node, index in list(value.uses):
                self.graph.set_input(node, index, narrow)
        else:
            self.graph.set_data(value, data)

    def _input(self, value: Value) -> None:
        """Cast where a node computes with the input or a view of it: below the views, next to the first anchor."""
        readers = []
        for node in value.users:
            if node.has(Trait.VIEW):
                self.kept.add(node)
                self._input(node.output)
            else:
                readers.append(node)
        if not readers:
            return
        first = min(readers, key=self.graph.nodes.index)
        cast = self.graph.append(Cast(self.half), [value], loc=first.loc, before=first)
        self.context.applied(cast, f"input cast to {self.half.value}")
        for node in readers:
            for index, operand in enumerate(node.inputs):
                if operand is value:
                    self.graph.set_input(node, index, cast.output)

    def _node(self, node: Node) -> None:
        if isinstance(node.op, Cast) and node.op.dtype == DType.f32:
            node.op = Cast(self.half)
        if node.op.takes(self.half):
            self._narrow_operands(node)
        else:
            self._widen_operands(node)
        types = node.op.infer(*(value.type for value in node.inputs))
        for value, type in zip(node.outputs, types, strict=True):
            value.type = type.with_layout(value.type.layout)
            if type.dtype == DType.f32 and not isinstance(node.op, Cast):
                self.wide.add(value)

    def _narrow_operands(self, node: Node) -> None:
        """Cast what a node reads in float32, unless it goes on in the same kernel: the node is elementwise on the same
        shape and the value's only reader. Of two such operands the later one goes on; a kernel has one anchor."""
        wide = [v for v in dict.fromkeys(node.inputs) if v in self.wide]
        going_on = [v for v in wide if node.has(Trait.ELEMENTWISE) and self._goes_on(v, node)]
        last = max(going_on, key=self._position, default=None)
        for value in wide:
            if value is last:
                continue
            after = self.graph.nodes[self._position(value) + 1]
            cast = self.graph.append(Cast(self.half), [value], loc=node.loc, before=after)
            self.wide.discard(value)
            for reader, index in list(value.uses):
                if reader is not cast:
                    self.graph.set_input(reader, index, cast.output)

    def _widen_operands(self, node: Node) -> None:
        self.context.refused(node, f"{node.op.name} stays in f32: it has no {self.half.value} kernel")
        for index, value in enumerate(list(node.inputs)):
            if value.type.dtype == self.half:
                cast = self.graph.append(Cast(DType.f32), [value], loc=node.loc, before=node)
                self.graph.set_input(node, index, cast.output)

    def _position(self, value: Value) -> int:
        assert value.producer is not None
        return self.graph.nodes.index(value.producer)

    def _goes_on(self, value: Value, node: Node) -> bool:
        alone = len(value.uses) == 1 and value not in self.graph.outputs
        return alone and node.output.type.shape == value.type.shape

    def _output(self, value: Value) -> None:
        if value.type.dtype != self.half or value.producer is None:
            return
        name, declared = value.name, value.type.layout
        self.graph.rename(value, f"{name}.{self.half.value}")
        value.type = value.type.with_layout(None)
        cast = self.graph.append(Cast(DType.f32), [value], loc=value.producer.loc, names=[name])
        cast.output.type = cast.output.type.with_layout(declared)
        self.context.applied(cast, "output cast back to f32")
        self.graph.outputs = [cast.output if v is value else v for v in self.graph.outputs]


def _rounded(array: Array, half: DType) -> Array:
    """Rounded to a 16-bit type. The largest float32, which masks of attention are made of, stands for the largest there
    is, and becomes that of the type."""
    with np.errstate(over="ignore"):
        data = array.astype(half.numpy)
    ends = np.abs(array) == np.finfo(np.float32).max
    return np.where(ends, np.copysign(ml_dtypes.finfo(half.numpy).max, array), data).astype(half.numpy)


def _is_elementwise_vector(value: Value) -> bool:
    """Whether a constant has one dimension longer than 1 at most and is read by elementwise nodes alone."""
    if value.type.rank == 0 or value.type.numel != max(value.type.shape):
        return False
    return all(node.has(Trait.ELEMENTWISE) and not isinstance(node.op, Cast) for node in value.users)
