"""Resize and Upsample, along one dimension after another.

What every output position reads is worked out here, in float64, as the specification (and its reference
implementation) says: a table of positions for "nearest", a matrix of weights for the others. Where that is just what a
`resize` of the graph does, it is that; if not, elements are gathered, and weights multiplied as a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jitrt.frontend.layers.index import take
from jitrt.frontend.layers.resample import multiplied
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear", "cubic": "cubic"}
_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@onnx_op("Upsample", since=7)
def upsample_7(n: Call, x: Value) -> Value:
    return _as_told(n, x, [float(scale) for scale in n.required("scales")])


@onnx_op("Upsample", since=9)
@onnx_op("Resize", since=10)
def resize_10(n: Call, x: Value, scales: Value) -> Value:
    return _as_told(n, x, _floats(n, scales, "scales"))


def _as_told(n: Call, x: Value, scales: Sequence[float]) -> Value:
    """Before version 11: output o lies at o / scale, and "nearest" is what is before that or, where a dimension becomes
    smaller, what is after it: so in ONNX's tests of version 10, and in ONNX Runtime."""
    if len(scales) != x.type.rank:
        n.refuse(f"{len(scales)} scales for {x.type}")
    axes = [_Axis(d, size, math.floor(size * scales[d]), scales[d]) for d, size in enumerate(x.type.shape)]
    return _resized(n, x, _Sampling(_mode(n), "asymmetric", "outwards"), axes)


