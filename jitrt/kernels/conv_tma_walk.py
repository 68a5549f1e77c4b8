"""The order of `conv_tma`'s tiles and of the blocks that each takes: what all of its warps go by."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def _from_centre(place, LINES: gl.constexpr, COLUMNS: gl.constexpr):
    """(line, column) number `place` of LINES times COLUMNS, those at an edge after the others, the corners last."""
    INSIDE: gl.constexpr = (LINES - 2) * (COLUMNS - 2)
    if LINES < 3 or COLUMNS < 3:
        return place // COLUMNS, place % COLUMNS
    else:
        line = 1 + place // (COLUMNS - 2)
        column = 1 + place % (COLUMNS - 2)
        edge = place - INSIDE
        across = edge < 2 * (COLUMNS - 2)
        along = edge - 2 * (COLUMNS - 2)
        corner = along - 2 * (LINES - 2)
        edge_line = gl.where(across, edge % 2 * (LINES - 1), 1 + along // 2)
        edge_column = gl.where(across, 1 + edge // 2, along % 2 * (COLUMNS - 1))
        edge_line = gl.where(corner < 0, edge_line, corner // 2 * (LINES - 1))
        edge_column = gl.where(corner < 0, edge_column, corner % 2 * (COLUMNS - 1))
        return gl.where(edge < 0, line, edge_line), gl.where(edge < 0, column, edge_column)


@gluon.jit
def place_of(tile, BOX: gl.constexpr, TILES: gl.constexpr, SKIP: gl.constexpr):
    """(line, image, column) a tile begins at. Where tiles differ in work, those with most come first."""
    if SKIP:
        line, column = _from_centre(tile // TILES[1], TILES[0], TILES[2])
        image = tile % TILES[1]
    else:
        line = tile // TILES[2] % TILES[0]
        column = tile % TILES[2]
        image = tile // (TILES[2] * TILES[0])
    return line * BOX[0], image * BOX[1], column * BOX[2]


@gluon.jit
def _taps(
    at, PIXELS: gl.constexpr, SIZE: gl.constexpr, OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr,
    PADDING: gl.constexpr, SKIP: gl.constexpr,
):  # fmt: skip
    """First tap and their number, along one dimension, for PIXELS of the result from `at` on: without those that meet
    nothing but padding, but at least one."""
    if SKIP:
        last = gl.minimum(at + PIXELS, OUT) - 1
        first = gl.minimum(gl.maximum(PADDING - last * STRIDE, 0), FILTER - 1)
        end = gl.minimum(SIZE + PADDING - at * STRIDE, FILTER)
        return first, gl.maximum(end - first, 1)
    else:
        return 0, FILTER


@gluon.jit
def _blocks(
    line, column, BOX: gl.constexpr, SIZE: gl.constexpr, OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr,
    PADDING: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, SKIP: gl.constexpr,
):  # fmt: skip
    """Blocks of x that a tile takes."""
    if SKIP:
        _, rows = _taps(line, BOX[0], SIZE[0], OUT[0], FILTER[0], STRIDE[0], PADDING[0], SKIP)
        _, taps = _taps(column, BOX[2], SIZE[1], OUT[1], FILTER[1], STRIDE[1], PADDING[1], SKIP)
        return rows * taps * STEPS
    else:
        return FILTER[0] // GROUP * FILTER[1] * STEPS


@gluon.jit
def unit_of(
    unit, SLICES: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr, SIZE: gl.constexpr, OUT: gl.constexpr,
    FILTER: gl.constexpr, STRIDE: gl.constexpr, PADDING: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr,
    SKIP: gl.constexpr, SPLIT: gl.constexpr,
):  # fmt: skip
    """Where a unit's tile begins (line, image, column), its slice of filters, and its blocks: the first, and the end.

    Of a tile and slice, SPLIT units share the blocks, evenly. They come one after the other, then the other slices, so
    that neighbours find the same x in L2."""
    line, image, column = place_of(unit // (SPLIT * SLICES), BOX, TILES, SKIP)
    blocks = _blocks(line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
    part = unit % SPLIT
    return line, image, column, unit // SPLIT % SLICES, part * blocks // SPLIT, (part + 1) * blocks // SPLIT


@gluon.jit
def block_of(
    number, line, column, BOX: gl.constexpr, SIZE: gl.constexpr, OUT: gl.constexpr, FILTER: gl.constexpr,
    STRIDE: gl.constexpr, PADDING: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, SKIP: gl.constexpr,
):  # fmt: skip
    """Tap (its first row and its column) and block of channels of a tile's block `number`."""
    r0, _ = _taps(line, BOX[0], SIZE[0], OUT[0], FILTER[0], STRIDE[0], PADDING[0], SKIP)
    s0, taps = _taps(column, BOX[2], SIZE[1], OUT[1], FILTER[1], STRIDE[1], PADDING[1], SKIP)
    tap = number // STEPS
    return r0 + tap // taps * GROUP, s0 + tap % taps, number % STEPS
