"""The nodes a function stands for: the standard's own functions, and attributes a body takes from its call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jitrt.frontend.onnx.elements import element_of
from jitrt.frontend.onnx.isolated import made_body
from jitrt.graph.graph import Value


def standard_body(node: onnx.NodeProto, operands: Sequence[Any], domain: str, opset: int) -> onnx.FunctionProto | None:
    """The body that the standard itself defines an operator by, if it does. It says which opsets its nodes are of."""
    if not onnx.defs.has(node.op_type, opset, domain):
        return None
    schema = _schema(node.op_type, opset, domain)
    if schema.has_function:
        return _fixed_body(node.op_type, opset, domain)
    if not schema.has_context_dependent_function:
        return None
    body = made_body(node, opset, domain, [_proto(operand) for operand in operands])
    return _with_defaults(body, schema) if body.node else None


@cache
def _fixed_body(name: str, opset: int, domain: str) -> onnx.FunctionProto:
    schema = _schema(name, opset, domain)
    body = onnx.FunctionProto()
    body.CopyFrom(schema.function_body)
    return _with_defaults(body, schema)


def _schema(name: str, opset: int, domain: str) -> Any:
    return onnx.defs.get_schema(name, opset, domain)  # its stub leaves out what is asked above


def _with_defaults(body: onnx.FunctionProto, schema: Any) -> onnx.FunctionProto:
    """A body refers to attributes that the call may leave out; their defaults are in the schema alone."""
    defaults = [attribute.default_value for attribute in schema.attributes.values()]
    body.attribute_proto.extend(default for default in defaults if default.type)
    return body


def filled(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> onnx.NodeProto:
    """A function's node with the attributes it takes from the call put in (those the call leaves out, left out); the
    node itself if it takes none."""
    if not any(attribute.ref_attr_name for attribute in node.attribute):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copy.attribute.append(attribute)
        elif attribute.ref_attr_name in attributes:
            copy.attribute.append(_attribute(attribute.name, attributes[attribute.ref_attr_name], attribute.type))
    return copy


def _attribute(name: str, value: Any, kind: int) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        value = numpy_helper.from_array(value)
    return helper.make_attribute(name, value, attr_type=kind)


def _proto(operand: Any) -> onnx.TypeProto:
    if not isinstance(operand, Value):
        return onnx.TypeProto()
    return helper.make_tensor_type_proto(element_of(operand.type.dtype), operand.type.shape)


def needed_nodes(graph: onnx.GraphProto, names: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that some of the named values depend on, in order."""
    needed, kept = set(names), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_read_by(node))
            kept.append(node)
    return kept[::-1]


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs read among them (and maybe make themselves)."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield from current.input
        for attribute in current.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
                yield from (info.name for info in graph.output)