@onnx_op("Resize", since=11)
def resize(
    n: Call, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Value:
    sampling = _Sampling(
        _mode(n),
        n.attribute("coordinate_transformation_mode", "half_pixel"),
        n.attribute("nearest_mode", "round_prefer_floor"),
        n.attribute("cubic_coeff_a", -0.75),
        bool(n.attribute("exclude_outside", 0)),
        bool(n.attribute("antialias", 0)),
        n.attribute("extrapolation_value", 0.0),
    )
    if sampling.rounding not in _ROUNDINGS:
        n.refuse(f"nearest_mode {sampling.rounding!r}")
    rank = x.type.rank
    dims = [n.axis(axis, rank) for axis in n.attribute("axes") or range(rank)]
    shape = [x.type.shape[d] for d in dims]
    if sizes is not None and sizes.type.numel:
        wanted = list(n.ints(sizes, "sizes"))
        factors, wanted = _kept_ratio(n, shape, wanted)
    elif scales is not None and scales.type.numel:
        factors = _floats(n, scales, "scales")
        wanted = [math.floor(size * factor) for size, factor in zip(shape, factors)]
    else:
        n.refuse("neither scales nor sizes")
    if len(factors) != len(dims):
        n.refuse(f"{len(factors)} sizes or scales for {len(dims)} axes")
    places = [(0.0, 1.0)] * len(dims)
    if sampling.coordinates == "tf_crop_and_resize":
        if roi is None:
            n.refuse("tf_crop_and_resize without a roi")
        numbers = _floats(n, roi, "the roi")
        places = list(zip(numbers[: len(dims)], numbers[len(dims) :], strict=True))
    axes = [_Axis(*axis) for axis in zip(dims, shape, wanted, factors, places, strict=True)]
    return _resized(n, x, sampling, axes)


def _mode(n: Call) -> str:
    mode = n.attribute("mode", "nearest")
    if mode not in _MODES:
        n.refuse(f"mode {mode!r}")
    return _MODES[mode]


def _floats(n: Call, value: Value, what: str) -> list[float]:
    return [float(number) for number in np.ravel(n.need(value, what))]


def _kept_ratio(n: Call, shape: Sequence[int], wanted: list[int]) -> tuple[list[float], list[int]]:
    """(scales, sizes) by keep_aspect_ratio_policy."""
    policy = n.attribute("keep_aspect_ratio_policy", "stretch")
    scales = [out / size for out, size in zip(wanted, shape, strict=True)]
    if policy == "stretch":
        return scales, wanted
    if policy not in ("not_larger", "not_smaller"):
        n.refuse(f"keep_aspect_ratio_policy {policy!r}")
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(shape), [int(scale * size + 0.5) for size in shape]


@dataclass(frozen=True)
class _Axis:
    """Dimension `d` of `size` elements becomes `out`; `scale` is what was asked for, `roi` the part that is cropped."""

    d: int
    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class _Sampling:
    """How output positions lie on the input, and what is made of the elements around them."""

    mode: str
    coordinates: str
    rounding: str
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0

    def places(self, n: Call, axis: _Axis) -> Array:
        """(out): where output positions lie in the input."""
        n.claim(axis.out, 1 if self.mode == "nearest" else axis.size)
        size, out = axis.size, np.arange(axis.out, dtype=np.float64)
        if axis.scale == 1 and axis.out == size and axis.roi == (0.0, 1.0):
            return out  # tf_half_pixel_for_nn would mix neighbours, even images of a batch
        length = axis.scale * size  # of the output, before it is rounded down
        if self.coordinates in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "tf_half_pixel_for_nn"):
            if self.coordinates == "pytorch_half_pixel" and length == 1:
                return out * 0  # where the reference has -0.5, which a cubic tells from the standard's 0
            lost = size / 2 * (1 - axis.out / length) if self.coordinates == "half_pixel_symmetric" else 0.0
            centre = 0.0 if self.coordinates == "tf_half_pixel_for_nn" else 0.5
            return lost + (out + 0.5) / axis.scale - centre
        if self.coordinates == "asymmetric":
            return out / axis.scale
        if self.coordinates == "align_corners":
            return out * (size - 1) / (length - 1) if length != 1 else out * 0
        if self.coordinates != "tf_crop_and_resize":
            n.refuse(f"coordinate_transformation_mode {self.coordinates!r}")
        start, end = axis.roi
        middle = (end - start) * (size - 1) / 2
        part = out * (end - start) * (size - 1) / (length - 1) if length != 1 else out * 0 + middle
        return part + start * (size - 1)

    def extrapolated(self, axis: _Axis, places: Array) -> Array:
        """(out): whether a position lies outside the input and takes the extrapolation value."""
        if self.coordinates != "tf_crop_and_resize":
            return np.zeros(len(places), bool)
        return (places < 0) | (places > axis.size - 1)

    def positions(self, axis: _Axis, places: Array) -> Array:
        """(out): the nearest elements."""
        smaller = "ceil" if axis.scale < 1 else "floor"
        rounding = _ROUNDINGS[smaller if self.rounding == "outwards" else self.rounding]
        nearest = np.where(places == np.floor(places), places, rounding(places))
        return np.clip(nearest, 0, axis.size - 1).astype(np.int64)

    def matrix(self, axis: _Axis, places: Array) -> Array:
        """(out, size): the weight of every element in every output. An antialiasing filter is as wide as the elements
        that become one; it and one cut off at the border are brought to a sum of 1."""
        stretch = min(axis.scale, 1.0) if self.antialias else 1.0
        half = math.ceil((2 if self.mode == "cubic" else 1) / stretch)
        taps = np.floor(places)[:, None] + np.arange(-half, half + 2)
        distance = np.abs(taps - places[:, None]) * stretch
        weights = np.clip(1 - distance, 0, 1) if self.mode == "linear" else _keys(distance, self.cubic)
        if self.exclude_outside:
            weights = np.where((taps < 0) | (taps >= axis.size), 0, weights)
        if self.exclude_outside or self.antialias:
            total = weights.sum(1, keepdims=True)
            weights = weights / np.where(total == 0, 1, total)
        matrix = np.zeros((axis.out, axis.size))
        rows = np.broadcast_to(np.arange(axis.out)[:, None], taps.shape)
        np.add.at(matrix, (rows, np.clip(taps, 0, axis.size - 1).astype(np.int64)), weights)
        return matrix


def _keys(u: Array, a: float) -> Array:
    """Keys' cubic filter at a distance u (1981)."""
    near = ((a + 2) * u - (a + 3)) * u * u + 1
    far = ((a * u - 5 * a) * u + 8 * a) * u - 4 * a
    return np.where(u <= 1, near, np.where(u < 2, far, 0.0))


