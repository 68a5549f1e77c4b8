"""Fold what scales and shifts each channel into the weights before it.

    (w * x) * scale + shift = (w * scale) * x + shift

for a batch norm after a convolution or a linear layer, with or without a bias between, and for any multiplications and
additions of per-channel constants that follow. Done in float64, rounded once. A batch norm that cannot be folded
becomes a multiply and an add, which fusion treats like any others; the reason is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Array, Op
from jitrt.graph.ops import Add, BatchNorm, Conv, ConvTranspose, Div, Linear, Matmul, Mul, Reshape, Rsqrt, Sub
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader


@dataclass(frozen=True)
class _Affine:
    """x * scale + shift along one dimension: float64 vectors."""

    scale: Array
    shift: Array

    def then(self, after: _Affine) -> _Affine:
        return _Affine(self.scale * after.scale, self.shift * after.scale + after.shift)


def fold_batch_norm(graph: Graph, context: PassContext) -> None:
    """Fold every chain that starts at a layer with constant weights; rewrite the batch norms that are left."""
    for node in list(graph.nodes):
        axes = _filter_axes(node)
        if axes is not None and node.inputs[1].is_constant:
            _fold_chain(graph, node, axes, context)
    for node in list(graph.nodes):
        if isinstance(node.op, BatchNorm):
            context.refused(node, f"batch_norm not folded, computed as multiply and add: {_why_not(graph, node)}")
            _rewrite(graph, node)
    graph.drop_unused_constants()


def _filter_axes(node: Node) -> tuple[int, int] | None:
    """(dimension of the weights, dimension of the output) that count the filters, of an op whose operands are x, w. The
    weights of a `conv_transpose` count those of one group."""
    match node.op:
        case Conv():
            return 0, 1
        case ConvTranspose():
            return 1, 1
        case Linear():
            return 0, node.output.type.rank - 1
        case Matmul() if node.inputs[1].type.rank == 2:
            return 1, node.output.type.rank - 1
    return None


def _fold_chain(graph: Graph, layer: Node, axes: tuple[int, int], context: PassContext) -> None:
    weight_axis, axis = axes
    total = None
    chain: list[Node] = []
    value = layer.output
    while (reader := only_reader(graph, value)) is not None:
        step = _affine(reader, value, axis)
        if step is None:
            break
        total = step if total is None else total.then(step)
        chain.append(reader)
        value = reader.output
    if total is None or (len(chain) == 1 and isinstance(chain[0].op, Add)):
        return
    names = " + ".join(node.op.name for node in chain)
    if np.any(total.scale != 1) and not _scale_weights(graph, layer, weight_axis, total.scale):
        context.refused(layer, f"{names} not folded: the weights of {layer.op.name} would overflow")
        return
    context.applied(layer, f"{names} folded into the weights of {layer.op.name}")
    result = layer.output
    if np.any(total.shift != 0):
        shift = total.shift.astype(layer.output.type.dtype.numpy)
        bias = graph.add_constant(shift.reshape(_broadcast(layer.output, axis)), _bias_name(layer.inputs[1].name))
        result = graph.append(Add(), [result, bias], loc=layer.loc, before=chain[0]).output
    bypass(graph, chain[-1], result)
    for node in reversed(chain[:-1]):
        graph.erase(node)


def _scale_weights(graph: Graph, layer: Node, axis: int, scale: Array) -> bool:
    """Multiply the layer's weights; False, and nothing done, if a finite weight would not stay finite."""
    weight = layer.inputs[1]
    assert weight.data is not None
    groups = layer.op.groups if isinstance(layer.op, ConvTranspose) else 1
    # Group by group: the first dimension of such weights counts the channels of all groups.
    parts = [-1 if d == axis else 1 for d in range(weight.type.rank)]
    grouped = weight.data.astype(np.float64).reshape(groups, -1, *weight.type.shape[1:])
    with np.errstate(over="ignore"):
        data = (grouped * scale.reshape(groups, *parts)).reshape(weight.type.shape).astype(weight.data.dtype)
    if not np.all(np.isfinite(data)) and np.all(np.isfinite(weight.data)) and np.all(np.isfinite(scale)):
        return False
    if len(weight.uses) == 1:
        graph.set_data(weight, data)
    else:
        graph.set_input(layer, 1, graph.add_constant(data, weight.name))
    return True


