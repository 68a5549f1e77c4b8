"""einsum, as matrix products of two operands at a time."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.index import take
from jitrt.graph import Value
from jitrt.graph import ops as g


@dataclass(frozen=True)
class _Term:
    """A tensor and the letters of its dimensions, all different."""

    value: Value
    letters: str


def einsum(b: Builder, equation: str, operands: Sequence[Value]) -> Value:
    """numpy's einsum: "bij,bjk->bik", with "..." for dimensions that broadcast. Raises ValueError for an equation that
    does not fit its operands."""
    inputs, output = _parsed(equation.replace(" ", ""), operands)
    terms = [_diagonal(b, value, letters) for value, letters in zip(operands, inputs, strict=True)]
    sizes = {letter: 1 for term in terms for letter in term.letters}
    for term in terms:
        for letter, size in zip(term.letters, term.value.type.shape, strict=True):
            if size != 1 and sizes[letter] not in (1, size):
                raise ValueError(f"{equation}: dimension {letter} is {sizes[letter]} and {size}")
            sizes[letter] = max(sizes[letter], size) if size else 0
    done = _narrowed(b, terms[0], sizes)
    for number, term in enumerate(terms[1:], 2):
        kept = set(output).union(*(later.letters for later in terms[number:]))
        done = _product(b, done, _narrowed(b, term, sizes), kept)
    done = _summed(b, done, set(output))
    shape = tuple(sizes[letter] for letter in output)
    present = [letter for letter in output if letter in done.letters]  # a size of 1 may have gone on the way
    y = b.permute(done.value, tuple(done.letters.index(letter) for letter in present))
    return b.expand(b.reshape(y, tuple(sizes[c] if c in done.letters else 1 for c in output)), shape)


def _parsed(equation: str, operands: Sequence[Value]) -> tuple[list[str], str]:
    """The letters of every operand and of the result; the dimensions of an ellipsis get letters that nothing has."""
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise ValueError(f"{equation} has {len(inputs)} terms for {len(operands)} operands")
    free = [letter for letter in string.ascii_letters + string.digits if letter not in equation]
    longest = 0
    for i, (letters, operand) in enumerate(zip(inputs, operands, strict=True)):
        hidden = operand.type.rank - len(letters.replace("...", ""))
        if hidden < 0 or (hidden and "..." not in letters):
            raise ValueError(f"{equation}: {letters or 'nothing'} for a tensor of rank {operand.type.rank}")
        inputs[i] = letters.replace("...", "".join(free[len(free) - hidden :]))
        longest = max(longest, hidden)
    rest = "".join(free[len(free) - longest :])
    if not arrow:
        every = "".join(inputs)
        output = "..." + "".join(sorted(c for c in set(left) if c.isalpha() and every.count(c) == 1))
    output = output.replace("...", rest)
    known = set("".join(inputs))
    if any(letter not in known or output.count(letter) > 1 for letter in output):
        raise ValueError(f"{equation}: a dimension of the result is none, or twice, among the operands'")
    return inputs, output


def _diagonal(b: Builder, value: Value, letters: str) -> _Term:
    """One dimension for a letter that stands for several: position i along each of them."""
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            size = value.type.shape[first]
            if value.type.shape[second] != size:
                raise ValueError(f"dimension {letter} is {size} and {value.type.shape[second]} of one operand")
            others = [d for d in range(value.type.rank) if d not in (first, second)]
            rest = tuple(value.type.shape[d] for d in others)
            flat = b.reshape(b.permute(value, (first, second, *others)), (size * size, *rest))
            b.claim(size)
            value = take(b, flat, b.constant(np.arange(size, dtype=np.int64) * (size + 1)), 0)
            letters = letter + "".join(letters[d] for d in others)
    return _Term(value, letters)


def _narrowed(b: Builder, term: _Term, sizes: dict[str, int]) -> _Term:
    """Without the dimensions that it has one element of and others more: they broadcast."""
    pairs = list(zip(term.letters, term.value.type.shape, strict=True))
    kept = [(letter, size) for letter, size in pairs if size == sizes[letter]]
    return _Term(b.reshape(term.value, tuple(size for _, size in kept)), "".join(letter for letter, _ in kept))


def _summed(b: Builder, term: _Term, kept: set[str]) -> _Term:
    axes = tuple(d for d, letter in enumerate(term.letters) if letter not in kept)
    if not axes:
        return term
    return _Term(b.add(g.ReduceSum(axes), term.value), "".join(letter for letter in term.letters if letter in kept))


def _product(b: Builder, left: _Term, right: _Term, kept: set[str]) -> _Term:
    """Both operands' product, summed over what nothing later reads: a matrix product, batched over what both keep."""
    left = _summed(b, left, kept | set(right.letters))
    right = _summed(b, right, kept | set(left.letters))
    batch = [c for c in left.letters if c in right.letters and c in kept]
    inner = [c for c in left.letters if c in right.letters and c not in kept]
    rows = [c for c in left.letters if c not in right.letters]
    columns = [c for c in right.letters if c not in left.letters]
    size = dict(zip(left.letters, left.value.type.shape)) | dict(zip(right.letters, right.value.type.shape))

    def shaped(term: _Term, groups: Sequence[Sequence[str]]) -> Value:
        order = tuple(term.letters.index(letter) for group in groups for letter in group)
        lead = tuple(size[letter] for letter in groups[0])
        return b.reshape(b.permute(term.value, order), (*lead, *(math.prod(size[c] for c in g_) for g_ in groups[1:])))

    letters = "".join([*batch, *rows, *columns])
    if not inner:  # nothing to sum: elementwise
        full = [tuple(size[c] if c in term.letters else 1 for c in letters) for term in (left, right)]
        sides = [
            b.reshape(b.permute(term.value, tuple(term.letters.index(c) for c in letters if c in term.letters)), shape)
            for term, shape in zip((left, right), full)
        ]
        return _Term(b.add(g.Mul(), *sides), letters)
    y = b.add(g.Matmul(), shaped(left, (batch, rows, inner)), shaped(right, (batch, inner, columns)))
    return _Term(b.reshape(y, tuple(size[letter] for letter in letters)), letters)
