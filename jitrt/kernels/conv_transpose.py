"""Transposed convolution ("deconvolution") in one to three dimensions, with everything that follows in the epilogue.

Formula: y[n, k, i * stride - padding + t * dilation] = f(sum over those i and t, and c, of x[n, c, i] * w[c, k, t]).
Seen from the output, the positions of one phase (equal modulo the stride) are an ordinary convolution of stride 1 with
the taps that reach it (`transposed_shape`); nothing is multiplied by zero and nothing scattered. Fires for any filter,
stride, padding, dilation, groups and strides in memory. Floors: (x + w + y) bytes / bandwidth, and
2 * x * K * taps / the tensor cores' rate.

Two ways, and the tuner chooses:

* One launch by phases. Each has its own taps, in a loop of its own where their number differs (the compiler unrolls
  short ones), and stores its pixels `stride` apart. Phases of one length take turns, that all find the same rows of x
  in L2; of several, the longest go first, that a launch ends in short programs.
* `MERGED`: all phases are columns of one ordinary convolution, which is the kernel of `conv2d` with an epilogue that
  stores column (phase, k) of row (image, step) where it belongs. Without loss where filter and stride are equal (a
  U-Net's 2x2: one matrix product of K * 4 columns that reads x once), and on offer where the zeros this needs otherwise
  are few or the filters so few that several phases fill one tile. Infinities then spread to neighbouring phases.

Split reductions and bundles of groups are those of `conv2d`. Taps that fall outside x read zeros: an infinite weight
makes the pixels at the border NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue
from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import ConvTranspose
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.kernels.conv2d import lower_conv
from jitrt.kernels.conv_shape import operands_of, output_space, pack_bundles, refuse_conv, refuse_weights
from jitrt.kernels.gemm_cost import GemmShape, cost, rank_configs
from jitrt.kernels.split_k import split_launch, store_sum
from jitrt.kernels.transposed_cost import phased_cost, phased_gemm
from jitrt.kernels.transposed_shape import TransposedShape, describe_transposed
from jitrt.kernels.transposed_taps import few_taps, phase_of, taps_inside, taps_of

_FEW = 64  # columns of all phases together that are worth some zeros to be one tile


@triton.jit
def conv_transpose(
    y,
    x,
    w,
    partials,
    counters,
    aux,
    ROWS: tl.constexpr,  # positions of one phase, of all images
    FILTERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BUNDLES: tl.constexpr,
    PHASES: tl.constexpr,  # along (depth, height, width), as all that follows
    STEPS: tl.constexpr,  # positions of a phase
    SIZE: tl.constexpr,  # of x
    OUT: tl.constexpr,  # of y
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    COMMON: tl.constexpr,  # divisor of stride and dilation
    INVERSE: tl.constexpr,  # of DILATION / COMMON, modulo STRIDE / COMMON
    X_STRIDES: tl.constexpr,  # n, c, d, h, w
    W_STRIDES: tl.constexpr,  # k, c, t, r, s
    TAPS: tl.constexpr,  # that a phase may have: every combination there is, the largest first
    MASKED: tl.constexpr,  # some tap can fall outside x
    WIDE: tl.constexpr,  # offsets of x or w pass 2^31
    IN_TURN: tl.constexpr,  # all positions of a phase run before those of the next
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EARLY: tl.constexpr,  # load the epilogue's operands before the loop
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_m: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    phases: tl.constexpr = PHASES[0] * PHASES[1] * PHASES[2]

    tile = tl.program_id(0)
    split = tl.program_id(1)
    n_tile = tile % (tiles_n * BUNDLES)
    bundle = n_tile // tiles_n
    rest = tile // (tiles_n * BUNDLES)
    turn = rest // tiles_m if IN_TURN else rest % phases
    m_tile = rest % tiles_m if IN_TURN else rest // phases
    rm = m_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (n_tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    rk = tl.arange(0, BLOCK_K)

    turn_h = turn // PHASES[2]
    phase_w = phase_of(turn % PHASES[2], PHASES[2], FILTER[2], STRIDE[2], PADDING[2], DILATION[2], COMMON[2])
    phase_h = phase_of(turn_h % PHASES[1], PHASES[1], FILTER[1], STRIDE[1], PADDING[1], DILATION[1], COMMON[1])
    phase_d = phase_of(turn_h // PHASES[1], PHASES[0], FILTER[0], STRIDE[0], PADDING[0], DILATION[0], COMMON[0])
    s0, w_start, taps_w = taps_of(phase_w, FILTER[2], STRIDE[2], PADDING[2], DILATION[2], COMMON[2], INVERSE[2])
    r0, h_start, taps_h = taps_of(phase_h, FILTER[1], STRIDE[1], PADDING[1], DILATION[1], COMMON[1], INVERSE[1])
    t0, d_start, taps_d = taps_of(phase_d, FILTER[0], STRIDE[0], PADDING[0], DILATION[0], COMMON[0], INVERSE[0])

    step_w = rm % STEPS[2]
    step_h = rm // STEPS[2] % STEPS[1]
    step_d = rm // (STEPS[2] * STEPS[1]) % STEPS[0]
    image = rm // (STEPS[2] * STEPS[1] * STEPS[0])
    out_w = step_w * STRIDE[2] + phase_w
    out_h = step_h * STRIDE[1] + phase_h
    out_d = step_d * STRIDE[0] + phase_d
    m = (((image * OUT[0] + out_d) * OUT[1] + out_h) * OUT[2] + out_w)[:, None]
    # The last step of a phase may lie beyond the output.
    seen = (rm < ROWS) & (out_d < OUT[0]) & (out_h < OUT[1]) & (out_w < OUT[2])
    m_mask = seen[:, None]
    n_mask = (rn < FILTERS)[None, :]

    d0 = step_d + d_start
    h0 = step_h + h_start
    w0 = step_w + w_start
    most: tl.constexpr = TAPS[0]
    if MASKED and few_taps(most):
        seen = tl.where(seen, taps_inside(d0, h0, w0, most, SIZE, DILATION, COMMON), 0)

    channel = bundle * CHANNELS
    filters = bundle * FILTERS + rn
    k = filters[None, :]
    if WIDE:  # one image alone may be that large
        image, d0, h0, w0 = image.to(tl.int64), d0.to(tl.int64), h0.to(tl.int64), w0.to(tl.int64)
        channel, filters, rk = channel.to(tl.int64), filters.to(tl.int64), rk.to(tl.int64)
    x_row = image * X_STRIDES[0] + d0 * X_STRIDES[2] + h0 * X_STRIDES[3] + w0 * X_STRIDES[4] + channel * X_STRIDES[1]
    w_row = filters * W_STRIDES[0] + t0 * W_STRIDES[2] + r0 * W_STRIDES[3] + s0 * W_STRIDES[4]
    x_at = x + (x_row[:, None] + rk[None, :] * X_STRIDES[1])
    w_at = w + (w_row[None, :] + rk[:, None] * W_STRIDES[1])

    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if EARLY:
        held = FETCH(aux, m, k, m_mask, n_mask)

    # A loop for every number of taps there is: it divides by constants alone, and can be unrolled.
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for n in tl.static_range(len(TAPS)):
        if (taps_d == TAPS[n][0]) & (taps_h == TAPS[n][1]) & (taps_w == TAPS[n][2]):
            acc = _sum(
                x_at, w_at, seen, d0, h0, w0, n_mask, rk, split, TAPS, n, CHANNELS, SIZE, STRIDE, DILATION,
                COMMON, X_STRIDES, W_STRIDES, MASKED, WIDE, BLOCK_M, BLOCK_N, BLOCK_K, SPLIT_K, PRECISION,
            )  # fmt: skip

    if SPLIT_K == 1:
        if not EARLY:
            held = FETCH(aux, m, k, m_mask, n_mask)
        value = FINISH(acc, held)
        if DEPENDENT:
            tl.extra.cuda.gdc_launch_dependents()
        STORE(y, value, m, k, m_mask, n_mask)
    else:
        store_sum(
            y, acc, partials, counters, aux, tile, split, m, k, m_mask, n_mask, SPLIT_K, DEPENDENT, FETCH, FINISH, STORE
        )


@triton.jit
def _sum(
    x_at,  # pointers at the channels of the first tap
    w_at,
    seen,  # bits of the taps inside x, or which rows there are
    d0,  # where the first tap reads
    h0,
    w0,
    n_mask,
    rk,
    split,
    TAPS: tl.constexpr,
    PLACE: tl.constexpr,  # among TAPS, of those of this phase
    CHANNELS: tl.constexpr,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    COMMON: tl.constexpr,
    X_STRIDES: tl.constexpr,
    W_STRIDES: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """This program's share of the sum over the taps and channels of a phase with so many taps."""
    taps: tl.constexpr = TAPS[PLACE]
    most: tl.constexpr = TAPS[0]
    blocks_c: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    steps: tl.constexpr = taps[0] * taps[1] * taps[2] * blocks_c
    share: tl.constexpr = (steps + SPLIT_K - 1) // SPLIT_K
    # Each further tap reads a jump further back.
    jump_d: tl.constexpr = DILATION[0] // COMMON[0]
    jump_h: tl.constexpr = DILATION[1] // COMMON[1]
    jump_w: tl.constexpr = DILATION[2] // COMMON[2]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = split * share
    last = tl.minimum(first + share, steps)
    for step in range(first, last):
        tap = step // blocks_c
        s = tap % taps[2]
        r = tap // taps[2] % taps[1]
        t = tap // (taps[2] * taps[1])
        c = step % blocks_c * BLOCK_K
        w_mask = n_mask
        if not MASKED:
            x_mask = seen[:, None]
        elif few_taps(most):
            x_mask = ((seen & (1 << ((t * most[1] + r) * most[2] + s))) != 0)[:, None]
        else:
            dd = d0 - t * jump_d
            hh = h0 - r * jump_h
            ww = w0 - s * jump_w
            inside = (dd >= 0) & (dd < SIZE[0]) & (hh >= 0) & (hh < SIZE[1]) & (ww >= 0) & (ww < SIZE[2])
            x_mask = (seen & inside)[:, None]
        if CHANNELS % BLOCK_K != 0:
            x_mask = x_mask & (rk < CHANNELS - c)[None, :]
            w_mask = w_mask & (rk < CHANNELS - c)[:, None]
        if WIDE:
            c, t, r, s = c.to(tl.int64), t.to(tl.int64), r.to(tl.int64), s.to(tl.int64)
        x_step = c * X_STRIDES[1] - t * (jump_d * X_STRIDES[2])
        x_step -= r * (jump_h * X_STRIDES[3]) + s * (jump_w * X_STRIDES[4])
        w_step = c * W_STRIDES[1] + t * (STRIDE[0] // COMMON[0] * W_STRIDES[2])
        w_step += r * (STRIDE[1] // COMMON[1] * W_STRIDES[3]) + s * (STRIDE[2] // COMMON[2] * W_STRIDES[4])
        a = tl.load(x_at + x_step, mask=x_mask, other=0.0).to(w_at.dtype.element_ty)
        b = tl.load(w_at + w_step, mask=w_mask, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


class ConvTransposeTemplate(Template):
    """Transposed convolutions in plain `tl`."""

    name = "conv_transpose"
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, ConvTranspose):
            return "anchor is no transposed convolution"
        return refuse_conv(body, anchor, ConvTranspose)

    def supports(self, problem: Problem, target: Target) -> str | None:
        anchor, op, _ = _unpack(problem)
        return refuse_weights(problem, anchor, "a grouped transposed convolution") if op.groups > 1 else None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        anchor, _, shape = _unpack(problem)
        live = not problem.weights[operands_of(problem, anchor)[1]]
        zeros = shape.phases * shape.window > shape.taps
        return shape.groups_a_bundle > 1 or (shape.masked and live) or (zeros and _worth_merging(problem, shape))

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor, op, shape = _unpack(problem)
        dtype = anchor.output.type.dtype
        read = [v for i, v in enumerate(problem.body.inputs) if i not in operands_of(problem, anchor)]
        phased = phased_gemm(
            shape,
            itemsize=dtype.itemsize,
            ieee=dtype == DType.f32 and not op.tf32,
            epilogue_reads=sum(v.type.numel >= problem.output.type.numel for v in read),
        )
        ranked = [_ranked(phased, target, lambda config: phased_cost(config, phased, shape, target), merged=False)]
        if _worth_merging(problem, shape):
            columns = shape.phases * shape.filters
            merged = replace(phased, columns=columns, batches=1, channels=shape.channels, taps=shape.window)
            ranked.append(_ranked(merged, target, lambda config: cost(config, merged, target), merged=True))
        ranked.sort(key=lambda each: each[0])
        return [config for pair in zip_longest(*(configs for _, configs in ranked)) for config in pair if config][:48]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        return (_lower_merged if config["MERGED"] else _lower_phased)(problem, config, target)


def _lower_phased(problem: Problem, config: Config, target: Target) -> Lowered:
    anchor, op, shape = _unpack(problem)
    x, w = operands_of(problem, anchor)
    x_type = problem.body.inputs[x].type
    epilogue = make_epilogue(problem.body, anchor.output, output_space(anchor))
    block_m, block_n, split = config["BLOCK_M"], config["BLOCK_N"], config["SPLIT_K"]
    tiles = -(-shape.rows // block_m) * -(-shape.filters // block_n) * shape.bundles * shape.phases
    constexprs: dict[str, Any] = {
        "ROWS": shape.rows,
        "FILTERS": shape.filters,
        "CHANNELS": shape.channels,
        "BUNDLES": shape.bundles,
        "PHASES": shape.along("phases"),
        "STEPS": shape.along("steps"),
        "SIZE": shape.along("size"),
        "OUT": shape.along("out"),
        "FILTER": shape.along("filter"),
        "STRIDE": shape.along("stride"),
        "PADDING": shape.along("padding"),
        "DILATION": shape.along("dilation"),
        "COMMON": shape.along("common"),
        "INVERSE": shape.along("inverse"),
        "X_STRIDES": shape.x_strides,
        "W_STRIDES": shape.w_strides,
        "TAPS": shape.tap_counts,
        "MASKED": shape.masked,
        "WIDE": _is_wide(problem),
        # Each phase reads x once more, which pays while x stays in L2.
        "IN_TURN": not shape.even and x_type.numel * x_type.dtype.itemsize <= target.l2 // 2,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": config["BLOCK_K"],
        "SPLIT_K": split,
        "EARLY": config["EARLY"],
        "PRECISION": "tf32" if op.tf32 else "ieee",
        "DEPENDENT": target.arch >= 90,
        "FETCH": epilogue.fetch,
        "FINISH": epilogue.finish,
        "STORE": epilogue.store,
    }
    arguments: dict[str, Any] = {"y": Result(), "x": Operand(x), "w": Operand(w)}
    arguments["aux"] = tuple(Operand(i) for i in epilogue.operands)
    pack = {}
    if op.groups > 1:
        pack[w] = lambda weights: pack_bundles(op.as_filters(weights), op.groups, shape.groups_a_bundle)
    return split_launch(
        conv_transpose, arguments, constexprs, config, tiles=tiles, splits=split, part=block_m * block_n, pack=pack
    )


def _lower_merged(problem: Problem, config: Config, target: Target) -> Lowered:
    anchor, op, shape = _unpack(problem)
    x, w = operands_of(problem, anchor)
    body, output = problem.body, problem.output
    parted = {value: shape.parted(value.type) for value in (*body.inputs, output)}
    epilogue = make_epilogue(body, anchor.output, shape.merged_space(output.type), given=parted)
    wide = _is_wide(problem) or shape.merged_weights >= 2**31
    conv = shape.merged()
    lowered = lower_conv(conv, config, epilogue, Operand(x), Operand(w), tf32=op.tf32, wide=wide, target=target)
    return replace(lowered, pack={w: lambda weights: shape.pack_merged(op.as_filters(weights))})


def _ranked(
    gemm: GemmShape, target: Target, price: Callable[[Config], float], *, merged: bool
) -> tuple[float, list[Config]]:
    """(estimated seconds of the first, configurations), best guess first."""
    configs = list(rank_configs(gemm, target, price=price))
    first = price(configs[0])
    if merged and gemm.columns <= _FEW and gemm.taps > 1:
        # Bound by reading x once a tap: loads that are not staged go through L1, where the taps find what they share.
        unstaged = [{**config, "num_stages": 1} for config in configs[:4]]
        configs[:0] = [config for index, config in enumerate(unstaged) if config not in unstaged[:index]]
    return first, [{**config, "MERGED": merged} for config in configs]


def _worth_merging(problem: Problem, shape: TransposedShape) -> bool:
    """Whether all phases can be columns of one convolution, and might well be."""
    w = operands_of(problem, _unpack(problem)[0])[1]
    if not (shape.mergeable and shape.phases > 1 and problem.weights[w]):
        return False
    return shape.phases * shape.window <= 1.25 * shape.taps or shape.phases * shape.filters <= _FEW


def _is_wide(problem: Problem) -> bool:
    """Whether offsets of x or w pass 2^31."""
    assert problem.anchor is not None
    return any(problem.body.inputs[i].type.span >= 2**31 for i in operands_of(problem, problem.anchor))


def _unpack(problem: Problem) -> tuple[Node, ConvTranspose, TransposedShape]:
    anchor = problem.anchor
    assert anchor is not None and isinstance(anchor.op, ConvTranspose)
    x, w = (problem.body.inputs[index].type for index in operands_of(problem, anchor))
    return anchor, anchor.op, describe_transposed(anchor, x, w)
