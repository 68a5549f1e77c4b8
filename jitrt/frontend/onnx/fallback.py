"""An ONNX operator that jitrt has no ops for, as one step of the graph: ONNX's own reference computes it on the host.

The reference (`onnx.reference`) is written for obviousness, in numpy, one element after the other if need be: a step is
right, slow, and never hidden. The reference target evaluates it in its place; an engine is cut around it
(`jitrt.hybrid`), names it and times it. With `strict=True` a model that needs one is refused.

What cannot be a step is refused with the reason: sizes of results that depend on values, control flow, sequences,
operators that draw random numbers (a graph's results depend on its inputs alone), and those without a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jitrt.errors import GraphError
from jitrt.frontend.onnx.check import operator_of
from jitrt.frontend.onnx.elements import dtype_of, element_of
from jitrt.frontend.onnx.isolated import inferred
from jitrt.frontend.onnx.registry import Unsupported
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Value
from jitrt.graph.op import Array, Op, Trait
from jitrt.graph.text import parse_type
from jitrt.graph.types import TensorType

_KEPT = 256  # references of nodes that are ready to run
_MOST = 1 << 24  # elements of what is computed at import, or of what it is computed from
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


@dataclass(frozen=True)
class HostStep(Op):
    """One ONNX node, by its reference. `node` is its NodeProto in hexadecimal, whose inputs and outputs are named a0,
    a1, ... and r0, r1, ... ("" for one that is left out); `takes_types` and `gives_types` are those that are there.

    `title` is the operator with its domain, `reason` why jitrt has no ops for it.
    """

    name: ClassVar[str] = "onnx_host"
    traits: ClassVar[Trait] = Trait.OPAQUE | Trait.ROW_MAJOR
    title: str
    reason: str
    domain: str
    opset: int
    node: str
    takes_types: tuple[str, ...]
    gives_types: tuple[str, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        given, wanted = [str(type.logical()) for type in types], list(self.takes_types)
        self.check(given == wanted, f"{self.title} takes {', '.join(wanted)}, got {', '.join(given)}")
        return tuple(parse_type(text) for text in self.gives_types)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        inputs = [_in_own_type(array, text) for array, text in zip(arrays, self.takes_types, strict=True)]
        try:
            results = _evaluate(self, inputs)
        except Unsupported as error:
            raise GraphError(str(error)) from error
        types = self.infer(*(parse_type(text) for text in self.takes_types))
        for result, type in zip(results, types, strict=True):
            if result.shape != type.shape:
                raise GraphError(f"{self.title}: the reference's result has shape {result.shape}, not {type.shape}")
        return tuple(results)

    def takes(self, dtype: DType) -> bool:
        return False  # it keeps the element types it was imported with


def host_step(
    graph: Graph, node: onnx.NodeProto, operands: Sequence[Any], domain: str, opset: int, reason: str, loc: str
) -> list[Value | None]:
    """Append a node's step to the graph, or, where all its operands are known, compute it now; its results.

    Raises Unsupported, with the reason, for a node that cannot be a step.
    """
    title = operator_of(node)
    values = [operand for operand in operands if operand is not None]
    _refuse(node, values)
    plain = _plain(node, operands)
    known = [value.data for value in values if value.data is not None]
    takes = tuple(str(value.type.logical()) for value in values)
    step = HostStep(title, reason, domain, opset, plain.SerializeToString().hex(), takes, ())
    if len(known) == len(values):
        if any(array.size > _MOST for array in known) or _numel(plain, values, domain, opset) > _MOST:
            raise Unsupported(f"it would make a constant of more than {_MOST} elements")
        return _named(node, [graph.add_constant(array) for array in _evaluate(step, known)])
    gives = _result_types(plain, values, domain, opset)
    step = HostStep(title, reason, domain, opset, step.node, takes, gives)
    return _named(node, graph.append(step, values, loc=loc).outputs)


def _refuse(node: onnx.NodeProto, values: Sequence[Any]) -> None:
    """Raise Unsupported for a node that no step can stand for."""
    if not all(isinstance(value, Value) for value in values):
        raise Unsupported("it takes a sequence or an optional")
    seeded = any(attribute.name == "seed" for attribute in node.attribute)
    if node.op_type in _RANDOM or (node.op_type == "Dropout" and not seeded):
        raise Unsupported("it draws random numbers")
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise Unsupported("it runs a subgraph")
        if onnx.external_data_helper.uses_external_data(attribute.t):
            raise Unsupported(f"its attribute {attribute.name!r} lies in a file of its own")


def _plain(node: onnx.NodeProto, operands: Sequence[Any]) -> onnx.NodeProto:
    """The node with operands a0, a1, ... and results r0, r1, ..., and without what says where it comes from."""
    plain = onnx.NodeProto()
    plain.op_type, plain.domain = node.op_type, node.domain
    plain.attribute.extend(node.attribute)
    names = iter(range(len(operands)))
    plain.input.extend("" if operand is None else f"a{next(names)}" for operand in operands)
    while plain.input and not plain.input[-1]:
        plain.input.pop()
    plain.output.extend(f"r{index}" if name else "" for index, name in enumerate(node.output))
    return plain


def _named(node: onnx.NodeProto, values: Sequence[Value]) -> list[Value | None]:
    left = iter(values)
    return [next(left) if name else None for name in node.output]


def _result_types(plain: onnx.NodeProto, values: Sequence[Value], domain: str, opset: int) -> tuple[str, ...]:
    """The types of the results, from ONNX's own shape inference, which is told the numbers that are known."""
    inputs = [_info(f"a{i}", value.type) for i, value in enumerate(values)]
    known = [numpy_helper.from_array(v.data, f"a{i}") for i, v in enumerate(values) if v.data is not None]
    outputs = [onnx.ValueInfoProto(name=name) for name in plain.output if name]
    graph = helper.make_graph([plain], "step", inputs, outputs, known)
    opsets = [helper.make_opsetid(domain, opset)]
    try:
        result = inferred(helper.make_model(graph, opset_imports=opsets))
    except Unsupported as error:
        raise Unsupported(f"ONNX's shape inference refuses it: {error}") from error
    _evaluator(domain, opset, plain.SerializeToString().hex())  # which there may be none of
    return tuple(str(_type_of(info)) for info in result.graph.output)


