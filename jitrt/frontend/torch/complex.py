"""Complex numbers inside a model, as a pair of real tensors: the graph has none. Inputs and results must be real.

What moves or adds elements (`_EACH`) is done to both parts by the importer of its own; the rest is here: products,
absolute values, rotary embeddings written as `view_as_complex(x) * polar(1, angle)`, Fourier transforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jitrt.frontend.builder import Number
from jitrt.frontend.layers import arithmetic, linear, spectrum
from jitrt.frontend.layers.einsum import einsum
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import Unsupported, importer_of, writes_first_operand
from jitrt.graph import Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op


@dataclass(frozen=True)
class Complex:
    """A complex tensor: two real ones of its shape."""

    real: Value
    imag: Value


Operand = Complex | Value | Number

_MOVED = "permute transpose swapaxes movedim t mT flip roll gather index index_select slice select narrow"
_SHAPED = "view reshape _unsafe_view unsqueeze squeeze flatten unflatten expand expand_as broadcast_to contiguous"
_PARTED = "unbind split split_with_sizes chunk repeat tile repeat_interleave constant_pad_nd pad"
_SAME = "clone detach alias lift_fresh_copy sum mean neg"
_EACH = frozenset(f"{_MOVED} {_SHAPED} {_PARTED} {_SAME}".split())


def is_complex(node: torch.fx.Node, operands: Any) -> bool:
    """Whether a torch node takes or makes a complex tensor. `operands` are its arguments, imported."""
    found = []
    torch.fx.node.map_aggregate(operands, lambda x: found.append(x) if isinstance(x, Complex) else None)
    example = node.meta.get("val")
    first = example[0] if isinstance(example, tuple | list) and example else example
    return bool(found) or (isinstance(first, torch.Tensor) and first.dtype.is_complex)


def complex_importer_of(target: object) -> Callable[..., Any] | None:
    """The importer of an operator on complex numbers, which makes a Complex or a Value; None if it is unknown."""
    name = str(target).split(".")[1] if str(target).startswith("aten.") else ""
    if writes_first_operand(target):
        name = name.removesuffix("_")
    if name in ("to", "_to_copy"):
        return lambda ctx, x, *args, **kwargs: _whole(ctx, x)
    if name in _EACH:
        return lambda ctx, *args, **kwargs: _each(ctx, target, args, kwargs)
    if name in ("cat", "stack"):
        return lambda ctx, parts, *args: _each(ctx, target, ([_whole(ctx, x) for x in parts], *args), {})
    return _OPERATORS.get(name)


def _each(ctx: Context, target: Any, args: Any, kwargs: Any) -> Any:
    importer = importer_of(target)
    if importer is None:
        raise Unsupported("of complex numbers")

    def part(which: str) -> Any:
        real = torch.fx.node.map_aggregate((args, kwargs), lambda x: getattr(x, which) if isinstance(x, Complex) else x)
        return importer(ctx, *real[0], **real[1])

    made = part("real"), part("imag")
    return Complex(*made) if isinstance(made[0], Value) else [Complex(*pair) for pair in zip(*made, strict=True)]


def _whole(ctx: Context, x: Operand) -> Complex:
    """A real number as a complex one."""
    if isinstance(x, Complex):
        return x
    if isinstance(x, Value):
        return Complex(x, ctx.full(x.type.shape, 0, x.type.dtype))
    number = complex(x)
    return Complex(*(ctx.graph.scalar(part, ctx.dtype) for part in (number.real, number.imag)))


def _is_real(x: Operand) -> bool:
    return isinstance(x, Value) or (not isinstance(x, Complex) and not isinstance(x, complex))


def _scaled(ctx: Context, x: Complex, op: Op, by: Any) -> Complex:
    """Both parts times, or by, a real number or tensor."""
    return Complex(*(arithmetic.binary(ctx, op, part, by, ctx.dtype) for part in (x.real, x.imag)))


def _bilinear(ctx: Context, product: Callable[[Value, Value], Value], a: Complex, b: Complex) -> Complex:
    real = ctx.add(g.Sub(), product(a.real, b.real), product(a.imag, b.imag))
    return Complex(real, ctx.add(g.Add(), product(a.real, b.imag), product(a.imag, b.real)))


def _mul(ctx: Context, a: Operand, b: Operand) -> Complex:
    for x, other in ((a, b), (b, a)):
        if isinstance(x, Complex) and _is_real(other):
            return _scaled(ctx, x, g.Mul(), other)
    return _bilinear(ctx, lambda x, y: ctx.add(g.Mul(), x, y), _whole(ctx, a), _whole(ctx, b))


def _div(ctx: Context, a: Operand, b: Operand) -> Complex:
    if isinstance(a, Complex) and _is_real(b):
        return _scaled(ctx, a, g.Div(), b)
    b = _whole(ctx, b)
    size = ctx.add(g.Add(), *(ctx.add(g.Mul(), x, x) for x in (b.real, b.imag)))
    return _scaled(ctx, _mul(ctx, a, _conj(ctx, b)), g.Div(), size)


def _sum(op: Op) -> Callable[..., Complex]:
    def run(ctx: Context, a: Operand, b: Operand, *, alpha: Number = 1) -> Complex:
        if alpha != 1:
            b = _mul(ctx, _whole(ctx, b), alpha)
        a, b = _whole(ctx, a), _whole(ctx, b)
        return Complex(ctx.add(op, a.real, b.real), ctx.add(op, a.imag, b.imag))

    return run


def _conj(ctx: Context, x: Complex) -> Complex:
    return Complex(x.real, ctx.add(g.Neg(), x.imag))


def _matmul(ctx: Context, a: Operand, b: Operand) -> Complex:
    return _bilinear(ctx, lambda x, y: linear.matmul(ctx, x, y), _whole(ctx, a), _whole(ctx, b))


def _einsum(ctx: Context, equation: str, operands: Sequence[Operand], path: object = None) -> Complex:
    if len(operands) != 2:
        raise Unsupported("of complex numbers, other than two")
    a, b = (_whole(ctx, x) for x in operands)
    return _bilinear(ctx, lambda x, y: einsum(ctx, equation, [x, y]), a, b)


def _polar(ctx: Context, size: Value, angle: Value) -> Complex:
    return Complex(*(ctx.add(g.Mul(), size, ctx.add(op, angle)) for op in (g.Cos(), g.Sin())))


def _view_as_complex(ctx: Context, x: Value) -> Complex:
    last = x.type.rank - 1
    return Complex(*(ctx.reshape(ctx.slice(x, last, i, i + 1), x.type.shape[:last]) for i in range(2)))


def _view_as_real(ctx: Context, x: Complex) -> Value:
    """(..., 2)."""
    shape = (*x.real.type.shape, 1)
    return ctx.concat([ctx.reshape(part, shape) for part in (x.real, x.imag)], len(shape) - 1)


# -- Fourier transforms ------------------------------------------------------------------------------------------------


def _transformed(
    ctx: Context,
    x: Complex | Value,
    dims: Sequence[int],
    sizes: Sequence[int],
    norm: str | None,
    inverse: bool,
    real: bool,
) -> Operand:
    """Along `dims`, to `sizes` points; of `real` numbers, or to them if `inverse`, along the last of them."""
    rank = (x.real if isinstance(x, Complex) else x).type.rank
    y = _view_as_real(ctx, x) if isinstance(x, Complex) else ctx.reshape(x, (*x.type.shape, 1))
    steps = list(zip(dims, sizes, strict=True))
    for position, (dim, points) in enumerate(steps if inverse else steps[::-1]):
        half = real and position == (len(steps) - 1 if inverse else 0)
        try:
            y = spectrum.fourier(ctx, y, dim % rank, points, inverse=inverse, onesided=half)
        except ValueError as error:
            raise Unsupported(str(error)) from None
    count = math.prod(sizes)
    # Backward: 1 one way, 1 / count the other, as made.
    factor = {"ortho": math.sqrt(count), "forward": float(count)}.get(norm or "", 1.0)
    if factor != 1:
        y = arithmetic.scaled(ctx, y, factor if inverse else 1 / factor)
    return ctx.reshape(y, y.type.shape[:-1]) if inverse and real else _view_as_complex(ctx, y)


def _fourier(inverse: bool, real: bool, axes: Any) -> Callable[..., Operand]:
    """An operator that transforms `axes` unless it is told others: one, or several, or (None) all, or as many as sizes
    are given."""

    def run(ctx: Context, x: Any, n: Any = None, dim: Any = axes, norm: str | None = None) -> Operand:
        shape = (x.real if isinstance(x, Complex) else x).type.shape
        if dim is None:
            dim = range(-(len(shape) if n is None else len(n)), 0)
        dims = list(dim) if isinstance(dim, Sequence) else [dim]
        sizes = [shape[d] for d in dims] if n is None else list(n) if isinstance(n, Sequence) else [n]
        if n is None and inverse and real:
            sizes[-1] = 2 * (sizes[-1] - 1)
        return _transformed(
            ctx, x, dims, [shape[d] if s == -1 else s for d, s in zip(dims, sizes)], norm, inverse, real
        )

    return run


def _stft(
    ctx: Context,
    x: Value,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Value | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Complex:
    """x (samples) or (batch, samples), padded already: (..., bins, frames)."""
    if align_to_window or not return_complex or onesided is False:
        raise Unsupported("other than of one side, complex, and not aligned to the window")
    length = n_fft if win_length is None else win_length
    if window is None and length < n_fft:
        window = ctx.full((length,), 1, x.type.dtype)
    if window is not None and length < n_fft:
        before = (n_fft - length) // 2
        window = ctx.add(g.Pad(((before, n_fft - length - before),)), window)
    rows = ctx.reshape(x, (x.type.numel // x.type.shape[-1], x.type.shape[-1], 1))
    y = spectrum.short_time_fourier(ctx, rows, hop_length or n_fft // 4, n_fft, window, onesided=True)
    if normalized:
        y = arithmetic.scaled(ctx, y, 1 / math.sqrt(n_fft))
    made = _view_as_complex(ctx, ctx.permute(y, (0, 2, 1, 3)))
    return Complex(*(ctx.reshape(part, ctx.shape) for part in (made.real, made.imag)))


_OPERATORS: dict[str, Callable[..., Any]] = {
    "mul": _mul,
    "div": _div,
    "add": _sum(g.Add()),
    "sub": _sum(g.Sub()),
    "conj": _conj,
    "_conj": _conj,
    "conj_physical": _conj,
    "resolve_conj": lambda ctx, x: x,
    "resolve_neg": lambda ctx, x: x,
    "reciprocal": lambda ctx, x: _div(ctx, 1, x),
    "real": lambda ctx, x: x.real if isinstance(x, Complex) else x,
    "imag": lambda ctx, x: x.imag,
    "abs": lambda ctx, x: arithmetic.hypot(ctx, x.real, x.imag),
    "angle": lambda ctx, x: arithmetic.atan2(ctx, x.imag, x.real),
    "exp": lambda ctx, x: _polar(ctx, ctx.add(g.Exp(), x.real), x.imag),
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "einsum": _einsum,
    "complex": lambda ctx, real, imag: Complex(real, imag),
    "polar": _polar,
    "copy": lambda ctx, x, y, non_blocking=False: _whole(ctx, y),
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    "stft": _stft,
    **{
        f"fft_{'i' * inverse}{'r' * real}fft{letter}": _fourier(inverse, real, axes)
        for inverse in (False, True)
        for real in (False, True)
        for letter, axes in (("", -1), ("2", (-2, -1)), ("n", None))
    },
}
