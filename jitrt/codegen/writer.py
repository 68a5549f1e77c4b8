"""Write elementwise nodes as lines of a `@triton.jit` function, on demand: what the result needs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jitrt.codegen.pointwise import EXPRESSIONS, expression, literal, register_type
from jitrt.codegen.tile import Address, Space
from jitrt.errors import GraphError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.ops import BitCast, Cast
from jitrt.graph.types import TensorType

_LITERALS = ("True", "False")  # which look like names


@dataclass
class Writer:
    """The lines so far (first all `loads`, then all `steps`, which use nothing but what was loaded), the operands
    (indices of `body.inputs`) they load from the tuple `aux`, and the name of every value that already is in a
    variable. `given` overrides the types of operands, to address them in another shape; `written` are expressions, with
    their operands as {0}, {1}, ..., of nodes that are not elementwise."""

    body: Graph
    space: Space
    given: Mapping[Value, TensorType]
    names: dict[Value, str] = field(default_factory=dict)
    operands: list[int] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    written: Mapping[Node, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        return [*self.loads, *self.steps]

    def read(self, value: Value) -> str:
        """A name or literal for `value` at the kernel's position. Raises GraphError if it is not elementwise."""
        if value not in self.names:
            if value.is_constant:
                self.names[value] = self._number(value)
            elif value.producer is None:
                self.names[value] = self._load(value)
            else:
                self.names[value] = self._compute(value.producer)
        return self.names[value]

    def address(self, value: Value) -> Address:
        """Where an operand or the output lies at the kernel's position."""
        return self.space.address(self.given.get(value, value.type))

    def _load(self, value: Value) -> str:
        address = self.address(value)
        guard = f", mask={address.mask}, other=0" if address.mask else ""
        index = len(self.operands)
        self.loads.append(f"    r{index} = tl.load(aux[{index}] + ({address.offset}){guard})")
        self.steps.append(f"    x{index} = r{index}.to({register_type(value.type.dtype)})")
        self.operands.append(self.body.inputs.index(value))
        return f"x{index}"

    def _compute(self, node: Node) -> str:
        if type(node.op) not in EXPRESSIONS and node not in self.written:
            raise GraphError(f"{node!r} is not elementwise")
        arguments = [self.read(v) for v in node.inputs]
        if not any(a.isidentifier() and a not in _LITERALS for a in arguments):
            arguments = [self._held(a, v) for a, v in zip(arguments, node.inputs, strict=True)]
        terms = [a if a.isidentifier() else f"({a})" for a in arguments]
        rounded = node.output.type.dtype in (DType.f16, DType.bf16)
        written = self.written.get(node)
        text = written.format(*terms) if written is not None else expression(node.op, *terms, rounded=rounded)
        source, result = (register_type(v.type.dtype) for v in (node.inputs[-1], node.output))
        # A literal among them may have widened integers or float64, and a cast to 16 bits has rounded.
        plain = source == result == "tl.float32" and not isinstance(node.op, Cast | BitCast)
        cast = "" if plain else f".to({result})"
        name = f"v{len(self.names)}"
        self.steps.append(f"    {name} = ({text}){cast}")
        return name

    def _number(self, value: Value) -> str:
        """A literal, or a name where Triton would round it: it takes a number of `tl.maximum` for a float32."""
        assert value.data is not None
        number = value.data.item() if value.type.dtype.numpy.kind != "V" else float(value.data)
        exact = value.type.dtype != DType.f64 or number != number or float(np.float32(number)) == number
        return literal(number) if exact else self._held(literal(number), value)

    def _held(self, number: str, value: Value) -> str:
        """A name for a literal."""
        name = f"c{len(self.steps)}"
        self.steps.append(f"    {name} = tl.full([1, 1], {number}, {register_type(value.type.dtype)})")
        return name
