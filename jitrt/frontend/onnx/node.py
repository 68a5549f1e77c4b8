"""What an ONNX importer is given: the node, its attributes, and the builder to add through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx

from jitrt.errors import ImportFailure
from jitrt.frontend.builder import Builder, Number
from jitrt.frontend.onnx.elements import dtype_of
from jitrt.frontend.onnx.registry import Unsupported
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Value
from jitrt.graph.op import Array, Op

# Results of at most so many elements are computed at import where all operands are known: shapes and what is made of
# them. Larger ones are weights, which the fold_constants pass takes care of.
_SMALL = 1 << 16
_WORK = 1 << 22  # and if that takes no more operations; what is folded is bounded in all as well, so that a model
_FOLDED = 1 << 24  # of many nodes cannot take for ever

Item = Value | list[Value] | None  # a tensor, a sequence of tensors, an optional that is empty


class Known(Unsupported):
    """Raised where an importer needs the numbers in a tensor, not just its shape; `value` is that tensor."""

    def __init__(self, value: Value, what: str):
        super().__init__(f"{what} is computed at run time, and what is built depends on it")
        self.value = value


class FoldingBuilder(Builder):
    """A builder that computes at once what only depends on small constants, as exporters compute shapes."""

    def __init__(self, graph: Graph, grow: int, most: int):
        super().__init__(graph)
        self._most = most
        self._left = _FOLDED
        self._grow = self._room = grow

    def claim(self, *shape: int, itemsize: int = 8) -> None:
        """Announce an array whose size comes from numbers in the model, before it is made. Raises ImportFailure for one
        that takes more memory than `Limits.grow`: a file of a few bytes can ask for any size."""
        if math.prod(shape) * itemsize > self._grow or min(shape, default=0) < 0:
            raise ImportFailure(f"node {self.loc}: a tensor of {list(shape)}, written out, takes too much memory")

    def hold(self, nbytes: int) -> None:
        """Count memory that is kept: all of it together is bounded too. Raises ImportFailure."""
        self._room -= nbytes
        if self._room < 0:
            raise ImportFailure(f"node {self.loc}: the tensors written out up to here take over {self._grow} bytes")

    def earn(self, nbytes: int) -> None:
        """Numbers that are in the file: importers may make as many of them, in another order, say."""
        self._room += nbytes

    def constant(self, data: Array, dtype: DType | None = None) -> Value:
        value = super().constant(data, dtype)
        self.hold(value.type.nbytes)
        return value

    def add(self, op: Op, *operands: Value) -> Value:
        if len(self.graph.nodes) > self._most:
            raise ImportFailure(f"node {self.loc}: with what is before it, more than {self._most} nodes in jitrt's ops")
        if not operands or any(operand.data is None for operand in operands):
            return super().add(op, *operands)
        given = [operand.type for operand in operands]
        types = op.infer(*given)
        if len(types) != 1 or types[0].numel > min(_SMALL, self._left) or op.flops(given, types) > _WORK:
            return super().add(op, *operands)
        self._left -= types[0].numel
        with np.errstate(all="ignore"):
            (result,) = op.eval(*(operand.data for operand in operands if operand.data is not None))
        return self.graph.add_constant(np.asarray(result).astype(types[0].dtype.numpy, copy=False))

    def full(self, shape: tuple[int, ...], number: Number, dtype: DType) -> Value:
        """A constant of one number; a large one takes the memory of that number."""
        if math.prod(shape) <= _SMALL:
            return super().full(shape, number, dtype)
        return self.expand(self.graph.scalar(number, dtype), shape)


class Call:
    """One ONNX node while it is imported.

    `b` is the builder (with `loc` set to the node's name), `graph` what it builds, `opset` the version of the node's
    domain, `name` what errors call the node. `outputs` are the names of its results, "" for one nobody wants.
    `run(graph, operands)` imports a subgraph (a body of If, Loop or Scan) and returns its results.
    """

    def __init__(
        self,
        b: FoldingBuilder,
        node: onnx.NodeProto,
        opset: int,
        attributes: dict[str, Any],
        run: Callable[[onnx.GraphProto, Sequence[Item]], list[Item]],
        loc: str,
    ):
        self.b = b
        self.node = node
        self.opset = opset
        self.attributes = attributes
        self.run = run
        self.loc = loc

    @property
    def graph(self) -> Graph:
        return self.b.graph

    @property
    def op_type(self) -> str:
        return self.node.op_type

    @property
    def domain(self) -> str:
        return self.node.domain

    @property
    def outputs(self) -> list[str]:
        return list(self.node.output)

    def wants(self, index: int) -> bool:
        """Whether the node names its result `index`."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute: int, float, str, a list of those, a numpy array for a tensor, a GraphProto for a graph."""
        return self.attributes.get(name, default)

    def required(self, name: str) -> Any:
        """An attribute that must be there. Raises Unsupported if it is not."""
        if name not in self.attributes:
            self.refuse(f"attribute {name!r} is missing")
        return self.attributes[name]

    def add(self, op: Op, *operands: Value) -> Value:
        """Append a node (computed at once if it only depends on small constants) and return its output."""
        return self.b.add(op, *operands)

    def claim(self, *shape: int) -> None:
        """Announce that an array of a shape that the model's numbers or attributes give is about to be made. Raises
        ImportFailure for one that is too large."""
        self.b.claim(*shape)

    def constant(self, data: Any, dtype: DType | None = None) -> Value:
        """A constant, of its own dtype unless given."""
        return self.b.constant(np.asarray(data), dtype)

    def known(self, value: Value | None) -> Array | None:
        """The numbers in a tensor, if they are known before anything runs."""
        return None if value is None else value.data

    def need(self, value: Value, what: str) -> Array:
        """The numbers in a tensor. Raises Known, which names it, if they are only known at run time."""
        if value.data is None:
            raise Known(value, what)
        return value.data

    def ints(self, value: Value, what: str) -> tuple[int, ...]:
        """The integers in a tensor, flat; as `need`."""
        return tuple(int(number) for number in np.ravel(self.need(value, what)))

    def numbers(self, name: str, given: Value | None) -> tuple[int, ...] | None:
        """The integers of what is an attribute in older versions and an input in newer ones; None if left out."""
        if given is not None:
            return self.ints(given, name)
        value = self.attribute(name)
        return None if value is None else tuple(int(number) for number in value)

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front. Raises Unsupported for one that a tensor of `rank` does not have."""
        if not -rank <= axis < rank:
            self.refuse(f"axis {axis} of a tensor of rank {rank}")
        return axis + rank if axis < 0 else axis

    def dtype(self, element: int) -> DType:
        """The dtype of ONNX's number for an element type. Raises Unsupported for one jitrt has none for."""
        try:
            return dtype_of(element)
        except ImportFailure as failure:
            self.refuse(str(failure))

    def refuse(self, text: str) -> NoReturn:
        """Raise Unsupported: the operator is known, but not so."""
        raise Unsupported(text)
