"""Scatter: elements put, or added, where another tensor says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType

_REDUCTIONS = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


@dataclass(frozen=True)
class Scatter(Op):
    """y = x, but for every position i of the index, in order: y[i... with the index along `axis` replaced by
    index[i...]] = updates[i...], or by a `reduction` ("add", "mul", "min", "max") of both.

    Operands x, index and updates, of one rank; beside `axis` the others broadcast to x, along it the updates to the
    index. So of several updates of one element the last stays, and sums have one order. A negative index counts from
    the end; one that is out of range even so is left out. 16-bit floats are rounded once, at the end.
    """

    name: ClassVar[str] = "scatter"
    traits: ClassVar[Trait] = Trait.ANCHOR
    axis: int
    reduction: str = "none"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(len(types) == 3, f"takes x, an index and updates, got {len(types)} operands")
        x, index, updates = types
        known = ("none", *_REDUCTIONS)
        self.check(self.reduction in known, f"reduction {self.reduction!r}, expected one of {', '.join(known)}")
        self.check(not index.dtype.is_float and index.dtype != DType.b8, f"the index is {index.dtype.value}")
        self.check(updates.dtype == x.dtype, f"updates of {updates.dtype.value} for {x.dtype.value}")
        self.check(self.reduction == "none" or x.dtype != DType.b8, f"{self.reduction} of booleans: cast them first")
        self.check(x.rank == index.rank == updates.rank, f"ranks {x.rank}, {index.rank} and {updates.rank} differ")
        self.check(0 <= self.axis < x.rank, f"axis {self.axis} of {x}")
        for what, type in (("index", index), ("updates", updates)):
            room = (*x.shape[: self.axis], index.shape[self.axis], *x.shape[self.axis + 1 :])
            fits = all(size in (1, most) for size, most in zip(type.shape, room, strict=True))
            self.check(fits, f"{what} {type} does not broadcast to {list(room)}")
        return (x.logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, index, updates = wide(arrays[0]), arrays[1].astype(np.int64), wide(arrays[2])
        y = np.array(x)
        room = (*x.shape[: self.axis], index.shape[self.axis], *x.shape[self.axis + 1 :])
        at = np.broadcast_to(np.where(index < 0, index + x.shape[self.axis], index), room)
        places = list(np.indices(room, sparse=True))
        places[self.axis] = at
        inside = (at >= 0) & (at < x.shape[self.axis])
        where = tuple(np.broadcast_to(place, room)[inside] for place in places)
        new = np.broadcast_to(updates, room)[inside]
        if self.reduction == "none":
            y[where] = new  # of an index that repeats, numpy keeps the last
        else:
            _REDUCTIONS[self.reduction].at(y, where, new)
        return (y,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 0 if self.reduction == "none" else inputs[2].numel
