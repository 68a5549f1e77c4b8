"""How windows slide over an image: what Conv, ConvTranspose and every pool of ONNX say alike.

Attributes: kernel_shape, strides, dilations, pads (all the befores, then all the afters), auto_pad, ceil_mode. Source:
the ONNX specification of Conv and MaxPool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.frontend.onnx.node import Call
from jitrt.graph import Value

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Windows:
    """Of every spatial dimension: taps of a window, steps between windows and between taps, padding (before, after)
    and how many windows there are. With `ceil_mode` the last ones may reach beyond the padding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pairs
    out: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Elements from the first to the last tap of a window."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def whole_padding(self, size: Sequence[int]) -> Pairs:
        """The padding with which all windows lie within an image of `size`, and no others do."""
        pairs = []
        for d, (before, _) in enumerate(self.padding):
            pairs.append((before, (self.out[d] - 1) * self.stride[d] + self.reach[d] - size[d] - before))
        return tuple(pairs)


def numbers(n: Call, name: str, dims: int, default: int = 1) -> tuple[int, ...]:
    """An attribute of one number a spatial dimension, none of them below `default`. Refuses others."""
    values = tuple(n.attribute(name) or (default,) * dims)
    if len(values) != dims or min(values, default=default) < default:
        n.refuse(f"{name} {list(values)} for {dims} spatial dimensions")
    return values


def paddings(n: Call, dims: int) -> Pairs:
    """The attribute `pads` as pairs."""
    values = numbers(n, "pads", 2 * dims, 0)
    return tuple(zip(values[:dims], values[dims:], strict=True))


def split_padding(total: int, upper: bool) -> tuple[int, int]:
    """The odd one after if `upper`, else before."""
    small = total // 2
    return (small, total - small) if upper else (total - small, small)


def windows_of(n: Call, x: Value, kernel: Sequence[int]) -> Windows:
    """The windows of a node over x (n, c, spatial...). Refuses ones that do not fit."""
    size, dims = x.type.shape[2:], x.type.rank - 2
    if dims < 1 or len(kernel) != dims or min(kernel) < 1:
        n.refuse(f"windows {list(kernel)} over {x.type}")
    stride, dilation = numbers(n, "strides", dims), numbers(n, "dilations", dims)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    auto, ceil = n.attribute("auto_pad", "NOTSET"), bool(n.attribute("ceil_mode", 0))
    padding: Pairs
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        out = tuple(-(-s // step) for s, step in zip(size, stride, strict=True))
        totals = [max(0, (o - 1) * s + r - i) for o, s, r, i in zip(out, stride, reach, size, strict=True)]
        padding = tuple(split_padding(total, auto == "SAME_UPPER") for total in totals)
        return Windows(tuple(kernel), stride, dilation, padding, out)
    if auto not in ("NOTSET", "VALID"):
        n.refuse(f"auto_pad {auto!r}")
    padding = paddings(n, dims) if auto == "NOTSET" else ((0, 0),) * dims
    counts = []
    for i, s, r, (before, after) in zip(size, stride, reach, padding, strict=True):
        room = i + before + after - r
        if room < 0:
            n.refuse(f"windows of {list(reach)} over {x.type} with padding {list(padding)}")
        count = room // s + 1
        if ceil and auto == "NOTSET" and room % s and count * s < i + before:  # it would begin inside the image
            count += 1
        counts.append(count)
    return Windows(tuple(kernel), stride, dilation, padding, tuple(counts))
