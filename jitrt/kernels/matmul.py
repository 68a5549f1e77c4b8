"""Batched matrix products of two activations: attention scores and their use, and whatever a model multiplies.

Formula: y[b, m, n] = f(sum over k of a[b, m, k] * b[b, k, n]), batch dimensions broadcast, any strides, so a transposed
operand costs nothing. One batch of rows where b has no batch of its own. Fires for 16- and 32-bit floats with nothing
but a cast before an operand. Floors: (a + b + y) bytes / bandwidth, and 2 * M * N * K * batch / the tensor cores' rate.
Products with constant weights are linear layers, which `conv2d` runs, with split reductions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import storage_dtype
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace, merge
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.ops import Cast, Matmul
from jitrt.graph.types import Layout, TensorType, broadcast_shapes
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.kernels.gemm_cost import GemmShape, rank_configs

_BAND = 8  # rows of tiles that neighbouring programs share, so that they find both operands in L2


@triton.jit
def matmul(
    y,
    a,
    b,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    REDUCTION: tl.constexpr,
    A_STRIDES: tl.constexpr,  # row, k
    B_STRIDES: tl.constexpr,  # k, column
    WIDE: tl.constexpr,  # offsets pass 2^31
    DTYPE: tl.constexpr,  # of the products
    PRECISION: tl.constexpr,
    BAND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BATCH: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_m: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    tiles_n: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0) % (tiles_m * tiles_n)
    batch = tl.program_id(0) // (tiles_m * tiles_n)
    band = pid // (BAND * tiles_n)
    height = tl.minimum(tiles_m - band * BAND, BAND)
    rm = (band * BAND + pid % (BAND * tiles_n) % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (pid % (BAND * tiles_n) // height) * BLOCK_N + tl.arange(0, BLOCK_N)
    rk = tl.arange(0, BLOCK_K)
    m_mask = (rm < ROWS)[:, None]
    n_mask = (rn < COLUMNS)[None, :]
    a_start, b_start = BATCH(batch)
    if WIDE:
        a_rows = a + a_start + rm.to(tl.int64)[:, None] * A_STRIDES[0]
        b_columns = b + b_start + rn.to(tl.int64)[None, :] * B_STRIDES[1]
        rk = rk.to(tl.int64)
    else:
        a_rows = a + a_start + rm[:, None] * A_STRIDES[0]
        b_columns = b + b_start + rn[None, :] * B_STRIDES[1]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, REDUCTION, BLOCK_K):
        k = start + rk
        a_mask = m_mask
        b_mask = n_mask
        if REDUCTION % BLOCK_K != 0:
            a_mask = a_mask & (k < REDUCTION)[None, :]
            b_mask = b_mask & (k < REDUCTION)[:, None]
        left = tl.load(a_rows + k[None, :] * A_STRIDES[1], mask=a_mask, other=0.0).to(DTYPE)
        right = tl.load(b_columns + k[:, None] * B_STRIDES[0], mask=b_mask, other=0.0).to(DTYPE)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    m = (batch * ROWS + rm)[:, None]
    n = rn[None, :]
    value = APPLY(acc, aux, m, n, m_mask, n_mask)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    STORE(y, value, m, n, m_mask, n_mask)


@dataclass(frozen=True)
class Product:
    """A matmul node in the kernel's terms. `a` and `b` are the region's operands, before a cast."""

    a: Value
    b: Value
    batch: tuple[int, ...]
    rows: int
    columns: int
    reduction: int
    a_row_stride: int


def describe(anchor: Node) -> Product:
    """The product a matmul node asks for. Where b has no batch, the batch of a is more rows, if its strides allow."""
    a, b = (_source(v) for v in anchor.inputs)
    batch = broadcast_shapes(a.type.shape[:-2], b.type.shape[:-2])
    assert batch is not None
    rows, reduction = a.type.shape[-2:]
    columns = b.type.shape[-1]
    merged = merge(list(zip(a.type.shape[:-1], a.type.strides[:-1], strict=True)))
    if math.prod(b.type.shape[:-2]) == 1 and a.type.rank >= b.type.rank and len(merged) <= 1:
        return Product(a, b, (), math.prod(a.type.shape[:-1]), columns, reduction, merged[0][1] if merged else 0)
    return Product(a, b, batch, rows, columns, reduction, a.type.strides[-2])


def refuse_operands(anchor: Node) -> str | None:
    """None if nothing but a cast stands before each operand of a product, else what does."""
    for value in anchor.inputs:
        before = value.producer
        if before is not None and (not isinstance(before.op, Cast) or before.inputs[0].producer is not None):
            return f"{before.op.name} cannot run inside a matrix product's loop: only one cast can"
    return None


def _source(value: Value) -> Value:
    return value if value.producer is None else value.producer.inputs[0]


def make_offsets(batch: tuple[int, ...], types: Sequence[TensorType]) -> Any:
    """The function (m: batch index) -> (offset of that batch's first element in a tensor of each type)."""
    space = TileSpace(batch, tuple(range(len(batch))), None)
    leads = [TensorType(type.dtype, type.shape[:-2], Layout(type.strides[:-2])) for type in types]
    offsets = [space.address(lead).offset if batch else "0" for lead in leads]
    told = ", ".join(f"{offset} + m * 0" for offset in offsets)
    return function(f"@triton.jit\ndef batch(m):\n    return {told}\n", "batch")


class MatmulTemplate(Template):
    """Batched products in plain `tl`."""

    name = "matmul"
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Matmul):
            return "anchor is no matrix product"
        if anchor.output.type.dtype not in (DType.f32, DType.f16, DType.bf16):
            return f"a matrix product of {anchor.output.type.dtype.value} has no kernel"
        return refuse_operands(anchor) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, Matmul)
        product, dtype = describe(anchor), anchor.output.type.dtype
        shape = GemmShape(
            rows=product.rows,
            columns=product.columns,
            batches=math.prod(product.batch),
            channels=product.reduction,
            taps=1,
            itemsize=dtype.itemsize,
            ieee=dtype == DType.f32 and not anchor.op.tf32,
            epilogue_reads=sum(
                v.type.numel >= problem.output.type.numel
                for v in problem.body.inputs
                if v not in (product.a, product.b)
            ),
        )
        names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
        ranked = rank_configs(shape, target, keep=1 << 20)
        plain = [{n: c[n] for n in names} for c in ranked if c["SPLIT_K"] == 1 and not c["EARLY"]]
        return plain[:10]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, Matmul)
        product = describe(anchor)
        arguments, constexprs, grid = launch(problem, product, config, target)
        constexprs |= {
            "WIDE": max(product.a.type.span, product.b.type.span) >= 2**31,
            "DTYPE": storage_dtype(anchor.output.type.dtype),
            "PRECISION": "tf32" if anchor.op.tf32 else "ieee",
            "BAND": _BAND,
        }
        return Lowered((KernelCall(matmul, arguments, constexprs, grid, config["num_warps"], config["num_stages"]),))


