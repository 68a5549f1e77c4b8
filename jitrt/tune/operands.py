"""Random operands for verifying a kernel: of a size that neither overflows nor vanishes, or on purpose not."""

from __future__ import annotations

import math

import numpy as np

from jitrt.codegen.prologue import sources_of
from jitrt.graph import ops
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Array
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Problem

_POOL = 1_048_583  # random numbers drawn at most for an operand (a prime: repeats fall on no row or tile boundary)
_SINGULAR_AT_ZERO = (ops.Reciprocal, ops.Log, ops.Sqrt, ops.Rsqrt)


def draw_operands(body: Graph, problem: Problem, rng: np.random.Generator, special: bool) -> list[Array]:
    """An array for every input of `body`, which is the problem's or the same with a smaller batch.

    With `special` some elements of the activations are large and some NaN, unless the body makes integers of floats:
    what becomes of a NaN then is nobody's promise.
    """
    special = special and not any(is_cast_to_integer(node) for node in body.nodes)
    odd = np.random.default_rng(1)
    positive = any(_singular(node) for node in problem.body.nodes)
    scales = {value: scale for anchor in problem.anchors for value, scale in _scales(anchor).items()}
    spans = {value: span for anchor in problem.anchors for value, span in _spans(anchor).items()}
    arrays = []
    for index, (value, whole) in enumerate(zip(body.inputs, problem.body.inputs, strict=True)):
        # A dimension of stride 0 repeats one element.
        shape = tuple(1 if step == 0 else size for size, step in zip(value.type.shape, whole.type.strides, strict=True))
        type, span = TensorType(value.type.dtype, shape), spans.get(whole, 0)
        array = draw(type, rng, scale=scales.get(whole, 1.0), positive=positive, span=span)
        if special and not problem.weights[index] and value.type.dtype.is_float:
            _make_special(array, odd)
        arrays.append(np.broadcast_to(array, value.type.shape))
    return arrays


def draw(
    type: TensorType, rng: np.random.Generator, *, scale: float = 1.0, positive: bool = False, span: int = 0
) -> Array:
    """A random array: floats normal (or uniform in 0.5 to 2, if `positive`) times `scale`, integers small, or from
    -span on and below span, booleans."""
    pool = min(max(1, type.numel), _POOL)
    values: Array
    if type.dtype == DType.b8:
        values = rng.integers(0, 2, pool)
    elif not type.dtype.is_float:
        limits = np.iinfo(type.dtype.numpy)
        low, high = (-span, span) if span else (-4, 5)
        values = rng.integers(max(low, 0 if type.dtype.is_unsigned else limits.min), min(high, limits.max + 1), pool)
    elif positive:
        values = rng.uniform(0.5, 2.0, pool) * scale
    else:
        values = rng.standard_normal(pool, np.float32) * np.float32(scale)
    return np.resize(values.astype(type.dtype.numpy), type.shape)


def _make_special(array: Array, rng: np.random.Generator) -> None:
    """Make a sixteenth of the elements large, and one in ten thousand, one at least, NaN."""
    if not array.size:
        return
    flat = array.reshape(-1)
    large = rng.integers(0, flat.size, max(1, flat.size // 16))
    flat[large] *= flat.dtype.type(256)
    # In the first item only, where there are several, so that the others show that NaN does not spread.
    room = flat.size // len(array) if array.ndim > 1 and len(array) > 1 else flat.size
    flat[rng.integers(0, room, max(1, room // 10_000))] = np.nan


def _scales(anchor: Node) -> dict[Value, float]:
    """A matrix product's second operand is scaled so that the results are of the size of the first."""
    if len(anchor.inputs) < 2:
        return {}
    source = anchor.inputs[1]
    while source.producer is not None:
        source = source.producer.inputs[0]
    out = max(1, anchor.output.type.numel)
    flops = anchor.op.flops([v.type for v in anchor.inputs], [v.type for v in anchor.outputs])
    return {source: 1 / math.sqrt(max(1, flops // (2 * out)))}


def _spans(anchor: Node) -> dict[Value, int]:
    """A gather's positions are all over what it gathers from, a scatter's over what it scatters into."""
    if not isinstance(anchor.op, ops.Gather | ops.Scatter):
        return {}
    x, index = anchor.inputs[:2]
    return dict.fromkeys(sources_of(index), x.type.shape[anchor.op.axis])


def _singular(node: Node) -> bool:
    """Whether a normal draw would mostly test NaN, or numbers near a pole."""
    if isinstance(node.op, ops.Div | ops.FloorDiv | ops.Remainder | ops.Fmod):
        return not node.inputs[1].is_constant
    if isinstance(node.op, ops.Pow):
        exponent = node.inputs[1].data
        return exponent is None or float(exponent) != int(float(exponent))
    return isinstance(node.op, _SINGULAR_AT_ZERO)


def is_cast_to_integer(node: Node) -> bool:
    """Whether a node turns floats into integers (or booleans)."""
    return isinstance(node.op, ops.Cast) and not node.op.dtype.is_float and node.inputs[0].type.dtype.is_float
