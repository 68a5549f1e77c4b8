"""Elements at computed places: what lies between elements is weighed together, what lies outside is made up.

A dimension's places become taps: positions, each with its weight and whether it is inside. `sampled` reads all their
combinations over several dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary, choose, scaled
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.ops.resample import CUBIC

PADDINGS = ("zeros", "border", "reflection")


@dataclass(frozen=True)
class Tap:
    """One of the elements that make a sample, along one dimension: `index` (i32) lies within the dimension, a `weight`
    left out is 1, and where `inside` is false the element counts as 0 (None: it is true everywhere)."""

    index: Value
    weight: Value | None
    inside: Value | None


def taps(b: Builder, place: Value, size: int, mode: str, padding: str, corners: bool = True) -> list[Tap]:
    """The taps of places (floats; 0 is the first element's centre) along a dimension of `size`.

    A place outside is first brought to the border, or mirrored: at the centre of the first and last element with
    `corners`, else half an element beyond it.
    """
    low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
    dtype = place.type.dtype
    if mode == "nearest":
        place = b.add(g.Round(), place)
    if padding == "border":
        below, above = (binary(b, op, place, bound, dtype) for op, bound in ((g.Less(), low), (g.Greater(), high)))
        place = b.add(g.Where(), b.add(g.LogicalOr(), below, above), b.add(g.Clamp(0.0, size - 1.0), place), place)
    if padding == "reflection":
        place = _mirrored(b, place, low, high)
    if mode == "nearest":
        return [_tap(b, place, None, size, padding, low, high)]
    first = b.add(g.Floor(), place)
    part = b.add(g.Sub(), place, first)
    weights = [_one_minus(b, part), part] if mode == "linear" else _cubic(b, part)
    begin = -1 if mode == "cubic" else 0
    return [
        _tap(b, binary(b, g.Add(), first, float(begin + i), dtype) if begin + i else first, w, size, padding, low, high)
        for i, w in enumerate(weights)
    ]


def _tap(b: Builder, at: Value, weight: Value | None, size: int, padding: str, low: float, high: float) -> Tap:
    inside = None
    if padding == "zeros":
        after = binary(b, g.GreaterEqual(), at, 0, at.type.dtype)
        inside = b.add(g.LogicalAnd(), after, binary(b, g.LessEqual(), at, size - 1, at.type.dtype))
    if padding == "reflection":
        at = _mirrored(b, at, low, high)
    return Tap(b.add(g.Cast(DType.i32), b.add(g.Clamp(0.0, size - 1.0), at)), weight, inside)


def _mirrored(b: Builder, x: Value, low: float, high: float) -> Value:
    """x mirrored at both bounds until it lies between them."""
    if high <= low:
        return b.add(g.Clamp(low, low), x)
    dtype, way = x.type.dtype, high - low
    far = binary(b, g.Fmod(), b.add(g.Abs(), binary(b, g.Sub(), x, low, dtype)), 2 * way, dtype)
    back = b.add(g.Sub(), b.graph.scalar(2 * way, dtype), far)
    return binary(b, g.Add(), b.add(g.Where(), binary(b, g.Greater(), far, way, dtype), back, far), low, dtype)


def _one_minus(b: Builder, x: Value) -> Value:
    return b.add(g.Sub(), b.graph.scalar(1, x.type.dtype), x)


def _cubic(b: Builder, part: Value) -> list[Value]:
    """Weights of the elements at -1, 0, 1 and 2 from a place `part` after 0, as `graph.ops.resample` has them."""
    dtype = part.type.dtype

    def polynomial(u: Value, *factors: float) -> Value:
        total = scaled(b, u, factors[0])
        for factor in factors[1:-1]:
            total = b.add(g.Mul(), binary(b, g.Add(), total, factor, dtype), u) if factor else b.add(g.Mul(), total, u)
        return binary(b, g.Add(), total, factors[-1], dtype)

    rest = _one_minus(b, part)
    near, far = (CUBIC + 2, -(CUBIC + 3), 0.0, 1.0), (CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC)
    before, behind = (binary(b, g.Add(), u, 1.0, dtype) for u in (part, rest))
    return [polynomial(before, *far), polynomial(part, *near), polynomial(rest, *near), polynomial(behind, *far)]


def sampled(
    b: Builder, dims: Sequence[Sequence[Tap]], sizes: Sequence[int], read: Callable[[Value], Value]
) -> list[Value]:
    """The weighted elements whose sum is a sample: `read` fetches those at positions counted through all of `sizes`,
    as many dimensions as there are lists of taps. What it returns broadcasts with the taps."""
    parts = []
    for choice in itertools.product(*dims):
        position = choice[0].index
        for tap, size in zip(choice[1:], sizes[1:], strict=True):
            position = b.add(g.Add(), binary(b, g.Mul(), position, size, DType.i32), tap.index)
        element = read(position)
        weight = _product(b, g.Mul(), [tap.weight for tap in choice])
        inside = _product(b, g.LogicalAnd(), [tap.inside for tap in choice])
        if weight is not None:
            element = b.add(g.Mul(), b.operand(element, weight.type.dtype), weight)
        if inside is not None:
            element = choose(b, inside, element, 0, element.type.dtype)
        parts.append(element)
    return parts


def _product(b: Builder, op: g.Mul | g.LogicalAnd, factors: Sequence[Value | None]) -> Value | None:  # type: ignore[valid-type]
    result: Value | None = None
    for factor in factors:
        if factor is not None:
            result = factor if result is None else b.add(op, result, factor)
    return result


def total(b: Builder, parts: Sequence[Value]) -> Value:
    """Their sum."""
    result = parts[0]
    for part in parts[1:]:
        result = b.add(g.Add(), result, part)
    return result
