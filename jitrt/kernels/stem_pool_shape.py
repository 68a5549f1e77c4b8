"""A stem's convolution and max pool in their kernel's terms: which regions it takes, and how it counts through them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from triton import next_power_of_2

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

CHANNELS = 4  # of a convolution that is looked at, at most
_RISING = (Add, Cast, Clamp, Relu, Sigmoid, Tanh)  # of what comes from the convolution: never fall
_MOST_GROUPS = 4  # of filter rows


@dataclass(frozen=True)
class StemPool:
    """A problem in the kernel's terms.

    The input is folded: `stride` rows by `stride` columns of pixels are one cell of `cell` numbers, `folded` is
    (images, rows, columns) of cells, and `before` the zeros there before the first row and column of pixels. A filter
    covers `groups` rows and `reach` columns of cells, so that the convolution moves by one cell; of a row of cells
    `depth` numbers are multiplied. Cells, groups and depth are powers of two. An image's row of pooled pixels is
    `slots` windows; `phantoms` of them, at its begin, only make a column that the next one shares. `first` is the row
    and column of the convolution that the folded input begins with."""

    conv: ConvShape
    dtype: DType  # of what is multiplied
    out: tuple[int, ...]
    window: tuple[int, int]
    step: tuple[int, int]
    first: tuple[int, int]
    phantoms: int
    groups: int
    reach: int
    cell: int
    depth: int
    folded: tuple[int, int, int]
    before: tuple[int, int]
    x_index: int
    w_index: int
    epilogue: Epilogue

    @property
    def slots(self) -> int:
        return self.out[3] + self.phantoms

    @property
    def overlap(self) -> tuple[int, int]:
        """Rows and columns that neighbouring windows share."""
        return self.window[0] - self.step[0], self.window[1] - self.step[1]

    @property
    def pixels(self) -> int:
        """Numbers of a cell that are not padding."""
        return math.prod(self.conv.stride[1:]) * self.conv.channels


def describe(problem: Problem) -> StemPool:
    """How the kernel counts through a problem."""
    conv_node, pool = problem.anchors
    assert isinstance(pool.op, MaxPool)
    x_index, w_index = operands_of(problem, conv_node)
    x, w = problem.body.inputs[x_index].type, problem.body.inputs[w_index].type
    conv, out = describe_conv(conv_node, x, w), pool.output.type.shape
    dtype = conv_node.output.type.dtype
    window, step, padding = ((a[0], a[1]) for a in (pool.op.kernel, pool.op.stride, pool.op.padding))
    stride = conv.stride[1:]
    groups, reach = (-(-f // s) for f, s in zip(conv.filter[1:], stride, strict=True))
    groups = next_power_of_2(groups)
    # Copies are of 16 bytes, and so is the least that the tensor cores multiply.
    cell = next_power_of_2(max(math.prod(stride) * conv.channels, 16 // dtype.itemsize))
    depth = next_power_of_2(max(reach * cell, 16))
    shared = window[1] - step[1]
    phantoms = int(shared > 0 and padding[1] == 0)
    first = (-padding[0], shared - padding[1] - phantoms * step[1])
    before = tuple(p - f * s for p, f, s in zip(conv.padding[1:], first, stride, strict=True))
    # Whatever a window within the image is multiplied by is there, if only by a weight that is zero.
    rows = (out[2] - 1) * step[0] + window[0] - 1 + groups
    columns = (out[3] + phantoms) * step[1] - 1 + depth // cell
    body, start = _around(problem.body, conv_node, pool)
    return StemPool(
        conv=conv,
        dtype=dtype,
        out=out,
        window=window,
        step=step,
        first=first,
        phantoms=phantoms,
        groups=groups,
        reach=reach,
        cell=cell,
        depth=depth,
        folded=(out[0], rows, columns),
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
    if any(not step <= size <= step + 1 for size, step in zip(pool.op.kernel, pool.op.stride, strict=True)):
        return "the pool's windows must overlap by one row and column or not at all"
    if max(pool.op.stride) > 2:
        return "the pool may shrink rows and columns to no less than their half, which is what threads hold"
    stride, filter = conv.op.stride[0], conv.inputs[1].type.shape[2]
    if -(-filter // stride) > _MOST_GROUPS:
        return f"a filter of {filter} rows with stride {stride} takes more accumulators than the kernel has"
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
