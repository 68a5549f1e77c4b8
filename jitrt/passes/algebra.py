"""What arithmetic computes, however it is spelled: a polynomial.

    0.5 * x * (1 + erf(x / 1.4142))   and   x * (erf(0.7071 * x) * 0.5 + 0.5)   are   0.5 x + 0.5 x erf(0.7071 x)

A polynomial has products of atoms as its terms. An atom is x itself, a constant tensor, or a function of a
polynomial: erf, clamp, a power, a mean along some axes. Products are multiplied out, means taken term by term, clamps
shifted and scaled to stand on x itself, so that two spellings of one computation give the same terms, apart from the
rounding of the numbers in them (`alike`). Nothing is computed this way: it is for recognising.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jitrt.graph.graph import Value
from jitrt.graph.op import Array

_MOST_TERMS = 16  # what is recognised has fewer than ten
_ODD, _EVEN = {"erf", "tanh"}, {"abs"}
_CANCELLED = 1e-9  # a sum this much smaller than what was added is nothing


class Unreadable(Exception):
    """Raised for what is no polynomial, or a very long one."""


@dataclass(frozen=True)
class Atom:
    """`kind` of a polynomial, with numbers or axes that go with it; or of a value of the graph (a constant)."""

    kind: str
    of: Polynomial | Value | None = None
    details: tuple[Any, ...] = ()

    @property
    def outline(self) -> str:
        return f"{self.kind}({self.of.outline})" if isinstance(self.of, Polynomial) else self.kind


Monomial = frozenset[tuple[Atom, int]]  # atoms, and how often each is a factor
_ONE: Monomial = frozenset()


@dataclass(frozen=True)
class Polynomial:
    """Terms: products of atoms, each with its number."""

    terms: frozenset[tuple[Monomial, float]]

    def __add__(self, other: Polynomial | float) -> Polynomial:
        return _sum([*self.terms, *_polynomial(other).terms])

    def __mul__(self, other: Polynomial | float) -> Polynomial:
        products = [
            (frozenset((Counter(dict(a)) + Counter(dict(b))).items()), m * n)
            for a, m in self.terms
            for b, n in _polynomial(other).terms
        ]
        return _sum(products)

    def __neg__(self) -> Polynomial:
        return self * -1.0

    def __sub__(self, other: Polynomial | float) -> Polynomial:
        return self + -_polynomial(other)

    __radd__, __rmul__ = __add__, __mul__

    @property
    def constant(self) -> float:
        """The number that stands alone."""
        return dict(self.terms).get(_ONE, 0.0)

    @property
    def number(self) -> float | None:
        """What it is, if it is a number."""
        return self.constant if all(not monomial for monomial, _ in self.terms) else None

    @cached_property
    def outline(self) -> str:
        """Its terms without their numbers: what differs here is not alike.

        >>> (X * 0.5 + X * apply("erf", X * 0.7)).outline
        'x+x*erf(x)'
        """
        return "+".join(sorted(_outline(monomial) for monomial, _ in self.terms))

    @property
    def atoms(self) -> set[Atom]:
        """The factors of its terms."""
        return {atom for monomial, _ in self.terms for atom, _ in monomial}


def _outline(monomial: Monomial) -> str:
    return "*".join(sorted("*".join([atom.outline] * count) for atom, count in monomial)) or "1"


def _polynomial(number: Polynomial | float) -> Polynomial:
    return number if isinstance(number, Polynomial) else _sum([(_ONE, float(number))])


def _sum(terms: Iterable[tuple[Monomial, float]]) -> Polynomial:
    total: dict[Monomial, float] = {}
    largest: dict[Monomial, float] = {}
    for monomial, number in terms:
        total[monomial] = total.get(monomial, 0.0) + number
        largest[monomial] = max(largest.get(monomial, 0.0), abs(number))
    kept = frozenset((m, n) for m, n in total.items() if not abs(n) <= _CANCELLED * largest[m])
    if len(kept) > _MOST_TERMS:
        raise Unreadable
    return Polynomial(kept)


def _of(atom: Atom) -> Polynomial:
    return Polynomial(frozenset({(frozenset({(atom, 1)}), 1.0)}))


X = _of(Atom("x"))


def constant(value: Value) -> Polynomial:
    """A constant of the graph: its number, or an atom if it has several."""
    assert value.data is not None
    return _polynomial(float(value.data.item())) if value.data.size == 1 else _of(Atom("constant", value))


def apply(function: str, p: Polynomial) -> Polynomial:
    """A function of one operand, by its op's name. Those that are odd or even are taken of the positive operand."""
    if function in _ODD | _EVEN and p.terms:
        _, number = min(p.terms, key=lambda term: (_outline(term[0]), term[1]))
        if number < 0:
            return -_of(Atom(function, -p)) if function in _ODD else _of(Atom(function, -p))
    return _of(Atom(function, p))


