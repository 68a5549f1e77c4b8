"""The handle of a value in a Network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitrt.graph import DType, Value

if TYPE_CHECKING:
    from jitrt.frontend.network import Network

Operand = Any  # a Tensor, a number or an array


class Tensor:
    """What a layer made: its `shape`, `dtype` and `name`, and operators that add further layers to its network.

    + - * / ** @ and unary - are layers; x[:, 1:3] is a slice, with numpy's meaning (numbers, slices with positive
    steps, `...` and None). Two tensors are equal only if they are the same.
    """

    __slots__ = ("network", "value")
    __array_ufunc__ = None  # an array on the left leaves the operator to us

    def __init__(self, network: Network, value: Value):
        self.network = network
        self.value = value

    @property
    def name(self) -> str:
        return self.value.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.type.shape

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def rank(self) -> int:
        return self.value.type.rank

    def __repr__(self) -> str:
        return f"Tensor({self.value!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensor) and other.value is self.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __add__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("add", self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("add", other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("sub", self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("sub", other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("mul", self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("mul", other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("div", self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("div", other, self)

    def __pow__(self, other: Operand) -> Tensor:
        return self.network.add_elementwise("pow", self, other)

    def __neg__(self) -> Tensor:
        return self.network.add_elementwise("neg", self)

    def __matmul__(self, other: Operand) -> Tensor:
        return self.network.add_matmul(self, other)

    def __getitem__(self, index: Any) -> Tensor:
        return self.network.add_index(self, index)

    def __iter__(self) -> None:
        raise TypeError("a tensor of a Network is not iterable; net.add_split takes it apart")
