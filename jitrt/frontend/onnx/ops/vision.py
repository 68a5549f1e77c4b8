"""Sampling an image at computed places: grids, regions of interest, deformable convolutions."""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.layers.arithmetic import binary, scaled
from jitrt.frontend.layers.sample import PADDINGS, Tap, sampled, taps, total
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.frontend.onnx.windows import numbers, paddings
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array

_MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}


@onnx_op("GridSample", since=16)
def grid_sample(n: Call, x: Value, grid: Value) -> Value:
    """x (n, c, spatial...) at grid (n, out..., dims), whose last dimension counts from the innermost, -1 to 1."""
    mode, padding = n.attribute("mode", "linear"), n.attribute("padding_mode", "zeros")
    if mode not in _MODES or padding not in PADDINGS:
        n.refuse(f"mode {mode!r} with padding_mode {padding!r}")
    sizes, corners = x.type.shape[2:], bool(n.attribute("align_corners", 0))
    if grid.type.rank != x.type.rank or grid.type.shape[-1] != len(sizes):
        n.refuse(f"grid {grid.type} over {x.type}")
    out, batch = grid.type.shape[1:-1], x.type.shape[0]
    grid = n.b.widened(grid)  # 16-bit floats have too few digits for positions
    dims = []
    for d, size in enumerate(sizes):
        at = len(sizes) - 1 - d
        one = n.b.reshape(n.b.slice(grid, grid.type.rank - 1, at, at + 1), (batch, 1, math.prod(out)))
        place = binary(n.b, g.Add(), one, 1, one.type.dtype)
        if corners:
            place = scaled(n.b, place, (size - 1) / 2)
        else:
            place = scaled(n.b, binary(n.b, g.Sub(), scaled(n.b, place, size), 1, place.type.dtype), 0.5)
        dims.append(taps(n.b, place, size, _MODES[mode], padding, corners))
    rows = n.b.reshape(x, (*x.type.shape[:2], math.prod(sizes)))
    parts = sampled(n.b, dims, sizes, lambda position: n.add(g.Gather(2), rows, position))
    return n.b.reshape(n.b.operand(total(n.b, parts), x.type.dtype), (*x.type.shape[:2], *out))


@onnx_op("AffineGrid", since=20)
def affine_grid(n: Call, theta: Value, size: Value) -> Value:
    """theta (n, dims, dims + 1) times every position (x, y[, z], 1) of an image of `size` (n, c, spatial...)."""
    shape = n.ints(size, "the size")[2:]
    corners, dims = bool(n.attribute("align_corners", 0)), len(shape)
    if theta.type.shape[1:] != (dims, dims + 1):
        n.refuse(f"theta {theta.type} for {dims} spatial dimensions")
    n.claim(*shape, dims + 1)
    lines = [np.linspace(-1, 1, s) if corners else (2 * np.arange(s) + 1) / s - 1 for s in shape]
    mesh = np.meshgrid(*lines, indexing="ij")[::-1]
    places = np.stack([*mesh, np.ones(shape)], -1).reshape(-1, dims + 1)
    grid = n.add(g.Matmul(), n.constant(places, theta.type.dtype), n.b.permute(theta, (0, 2, 1)))
    return n.b.reshape(grid, (theta.type.shape[0], *shape, dims))


@onnx_op("RoiAlign", since=10)
def roi_align_10(n: Call, x: Value, rois: Value, images: Value) -> Value:
    return _roi_align(n, x, rois, images, 0.0)


@onnx_op("RoiAlign", since=16)
def roi_align(n: Call, x: Value, rois: Value, images: Value) -> Value:
    kind = n.attribute("coordinate_transformation_mode", "half_pixel")
    if kind not in ("half_pixel", "output_half_pixel"):
        n.refuse(f"coordinate_transformation_mode {kind!r}")
    return _roi_align(n, x, rois, images, 0.5 if kind == "half_pixel" else 0.0)


