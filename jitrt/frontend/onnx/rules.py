"""What the standard says of a single node or attribute, whatever the shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx

_A = onnx.AttributeProto
_FIELD_OF = {  # where an attribute of each type keeps its value
    _A.FLOAT: "f",
    _A.INT: "i",
    _A.STRING: "s",
    _A.TENSOR: "t",
    _A.GRAPH: "g",
    _A.SPARSE_TENSOR: "sparse_tensor",
    _A.TYPE_PROTO: "tp",
    _A.FLOATS: "floats",
    _A.INTS: "ints",
    _A.STRINGS: "strings",
    _A.TENSORS: "tensors",
    _A.GRAPHS: "graphs",
    _A.SPARSE_TENSORS: "sparse_tensors",
    _A.TYPE_PROTOS: "type_protos",
}
_LAX = ("Resize",)  # opset 11 made inputs required that exporters have always left out
_VALUE_FIELDS = frozenset(_FIELD_OF.values())
_MESSAGES = frozenset({"t", "g", "sparse_tensor", "tp"})  # some writers leave out numbers that are 0, but never these


@dataclass(frozen=True)
class Rules:
    """What the standard says of a node of some operator, whatever the shapes."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    required: frozenset[str]
    operands: tuple[str, ...]  # names of the inputs that a node must give, "" for others

    def complaint(self, node: onnx.NodeProto, given: set[str]) -> str | None:
        """None, or what is wrong with a node that gives these attributes."""
        for what, count, (least, most) in (
            ("inputs", len(node.input), self.inputs),
            ("outputs", len(node.output), self.outputs),
        ):
            if not least <= count <= most:
                return f"it has {count} {what}; the operator has {least if least == most else f'{least} to {most}'}"
        for position, (name, given_name) in enumerate(zip(self.operands, node.input)):
            if name and not given_name:
                return f"it leaves out input {position}, {name!r}"
        for attribute in node.attribute:
            wanted = self.attributes.get(attribute.name, attribute.type)
            if attribute.type != wanted:
                return f"attribute {attribute.name!r} is {type_name(attribute.type)}, expected {type_name(wanted)}"
        missing = self.required - given
        return f"attribute {min(missing)!r} is missing" if missing else None


@lru_cache(4096)  # names of models from outside
def rules_of(name: str, opset: int, domain: str) -> Rules | None:
    """The rules for an operator; None for one that is not the standard's."""
    if not onnx.defs.has(name, opset, domain):
        return None
    schema: Any = onnx.defs.get_schema(name, opset, domain)
    attributes = {key: attribute.type.value for key, attribute in schema.attributes.items()}
    required = frozenset(key for key, attribute in schema.attributes.items() if attribute.required)
    counts = (schema.min_input, schema.max_input), (schema.min_output, schema.max_output)
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    operands = tuple(entry.name if entry.option == single and name not in _LAX else "" for entry in schema.inputs)
    return Rules(*counts, attributes, required, operands)


def type_name(kind: int) -> str:
    """What an attribute's type is called: "ints"."""
    return str(_A.AttributeType.Name(kind)).lower()


def attribute_complaint(attribute: onnx.AttributeProto, *, in_function: bool) -> str | None:
    """None, or what is wrong with an attribute."""
    if attribute.type not in _FIELD_OF:
        return f"has no type that ONNX knows ({attribute.type})"
    wanted = _FIELD_OF[attribute.type]
    filled = {field.name for field, _ in attribute.ListFields()} & _VALUE_FIELDS
    if attribute.ref_attr_name:
        if not in_function:
            return f"takes its value from {attribute.ref_attr_name!r}, but it is in no function"
        return f"has a value and a reference to {attribute.ref_attr_name!r}" if filled else None
    if filled - {wanted}:
        return f"is {type_name(attribute.type)}, but has values in {', '.join(sorted(filled))}"
    if wanted in _MESSAGES and not filled:
        return f"is {type_name(attribute.type)}, but there is none in it"
    return None