def _resized(n: Call, x: Value, sampling: _Sampling, axes: Sequence[_Axis]) -> Value:
    for axis in axes:
        if not 0 < axis.scale < math.inf or axis.out < 1:
            n.refuse(f"dimension {axis.d} of {x.type} to {axis.out} by {axis.scale}")
        n.claim(axis.out, axis.size if sampling.mode != "nearest" else 1)
    places = {axis.d: sampling.places(n, axis) for axis in axes}
    outside = {axis.d: sampling.extrapolated(axis, places[axis.d]) for axis in axes}
    if sampling.mode == "nearest":
        tables = {axis.d: sampling.positions(axis, places[axis.d]) for axis in axes}
        y = _nearest(
            n, x, {d: t for d, t in tables.items() if len(t) != x.type.shape[d] or (t != np.arange(len(t))).any()}, axes
        )
    else:
        tables = {axis.d: sampling.matrix(axis, places[axis.d]) for axis in axes}
        changed = {d: t for d, t in tables.items() if t.shape[0] != t.shape[1] or (t != np.eye(len(t))).any()}
        wide = x if x.type.dtype.is_float else n.add(g.Cast(DType.f32), x)
        y = _weighted(n, wide, changed, sampling.mode, axes)
        if not x.type.dtype.is_float and sampling.mode == "cubic":  # which goes beyond the elements it is made of
            limits = np.iinfo(x.type.dtype.numpy)
            y = n.add(g.Clamp(float(limits.min), float(limits.max)), y)
        y = n.b.operand(y, x.type.dtype)
    for d, mask in outside.items():
        if mask.any():
            column = n.constant(mask.reshape(-1, *[1] * (x.type.rank - 1 - d)))
            y = n.add(g.Where(), column, n.graph.scalar(sampling.extrapolation, y.type.dtype), y)
    return y


def _nearest(n: Call, x: Value, tables: dict[int, Array], axes: Sequence[_Axis]) -> Value:
    for op in _resizes(x, tables, axes, ("nearest", "nearest_exact")):
        if all(np.array_equal(op.sources(d - 2, x.type.shape[d])[0][0], table) for d, table in tables.items()):
            return n.add(op, x)
    for d, table in tables.items():
        x = take(n.b, x, n.constant(table), d)
    return x


def _weighted(n: Call, x: Value, tables: dict[int, Array], mode: str, axes: Sequence[_Axis]) -> Value:
    for op in _resizes(x, tables, axes, (mode,)):
        if all(np.allclose(_matrix_of(op, d, table.shape), table, atol=1e-7) for d, table in tables.items()):
            return n.add(op, x)
    for d, table in tables.items():
        x = multiplied(n.b, x, table, d)
    return x


def _resizes(x: Value, tables: dict[int, Array], axes: Sequence[_Axis], modes: Sequence[str]) -> Iterator[g.Resize]:
    """The graph's resizes to these sizes."""
    if not tables or min(tables) < 2 or len(tables) > 3 or 0 in x.type.shape[2:]:
        return
    size = tuple(len(tables[d]) if d in tables else x.type.shape[d] for d in range(2, x.type.rank))
    scales = {axis.d: axis.scale for axis in axes}
    steps = tuple(1 / scales[d] if d in tables else 1.0 for d in range(2, x.type.rank))
    for mode in modes:
        yield g.Resize(size, mode)
        yield g.Resize(size, mode, steps=steps)
        if mode in ("linear", "cubic"):
            yield g.Resize(size, mode, align_corners=True)


def _matrix_of(op: g.Resize, d: int, shape: tuple[int, ...]) -> Array:
    """The weights by which a resize makes dimension d, as `_Sampling.matrix` has them."""
    matrix = np.zeros(shape)
    for position, weight in op.sources(d - 2, shape[1]):
        np.add.at(matrix, (np.arange(shape[0]), position), weight)
    return matrix
