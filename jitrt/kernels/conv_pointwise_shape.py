"""A convolution and the 1x1 convolution of it as TMA sees them, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jitrt.codegen.epilogue import Epilogue, prologue_nodes, refuse_epilogue
from jitrt.codegen.pointwise import EXPRESSIONS
from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.op import Trait
from jitrt.graph.ops import Conv
from jitrt.kernels.base import Problem
from jitrt.kernels.conv_shape import output_space
from jitrt.kernels.conv_tma_shape import Pixels, refuse_taps, tap_strides_of
from jitrt.kernels.conv_tma_shape import Shape as ConvShape
from jitrt.kernels.depthwise_pointwise import between
from jitrt.kernels.gemm_tma_shape import Rows, epilogue_of, is_long, refuse_epilogue_of
from jitrt.kernels.gemm_tma_shape import Shape as GemmShape

_DTYPES = (DType.f16, DType.bf16)
_MOST_WIDTH = 128  # more leave no room for blocks ahead


@dataclass(frozen=True)
class Shape:
    """A problem in the kernel's terms. `first` and `second` are the two convolutions as kernels of their own: what
    `first` calls y is the image between, and its epilogue what lies between; `second` says how the result is made."""

    first: ConvShape
    second: GemmShape
    y: Pixels
    residual: Pixels | None
    fixed: bool  # the weights of both are constants

    @property
    def handed(self) -> Value | None:
        """The operand of the epilogue that is as large as the result."""
        return self.second.handed

    @property
    def width(self) -> int:
        """Channels between."""
        return self.first.filters

    @property
    def filters(self) -> int:
        return self.second.filters

    @property
    def block_c(self) -> int:
        """Channels between, as a program has them."""
        return 64 if self.width <= 64 else 128

    @property
    def long(self) -> bool:
        return self.first.long or is_long(self.second.epilogue)


def is_bottleneck(deep: Node, point: Node) -> bool:
    """Whether the two are a 2-d convolution of several taps and a 1x1 one, both without groups."""
    for node in (deep, point):
        if not isinstance(node.op, Conv) or node.inputs[0].type.rank != 4 or node.op.groups != 1:
            return False
    assert isinstance(point.op, Conv)
    dense = set(point.op.stride) == {1} and not any(map(any, point.op.padding))
    return dense and point.inputs[1].type.shape[2:] == (1, 1) and math.prod(deep.inputs[1].type.shape[2:]) > 1


def refuse_body(body: Graph) -> str | None:
    """Why a region with this body is no problem for the kernel, whatever its layouts, or None."""
    anchors = anchors_of(body)
    if len(anchors) != 2 or not is_bottleneck(*anchors):
        return "anchor is no 1x1 convolution of one of several taps"
    deep, point = anchors
    if any(value.producer is not None or value.is_constant for value in (*deep.inputs, point.inputs[1])):
        return "an operand that is computed cannot be loaded by TMA"
    types = {value.type.dtype for value in (*deep.inputs, *point.inputs)}
    if len(types) > 1 or not types.issubset(_DTYPES) or body.outputs[0].type.dtype not in _DTYPES:
        return "wgmma with TMA is written for 16-bit floats"
    reason = refuse_taps(deep)
    if reason is not None:
        return reason
    width = deep.output.type.shape[1]
    if width > _MOST_WIDTH:
        return f"{width} channels between the convolutions are more than a program keeps ({_MOST_WIDTH})"
    before = prologue_nodes(body, point)
    for node in before:
        if node is not deep and (not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS):
            return f"{node.op.name} between the convolutions is not elementwise"
        if any(user not in before and user is not point for user in node.output.users):
            return "what lies between the convolutions is read after them too"
    return refuse_epilogue(body, point)


def describe(problem: Problem) -> Shape | str:
    """The shape of a problem that `refuse_body` lets pass; or why the kernel cannot have it."""
    body, (deep, point) = problem.body, problem.anchors
    assert isinstance(deep.op, Conv)
    (x, v), w = deep.inputs, point.inputs[1]
    loaded = ((x, "x", 1), (v, "the first convolution's w", 1), (w, "the second convolution's w", 1))
    end = epilogue_of(problem, output_space(point), loaded, prologue_nodes(body, point))
    if isinstance(end, str):
        return end
    handed, epilogue = end
    middle: Epilogue = between(body, deep, point)
    reason = refuse_epilogue_of(body, middle, output_space(deep))
    if reason is not None:
        return f"between the convolutions {reason}"
    tap_strides = tap_strides_of(v.type)
    if tap_strides is None:
        return "the taps of the first convolution's w are not evenly spaced"
    width, channels, *taps = v.type.shape
    filters = w.type.shape[0]
    first = ConvShape(
        anchor=deep,
        x=Pixels.of(x.type),
        y=Pixels.of(point.inputs[0].type),
        residual=None,
        handed=None,
        epilogue=middle,
        filters=width,
        channels=channels,
        filter=(taps[0], taps[1]),
        stride=(deep.op.stride[0], deep.op.stride[1]),
        padding=(deep.op.padding[0][0], deep.op.padding[1][0]),
        tap_strides=tap_strides,
        fixed=problem.weights[body.inputs.index(v)],
    )
    rows = [Rows(((first.rows, columns),)) for columns in (width, filters)]
    residual = None if handed is None else rows[1]
    second = GemmShape(point, rows[0], rows[1], residual, handed, epilogue, first.rows, filters, width)
    fixed = first.fixed and problem.weights[body.inputs.index(w)]
    place = None if handed is None else Pixels.of(handed.type)
    return Shape(first, second, Pixels.of(problem.output.type), place, fixed)


def shape_of(problem: Problem) -> Shape:
    """The shape of a problem that the template supports. Raises KernelError for another."""
    shape = describe(problem)
    if isinstance(shape, str):
        raise KernelError(f"conv_pointwise does not run this problem: {shape}; take the two convolutions apart")
    return shape