def _bias_name(weight: str) -> str:
    return weight.removesuffix("weight") + "bias" if weight.endswith("weight") else f"{weight}.bias"


def _broadcast(value: Value, axis: int) -> tuple[int, ...]:
    """The shape of a per-channel constant: (c, 1, 1) for a 4-d value with channels at dimension 1."""
    return (value.type.shape[axis], *([1] * (value.type.rank - axis - 1)))


def _affine(node: Node, x: Value, axis: int) -> _Affine | None:
    """What `node` does to `x` along `axis`, if it is affine there with constants; None otherwise."""
    if not node.output.type.dtype.is_float or node.output.type.logical() != x.type.logical():
        return None
    size = x.type.shape[axis]
    if isinstance(node.op, BatchNorm):
        if node.inputs[0] is not x or axis != 1 or not _constant_statistics(node):
            return None
        return _statistics(node)
    if not isinstance(node.op, Add | Sub | Mul | Div):
        return None
    index = 0 if node.inputs[0] is x else 1
    number = _per_channel(node.inputs[1 - index], x.type.rank, axis, size)
    if number is None:
        return None
    one, zero = np.ones(size), np.zeros(size)
    if isinstance(node.op, Mul):
        return _Affine(number, zero)
    if isinstance(node.op, Add):
        return _Affine(one, number)
    if isinstance(node.op, Sub):
        return _Affine(one, -number) if index == 0 else _Affine(-one, number)
    return _Affine(1 / number, zero) if index == 0 else None


def _per_channel(value: Value, rank: int, axis: int, size: int) -> Array | None:
    """A constant that varies along `axis` alone, as a float64 vector."""
    if value.data is None or value.type.rank > rank:
        return None
    shape = (1,) * (rank - value.type.rank) + value.type.shape
    if any(s != 1 for d, s in enumerate(shape) if d != axis):
        return None
    return np.broadcast_to(value.data.astype(np.float64).reshape(-1), (size,))


def _constant_statistics(node: Node) -> bool:
    return all(value.is_constant for value in node.inputs[1:])


def _statistics(node: Node) -> _Affine:
    assert isinstance(node.op, BatchNorm)
    weight, bias, mean, var = (v.data.astype(np.float64) for v in node.inputs[1:] if v.data is not None)
    scale = weight / np.sqrt(var + node.op.eps)
    return _Affine(scale, bias - mean * scale)


def _why_not(graph: Graph, node: Node) -> str:
    if not _constant_statistics(node):
        return "its statistics are no constants"
    layer = node.inputs[0].producer
    while layer is not None and isinstance(layer.op, Add | Sub | Mul | Div) and _filter_axes(layer) is None:
        index = 0 if layer.inputs[1].is_constant else 1
        if not layer.inputs[1 - index].is_constant or only_reader(graph, layer.output) is None:
            break
        layer = layer.inputs[index].producer
    if layer is None:
        return "it reads an input of the graph"
    axes = _filter_axes(layer)
    if axes is None:
        return f"it follows {layer.op.name}, which has no weights"
    if only_reader(graph, layer.output) is None:
        return f"{layer.op.name} has other readers, or is an output"
    if not layer.inputs[1].is_constant:
        return f"the weights of {layer.op.name} are no constant"
    return f"its channels are not the filters of {layer.op.name}"


def _rewrite(graph: Graph, node: Node) -> None:
    """A batch norm as multiply and add; its statistics are computed now if they are constants."""
    assert isinstance(node.op, BatchNorm)
    x = node.inputs[0]
    shape = _broadcast(x, 1)

    def emit(op: Op, *operands: Value) -> Value:
        return graph.append(op, operands, loc=node.loc, before=node).output

    if _constant_statistics(node):
        affine = _statistics(node)
        dtype = x.type.dtype.numpy
        scale = graph.add_constant(affine.scale.reshape(shape).astype(dtype), node.inputs[1].name)
        shift = graph.add_constant(affine.shift.reshape(shape).astype(dtype), node.inputs[2].name)
    else:
        weight, bias, mean, var = node.inputs[1:]
        eps = graph.scalar(node.op.eps, var.type.dtype)
        flat = emit(Mul(), weight, emit(Rsqrt(), emit(Add(), var, eps)))
        scale = emit(Reshape(shape), flat)
        shift = emit(Reshape(shape), emit(Sub(), bias, emit(Mul(), mean, flat)))
    bypass(graph, node, emit(Add(), emit(Mul(), x, scale), shift))
