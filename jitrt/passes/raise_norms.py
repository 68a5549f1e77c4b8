"""Normalisations that were spelled out become one op again: layer norm, RMS norm, instance norm.

    d = x - mean(x);  d / sqrt(mean(d * d) + eps) * weight + bias  ->  layer_norm(x, weight, bias)

Nine kernels or more, each a trip of the tensor through memory, become one. As polynomials (algebra.py) all spellings
are one: with R = (mean(x * x) - mean(x) ** 2 + eps) ** -0.5,

    layer norm  weight * x * R - weight * mean(x) * R + bias
    RMS norm    weight * x * R, without mean(x) ** 2 in R

whether the variance is that of differences or of squares (which the op computes more exactly), the mean a sum divided
by a number, weight and bias applied at once or one after the other, as TensorFlow does. Normalised dimensions that are
not the last, as in ConvNeXt for images, are permuted to the end and back, which moves nothing in memory. Statistics of
each channel of each image are a group norm with as many groups as channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Array, Op
from jitrt.graph.ops import GroupNorm, LayerNorm, Permute, Pow, ReduceMean, ReduceSum, Reshape, RmsNorm, Rsqrt, Sqrt
from jitrt.passes.algebra import Atom, Polynomial, X, alike, evaluate, mean
from jitrt.passes.apply_rules import claimed
from jitrt.passes.base import PassContext
from jitrt.passes.spelled import TOLERANCE, Reading, above, below, between, refuse_place, replace_place

_HEARTS = (Sqrt, Rsqrt, Pow)
_ABOVE, _BELOW = 8, 6  # from the root to x, and to the last of weight and bias
_KERNELS = (DType.f32, DType.f16, DType.bf16)
_EPS = 0.1  # a larger one changes the result more than a normalisation would bear


@dataclass(frozen=True)
class _Norm:
    """(x - mean(x)) * R * weight + bias along `axes`; without the mean if not `centred`. The parameters are float64 and
    broadcast to x."""

    axes: tuple[int, ...]
    centred: bool
    eps: float
    weight: Array
    bias: Array

    @property
    def name(self) -> str:
        return "layer_norm" if self.centred else "rms_norm"


def raise_norms(graph: Graph, context: PassContext) -> None:
    """Raise every spelled-out normalisation, with its weight and bias where they can go along."""
    claims, reading, gone = claimed(graph, context), Reading(), set[Node]()
    for heart in list(graph.nodes):
        if not isinstance(heart.op, _HEARTS) or heart in gone or not heart.output.type.dtype.is_float:
            continue
        reasons: list[tuple[Node, str]] = []
        for place, x, norm in _places(heart, reading):
            root, op = place[-1], _op(x, norm)
            reason = op if isinstance(op, str) else refuse_place(graph, place, claims)
            if reason is not None:
                reasons.append((root, f"not raised to {norm.name}: {reason}"))
                continue
            assert isinstance(op, Op)
            replace_place(graph, place, _build(graph, x, norm, op, root), op.name, context)
            gone.update(place)
            reading = Reading()
            break
        else:
            for root, reason in reasons[:1]:
                context.refused(root, reason)
    graph.drop_unused_constants()


def _places(heart: Node, reading: Reading) -> Iterator[tuple[tuple[Node, ...], Value, _Norm]]:
    """Where a normalisation may begin and end, long ones first."""
    starts = above(heart, (ReduceMean, ReduceSum, Reshape), _ABOVE)
    if not any(isinstance(user.op, ReduceMean | ReduceSum) for x in starts for user in x.users):
        return
    for end in below(heart, _BELOW):
        for x in starts:
            if x.type.dtype != end.type.dtype or x.type.shape != end.type.shape or x.type.rank == 0:
                continue
            polynomial = reading.polynomial(end, x)
            norm = None if polynomial is None else _norm(polynomial, x.type.dtype)
            place = () if norm is None else between(end, x)
            if norm is not None and heart in place:
                yield place, x, norm
                break  # what begins later is part of it: d is an x of its own, with mean 0


def _norm(polynomial: Polynomial, dtype: DType) -> _Norm | None:
    """The normalisation that a polynomial is, if it is one."""
    roots = {atom for atom in polynomial.atoms if atom.kind == "power" and atom.details == (-0.5,)}
    if len(roots) != 1:
        return None
    (root,) = roots
    variance = root.of
    assert isinstance(variance, Polynomial)
    axes = {atom.details[0] for atom in variance.atoms if atom.kind == "mean"}
    number = variance.constant
    eps = number if dtype == DType.f64 else float(str(np.float32(number)))  # 1e-5 as it was written
    if len(axes) != 1 or not 0 <= eps < _EPS:
        return None
    (along,) = axes
    average, square = mean(X, along), mean(X * X, along)
    tolerance = TOLERANCE[dtype]
    centred = not alike(variance - number, square, tolerance)
    if centred and not alike(variance - number, square - average * average, tolerance):
        return None
    (x,), (middle,) = X.atoms, average.atoms
    weight, shift, bias = (_with(polynomial, wanted) for wanted in ((x, root), (middle, root), ()))
    if not alike(shift, -weight if centred else Polynomial(frozenset()), tolerance) or (bias.terms and not centred):
        return None
    if not weight.terms or sum(len(part.terms) for part in (weight, shift, bias)) != len(polynomial.terms):
        return None
    return _Norm(along, centred, eps, evaluate(weight), evaluate(bias))


def _with(polynomial: Polynomial, wanted: tuple[Atom, ...]) -> Polynomial:
    """The terms that hold these factors and else only constants, without the factors."""
    terms = []
    for monomial, number in polynomial.terms:
        counts = dict(monomial)
        if any(counts.pop(atom, 0) != 1 for atom in wanted):
            continue
        if all(atom.kind == "constant" for atom in counts):
            terms.append((frozenset(counts.items()), number))
    return Polynomial(frozenset(terms))


def _op(x: Value, norm: _Norm) -> Op | str:
    """The op that computes a normalisation, or why there is none."""
    rank = x.type.rank
    if x.type.dtype not in _KERNELS:
        return f"no kernel normalises {x.type.dtype.value} in one go"
    varies: set[int] = set()
    for array in (norm.weight, norm.bias):
        varies |= {rank - array.ndim + d for d, size in enumerate(array.shape) if size != 1}
    spatial = tuple(range(2, rank))
    if norm.centred and norm.axes == spatial and (varies == {1} or (not varies and rank > 3)):
        return GroupNorm(x.type.shape[1], norm.eps)
    if varies <= set(norm.axes):
        dims = len(norm.axes)
        return LayerNorm(dims, norm.eps) if norm.centred else RmsNorm(dims, norm.eps)
    return f"its parameters vary along {sorted(varies)}, it normalises along {list(norm.axes)}"


def _build(graph: Graph, x: Value, norm: _Norm, op: Op, root: Node) -> Value:
    """Add the op on x, before the root of what it replaces."""
    rank, shape = x.type.rank, x.type.shape

    def add(op: Op, *operands: Value) -> Value:
        return graph.append(op, operands, loc=root.loc, before=root).output

    def parameter(array: Array, dimensions: tuple[int, ...], name: str) -> Value:
        kept = array.reshape((1,) * (rank - array.ndim) + array.shape)
        others = tuple(d for d in range(rank) if d not in dimensions)
        full = np.broadcast_to(kept.squeeze(others), tuple(shape[d] for d in dimensions))
        return graph.add_constant(np.ascontiguousarray(full, x.type.dtype.numpy), name)

    if isinstance(op, GroupNorm):
        return add(op, x, parameter(norm.weight, (1,), "norm.weight"), parameter(norm.bias, (1,), "norm.bias"))
    parameters = [parameter(norm.weight, norm.axes, "norm.weight")]
    if norm.centred:
        parameters.append(parameter(norm.bias, norm.axes, "norm.bias"))
    order = (*(d for d in range(rank) if d not in norm.axes), *norm.axes)
    if order == tuple(range(rank)):
        return add(op, x, *parameters)
    normal = add(op, add(Permute(order), x), *parameters)
    return add(Permute(tuple(int(d) for d in np.argsort(order))), normal)
