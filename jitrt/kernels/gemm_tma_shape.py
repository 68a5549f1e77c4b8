"""A pointwise convolution or linear layer as TMA sees it: how its rows lie, what comes as tiles, what is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.codegen.epilogue import Epilogue, make_epilogue
from jitrt.codegen.tile import TileSpace, merge
from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.ops import Conv, Linear
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Problem, anchor_of
from jitrt.kernels.conv_shape import output_space, refuse_conv

_DTYPES = (DType.f16, DType.bf16)
_LINES = (8, 16, 32, 64)  # pixels of a line in a tile
_CALLABLE = {"atan", "clamp", "expm1", "log1p", "round", "sign", "tanh", "to_integer"}  # of `special`, from Gluon
_LONG = ("tl.erf(", *(f"special.{name}(" for name in sorted(_CALLABLE - {"clamp"})))
_NEEDS_LAYOUT = ("tl.full(", "tl.zeros_like(", "tl.arange(")  # Gluon must be told a layout there


@dataclass(frozen=True)
class Rows:
    """How the rows of a tensor lie: (size, stride) of lines and of pixels in a line, or of evenly spaced rows."""

    dims: tuple[tuple[int, int], ...]

    def split(self, pixels: int) -> Rows:
        """Evenly spaced rows as lines of `pixels`."""
        ((size, stride),) = self.dims
        return Rows(((size // pixels, pixels * stride), (pixels, stride)))


@dataclass(frozen=True)
class Shape:
    """A problem in the kernel's terms: the rows of x, of the result and of `handed`, the operand of the epilogue that
    is as large as the result. The epilogue's other operands depend on the filter, at most."""

    anchor: Node
    x: Rows
    y: Rows
    residual: Rows | None
    handed: Value | None
    epilogue: Epilogue
    rows: int
    filters: int
    channels: int

    @property
    def long(self) -> bool:
        return is_long(self.epilogue)

    @property
    def line(self) -> int:
        """Pixels of a line in a tile, so that few are empty; 0 where rows are evenly spaced."""
        if len(self.x.dims) == 1:
            return 0
        pixels = self.x.dims[1][0]
        return min(_LINES, key=lambda line: (-(-pixels // line) * line, -line))

    @property
    def runs(self) -> int:
        """Tiles along a line."""
        return -(-self.x.dims[1][0] // self.line) if self.line else 1

    def tiles(self, block_m: int) -> int:
        """Tiles of `block_m` rows."""
        if not self.line:
            return -(-self.rows // block_m)
        return -(-self.x.dims[0][0] // (block_m // self.line)) * self.runs


def refuse_body(body: Graph) -> str | None:
    """Why a region with this body is no problem for the kernel, whatever its layouts, or None."""
    anchor = anchor_of(body)
    reason = refuse_conv(body, anchor)
    if reason is not None:
        return reason
    assert anchor is not None
    op = anchor.op
    if any(value.producer is not None or value.is_constant for value in anchor.inputs):
        return "an operand that is computed cannot be loaded by TMA"
    if anchor.output.type.dtype not in _DTYPES or body.outputs[0].type.dtype not in _DTYPES:
        return "wgmma with TMA is written for 16-bit floats"
    if isinstance(op, Conv):
        if any(size != 1 for size in anchor.inputs[1].type.shape[2:]):
            return "a filter of more than one pixel is no plain matrix product"
        if op.groups != 1 or any(pad for pair in op.padding for pad in pair):
            return "groups or padding make it no plain matrix product"
    return None


def describe(problem: Problem) -> Shape | str:
    """The shape of a problem that `refuse_body` lets pass; or why the kernel cannot have it."""
    anchor, out = problem.anchor, problem.output
    assert anchor is not None
    x, w = anchor.inputs
    space = output_space(anchor)
    end = epilogue_of(problem, space, ((x, "x", space.column or 0), (w, "w", 1)))
    if isinstance(end, str):
        return end
    handed, epilogue = end
    large = [] if handed is None else [handed]
    around = [(x, _stride(anchor)), (out, None), *((v, None) for v in large)]
    rows = _rows([_lying(value.type, space, stride) for value, stride in around])
    if rows is None:
        return "the rows are not evenly spaced in memory, nor in lines of one length"
    residual = rows[2] if large else None
    filters, channels = w.type.shape[:2]
    return Shape(anchor, rows[0], rows[1], residual, handed, epilogue, space.row_count, filters, channels)


def epilogue_of(
    problem: Problem, space: TileSpace, loaded: Sequence[tuple[Value, str, int]], before: Sequence[Node] = ()
) -> tuple[Value | None, Epilogue] | str:
    """The operand of the epilogue that is as large as the result, and the epilogue that is handed tiles of it; or why
    TMA cannot have a problem's operands, or Gluon its epilogue.

    `loaded` are the other operands that come as tiles, with what they are called and their dimension of channels;
    `before` are the nodes whose results the last anchor reads."""
    anchor, body, out = problem.anchor, problem.body, problem.output
    assert anchor is not None
    assert space.column is not None
    inside = (anchor, *before)
    large = [v for v in body.inputs if v.type.numel >= out.type.numel and any(user not in inside for user in v.users)]
    if len(large) > 1:
        return "several operands of the epilogue are as large as the result"
    handed = large[0] if large else None
    if handed is not None and (handed.type.shape, handed.type.dtype) != (out.type.shape, out.type.dtype):
        return "the large operand of the epilogue has not the result's shape and dtype"
    around = [
        (value, what, space.column) for value, what in ((out, "the result"), *((v, "the residual") for v in large))
    ]
    for value, what, column in (*loaded, *around):
        place = -1 if value is out else body.inputs.index(value)
        if reason := _refuse_tma(value.type, column, problem.alignment[place]):
            return f"{what} {reason}"
    epilogue = make_epilogue(body, anchor.output, space, handed=handed)
    return refuse_epilogue_of(body, epilogue, space) or (handed, epilogue)


def refuse_epilogue_of(body: Graph, epilogue: Epilogue, space: TileSpace) -> str | None:
    """Why Gluon cannot run an epilogue whose operands are one number a channel, or None."""
    for index in epilogue.operands:
        if "m" in space.address(body.inputs[index].type).axes:
            return "an operand of the epilogue depends on the row"
    called = set(re.findall(r"special\.(\w+)", epilogue.finish_source))
    if called - _CALLABLE or any(text in epilogue.finish_source for text in _NEEDS_LAYOUT):
        return "the epilogue has a function that Gluon cannot call"
    return None


def is_long(epilogue: Epilogue) -> bool:
    """Whether it has a function of so many steps that a large tile's would not fit into registers."""
    return any(text in epilogue.finish_source for text in _LONG)


def shape_of(problem: Problem) -> Shape:
    """The shape of a problem that the template supports. Raises KernelError for another."""
    shape = describe(problem)
    if isinstance(shape, str):
        raise KernelError(f"gemm_tma does not run this problem: {shape}; take a tactic of conv2d")
    return shape


def _stride(anchor: Node) -> tuple[int, ...] | None:
    """Pixels of x that a pixel of the result moves by, along each row dimension after the first."""
    return None if isinstance(anchor.op, Linear) else anchor.op.stride  # type: ignore[attr-defined]


def _refuse_tma(type: TensorType, column: int, alignment: int) -> str | None:
    """What a tensor map asks of the tensor under it (CUDA driver API, cuTensorMapEncodeTiled)."""
    if type.shape[column] > 1 and type.strides[column] != 1:
        return "has its channels apart"
    others = [s for d, (n, s) in enumerate(zip(type.shape, type.strides, strict=True)) if d != column and n > 1]
    if alignment % 16 or any(stride * type.dtype.itemsize % 16 or stride == 0 for stride in others):
        return "does not lie at multiples of 16 bytes, as TMA needs it"
    return None


def _lying(type: TensorType, space: TileSpace, stride: Sequence[int] | None) -> list[tuple[int, int]]:
    """(size, stride) of a tensor along the rows of the result, merged."""
    steps = (1, *stride) if stride is not None else (1,) * len(space.rows)
    return merge([(space.shape[d], type.strides[d] * step) for d, step in zip(space.rows, steps, strict=True)])


def _rows(lying: list[list[tuple[int, int]]]) -> list[Rows] | None:
    """All of them evenly spaced, or all in lines of one length; None if neither can be."""
    if any(len(dims) not in (1, 2) for dims in lying):
        return None
    lines = {dims[1][0] for dims in lying if len(dims) == 2}
    if len(lines) > 1:
        return None
    rows = [Rows(tuple(dims)) for dims in lying]
    return [each if len(each.dims) == 2 else each.split(pixels) for each in rows for pixels in lines] or rows
