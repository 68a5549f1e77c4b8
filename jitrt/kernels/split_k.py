"""The end of a kernel in which several programs share the reduction of one tile.

Each program stores its float32 partial sum. The last one to arrive adds them in a fixed order, so the result is
deterministic, runs the epilogue, stores, and leaves the tile's counter zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import triton
import triton.language as tl

from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.kernels.base import Argument, Config, KernelCall, Lowered, Workspace, Zeros


@triton.jit
def store_sum(
    y,
    acc,  # this program's part: float32
    partials,  # room for the parts of all tiles
    counters,  # programs of each tile that have arrived
    aux,
    tile,
    split,  # which part of the tile this is
    m,
    k,
    m_mask,
    k_mask,
    PARTS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    rows: tl.constexpr = acc.shape[0]
    columns: tl.constexpr = acc.shape[1]
    spot = tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :]
    part = partials + tile * (PARTS * rows * columns)
    tl.store(part + split * (rows * columns) + spot, acc)
    tl.debug_barrier()  # every thread's part is stored before one of them announces it
    if tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == PARTS - 1:
        total = tl.load(part + spot, cache_modifier=".cg")
        for other in range(1, PARTS):
            total += tl.load(part + other * (rows * columns) + spot, cache_modifier=".cg")
        tl.store(counters + tile, 0)
        value = FINISH(total, FETCH(aux, m, k, m_mask, k_mask))
        if DEPENDENT:
            tl.extra.cuda.gdc_launch_dependents()
        STORE(y, value, m, k, m_mask, k_mask)


def split_launch(
    function: Any,
    arguments: Mapping[str, Argument],
    constexprs: Mapping[str, Any],
    config: Config,
    *,
    tiles: int,
    splits: int,
    part: int,
    acc: DType = DType.f32,
    pack: Mapping[int, Callable[[Array], Array]] | None = None,
) -> Lowered:
    """The launch of `splits` programs for each of `tiles`. Where there are several, the kernel's parameters `partials`
    and `counters` point at room for their sums, of `part` elements of type `acc` each, and at the tiles' counters;
    otherwise they are None."""
    shared = splits > 1
    if shared:
        arguments = {**arguments, "partials": Workspace(0, acc.value), "counters": Zeros()}
    else:
        constexprs = {**constexprs, "partials": None, "counters": None}
    grid = (tiles, splits, 1)
    call = KernelCall(function, arguments, constexprs, grid, config["num_warps"], config.get("num_stages", 1))
    workspace = tiles * splits * part * acc.itemsize if shared else 0
    return Lowered((call,), workspace, tiles * 4 if shared else 0, pack or {})
