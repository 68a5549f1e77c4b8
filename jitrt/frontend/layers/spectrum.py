"""Fourier transforms as products with a constant matrix, and what goes with them."""

from __future__ import annotations

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.index import windows
from jitrt.frontend.layers.linear import matmul
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array

LONGEST = 4096  # points: the matrix has 4 numbers for every pair


def fourier(b: Builder, x: Value, axis: int, points: int, *, inverse: bool = False, onesided: bool = False) -> Value:
    """The discrete Fourier transform along `axis` of x (..., 1) or, complex, (..., 2), cut or filled with zeros to
    `points`. The result is complex; of a one-sided spectrum (inverse and onesided) real.

    Raises ValueError for more points than LONGEST. The sum is float64, of float32 numbers too: what cancels is 0 then.
    """
    if not 0 < points <= LONGEST:
        raise ValueError(f"a transform of {points} points, of at most {LONGEST}")
    b.claim(x.type.shape[axis], x.type.shape[-1], points, 2)
    matrix = _matrix(points, x.type.shape[axis], x.type.shape[-1], inverse, onesided)
    used, parts, bins, results = matrix.shape
    rank = x.type.rank
    order = (*(d for d in range(rank - 1) if d != axis), axis, rank - 1)
    rows = b.slice(b.permute(x, order), rank - 2, 0, used)
    lead = rows.type.shape[:-2]
    rows = b.operand(b.reshape(rows, (*lead, used * parts)), DType.f64)
    y = matmul(b, rows, b.constant(matrix.reshape(used * parts, bins * results)))
    y = b.reshape(b.operand(y, x.type.dtype), (*lead, bins, results))
    return b.permute(y, tuple(order.index(d) for d in range(rank)))


def _matrix(points: int, size: int, parts: int, inverse: bool, onesided: bool) -> Array:
    """(elements of x used, parts of each, elements of the result, parts of each)."""
    half = points // 2 + 1
    real = inverse and onesided
    used = min(size, half if real else points)
    bins = half if onesided and not inverse else points
    turns = np.outer(np.arange(used), np.arange(bins)) % points
    cosine, sine = _circle(points)
    c, s = cosine[turns], sine[turns] * (-1 if inverse else 1)
    matrix = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], 1)  # (used, parts, bins, results)
    if real:  # the other half of the spectrum is the conjugate of this one
        twice = np.full(used, 2.0)
        twice[0] = 1
        if points % 2 == 0 and used == half:
            twice[-1] = 1
        matrix = matrix[..., :1] * twice[:, None, None, None]
    return matrix[:, :parts] / (points if inverse else 1)


def _circle(points: int) -> tuple[Array, Array]:
    """Cosine and sine of so many parts of a turn; what is 0, 1 or a half of a turn is so exactly."""
    angles = 2 * np.pi * np.arange(points) / points
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.where(np.abs(cosine) < 1e-15, 0, cosine), np.where(np.abs(sine) < 1e-15, 0, sine)


def short_time_fourier(b: Builder, x: Value, step: int, length: int, window: Value | None, *, onesided: bool) -> Value:
    """x (batch, samples, 1 or 2) in frames of `length` samples, `step` apart, each times the window and transformed:
    (batch, frames, bins, 2)."""
    frames = b.permute(windows(b, x, 1, length, step), (0, 1, 3, 2))  # (batch, frames, length, parts)
    if window is not None:
        frames = b.add(g.Mul(), frames, b.reshape(window, (length, 1)))
    return fourier(b, frames, 2, length, onesided=onesided)


def mel_weights(bins: int, points: int, rate: int, low: float, high: float) -> Array:
    """(points // 2 + 1, bins): how much each frequency adds to each band, a triangle on the mel scale."""

    def mel(hertz: float) -> float:
        return float(2595 * np.log1p(hertz / 700) / np.log(10))

    steps = np.arange(bins + 2) * (mel(high) - mel(low)) / (bins + 2) + mel(low)
    edges = ((points + 1) * (700 * np.expm1(steps / 2595 * np.log(10))) // rate).astype(int)
    weights = np.zeros((points // 2 + 1, bins))
    place = np.arange(points // 2 + 1)
    for band, (left, top, right) in enumerate(zip(edges, edges[1:], edges[2:])):
        rising, falling = (place >= left) & (place <= top), (place >= top) & (place < right)
        if top == left:
            rising = place == top
        weights[rising, band] = (place[rising] - left) / (top - left) if top > left else 1
        weights[falling, band] = (right - place[falling]) / max(right - top, 1)
    return weights
