"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType, broadcast_shapes


@dataclass(frozen=True)
class Linear(Op):
    """y[..., k] = sum over c of x[..., c] * w[k, c]; the importer adds the bias as an Add. w is (k, c)."""

    name: ClassVar[str] = "linear"
    traits: ClassVar[Trait] = Trait.ANCHOR
    tf32: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        self.check(w.rank == 2 and x.rank >= 1, f"x is {x}, w is {w}")
        self.check(x.shape[-1] == w.shape[1], f"x ends in {x.shape[-1]}, w wants {w.shape[1]}")
        self.check(x.dtype == w.dtype, f"x is {x.dtype.value}, w is {w.dtype.value}")
        return (TensorType(x.dtype, (*x.shape[:-1], w.shape[0])),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = (wide(a) for a in arrays)
        return (np.matmul(x, w.T),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].numel * inputs[0].shape[-1]


@dataclass(frozen=True)
class Matmul(Op):
    """numpy's matmul of operands of rank 2 or more: leading dimensions broadcast."""

    name: ClassVar[str] = "matmul"
    traits: ClassVar[Trait] = Trait.ANCHOR
    tf32: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        a, b = types
        self.check(a.rank >= 2 and b.rank >= 2, f"operands have rank {a.rank} and {b.rank}, expected 2 or more")
        self.check(a.shape[-1] == b.shape[-2], f"inner sizes {a.shape[-1]} and {b.shape[-2]} differ")
        self.check(a.dtype == b.dtype, f"a is {a.dtype.value}, b is {b.dtype.value}")
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        self.check(batch is not None, f"batch shapes {a.shape[:-2]} and {b.shape[:-2]} do not broadcast")
        assert batch is not None
        return (TensorType(a.dtype, (*batch, a.shape[-2], b.shape[-1])),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        a, b = (wide(x) for x in arrays)
        return (np.matmul(a, b),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].numel * inputs[0].shape[-1]