def _numel(plain: onnx.NodeProto, values: Sequence[Value], domain: str, opset: int) -> int:
    """Elements of the largest result; 0 where only the numbers tell, which are not many."""
    try:
        types = _result_types(plain, values, domain, opset)
    except Unsupported:
        return 0
    return max((parse_type(text).numel for text in types), default=0)


def _info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_of(type.dtype), type.shape)


def _type_of(info: onnx.ValueInfoProto) -> TensorType:
    tensor = info.type.tensor_type
    dims = list(tensor.shape.dim)
    if not info.type.HasField("tensor_type"):
        raise Unsupported("its result is no tensor of a type that ONNX's shape inference can tell")
    if not tensor.HasField("shape") or any(dim.WhichOneof("value") != "dim_value" for dim in dims):
        raise Unsupported("the size of its result depends on values")
    return TensorType(dtype_of(tensor.elem_type), tuple(dim.dim_value for dim in dims))


def _evaluate(step: HostStep, inputs: Sequence[Array]) -> list[Array]:
    """What the reference computes. Raises Unsupported for whatever it raises."""
    evaluator = _evaluator(step.domain, step.opset, step.node)
    try:
        results = evaluator.run(None, {f"a{i}": array for i, array in enumerate(inputs)})
    except Exception as error:  # the reference raises whatever numpy or its own code does
        raise Unsupported(f"ONNX's reference of {step.title} fails: {error}") from error
    return [np.asarray(result) for result in results]


@lru_cache(_KEPT)
def _evaluator(domain: str, opset: int, node: str) -> Any:
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto()
    proto.ParseFromString(bytes.fromhex(node))
    inputs = [onnx.ValueInfoProto(name=name) for name in proto.input if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    model = helper.make_model(
        helper.make_graph([proto], "step", inputs, outputs), opset_imports=[helper.make_opsetid(domain, opset)]
    )
    try:
        return ReferenceEvaluator(model)
    except Exception as error:  # NotImplementedError, or what a broken attribute leads to
        raise Unsupported(f"ONNX has no reference of it ({type(error).__name__})") from error


def _in_own_type(array: Array, text: str) -> Array:
    """An operand in the type it was imported with: `interpret(exact=True)` hands every float over in float64."""
    return array.astype(parse_type(text).dtype.numpy, copy=False)
