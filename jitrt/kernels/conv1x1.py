"""1x1 convolutions and linear layers whose input is computed while it is loaded: what stood before costs no kernel.

Formula: y[m, k] = f(sum over c of g(x, ...)[m, c] * w[k, c]), g elementwise in float32, rounded once to the dtype of
the product. Fires for a filter of one pixel, stride 1, no padding and one group, where more than a cast stands before:
batch norm and relu (DenseNet), a squeeze-and-excite gate (MobileNetV3, EfficientNet, RegNetY). Without that, `conv2d`
runs it. Saves the input's trip through memory, written and read. Floors: bytes (x + w + y + residual) / bandwidth, and
2 * M * K * C / the tensor cores' rate. g runs once for every tile of filters, so wide tiles gain most.

With `ALIGNED` no tile has rows of two images: a gate, which depends on image and channel, is then a row of numbers
instead of a tile of them, at the price of the rows that are left over in each image's last tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, prologue_nodes, refuse_epilogue
from jitrt.codegen.prologue import make_prologue, refuse_prologue, sources_of
from jitrt.codegen.target import Target
from jitrt.codegen.tile import Space
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, anchors_of
from jitrt.graph.ops import Cast, Conv, Linear
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.kernels.conv_shape import output_space
from jitrt.kernels.gemm_cost import GemmShape, cost, rank_configs
from jitrt.kernels.split_k import split_launch, store_sum

_KEPT = 48  # candidates


@triton.jit
def conv1x1(
    y,
    w,
    partials,
    counters,
    inputs,
    aux,
    IMAGES: tl.constexpr,  # runs of rows that share no tile
    ROWS: tl.constexpr,  # of each
    FILTERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    W_STRIDES: tl.constexpr,  # k, c
    WIDE: tl.constexpr,  # offsets of w pass 2^31
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EARLY: tl.constexpr,  # load the epilogue's operands before the loop
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    tiles_m: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    steps: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K

    # Filters run fastest, so that neighbouring programs read the same rows from L2.
    tile = tl.program_id(0)
    split = tl.program_id(1)
    rn = (tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    rm = (tile // tiles_n % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    image = tile // (tiles_n * tiles_m)
    rk = tl.arange(0, BLOCK_K).to(tl.int64) if WIDE else tl.arange(0, BLOCK_K)
    row = rm[:, None]
    row_mask = row < ROWS
    n_mask = (rn < FILTERS)[None, :]
    m = image * ROWS + row
    k = rn[None, :]
    whole = tl.full((1, 1), True, tl.int1)
    b = tl.full((1, 1), 0, tl.int32) + image
    w_row = (rn.to(tl.int64) if WIDE else rn) * W_STRIDES[0]

    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if EARLY:
        held = FETCH(aux, m, k, row_mask, n_mask)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    share: tl.constexpr = (steps + SPLIT_K - 1) // SPLIT_K
    first = split * share
    last = tl.minimum(first + share, steps)
    for step in range(first, last):
        c = step * BLOCK_K + rk
        w_mask = n_mask
        if CHANNELS % BLOCK_K == 0:
            left = LOAD(inputs, b, row, c[None, :], whole, row_mask, whole)
        else:
            c_mask = c < CHANNELS
            w_mask = w_mask & c_mask[:, None]
            left = LOAD(inputs, b, row, c[None, :], whole, row_mask, c_mask[None, :])
            left = tl.where(c_mask[None, :], left, 0.0)  # what is computed from nothing may even be NaN
        left = tl.broadcast_to(left.to(w.dtype.element_ty), (BLOCK_M, BLOCK_K))  # it may be one row alone
        right = tl.load(w + (w_row[None, :] + (c * W_STRIDES[1])[:, None]), mask=w_mask, other=0.0)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)

    if SPLIT_K == 1:
        if not EARLY:
            held = FETCH(aux, m, k, row_mask, n_mask)
        value = FINISH(acc, held)
        if DEPENDENT:
            tl.extra.cuda.gdc_launch_dependents()
        STORE(y, value, m, k, row_mask, n_mask)
    else:
        store_sum(
            y,
            acc,
            partials,
            counters,
            aux,
            tile,
            split,
            m,
            k,
            row_mask,
            n_mask,
            SPLIT_K,
            DEPENDENT,
            FETCH,
            FINISH,
            STORE,
        )


@dataclass(frozen=True)
class InputSpace(Space):
    """The input's elements as the kernel counts them: image `b`, row `m` of the image, channel `k`."""

    shape: tuple[int, ...]
    images: tuple[int, ...]
    rows: tuple[int, ...]
    column: int

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        return {"b": self.images, "m": self.rows, "k": (self.column,)}


