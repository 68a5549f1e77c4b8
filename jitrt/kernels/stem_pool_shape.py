"""A stem's convolution and max pool in their kernel's terms: which regions it takes, and how it counts through them."""

from __future__ import annotations

from dataclasses import dataclass

from jitrt.codegen.epilogue import Epilogue, make_epilogue, prologue_nodes
from jitrt.codegen.pointwise import EXPRESSIONS
from jitrt.codegen.tile import TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.op import Trait
from jitrt.graph.ops import Add, Cast, Clamp, Conv, MaxPool, Relu, Sigmoid, Tanh
from jitrt.graph.types import Layout, TensorType, row_major
from jitrt.kernels.base import Problem
from jitrt.kernels.conv_shape import ConvShape, operands_of
from jitrt.kernels.conv_shape import describe as describe_conv

CHANNELS = 4  # of a pixel of the padded input
_RISING = (Add, Cast, Clamp, Relu, Sigmoid, Tanh)  # of what comes from the convolution: never fall
_MOST_ROWS, _MOST_GROUPS = 3, 4  # accumulators and tiles of weights that the kernel has names for


@dataclass(frozen=True)
class StemPool:
    """A problem in the kernel's terms. The filter's rows are rounded up to `groups` groups of the stride, its columns
    to a power of two, `taps`; `padded` is (images, 1, height, width) of the padded input, `before` the zeros there
    before the first (plane,) row and column."""

    conv: ConvShape
    out: tuple[int, ...]
    window: tuple[int, int]
    step: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    taps: int
    padded: tuple[int, int, int, int]
    before: tuple[int, int, int]
    x_index: int
    w_index: int
    epilogue: Epilogue

    @property
    def lanes(self) -> int:
        return self.out[0] * self.out[2]

    @property
    def depth(self) -> int:
        """Elements of a group's reduction."""
        return self.conv.stride[1] * self.taps * CHANNELS


def describe(problem: Problem) -> StemPool:
    """How the kernel counts through a problem."""
    conv_node, pool = problem.anchors
    assert isinstance(pool.op, MaxPool)
    x_index, w_index = operands_of(problem, conv_node)
    x, w = problem.body.inputs[x_index].type, problem.body.inputs[w_index].type
    conv, out = describe_conv(conv_node, x, w), pool.output.type.shape
    window, step, padding = ((a[0], a[1]) for a in (pool.op.kernel, pool.op.stride, pool.op.padding))
    stride = conv.stride[1:]
    groups = -(-conv.filter[1] // stride[0])
    taps = 1 << (conv.filter[2] - 1).bit_length()
    reach = [((o - 1) * s + k - 1) * t for o, s, k, t in zip(out[2:], step, window, stride, strict=True)]
    width = reach[1] + taps
    before = (0, *(p * t + c for p, t, c in zip(padding, stride, conv.padding[1:], strict=True)))
    body, start = _around(problem.body, conv_node, pool)
    return StemPool(
        conv=conv,
        out=out,
        window=window,
        step=step,
        padding=padding,
        groups=groups,
        taps=taps,
        padded=(x.shape[0], 1, reach[0] + groups * stride[0], width + width % 2),  # even: rows of 16 bytes
        before=before,  # type: ignore[arg-type]
        x_index=x_index,
        w_index=w_index,
        epilogue=make_epilogue(body, start, TileSpace(out, (0, 2, 3), 1)),
    )


def _around(body: Graph, conv: Node, pool: Node) -> tuple[Graph, Value]:
    """(what is elementwise around the pool, as a body on pooled images with the same operands; where it starts)."""
    shape = pool.output.type.shape
    out = Graph("region")
    inside = {value: out.add_input(value.name, value.type) for value in body.inputs}
    for value in body.constants.values():
        assert value.data is not None
        inside[value] = out.add_constant(value.data, value.name, value.type)
    start = inside[conv.output] = out.add_input("acc", TensorType(conv.output.type.dtype, shape))
    before = {*prologue_nodes(body, conv), conv}
    for node in body.nodes:
        if node is pool:
            inside[node.output] = inside[node.inputs[0]]
        elif node not in before:
            type = TensorType(node.output.type.dtype, shape, Layout(row_major(shape)))
            type = body.outputs[0].type if node.output is body.outputs[0] else type
            made = out.append(node.op, [inside[v] for v in node.inputs], types=[type])
            inside[node.output] = made.output
    result = inside[body.outputs[0]]
    result.type = body.outputs[0].type
    out.mark_output(result)
    return out, start


def refuse(body: Graph) -> str | None:
    """Why the kernel cannot run this body, or None."""
    anchors = anchors_of(body)
    if len(anchors) != 2 or not isinstance(anchors[0].op, Conv) or not isinstance(anchors[1].op, MaxPool):
        return "anchor is no max pool of a convolution"
    conv, pool = anchors
    assert isinstance(conv.op, Conv) and isinstance(pool.op, MaxPool)
    if conv.inputs[0].type.rank != 4 or conv.inputs[1].type.shape[1] > CHANNELS or conv.op.groups > 1:
        return "anchor is no stem: a max pool joins 2-d convolutions of at most four channels"
    if set(conv.op.dilation) != {1} or set(pool.op.dilation) != {1}:
        return "a stem and its pool may not be dilated"
    (rows, columns), across = pool.op.kernel, pool.op.stride[1]
    if rows > _MOST_ROWS or not across <= columns <= across + 1:
        return "the pool's windows must overlap by one column or not at all, and have at most three rows"
    stride, filter = conv.op.stride[0], conv.inputs[1].type.shape[2]
    if stride & (stride - 1) or -(-filter // stride) > _MOST_GROUPS:
        return f"a filter of {filter} rows with stride {stride} takes more tiles of weights than the kernel keeps"
    if conv.output.type.dtype not in (DType.f32, DType.f16, DType.bf16):
        return f"{conv.output.type.dtype.value} convolutions have no kernel"
    if conv.output.type.dtype == DType.f32 and not conv.op.tf32:
        # Measured: 20 KB of spills a thread, and 8 s to compile.
        return "a stem and its pool in IEEE float32 have no room in the registers"
    before = prologue_nodes(body, conv)
    if any(not isinstance(node.op, Cast) or node.output is not conv.inputs[0] for node in before):
        return "only the input of a convolution can be cast on the way in"
    if len(conv.inputs[1].users) > 1:
        return "the weights are read elsewhere too, but are packed for the convolution"
    between = [node for node in prologue_nodes(body, pool) if node is not conv and node not in before]
    for node in between:
        if not isinstance(node.op, _RISING):
            return f"{node.op.name} before a pool may fall where its input rises"
        if any(_varies(value) for value in node.inputs if value.producer is None):
            return f"{node.op.name} before a pool reads more than a number for each channel"
        if sum(value.producer is not None for value in node.inputs) > 1 or len(node.output.users) > 1:
            return "what lies between a convolution and its pool must be a chain"
    for node in body.nodes:
        if node not in (conv, pool, *before) and (not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS):
            return f"{node.op.name} is not elementwise"
    if len(conv.output.users) > 1 or pool.output.type.shape != body.outputs[0].type.shape or len(body.outputs) != 1:
        return "what follows the pool must have its shape"
    return None


def _varies(value: Value) -> bool:
    """Whether an operand differs between the pixels of a channel."""
    shape = value.type.shape
    return any(size != 1 for d, size in enumerate(shape) if d - len(shape) != -3)
