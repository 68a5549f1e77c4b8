"""Say the same with a simpler op: one rule a function, each with its reason to exist."""

from __future__ import annotations

import math
from collections.abc import Callable

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op, Trait
from jitrt.graph.ops import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    Add,
    AvgPool,
    Concat,
    Expand,
    Matmul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    ReduceMax,
    ReduceMean,
    Reshape,
)
from jitrt.graph.types import broadcast_shapes
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader, remove_dead

_COMMUTATIVE = (Add, Mul, Maximum, Minimum)


def simplify(graph: Graph, context: PassContext) -> None:
    """Apply every rule to every node once, in order."""
    for node in list(graph.nodes):
        if (better := _simpler_pool(node)) is not None:
            context.applied(node, f"{node.op.name} is {better.name} here")
            node.op = better
        for rule in _RULES:
            if (text := rule(graph, node)) is not None:
                context.applied(node, text)
                break  # the node may be gone
    remove_dead(graph)


def _simpler_pool(node: Node) -> Op | None:
    """A pool over the whole image is a reduction; an adaptive pool whose sizes divide is an ordinary one."""
    if not isinstance(node.op, AdaptiveAvgPool | AdaptiveMaxPool | AvgPool | MaxPool):
        return None
    image, out = node.inputs[0].type.shape[2:], node.output.type.shape[2:]
    mean = isinstance(node.op, AdaptiveAvgPool | AvgPool)
    axes = tuple(range(2, 2 + len(image)))
    if isinstance(node.op, AvgPool | MaxPool):
        whole = node.op.kernel == image and not any(node.op.padding) and math.prod(out) == 1
        whole = whole and (mean or set(getattr(node.op, "dilation", ())) <= {1})
    else:
        whole = math.prod(out) == 1
    if whole:
        return ReduceMean(axes, keepdims=True) if mean else ReduceMax(axes, keepdims=True)
    if isinstance(node.op, AvgPool | MaxPool) or any(o == 0 or i % o for i, o in zip(image, out, strict=True)):
        return None
    kernel = tuple(i // o for i, o in zip(image, out, strict=True))
    none = (0,) * len(kernel)
    return AvgPool(kernel, kernel, none) if mean else MaxPool(kernel, kernel, none, dilation=(1,) * len(kernel))


def _drop_unit_pool(graph: Graph, node: Node) -> str | None:
    """A pool with a window of one element copies its input."""
    if not isinstance(node.op, AvgPool | MaxPool) or set(node.op.kernel) | set(node.op.stride) != {1}:
        return None
    if any(node.op.padding) or not bypass(graph, node, node.inputs[0]):
        return None
    return f"{node.op.name} over one element changes nothing: dropped"


def _constant_second(graph: Graph, node: Node) -> str | None:
    """One order for a + constant, so that equal layers have equal regions."""
    if isinstance(node.op, _COMMUTATIVE) and node.inputs[0].is_constant and not node.inputs[1].is_constant:
        first, second = node.inputs
        graph.set_input(node, 0, second)
        graph.set_input(node, 1, first)
    return None


def _scalar_operands(graph: Graph, node: Node) -> str | None:
    """A constant of one element becomes rank 0, which fusion writes into the kernel as a literal."""
    if not node.has(Trait.ELEMENTWISE):
        return None
    for index, value in enumerate(node.inputs):
        if not value.is_constant or value.type.rank == 0 or value.type.numel != 1:
            continue
        if _shape_with(node, index, ()) == node.output.type.shape:
            assert value.data is not None
            graph.set_input(node, index, graph.add_constant(value.data.reshape(()), value.name))
    return None


def _expanded_operands(graph: Graph, node: Node) -> str | None:
    """An elementwise op broadcasts by itself: it reads what was expanded."""
    if not node.has(Trait.ELEMENTWISE):
        return None
    text = None
    for index, value in enumerate(node.inputs):
        if value.producer is None or not isinstance(value.producer.op, Expand):
            continue
        source = value.producer.inputs[0]
        if _shape_with(node, index, source.type.shape) == node.output.type.shape:
            graph.set_input(node, index, source)
            text = f"{node.op.name} reads what was expanded and broadcasts by itself"
    return text


def _shape_with(node: Node, index: int, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    shapes = [shape if i == index else value.type.shape for i, value in enumerate(node.inputs)]
    return broadcast_shapes(*shapes)


def _stack(graph: Graph, node: Node) -> str | None:
    """A reshape that splits a concat's axis into its operands is a concat along a new axis.

    So a channel shuffle (concat, reshape, permute, reshape) becomes a chain of views that the producers can write into,
    where after the plain concat no strides could express it.
    """
    concat = node.inputs[0].producer if node.inputs else None
    if not isinstance(node.op, Reshape) or concat is None or not isinstance(concat.op, Concat):
        return None
    axis, before = concat.op.axis, concat.output.type.shape
    part = concat.inputs[0].type.shape[axis]
    split = (*before[:axis], len(concat.inputs), part, *before[axis + 1 :])
    if node.output.type.shape != split or any(v.type.shape[axis] != part for v in concat.inputs):
        return None
    if len(concat.output.uses) > 1 or concat.output in graph.outputs:
        return None
    piece = Reshape((*before[:axis], 1, part, *before[axis + 1 :]))
    pieces: list[Value] = [graph.append(piece, [value], loc=node.loc, before=node).output for value in concat.inputs]
    stacked = graph.append(Concat(axis), pieces, loc=concat.loc, before=node)
    bypass(graph, node, stacked.output)
    graph.erase(concat)
    return "concat and reshape became a stack, which its operands can be written into"


def _drop_empty_operands(graph: Graph, node: Node) -> str | None:
    """A concat joins what has elements."""
    if not isinstance(node.op, Concat) or node.output.type.numel == 0:
        return None
    filled = [value for value in node.inputs if value.type.numel]
    if len(filled) == len(node.inputs):
        return None
    joined = graph.append(node.op, filled, loc=node.loc, before=node)
    bypass(graph, node, joined.output)
    return "operands of concat without elements dropped"


def _scale_after(graph: Graph, node: Node) -> str | None:
    """A factor of a product's operand, as attention has for its queries, is a factor of the product: there it takes no
    kernel. (Sums are float32 inside a kernel, so that nothing overflows that did not before.)"""
    if not isinstance(node.op, Matmul):
        return None
    operands, factors = list(node.inputs), []
    for index, operand in enumerate(node.inputs):
        scale = operand.producer
        if scale is None or not isinstance(scale.op, Mul) or only_reader(graph, operand) is not node:
            continue
        numbers = [v for v in scale.inputs if v.is_constant and v.type.rank == 0]
        rest = [v for v in scale.inputs if v not in numbers]
        if len(rest) == 1 and rest[0].type.dtype == operand.type.dtype:
            operands[index] = rest[0]
            factors.append(numbers[0])
    if not factors:
        return None
    scaled = graph.append(node.op, operands, loc=node.loc, before=node)
    for factor in factors:
        scaled = graph.append(Mul(), [scaled.output, factor], loc=node.loc, before=node)
    bypass(graph, node, scaled.output)
    return "a factor before the product moved behind it"


_RULES: tuple[Callable[[Graph, Node], str | None], ...] = (
    _drop_unit_pool,
    _constant_second,
    _scalar_operands,
    _expanded_operands,
    _stack,
    _drop_empty_operands,
    _scale_after,
)
