"""How far a kernel may be from the exact result: the one table that tests, the tuner and `verify` share."""

from __future__ import annotations

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.op import Array, Trait
from jitrt.graph.types import TensorType

# Relative error of one correctly done op in each output type: two roundings to it, and for float32 the approximate
# exp, log and division of the GPU (2 ulp each). Integers are exact.
_RELATIVE = {DType.f64: 1e-12, DType.f32: 2e-6, DType.f16: 2.0**-10, DType.bf16: 2.0**-7}
_ACCUMULATE = {DType.f64: 2.0**-50}  # absolute error of one addition to a sum of terms of size 1 ...
_ACCUMULATE_DEFAULT = 2.0**-22  # ... in float32, where 16-bit types are summed too
_TF32 = 2.0**-10  # relative error of a product of two operands rounded to tf32


def tolerance(dtype: DType, reduction_length: int = 1, *, tf32: bool = False, scale: float = 1.0) -> tuple[float, float]:
    """(rtol, atol) for results of `dtype` that sum `reduction_length` terms of magnitude `scale`.

    A result is right if |got - exact| <= atol + rtol * |exact|. Sums are kept in float32 (float64 for float64), whose
    error grows with the number of terms and not with the result, which may cancel; hence the absolute part.

    >>> tolerance(DType.i32)
    (0.0, 0.0)
    """
    if not dtype.is_float:
        return 0.0, 0.0
    atol = _ACCUMULATE.get(dtype, _ACCUMULATE_DEFAULT) * (4 + reduction_length) * scale
    if tf32:
        atol += _TF32 * reduction_length**0.5 * scale
    return _RELATIVE[dtype], atol


def reduction_length(body: Graph) -> int:
    """How many terms each output element of a region sums, from its anchor's own count of operations; 1 without one."""
    anchor = next((node for node in body.nodes if node.has(Trait.ANCHOR)), None)
    if anchor is None:
        return 1
    inputs: list[TensorType] = [v.type for v in anchor.inputs]
    return max(1, anchor.op.flops(inputs, [anchor.output.type]) // max(1, anchor.output.type.numel))


def uses_tf32(body: Graph) -> bool:
    """Whether a region's anchor may round float32 operands to tf32."""
    return any(getattr(node.op, "tf32", False) for node in body.nodes)


def mismatch(got: Array, exact: Array, dtype: DType, rtol: float, atol: float) -> str | None:
    """None if `got` (of `dtype`) agrees with `exact` (usually float64), else what is wrong and where it is worst.

    NaN must meet NaN and an infinity the same infinity, except where `exact` is within `rtol` of what `dtype` can hold.
    """
    if got.shape != exact.shape:
        return f"the result has shape {got.shape}, expected {exact.shape}"
    if not got.size:
        return None
    with np.errstate(all="ignore"):
        wide, want = got.astype(np.float64), exact.astype(np.float64)
        if dtype.is_float:
            edge = np.abs(want) >= _largest(dtype) * (1 - rtol)
            limit = _largest(dtype)
            wide = np.where(edge & (np.sign(wide) == np.sign(want)) & (np.abs(wide) >= limit * (1 - rtol)), want, wide)
        same = (wide == want) | (np.isnan(wide) & np.isnan(want))
        error = np.where(same, 0.0, np.abs(wide - want))
        excess = np.where(same, 0.0, error - (atol + rtol * np.abs(want)))
        excess = np.where(np.isnan(excess), np.inf, excess)
    bad = int((excess > 0).sum())
    if not bad:
        return None
    worst = np.unravel_index(int(excess.argmax()), excess.shape)
    place = ", ".join(str(int(i)) for i in worst)
    return (
        f"{bad} of {got.size} elements are wrong; the worst is [{place}]: got {wide[worst]:.8g}, exact {want[worst]:.8g} "
        f"(allowed {atol:.3g} + {rtol:.3g} * |exact|)"
    )


def _largest(dtype: DType) -> float:
    """The largest finite number of a float type."""
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.numpy).max)
