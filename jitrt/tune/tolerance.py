"""How far a kernel may be from its reference: the one table, by dtype and reduction length.

A kernel accumulates in float32 and rounds once at the store, so a 16-bit result is off by its own rounding and a
float32 result by the sum's. The bounds leave a factor of about three above what right kernels show, and stay a factor
of four below the smallest error a wrong one has shown here (6e-3, a race in a pipelined loop).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.op import Array


@dataclass(frozen=True)
class Tolerance:
    """`norm` bounds ‖out − ref‖ / ‖ref‖; `element` bounds |out − ref| / (|ref| + rms(ref)) at every element.
    `outliers` is the fraction of elements that may miss `element`: not zero only where an op is discontinuous."""

    norm: float
    element: float
    outliers: float = 0.0


_FLOATS = {
    DType.f64: Tolerance(1e-10, 1e-9),
    DType.f32: Tolerance(2e-6, 2e-5),
    DType.f16: Tolerance(1e-3, 5e-3),
    DType.bf16: Tolerance(8e-3, 4e-2),
}
_TF32 = Tolerance(1e-3, 1e-2)
_EXACT = Tolerance(0.0, 0.0)
_CHUNK = 1 << 15  # elements that are compared at a time, in the CPU's cache
_SUM_ERROR = 1e-7  # of a float32 sum, times the square root of its length


def tolerance(dtype: DType, reduction_length: int = 1, *, tf32: bool = False) -> Tolerance:
    """The bound for results of `dtype` that are sums of `reduction_length` products; integers must be exact.

    >>> tolerance(DType.f16, 4608).norm
    0.0010068
    """
    if not dtype.is_float:
        return _EXACT
    base = _TF32 if tf32 and dtype == DType.f32 else _FLOATS[dtype]
    if dtype == DType.f64:
        return base
    grown = round(_SUM_ERROR * math.sqrt(max(1, reduction_length)), 7)
    return Tolerance(round(base.norm + grown, 7), base.element + 10 * grown)


def disagreement(
    out: Array,
    ref: Array,
    dtype: DType,
    bound: Tolerance,
    slack: Array | float = 0.0,
    items: Array | None = None,
) -> str | None:
    """None if `out` is `ref` (in float64, or integers) within `bound`; else what is wrong with it, and where first.

    NaN must stand where the reference has NaN and nowhere else; values beyond what `dtype` can hold count as its
    largest. `slack` is an absolute error allowed on top, a number or one an element; where it is not finite, the
    element is not judged. `items` is the index, for the message, that stands behind each index of the first dimension.
    """
    if out.shape != ref.shape:
        return f"wrong shape {list(out.shape)}, expected {list(ref.shape)}"
    if not out.size:
        return None
    where = _Where(out, ref, items)
    if not dtype.is_float:
        return _integers(out, ref, bound, slack, where)
    want = np.asarray(ref, np.float64)
    if _agrees(np.asarray(out), want, bound):
        return None
    got = np.asarray(out).astype(np.float64)
    judged = np.isfinite(np.broadcast_to(slack, want.shape)) | np.isnan(want)
    extra, missing = np.isnan(got) & ~np.isnan(want) & judged, np.isnan(want) & ~np.isnan(got)
    if extra.any():
        return f"NaN or unwritten at {where.of(extra)} where the reference is a number"
    if missing.any():
        return f"a number at {where.of(missing)} where the reference is NaN"
    keep = judged & ~np.isnan(want)
    limit = _largest(dtype)
    got, want = np.clip(got[keep], -limit, limit), np.clip(want[keep], -limit, limit)
    allowed = np.broadcast_to(slack, keep.shape)[keep]
    huge = np.abs(want) == limit
    if (got[huge] != want[huge]).any():
        wrong = _spread(keep, _spread(huge, got[huge] != want[huge]))
        return f"wrong numbers at {where.of(wrong)} that overflow {dtype.value}"
    return _far(got[~huge], want[~huge], bound, allowed[~huge], where, _spread(keep, ~huge))


def _agrees(out: Array, want: Array, bound: Tolerance) -> bool:
    """The usual case, quickly: NaN where it must be, all others finite and close, no slack needed."""
    square, count = float(np.vdot(want, want)), want.size
    if math.isnan(square):
        with np.errstate(over="ignore"):
            square, count = float(np.nansum(np.square(want))), int(want.size - np.isnan(want).sum())
    if not math.isfinite(square):
        return False
    mean, total = math.sqrt(square / max(1, count)), 0.0
    for got, wanted in _chunks(out, want):
        error = got.astype(np.float64)
        if count < want.size:
            absent = np.isnan(wanted)
            if not np.isnan(error[absent]).all():
                return False
            error[absent], wanted = 0.0, np.where(absent, 0.0, wanted)
        error -= wanted
        np.abs(error, out=error)
        scale = np.abs(wanted)
        scale += mean
        scale *= bound.element
        if not (error <= scale).all():  # NaN is not
            return False
        total += float(np.vdot(error, error))
    return math.sqrt(total) <= bound.norm * math.sqrt(square)


def _chunks(out: Array, want: Array) -> Iterator[tuple[Array, Array]]:
    """Both arrays piece by piece, in the order in which the second lies in memory, where that is a plain one."""
    order = sorted(range(want.ndim), key=lambda d: -want.strides[d])
    pair = [array.transpose(order).reshape(-1) for array in (out, want)]  # views, if all is well
    for start in range(0, want.size, _CHUNK):
        yield pair[0][start : start + _CHUNK], pair[1][start : start + _CHUNK]


def _far(got: Array, want: Array, bound: Tolerance, allowed: Array, where: _Where, among: Array) -> str | None:
    """Whether any element, or all of them together, are too far off; all finite, and those that `among` marks."""
    if not got.size:
        return None
    error = np.abs(got - want)
    scale = np.abs(want) + float(np.sqrt(np.mean(np.square(want))))
    wild = error > bound.element * scale + allowed
    if wild.sum() > bound.outliers * wild.size:
        worst = float((error / (scale + 1e-300)).max())
        found = where.of(_spread(among, wild))
        return f"wrong numbers at {found}, off by up to {worst:.1e} (limit {bound.element:.1e})"
    far, size = float(np.linalg.norm(error[~wild])), float(np.linalg.norm(want[~wild]))
    if far > bound.norm * size + float(np.linalg.norm(allowed[~wild])):
        return f"wrong numbers: relative error {far / max(size, 1e-300):.1e} (limit {bound.norm:.1e})"
    return None


def _integers(out: Array, ref: Array, bound: Tolerance, slack: Array | float, where: _Where) -> str | None:
    wrong = (out != ref) & (np.broadcast_to(slack, out.shape) == 0)
    if wrong.sum() > bound.outliers * wrong.size:
        return f"wrong numbers at {where.of(wrong)}"
    return None


def _spread(mask: Array, marks: Array) -> Array:
    """`marks`, of the elements that `mask` marks, as a mask of all."""
    whole = np.zeros(mask.shape, bool)
    whole[mask] = marks
    return whole


@dataclass(frozen=True)
class _Where:
    """Says how many elements of an output are wrong, and which is the first."""

    out: Array
    ref: Array
    items: Array | None

    def of(self, mask: Array) -> str:
        """`mask` marks the wrong ones, one at least."""
        at = np.unravel_index(int(np.argmax(mask)), mask.shape)
        index = [int(i) for i in at]
        if self.items is not None and index:
            index[0] = int(self.items[index[0]])
        expected, got = (_number(array[at]) for array in (self.ref, self.out))
        return f"{int(mask.sum())} of {mask.size} elements (first at {index}: expected {expected}, got {got})"


def _number(element: Array) -> str:
    return f"{float(element):.6g}" if element.dtype.kind in "fV" else str(element)


def _largest(dtype: DType) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.numpy).max)