def _roi_align(n: Call, x: Value, rois: Value, images: Value, offset: float) -> Value:
    """x (n, c, h, w) in bins of rois (r, 4: x1 y1 x2 y2), each of the image `images` (r) names: (r, c, bins...). Bins
    are the mean of `sampling_ratio` squared samples, or the largest of all weighted elements."""
    mode, samples = n.attribute("mode", "avg"), n.attribute("sampling_ratio", 0)
    if samples < 1:
        n.refuse("sampling_ratio 0: as many samples as a region has pixels, which is known when the model runs")
    if mode not in ("avg", "max"):
        n.refuse(f"mode {mode!r}")
    count, (batch, channels, *sizes) = rois.type.shape[0], x.type.shape
    bins = (n.attribute("output_height", 1), n.attribute("output_width", 1))
    rois = binary(n.b, g.Sub(), scaled(n.b, rois, n.attribute("spatial_scale", 1.0)), offset, rois.type.dtype)
    dims: list[list[Tap]] = []
    for d in range(2):
        start, end = (n.b.slice(rois, 1, i, i + 1) for i in (1 - d, 3 - d))  # (r, 1)
        length = n.add(g.Sub(), end, start)
        if not offset:
            length = binary(n.b, g.Maximum(), length, 1, length.type.dtype)
        n.claim(bins[d], samples)
        parts = (np.arange(bins[d] * samples) + 0.5) / (bins[d] * samples)
        place = n.add(g.Add(), start, n.add(g.Mul(), length, n.constant(parts, length.type.dtype)))
        shape = (1, count, bins[d] * samples, 1) if d == 0 else (1, count, 1, bins[d] * samples)
        dims.append(_inside(n, n.b.reshape(n.b.widened(place), shape), sizes[d]))
    # Images side by side: a position counts through (images, h, w), so one gather serves all channels.
    rows = n.b.reshape(n.b.permute(x, (1, 0, 2, 3)), (channels, batch * math.prod(sizes)))
    image = n.b.reshape(n.b.operand(images, DType.i32), (1, count, 1, 1))
    first = binary(n.b, g.Mul(), image, math.prod(sizes), DType.i32)

    def read(position: Value) -> Value:
        at = n.add(g.Add(), position, first)
        elements = n.add(g.Gather(1), rows, n.b.reshape(at, (1, at.type.numel)))
        return n.b.reshape(elements, (channels, *at.type.shape[1:]))

    weighted = sampled(n.b, dims, sizes, read)
    if mode == "avg":
        value = total(n.b, weighted)
    else:
        value = weighted[0]
        for part in weighted[1:]:
            value = n.add(g.Maximum(), value, part)
    apart = n.b.reshape(value, (channels, count, bins[0], samples, bins[1], samples))
    binned = n.add((g.ReduceMean if mode == "avg" else g.ReduceMax)((3, 5)), apart)
    return n.b.operand(n.b.permute(binned, (1, 0, 2, 3)), x.type.dtype)


def _inside(n: Call, place: Value, size: int) -> list[Tap]:
    """The two taps of a place, which is within the image; it counts as long as it is at most one element outside."""
    dtype = place.type.dtype
    after, before = (binary(n.b, op, place, at, dtype) for op, at in ((g.GreaterEqual(), -1), (g.LessEqual(), size)))
    seen = n.add(g.LogicalAnd(), after, before)
    return [
        Tap(tap.index, tap.weight, seen)
        for tap in taps(n.b, n.add(g.Clamp(0.0, size - 1.0), place), size, "linear", "border")
    ]


@onnx_op("DeformConv", since=19)
def deform_conv(
    n: Call, x: Value, w: Value, offset: Value, bias: Value | None = None, mask: Value | None = None
) -> Value:
    """A convolution whose taps are moved by offset (n, offset groups * taps * 2, out...): the samples as columns, times
    the filters."""
    if x.type.rank != 4:
        n.refuse(f"a deformable convolution of {x.type}: only two spatial dimensions")
    (batch, channels, *sizes), (filters, each, *kernel) = x.type.shape, w.type.shape
    groups, fields, out = n.attribute("group", 1), n.attribute("offset_group", 1), offset.type.shape[2:]
    if each * groups != channels or channels % fields or offset.type.shape[1] != fields * math.prod(kernel) * 2:
        n.refuse(f"{groups} groups and {fields} offset groups of {x.type}, filters {w.type}, offsets {offset.type}")
    count, pixels = math.prod(kernel), math.prod(out)
    moves = n.b.reshape(n.b.widened(offset), (batch, fields, count, 2, pixels))
    dims = []
    for d, own in enumerate(_own_places(n, kernel, out)):
        move = n.b.reshape(n.b.slice(moves, 3, d, d + 1), (batch, fields, 1, count * pixels))
        place = n.add(g.Add(), move, n.constant(own.reshape(-1), move.type.dtype))
        dims.append(taps(n.b, place, sizes[d], "linear", "zeros"))
    rows = n.b.reshape(x, (batch, fields, channels // fields, math.prod(sizes)))
    columns = total(n.b, sampled(n.b, dims, sizes, lambda position: n.add(g.Gather(3), rows, position)))
    if mask is not None:
        columns = n.add(g.Mul(), columns, n.b.reshape(mask, (batch, fields, 1, count * pixels)))
    columns = n.b.reshape(n.b.operand(columns, x.type.dtype), (batch, groups, each * count, pixels))
    rows = n.b.reshape(w, (groups, filters // groups, each * count))
    y = n.b.reshape(n.add(g.Matmul(), rows, columns), (batch, filters, *out))
    return y if bias is None else n.add(g.Add(), y, n.b.per_channel(bias, 4))


def _own_places(n: Call, kernel: list[int], out: tuple[int, ...]) -> list[Array]:
    """Of both dimensions (taps, pixels): where a tap lies before it is moved."""
    stride, dilation, padding = numbers(n, "strides", 2), numbers(n, "dilations", 2), paddings(n, 2)
    places = []
    n.claim(*kernel, *out)
    for d in range(2):
        line = np.arange(out[d])[None] * stride[d] - padding[d][0] + np.arange(kernel[d])[:, None] * dilation[d]
        shape = (kernel[0], 1, out[0], 1) if d == 0 else (1, kernel[1], 1, out[1])
        places.append(np.broadcast_to(line.reshape(shape), (*kernel, *out)).reshape(math.prod(kernel), math.prod(out)))
    return places
