"""The kernel of depthwise convolutions: a thread makes neighbouring pixels of a few neighbouring channels, so that what
it reads of x, it reads and converts once for all of them.

In 14 columns of a 7x7 filter a thread with four channels has 392 FMAs, 108 conversions and 27 loads a row of the
filter. The rows of the filter are taken in one of two FORMs:

* "loop": one after the other, where there are many sums, or many rows of a large image. Each row waits for its loads.
* "ahead": all rows are loaded before the first product, which is as fast where memory binds and faster where there is
  little work: ConvNeXt's 7x7 filters at 14x14 and batch 1 take 2.0 us instead of 3.5, the kernel before, whose weights
  came one tap after another, 8.0.
"""

# mypy: disable-error-code="assignment"
# Triton's tuples grow.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def depthwise(
    y,
    x,
    w,
    aux,
    GROUPS: tl.constexpr,  # of COLUMNS neighbouring pixels of a line; the last of a line may have fewer
    FILTERS: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SIZE: tl.constexpr,  # (depth, height, width) of x
    OUT: tl.constexpr,  # the same of y
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,  # before
    DILATION: tl.constexpr,
    X_STRIDES: tl.constexpr,  # n, c, d, h, w
    W_STRIDES: tl.constexpr,  # k, c, t, r, s
    WIDE: tl.constexpr,
    CONSTANT: tl.constexpr,  # w is
    COLUMNS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STRIP: tl.constexpr,  # taps of a row of the filter that are loaded together: all, except in a loop
    FORM: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_c: tl.constexpr = (FILTERS + BLOCK_C - 1) // BLOCK_C
    groups: tl.constexpr = (OUT[2] + COLUMNS - 1) // COLUMNS  # of a line
    rows: tl.constexpr = FILTER[0] * FILTER[1]
    strips: tl.constexpr = FILTER[2] // STRIP
    rest: tl.constexpr = FILTER[2] % STRIP
    group = ((tl.program_id(0) // tiles_c) * BLOCK_G + tl.arange(0, BLOCK_G))[:, None]
    k = ((tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    live = group < GROUPS
    k_mask = k < FILTERS if FILTERS % BLOCK_C != 0 else tl.full((1, BLOCK_C), True, tl.int1)
    line = group // groups
    column = group % groups * COLUMNS
    m = line * OUT[2] + column
    # The input of tap 0: image, depth, height, width
    d0 = line // OUT[1] % OUT[0] * STRIDE[0] - PADDING[0]
    h0 = line % OUT[1] * STRIDE[1] - PADDING[1]
    w0 = column * STRIDE[2] - PADDING[2]
    image = line // (OUT[0] * OUT[1])
    # A multiplier of 1 must not divide: the compiler would no longer see that neighbouring channels are adjacent.
    channel = k if MULTIPLIER == 1 else k // MULTIPLIER
    if WIDE:  # one image alone may be that large
        image, channel = image.to(tl.int64), channel.to(tl.int64)
        d0, h0, w0 = d0.to(tl.int64), h0.to(tl.int64), w0.to(tl.int64)
    pixel = image * X_STRIDES[0] + d0 * X_STRIDES[2] + h0 * X_STRIDES[3] + w0 * X_STRIDES[4]
    x_tile = x + (pixel + channel * X_STRIDES[1])
    w_tile = w + k * W_STRIDES[0]

    if FORM == "loop":
        if DEPENDENT:
            tl.extra.cuda.gdc_wait()
        acc = _zeros((BLOCK_G, BLOCK_C), COLUMNS)
        for step in range(rows * strips):
            acc = _strip(
                acc, x_tile, w_tile, w, live, k_mask, d0, h0, w0, step // strips, step % strips * STRIP, SIZE, OUT,
                FILTER, STRIDE, PADDING, DILATION, X_STRIDES, W_STRIDES, WIDE, COLUMNS, STRIP, (strips - 1) * STRIP,
            )  # fmt: skip
        if rest > 0:
            for row in range(rows):
                acc = _strip(
                    acc, x_tile, w_tile, w, live, k_mask, d0, h0, w0, row, strips * STRIP, SIZE, OUT, FILTER, STRIDE,
                    PADDING, DILATION, X_STRIDES, W_STRIDES, WIDE, COLUMNS, rest, strips * STRIP,
                )  # fmt: skip
        held = _fetch(aux, m, k, live, k_mask, column, OUT[2], COLUMNS, FETCH)
    else:
        if DEPENDENT and not CONSTANT:
            tl.extra.cuda.gdc_wait()
        taps = ()
        for row in tl.static_range(rows):
            taps += (_weights(w_tile, k_mask, row, 0, FILTER, W_STRIDES, WIDE, STRIP),)
        if DEPENDENT and CONSTANT:
            tl.extra.cuda.gdc_wait()
        pixels = ()
        for row in tl.static_range(rows):
            pixels += (
                _pixels(
                    x_tile, live, k_mask, d0, h0, w0, row, 0, SIZE, OUT, FILTER, STRIDE, PADDING, DILATION, X_STRIDES,
                    WIDE, COLUMNS, STRIP, 0,
                ),
            )  # fmt: skip
        held = _fetch(aux, m, k, live, k_mask, column, OUT[2], COLUMNS, FETCH)
        acc = _zeros((BLOCK_G, BLOCK_C), COLUMNS)
        if tl.program_id(1) == 0:  # always; but in one block with the sums ptxas puts loads off, and waits for each
            for part in tl.static_range(rows):
                acc = _add(acc, pixels[part], taps[part], w, STRIDE[2], DILATION[2], COLUMNS, STRIP)

    values = ()
    for p in tl.static_range(COLUMNS):
        values += (FINISH(acc[p], held[p]),)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    for p in tl.static_range(COLUMNS):
        STORE(y, values[p], m + p, k, _living(live, column, p, OUT[2], COLUMNS), k_mask)


@triton.jit
def _zeros(SHAPE: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums of a group's columns before any product."""
    acc = ()
    for _ in tl.static_range(COLUMNS):
        acc += (tl.zeros(SHAPE, tl.float32),)
    return acc


@triton.jit
def _strip(
    acc, x_tile, w_tile, w, live, k_mask, d0, h0, w0, row, start,
    SIZE: tl.constexpr, OUT: tl.constexpr, FILTER: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    DILATION: tl.constexpr, X_STRIDES: tl.constexpr, W_STRIDES: tl.constexpr, WIDE: tl.constexpr,
    COLUMNS: tl.constexpr, TAPS: tl.constexpr, FURTHEST: tl.constexpr,
):  # fmt: skip
    """acc and the products of TAPS taps of a row of the filter, from tap `start` on."""
    taps = _weights(w_tile, k_mask, row, start, FILTER, W_STRIDES, WIDE, TAPS)
    pixels = _pixels(
        x_tile, live, k_mask, d0, h0, w0, row, start, SIZE, OUT, FILTER, STRIDE, PADDING, DILATION, X_STRIDES, WIDE,
        COLUMNS, TAPS, FURTHEST,
    )  # fmt: skip
    return _add(acc, pixels, taps, w, STRIDE[2], DILATION[2], COLUMNS, TAPS)


@triton.jit
def _weights(
    w_tile, mask, row, start, FILTER: tl.constexpr, W_STRIDES: tl.constexpr, WIDE: tl.constexpr, TAPS: tl.constexpr
):  # fmt: skip
    """Tuple of TAPS taps of a row of the filter, from tap `start` on."""
    if FILTER[0] == 1:
        step = row * W_STRIDES[3] + start * W_STRIDES[4]
    else:
        step = row // FILTER[1] * W_STRIDES[2] + row % FILTER[1] * W_STRIDES[3] + start * W_STRIDES[4]
    taps = ()
    for s in tl.static_range(TAPS):
        taps += (tl.load(w_tile + (step + s * W_STRIDES[4]), mask=mask, other=0.0),)
    return taps


@triton.jit
def _pixels(
    x_tile, live, k_mask, d0, h0, w0, row, start,
    SIZE: tl.constexpr, OUT: tl.constexpr, FILTER: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    DILATION: tl.constexpr, X_STRIDES: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, TAPS: tl.constexpr,
    FURTHEST: tl.constexpr,
):  # fmt: skip
    """Tuple of the input columns of a group that these taps read, 0 outside the image and where nobody reads. `start`
    is FURTHEST at most."""
    last: tl.constexpr = (OUT[2] - 1) // COLUMNS * COLUMNS * STRIDE[2] - PADDING[2] + FURTHEST * DILATION[2]
    r = row if FILTER[0] == 1 else row % FILTER[1]
    h = h0 + r * DILATION[1]
    inside = live & (h >= 0) & (h < SIZE[1])
    step = r * (DILATION[1] * X_STRIDES[3]) + start * (DILATION[2] * X_STRIDES[4])
    if FILTER[0] > 1:
        t = row // FILTER[1]
        d = d0 + t * DILATION[0]
        inside = inside & (d >= 0) & (d < SIZE[0])
        step += (tl.zeros_like(d0) + t) * (DILATION[0] * X_STRIDES[2])  # of the type of d0: a plane may be large
    inside = inside & k_mask
    first = w0 + start * DILATION[2]
    pixels = ()
    for j in tl.static_range((COLUMNS - 1) * STRIDE[2] + (TAPS - 1) * DILATION[2] + 1):
        if wanted(j, STRIDE[2], DILATION[2], COLUMNS, TAPS) and lies_inside(
            j, SIZE[2], OUT[2], STRIDE[2], PADDING[2], DILATION[2], COLUMNS, FURTHEST
        ):
            seen = inside
            if j < PADDING[2]:
                seen = seen & (first + j >= 0)
            if last + j >= SIZE[2]:
                seen = seen & (first + j < SIZE[2])
            pixels += (tl.load(x_tile + (step + j * X_STRIDES[4]), mask=seen, other=0.0),)
        else:
            pixels += (tl.zeros(x_tile.shape, x_tile.dtype.element_ty),)
    return pixels


@triton.jit
def _add(
    acc, pixels, taps, w, STRIDE: tl.constexpr, DILATION: tl.constexpr, COLUMNS: tl.constexpr, TAPS: tl.constexpr
):  # fmt: skip
    """acc and the products of pixels and taps, each with the column of a group that it belongs to."""
    # As few ops as can be: Triton's compiler takes a time that grows with the square of their number and faster.
    factors = ()
    for s in tl.static_range(TAPS):
        factors += (tl.broadcast_to(taps[s].to(tl.float32), acc[0].shape),)
    for j in tl.static_range((COLUMNS - 1) * STRIDE + (TAPS - 1) * DILATION + 1):
        if wanted(j, STRIDE, DILATION, COLUMNS, TAPS):
            # Zeros beside the line are multiplied too: a weight that is infinite makes them NaN.
            a = tl.broadcast_to(pixels[j].to(w.dtype.element_ty).to(tl.float32), acc[0].shape)
            sums = ()
            for p in tl.static_range(COLUMNS):
                if tap_of(j, p, STRIDE, DILATION, TAPS) >= 0:
                    sums += (tl.fma(a, factors[tap_of(j, p, STRIDE, DILATION, TAPS)], acc[p]),)
                else:
                    sums += (acc[p],)
            acc = sums
    return acc


@triton.jit
def _fetch(
    aux, m, k, live, k_mask, column, OUT: tl.constexpr, COLUMNS: tl.constexpr, FETCH: tl.constexpr
):  # fmt: skip
    """What the epilogue needs of its operands, for each column of a group."""
    held = ()
    for p in tl.static_range(COLUMNS):
        held += (FETCH(aux, m + p, k, _living(live, column, p, OUT, COLUMNS), k_mask),)
    return held


@triton.jit
def _living(live, column, p: tl.constexpr, OUT: tl.constexpr, COLUMNS: tl.constexpr):
    """Which groups have a column `p`."""
    return live if OUT % COLUMNS == 0 else live & (column + p < OUT)


@triton.constexpr_function
def tap_of(j, p, stride, dilation, taps):
    """The tap that multiplies input column `j` of a group for its output column `p`, or -1."""
    s, between = divmod(j - p * stride, dilation)
    return s if between == 0 and 0 <= s < taps else -1


@triton.constexpr_function
def wanted(j, stride, dilation, columns, taps):
    """Whether any tap reads input column `j` of a group."""
    return any(tap_of(j, p, stride, dilation, taps) >= 0 for p in range(columns))


@triton.constexpr_function
def lies_inside(j, size, out, stride, padding, dilation, columns, furthest):
    """Whether input column `j` of a group lies inside the line for any group, the first tap being one between 0 and
    `furthest`."""
    last = (out - 1) // columns * columns * stride + furthest * dilation
    return last - padding + j >= 0 and j - padding < size
