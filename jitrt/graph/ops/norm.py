"""Normalisations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType


def _per_channel(array: Array, rank: int) -> Array:
    return array.reshape(1, -1, *([1] * (rank - 2)))


@dataclass(frozen=True)
class BatchNorm(Op):
    """Inference batch norm: (x - mean) / sqrt(var + eps) * weight + bias, per channel (dimension 1).

    Operands x, weight, bias, mean, var. A pass folds it into a convolution or rewrites it as multiply and add.
    """

    name: ClassVar[str] = "batch_norm"
    eps: float = 1e-5

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = types[0]
        self.check(len(types) == 5, f"takes 5 operands, got {len(types)}")
        self.check(x.rank >= 2, f"x has rank {x.rank}, expected 2 or more")
        for type in types[1:]:
            self.check(type.shape == (x.shape[1],), f"a parameter is {type}, expected [{x.shape[1]}]")
        return (x.logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, weight, bias, mean, var = (wide(a) for a in arrays)
        scale = weight / np.sqrt(var + var.dtype.type(self.eps))
        return (x * _per_channel(scale, x.ndim) + _per_channel(bias - mean * scale, x.ndim),)


@dataclass(frozen=True)
class LayerNorm(Op):
    """(x - mean) / sqrt(var + eps) over the last `dims` dimensions, times weight plus bias (operands 1 and 2)."""

    name: ClassVar[str] = "layer_norm"
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.ANCHOR
    dims: int = 1
    eps: float = 1e-5

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = types[0]
        self.check(len(types) == 3, f"takes x, weight, bias, got {len(types)} operands")
        self.check(1 <= self.dims <= x.rank, f"x has rank {x.rank}, normalised over {self.dims} dimensions")
        for type in types[1:]:
            self.check(
                type.shape == x.shape[-self.dims :], f"a parameter is {type}, expected {list(x.shape[-self.dims :])}"
            )
        return (x.logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, weight, bias = (wide(a) for a in arrays)
        axes = tuple(range(x.ndim - self.dims, x.ndim))
        centred = x - x.mean(axes, keepdims=True)
        var = np.square(centred).mean(axes, keepdims=True)
        return (centred / np.sqrt(var + var.dtype.type(self.eps)) * weight + bias,)


@dataclass(frozen=True)
class RmsNorm(Op):
    """x / sqrt(mean(x * x) + eps) over the last `dims` dimensions, times weight (operand 1)."""

    name: ClassVar[str] = "rms_norm"
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.ANCHOR
    dims: int = 1
    eps: float = 1e-5

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(len(types) == 2, f"takes x and weight, got {len(types)} operands")
        x, weight = types
        self.check(1 <= self.dims <= x.rank, f"x has rank {x.rank}, normalised over {self.dims} dimensions")
        last = x.shape[-self.dims :]
        self.check(weight.shape == last, f"the weight is {weight}, expected {list(last)}")
        return (x.logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, weight = (wide(a) for a in arrays)
        mean = np.square(x).mean(tuple(range(x.ndim - self.dims, x.ndim)), keepdims=True)
        return (x / np.sqrt(mean + mean.dtype.type(self.eps)) * weight,)


@dataclass(frozen=True)
class GroupNorm(Op):
    """(x - mean) / sqrt(var + eps) over each of `groups` groups of channels, times weight plus bias per channel."""

    name: ClassVar[str] = "group_norm"
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.ANCHOR
    groups: int
    eps: float = 1e-5

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = types[0]
        self.check(len(types) == 3, f"takes x, weight, bias, got {len(types)} operands")
        self.check(x.rank >= 2 and x.shape[1] % self.groups == 0, f"{x} has no {self.groups} groups of channels")
        return (x.logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, weight, bias = (wide(a) for a in arrays)
        rows = x.reshape(x.shape[0], self.groups, x.shape[1] // self.groups * math.prod(x.shape[2:]))
        centred = rows - rows.mean(-1, keepdims=True)
        var = np.square(centred).mean(-1, keepdims=True)
        normal = (centred / np.sqrt(var + var.dtype.type(self.eps))).reshape(x.shape)
        return (normal * _per_channel(weight, x.ndim) + _per_channel(bias, x.ndim),)