def power(p: Polynomial, exponent: float) -> Polynomial:
    """p ** exponent, multiplied out for small whole numbers."""
    if exponent in (1, 2, 3, 4):
        product = p
        for _ in range(int(exponent) - 1):
            product = product * p
        return product
    number = p.number
    if number is not None:
        if number == 0 or (number < 0 and exponent != int(exponent)):
            raise Unreadable
        return _polynomial(float(number**exponent))
    inverse = _inverse(p) if exponent == -1 else None
    return _of(Atom("power", p, (float(exponent),))) if inverse is None else inverse


def _inverse(p: Polynomial) -> Polynomial | None:
    """1 / p where p is one power of a polynomial."""
    ((monomial, number), *others) = p.terms
    factors = [(atom, count) for atom, count in monomial]
    if others or [(atom.kind, count) for atom, count in factors] != [("power", 1)]:
        return None
    ((atom, _),) = factors
    assert isinstance(atom.of, Polynomial)
    return power(atom.of, -atom.details[0]) * (1 / number)


def clamp(p: Polynomial, low: float, high: float) -> Polynomial:
    """min(max(p, low), high). That of a * q + c is a * clamp(q) + c, with other bounds."""
    shift = p.constant
    scaled = p - shift
    if len(scaled.terms) != 1:
        return _of(Atom("clamp", p, (low, high)))
    ((monomial, scale),) = scaled.terms
    low, high = sorted(((low - shift) / scale, (high - shift) / scale))
    inner = Polynomial(frozenset({(monomial, 1.0)}))
    match list(monomial):
        case [(Atom("clamp", Polynomial() as q, (above, below)), 1)] if above <= high and low <= below:
            inner, low, high = q, max(low, above), min(high, below)
    return _of(Atom("clamp", inner, (low, high))) * scale + shift


def mean(p: Polynomial, axes: tuple[int, ...]) -> Polynomial:
    """The mean along axes, term by term; what does not change along them is a factor of it."""
    total = _polynomial(0.0)
    for monomial, number in p.terms:
        fixed = frozenset(item for item in monomial if _is_fixed(item[0], axes))
        rest = Polynomial(frozenset({(monomial - fixed, 1.0)}))
        term = Polynomial(frozenset({(fixed, number)}))
        total = total + (term if fixed == monomial else term * _of(Atom("mean", rest, (axes,))))
    return total


def _is_fixed(atom: Atom, axes: tuple[int, ...]) -> bool:
    """Whether an atom is the same all along the axes."""
    if atom.kind == "mean":
        return set(axes) <= set(atom.details[0])
    return isinstance(atom.of, Polynomial) and all(_is_fixed(inner, axes) for inner in atom.of.atoms)


def evaluate(p: Polynomial) -> Array:
    """What a polynomial of nothing but constants is, in float64."""
    total: Array = np.zeros(())
    for monomial, number in p.terms:
        term: Array = np.asarray(number)
        for atom, count in monomial:
            assert isinstance(atom.of, Value) and atom.of.data is not None
            term = term * atom.of.data.astype(np.float64) ** count
        total = total + term
    return total


def alike(a: object, b: object, tolerance: float) -> bool:
    """Whether two polynomials (or what they are made of) are the same, numbers up to a relative tolerance."""
    match a, b:
        case Polynomial(), Polynomial():
            return a.outline == b.outline and _pairs(a.terms, b.terms, lambda p, q: alike(p, q, tolerance))
        case frozenset(), frozenset():
            return _pairs(a, b, lambda p, q: alike(p, q, tolerance))
        case Atom(), Atom():
            return alike((a.kind, a.of, *a.details), (b.kind, b.of, *b.details), tolerance)
        case tuple(), tuple():
            return len(a) == len(b) and all(alike(p, q, tolerance) for p, q in zip(a, b, strict=True))
        case float(), float():
            return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance * 1e-3)
    return a == b


def _pairs(left: Iterable[Hashable], right: Iterable[Hashable], same: Callable[[Hashable, Hashable], bool]) -> bool:
    """Whether two collections can be paired off."""
    waiting = list(right)
    for item in left:
        partner = next((other for other in waiting if same(item, other)), None)
        if partner is None:
            return False
        waiting.remove(partner)
    return not waiting