def launch(
    problem: Problem, product: Product, config: Config, target: Target
) -> tuple[dict[str, Any], dict[str, Any], tuple[int, int, int]]:
    """(arguments, constexprs, grid) of a kernel with one program a tile of the product, what follows included."""
    body, anchor, out = problem.body, problem.anchor, problem.output.type
    assert anchor is not None
    epilogue = make_epilogue(body, anchor.output, TileSpace(out.shape, tuple(range(out.rank - 1)), out.rank - 1))
    arguments: dict[str, Any] = {
        "y": Result(),
        "a": Operand(body.inputs.index(product.a)),
        "b": Operand(body.inputs.index(product.b)),
        "aux": tuple(Operand(i) for i in epilogue.operands),
    }
    constexprs: dict[str, Any] = {
        "ROWS": product.rows,
        "COLUMNS": product.columns,
        "REDUCTION": product.reduction,
        "A_STRIDES": (product.a_row_stride, product.a.type.strides[-1]),
        "B_STRIDES": product.b.type.strides[-2:],
        "BLOCK_M": config["BLOCK_M"],
        "BLOCK_N": config["BLOCK_N"],
        "BLOCK_K": config["BLOCK_K"],
        "BATCH": make_offsets(product.batch, (product.a.type, product.b.type)),
        "DEPENDENT": target.arch >= 90,
        "APPLY": epilogue.apply,
        "STORE": epilogue.store,
    }
    tiles = -(-product.rows // config["BLOCK_M"]) * -(-product.columns // config["BLOCK_N"])
    return arguments, constexprs, (tiles * math.prod(product.batch), 1, 1)
