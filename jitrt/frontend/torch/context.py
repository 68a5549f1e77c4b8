"""What an importer adds nodes through."""

from __future__ import annotations

import operator
from typing import Any

import torch

from jitrt.frontend.builder import Builder, Number, axis_of
from jitrt.frontend.torch.arrays import dtype_of
from jitrt.graph import Graph, TensorType
from jitrt.graph.dtype import DType

__all__ = ["Context", "Number", "axis_of", "type_of"]


class Context(Builder):
    """The graph under construction and the torch node being imported.

    `out` is the node's (first) result in PyTorch, a fake tensor, or None if it has none.
    """

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.node: torch.fx.Node | None = None

    @property
    def out(self) -> Any:
        assert self.node is not None
        value = self.node.meta.get("val")
        return value[0] if isinstance(value, (tuple, list)) else value

    def reads(self, index: int) -> bool:
        """Whether anything reads the result number `index` of a node that has several."""
        assert self.node is not None
        return any(user.target is operator.getitem and user.args[1] == index and user.users for user in self.node.users)

    @property
    def dtype(self) -> DType:
        """The dtype of the (first) result; of a complex one, of its parts."""
        dtype = self.out.dtype
        return dtype_of(dtype.to_real() if dtype.is_complex else dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) result."""
        return tuple(int(size) for size in self.out.shape)


def type_of(tensor: torch.Tensor) -> TensorType:
    """The type of a (fake) tensor, without a layout."""
    return TensorType(dtype_of(tensor.dtype), tuple(int(size) for size in tensor.shape))
