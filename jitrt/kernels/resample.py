"""Resize (nearest, linear, cubic), padding by the tensor's own elements and rolling, in any number of dimensions.

Formula: y[i] = f(sum over taps t of w_t(i) * g(x[s_t(i)])), the source s_t and weight w_t of each dimension computed
from the output's index (in float64 where it falls between elements: per row or column, not per element: it costs
nothing).
Sources are clamped to x by construction. f and g are elementwise ops. Fires for any strides. Saves the trips before and
after it. Floor: (x + y) bytes / bandwidth; neighbouring outputs read the same elements, which are in L1 or L2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.prologue import make_chain, refuse_chain, source_of
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Extend, Resize, Roll
from jitrt.graph.ops.resample import CUBIC, GRAIN
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Template, anchor_of
from jitrt.kernels.tiles import tile_configs, tile_launch

_MOST = 64  # loads an element


@triton.jit
def resample(
    y,
    x,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LOADED: tl.constexpr,  # the dtype elements of x have in registers
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    SAMPLE: tl.constexpr,
    CHAIN: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_k: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    pid = tl.program_id(0)
    m = ((pid // tiles_k) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = ((pid % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    m_mask = m < ROWS
    k_mask = k < COLUMNS
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    value = SAMPLE(x, m, k, m_mask & k_mask, LOADED, CHAIN)
    STORE(y, APPLY(value, aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


class Resample(Template):
    """Resizes, extensions and rolls, with what is elementwise around them."""

    name = "resample"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Extend | Resize | Roll):
            return "anchor is no resize, extension or roll"
        x = anchor.inputs[0]
        if isinstance(anchor.op, Resize) and anchor.op.taps ** len(anchor.op.size) > _MOST:
            return f"a {anchor.op.mode} resize in {len(anchor.op.size)} dimensions has no kernel"
        return refuse_chain(x) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return tile_configs(problem, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        body, anchor, space = problem.body, problem.anchor, TileSpace.of(problem.output.type)
        assert anchor is not None
        source = source_of(anchor.inputs[0])
        assert source is not None
        epilogue = make_epilogue(body, anchor.output, space)
        constexprs: dict[str, Any] = {
            "LOADED": triton_dtype(source.type.dtype),
            "SAMPLE": make_sample(space, anchor, source.type),
            "CHAIN": make_chain(body, anchor.inputs[0]),
        }
        arguments = {"x": Operand(body.inputs.index(source))}
        return tile_launch(resample, space, config, target, epilogue, constexprs, arguments)


Tap = tuple[str, str]  # the name of a source position, and of its weight ("" for 1)


def make_sample(space: TileSpace, node: Node, x: TensorType) -> Any:
    """The function (x, m, k, mask, LOADED, CHAIN) -> the anchor's value, written for its op, shape and strides."""
    lines: list[str] = []
    taps: dict[int, list[Tap]] = {}
    for d, size in enumerate(x.shape):
        found = _taps(node, d, size, space.coordinate(d))
        if found is not None:
            lines += found[0]
            taps[d] = found[1]
    # Dimensions that stay as they are are addressed together.
    shape = tuple(1 if d in taps else size for d, size in enumerate(x.shape))
    kept = space.address(TensorType(x.dtype, shape, Layout(x.strides)))
    lines.append(f"    first = x + ({kept.offset} + m * 0 + k * 0)")
    value = _sum(taps, x.strides, x.span >= 2**31, lines)
    result = "tl.float64" if node.output.type.dtype.itemsize == 8 else "tl.float32"
    cast = f".to({result})" if any(weight for found in taps.values() for _, weight in found) else ""
    head = ["@triton.jit", "def sample(x, m, k, mask, LOADED, CHAIN):"]
    return function("\n".join([*head, *lines, f"    return ({value}){cast}", ""]), "sample")


def _sum(taps: dict[int, list[Tap]], strides: Sequence[int], wide: bool, lines: list[str]) -> str:
    """Append a load for every combination of taps; returns the expression of their weighted sum."""
    terms = []
    for count, choice in enumerate(itertools.product(*taps.values())):
        steps = [
            f"{position}{'.to(tl.int64)' if wide else ''} * {strides[d]}"
            for d, (position, _) in zip(taps, choice, strict=True)
        ]
        at = " + ".join(["first", *steps])
        lines.append(f"    v{count} = CHAIN(tl.load({at}, mask=mask, other=0).to(LOADED))")
        terms.append(" * ".join([*(weight for _, weight in choice if weight), f"v{count}"]))
    return " + ".join(terms)


