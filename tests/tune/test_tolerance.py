"""The table of tolerances, and the comparison that applies it."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import DType, b8, bf16, f16, f32, f64, i8
from jitrt.tune import tolerance as module
from jitrt.tune.tolerance import Tolerance, disagreement, tolerance

REF = np.random.default_rng(0).standard_normal((64, 64))


def test_bounds_grow_with_the_reduction_and_shrink_with_the_dtype() -> None:
    assert tolerance(f32, 4608).norm > tolerance(f32).norm
    norms = [tolerance(d).norm for d in (f64, f32, f16, bf16)]
    assert norms == sorted(norms)
    assert tolerance(f32, tf32=True).norm > tolerance(f32).norm
    assert tolerance(f16, tf32=True) == tolerance(f16)
    assert tolerance(i8, 1000) == Tolerance(0.0, 0.0)


@pytest.mark.parametrize("dtype", [f32, f16, bf16])
def test_one_rounding_of_the_dtype_passes_and_ten_do_not(dtype: DType) -> None:
    bound = tolerance(dtype)
    rounded = REF.astype(dtype.numpy)
    assert disagreement(rounded, REF, dtype, bound) is None
    step = np.abs(rounded.astype(np.float64) - REF).mean() / np.abs(REF).mean()
    scale = 100 if dtype == f32 else 10  # float32 results are sums, whose error is many roundings
    assert "wrong numbers" in (disagreement(rounded.astype(np.float64) * (1 + scale * step), REF, dtype, bound) or "")


def test_a_small_error_everywhere_is_seen_by_the_norm() -> None:
    out = REF * (1 + 2e-3)
    assert disagreement(out, REF, f16, tolerance(f16)) == "wrong numbers: relative error 2.0e-03 (limit 1.0e-03)"


def test_one_bad_element_is_seen_however_many_are_good() -> None:
    ref = np.ones((1000, 1000))
    out = ref.copy()
    out[999, 999] = 1.02
    assert disagreement(out, ref, f16, tolerance(f16)) == (
        "wrong numbers at 1 of 1000000 elements (first at [999, 999]: expected 1, got 1.02), "
        "off by up to 1.0e-02 (limit 5.0e-03)"
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["channels first", "channels last"])
@pytest.mark.parametrize("nan", [False, True])
def test_what_is_looked_at_piece_by_piece_is_all_looked_at(
    monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...], nan: bool
) -> None:
    """Every element in turn is wrong, in whatever order the two lie in memory."""
    monkeypatch.setattr(module, "_CHUNK", 7)
    shape = tuple((2, 3, 4, 5)[axis] for axis in order)
    ref = np.random.default_rng(0).standard_normal(shape).transpose(np.argsort(order))
    if nan:
        ref[0, 0, :, 1] = np.nan
    for out in (ref.astype(np.float32), np.ascontiguousarray(ref, np.float32)):
        assert disagreement(out, ref, f32, tolerance(f32)) is None
        for at in np.ndindex(ref.shape):
            wrong = out.copy(order="K")
            wrong[at] = 1.0 if np.isnan(wrong[at]) else wrong[at] + 0.1
            assert f"(first at {list(at)}" in (disagreement(wrong, ref, f32, tolerance(f32)) or "")
            wrong[at] = np.nan if not np.isnan(out[at]) else np.inf
            assert f"(first at {list(at)}" in (disagreement(wrong, ref, f32, tolerance(f32)) or "")


def test_nan_must_be_where_the_reference_has_it() -> None:
    ref, out = REF.copy(), REF.copy()
    ref[0, 0] = out[0, 0] = np.nan
    assert disagreement(out, ref, f32, tolerance(f32)) is None
    out[1, 1] = np.nan
    assert disagreement(out, ref, f32, tolerance(f32)) == (
        "NaN or unwritten at 1 of 4096 elements (first at [1, 1]: expected -0.258573, got nan) "
        "where the reference is a number"
    )
    out[1, 1], out[0, 0] = ref[1, 1], 0.0
    assert disagreement(out, ref, f32, tolerance(f32)) == (
        "a number at 1 of 4096 elements (first at [0, 0]: expected nan, got 0) where the reference is NaN"
    )


def test_what_the_dtype_cannot_hold_may_be_infinite() -> None:
    ref = np.array([1e6, -1e6, 1.0])
    assert disagreement(np.array([np.inf, -np.inf, 1.0]), ref, f16, tolerance(f16)) is None
    assert disagreement(np.array([1e3, -np.inf, 1.0]), ref, f16, tolerance(f16)) is not None


def test_an_infinity_does_not_blind_the_check_of_the_rest() -> None:
    ref, out = REF.copy(), REF.copy()
    ref[0, 0] = out[0, 0] = -np.inf
    assert disagreement(out, ref, f32, tolerance(f32)) is None
    out[1, 1] += 0.5
    assert "wrong numbers at 1 of 4096" in (disagreement(out, ref, f32, tolerance(f32)) or "")
    out[1, 1], out[0, 0] = ref[1, 1], 0.0
    assert disagreement(out, ref, f32, tolerance(f32)) == (
        "wrong numbers at 1 of 4096 elements (first at [0, 0]: expected -inf, got 0) that overflow f32"
    )


def test_slack_is_allowed_on_top_and_infinite_slack_is_not_judged() -> None:
    out = REF.copy()
    out[2, 2] += 0.5
    slack = np.zeros(REF.shape)
    assert disagreement(out, REF, f32, tolerance(f32), slack) is not None
    slack[2, 2] = 0.6
    assert disagreement(out, REF, f32, tolerance(f32), slack) is None
    slack[2, 2], out[2, 2] = np.inf, np.nan
    assert disagreement(out, REF, f32, tolerance(f32), slack) is None


def test_booleans_and_integers_are_exact() -> None:
    ref = np.array([True, False])
    assert disagreement(np.array([1, 0], np.uint8), ref, b8, tolerance(b8)) is None
    assert disagreement(np.array([255, 0], np.uint8), ref, b8, tolerance(b8)) == (
        "wrong numbers at 1 of 2 elements (first at [0]: expected True, got 255)"
    )


def test_shapes_must_agree_and_nothing_is_right() -> None:
    assert (
        disagreement(np.zeros((2, 3)), np.zeros((3, 2)), f32, tolerance(f32)) == "wrong shape [2, 3], expected [3, 2]"
    )
    assert disagreement(np.zeros((0, 3)), np.zeros((0, 3)), f32, tolerance(f32)) is None


def test_zeros_must_be_zero() -> None:
    assert disagreement(np.zeros(8), np.zeros(8), f32, tolerance(f32)) is None
    assert disagreement(np.full(8, 1e-3), np.zeros(8), f32, tolerance(f32)) is not None