class Conv1x1(Template):
    """1x1 convolutions and linear layers with a prologue, in plain `tl`."""

    name = "conv1x1"
    priority = 2  # so that its reason is the one given
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Conv | Linear):
            return "anchor is no convolution"
        before = prologue_nodes(body, anchor)
        if all(isinstance(node.op, Cast) for node in before):
            return "anchor has nothing before it to compute"
        if len(anchors_of(body)) > 1:
            return "anchor has another before it"  # whose template says more
        if anchor.output.type.dtype not in (DType.f32, DType.f16, DType.bf16):
            return f"{anchor.output.type.dtype.value} convolutions have no kernel"
        if anchor.inputs[1] not in body.inputs:
            return "weights cannot be computed inside a convolution's loop"
        return _refuse_window(anchor) or _refuse_before(anchor, before) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = _anchor(problem)
        names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K", "EARLY", "num_warps", "num_stages")
        ranked: list[tuple[float, dict[str, Any]]] = []
        for aligned in (False, True) if _has_gate(anchor) else (False,):
            shape = _gemm_shape(problem, input_space(anchor, aligned))
            for config in rank_configs(shape, target):
                kept = {name: config[name] for name in names} | {"ALIGNED": aligned}
                ranked.append((cost(config, shape, target), kept))
        if _has_gate(anchor):
            ranked.sort(key=lambda pair: pair[0])
        return [config for _, config in ranked[:_KEPT]]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor = _anchor(problem)
        body, w = problem.body, anchor.inputs[1]
        space = input_space(anchor, bool(config["ALIGNED"]))
        prologue = make_prologue(body, anchor.inputs[0], space)
        epilogue = make_epilogue(body, anchor.output, output_space(anchor))
        images, rows, (filters, channels) = space.count("b"), space.count("m"), w.type.shape[:2]
        block_m, block_n, split = config["BLOCK_M"], config["BLOCK_N"], config["SPLIT_K"]
        tiles = images * -(-rows // block_m) * -(-filters // block_n)
        constexprs: dict[str, Any] = {
            "IMAGES": images,
            "ROWS": rows,
            "FILTERS": filters,
            "CHANNELS": channels,
            "W_STRIDES": w.type.strides[:2],
            "WIDE": w.type.span >= 2**31,
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": config["BLOCK_K"],
            "SPLIT_K": split,
            "EARLY": config["EARLY"],
            "PRECISION": "tf32" if anchor.op.tf32 else "ieee",  # type: ignore[attr-defined]
            "DEPENDENT": target.arch >= 90,
            "LOAD": prologue.load,
            "FETCH": epilogue.fetch,
            "FINISH": epilogue.finish,
            "STORE": epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "w": Operand(body.inputs.index(w)),
            "inputs": tuple(Operand(i) for i in prologue.operands),
            "aux": tuple(Operand(i) for i in epilogue.operands),
        }
        part = block_m * block_n
        return split_launch(conv1x1, arguments, constexprs, config, tiles=tiles, splits=split, part=part)


def input_space(anchor: Node, aligned: bool) -> InputSpace:
    """How the kernel counts through the anchor's input: rows as `output_space` has them; with `aligned` the first
    dimension of them is the image."""
    shape = anchor.inputs[0].type.shape
    column = 1 if isinstance(anchor.op, Conv) else len(shape) - 1
    rows = tuple(d for d in range(len(shape)) if d != column)
    return InputSpace(shape, rows[:1], rows[1:], column) if aligned else InputSpace(shape, (), rows, column)


def _has_gate(anchor: Node) -> bool:
    """Whether what is before the anchor reads anything that depends on the image and no other row of the input."""
    space = input_space(anchor, True)
    if space.count("b") == 1 or space.count("m") == 1:
        return False
    return any("b" in axes and "m" not in axes for axes in _axes(anchor, space))


def _axes(anchor: Node, space: Space) -> list[tuple[str, ...]]:
    """The indices that each operand of what is before the anchor varies with."""
    return [space.address(value.type).axes for value in sources_of(anchor.inputs[0])]


def _gemm_shape(problem: Problem, space: InputSpace) -> GemmShape:
    body, anchor = problem.body, _anchor(problem)
    dtype, w = anchor.output.type.dtype, anchor.inputs[1].type
    before = prologue_nodes(body, anchor)
    inside = {anchor, *before}
    tiles = sum("m" in axes and "k" in axes for axes in _axes(anchor, space))
    return GemmShape(
        rows=space.count("m"),
        columns=w.shape[0],
        batches=space.count("b"),
        channels=w.shape[1],
        taps=1,
        itemsize=dtype.itemsize,
        ieee=dtype == DType.f32 and not anchor.op.tf32,  # type: ignore[attr-defined]
        epilogue_reads=sum(
            v.type.numel >= problem.output.type.numel and any(user not in inside for user in v.users)
            for v in body.inputs
        ),
        prologue_ops=len(before),
        prologue_reads=max(0, tiles - 1),
    )


def _anchor(problem: Problem) -> Node:
    assert problem.anchor is not None
    return problem.anchor


def _refuse_window(anchor: Node) -> str | None:
    """Why an element of the anchor's input would be computed more than once for a tile, or beside the input."""
    op = anchor.op
    if isinstance(op, Linear):
        return None
    assert isinstance(op, Conv)
    filter_ = anchor.inputs[1].type.shape[2:]
    if any(size != 1 for size in filter_):
        return f"a {'x'.join(map(str, filter_))} convolution would compute what is before it once for every tap"
    if op.groups != 1:
        return "a grouped convolution cannot compute what is before it"
    if any(s != 1 for s in op.stride) or any(p for pair in op.padding for p in pair):
        return "a 1x1 convolution with a stride or padding cannot compute what is before it"
    return None


def _refuse_before(anchor: Node, before: Sequence[Node]) -> str | None:
    inside = {anchor, *before}
    if any(user not in inside for node in before for user in node.output.users):
        return "what is before the convolution is read after it too"
    return refuse_prologue(anchor.inputs[0])