def _taps(node: Node, d: int, size: int, index: str) -> tuple[list[str], list[Tap]] | None:
    """(lines, taps) along dimension d, of `size` in x, for the output position `index`; None if they are the same."""
    if isinstance(node.op, Extend):
        before, after = node.op.padding[d]
        if (before, after) == (0, 0):
            return None
        return _extended(node.op.mode, d, size, f"({index} + m * 0 - {before})"), [(f"i{d}", "")]
    if isinstance(node.op, Roll):
        shift = node.op.shifts[d] % size
        return (_extended("circular", d, size, f"({index} + m * 0 - {shift})"), [(f"i{d}", "")]) if shift else None
    assert isinstance(node.op, Resize)
    if d < 2 or (node.op.size[d - 2] == size and not node.op.steps):
        return None
    weights = "tl.float64" if node.output.type.dtype == DType.f64 else "tl.float32"
    return _resized(node.op, d, size, f"({index} + m * 0)", weights)


def _extended(mode: str, d: int, size: int, position: str) -> list[str]:
    if mode == "replicate":
        return [f"    i{d} = tl.minimum(tl.maximum({position}, 0), {size - 1})"]
    if mode == "circular":
        return [
            f"    i{d} = tl.where({position} < 0, {position} + {size}, {position})",
            f"    i{d} = tl.where(i{d} >= {size}, i{d} - {size}, i{d})",
        ]
    return [f"    i{d} = {size - 1} - tl.abs({size - 1} - tl.abs({position}))"]


def _resized(op: Resize, d: int, size: int, index: str, dtype: str) -> tuple[list[str], list[Tap]]:
    step, out = op.step(d - 2, size), op.size[d - 2]
    if op.taps == 1:
        if out % size == 0 and not op.steps:
            return [f"    i{d} = {index} // {out // size}"], [(f"i{d}", "")]
        shift = 0.5 if op.mode == "nearest_exact" else 0.0
        place = f"tl.floor(({index}.to(tl.float32) + {shift}) * {step!r}).to(tl.int32)"  # in float32, as PyTorch
        return [f"    i{d} = tl.minimum({place}, {size - 1})"], [(f"i{d}", "")]
    number = f"{index}.to(tl.float64)"
    place = f"{number} * {step!r}" if op.align_corners else f"({number} + 0.5) * {step!r} - 0.5"
    lines = [f"    p{d} = tl.floor(({place}) * {GRAIN!r} + 0.5) * {1 / GRAIN!r}"]  # `snapped`: an FMA changes nothing
    if op.mode == "linear":
        lines.append(f"    p{d} = tl.maximum(p{d}, 0.0)")
    lines += [
        f"    f{d} = tl.floor(p{d})",
        f"    t{d} = (p{d} - f{d}).to({dtype})",
        f"    b{d} = f{d}.to(tl.int32) - {int(op.mode == 'cubic')}",
    ]
    weights = [f"(1 - t{d})", f"t{d}"] if op.mode == "linear" else _cubic_weights(f"t{d}")
    taps = []
    for tap, weight in enumerate(weights):
        lines.append(f"    i{d}_{tap} = tl.minimum(tl.maximum(b{d} + {tap}, 0), {size - 1})")
        lines.append(f"    w{d}_{tap} = {weight}")
        taps.append((f"i{d}_{tap}", f"w{d}_{tap}"))
    return lines, taps


def _cubic_weights(t: str) -> list[str]:
    """Weights of the elements at -1, 0, 1 and 2 from a place t after 0, as `graph.ops.resample` has them."""

    def near(u: str) -> str:
        return f"(({CUBIC + 2} * {u} - {CUBIC + 3}) * {u} * {u} + 1)"

    def far(u: str) -> str:
        return f"((({CUBIC} * {u} - {5 * CUBIC}) * {u} + {8 * CUBIC}) * {u} - {4 * CUBIC})"

    return [far(f"({t} + 1)"), near(t), near(f"(1 - {t})"), far(f"(2 - {t})")]
