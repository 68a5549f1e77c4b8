"""The ONNX importer: a checked model in, a plain graph out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jitrt.errors import ImportFailure, ShapeError, UnsupportedOpError
from jitrt.frontend.onnx.node import Call, FoldingBuilder, Item, Known
from jitrt.frontend.onnx.registry import Unsupported, importer_of
from jitrt.graph import Graph, TensorType, Value, verify
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.ops import Identity

Reader = Callable[[onnx.TensorProto], Array]


@dataclass(frozen=True)
class Imported:
    """A graph, and the names its inputs and outputs have in the model (the graph may have had to change some)."""

    graph: Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class Missing:
    """An operator that cannot be imported: how often, where first, and why."""

    name: str
    count: int
    where: str
    reason: str


class NeedsInput(ImportFailure):
    """What is built depends on the numbers in inputs of the model, such as a shape; `names` are those inputs."""

    def __init__(self, names: Sequence[str], text: str):
        super().__init__(text)
        self.names = tuple(names)


def import_model(
    model: onnx.ModelProto,
    types: Mapping[str, TensorType],
    constants: Mapping[str, Array],
    read: Reader = numpy_helper.to_array,
    *,
    name: str = "",
    fallback: bool = False,
) -> Imported:
    """The graph of a model that has been checked.

    `types` has a static type for every input that is not among `constants`, which become part of the graph. `read`
    turns an initialiser into an array. With `fallback`, what has no importer becomes a step on the host, if it can be
    one (`jitrt.frontend.onnx.fallback`). Raises UnsupportedOpError with all operators that cannot be imported,
    NeedsInput, ImportFailure for a model that contradicts itself.
    """
    importer = Importer(model, read, name or model.graph.name or "onnx", fallback=fallback)
    scope: dict[str, Item] = {}
    names = []
    held = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        if info.name in constants:
            scope[info.name] = importer.graph.add_constant(constants[info.name], info.name)
        elif info.name in types:
            value = scope[info.name] = importer.graph.add_input(info.name, types[info.name])
            importer.inputs[value.name] = info.name
            names.append(info.name)
        elif info.name not in held:
            raise ImportFailure(f"input {info.name!r} has no static shape; give one")
    results = importer.run(model.graph, scope)
    importer.refuse_missing()
    for info, result in zip(model.graph.output, results, strict=True):
        if not isinstance(result, Value):
            raise ImportFailure(f"output {info.name!r} is a sequence or an optional; jitrt's engines return tensors")
        importer.output(info.name, result)
    importer.b.finish()
    verify(importer.graph)
    return Imported(importer.graph, tuple(names), tuple(info.name for info in model.graph.output))


class Importer:
    """Walks the nodes of a model in order, and those of its functions and subgraphs where they are called.

    What fails is collected, so that one error names all of it: the results of a node that cannot be imported are
    `_LOST`, and nodes that read those are skipped.
    """

    def __init__(self, model: onnx.ModelProto, read: Reader, name: str, *, fallback: bool = False):
        self.fallback = fallback
        self.graph = Graph(name)
        self.b = FoldingBuilder(self.graph)
        self.read = read
        self.opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
        self.functions = {(_domain(f.domain), f.name, f.overload): f for f in model.functions}
        self.missing: dict[tuple[str, str], Missing] = {}
        self.inputs: dict[str, str] = {}  # the model's names of the graph's inputs
        self.needed: dict[str, str] = {}  # inputs whose numbers are needed, and by what

    # -- a graph -----------------------------------------------------------------------------------------------

    def run(self, graph: onnx.GraphProto, scope: dict[str, Any]) -> list[Any]:
        """Import a graph, or a subgraph in the scope of the one around it; returns its results."""
        for tensor in graph.initializer:
            if tensor.name not in scope:
                scope[tensor.name] = self.graph.add_constant(self.read(tensor), tensor.name)
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = self.graph.add_constant(_dense(sparse, self.read), sparse.values.name)
        self.nodes(graph.node, scope, self.opsets)
        return [self.lookup(info.name, scope, f"output of {graph.name or 'the graph'}") for info in graph.output]

    def nodes(self, nodes: Sequence[onnx.NodeProto], scope: dict[str, Any], opsets: Mapping[str, int]) -> None:
        for position, node in enumerate(nodes):
            loc = f"{node.name or node.output[0] if node.output else position} ({node.op_type})"
            operands = [self.lookup(name, scope, loc) if name else None for name in node.input]
            results = self.node(node, operands, scope, opsets, loc)
            for name, result in zip(node.output, results, strict=False):
                if name:
                    scope[name] = result

    def lookup(self, name: str, scope: Mapping[str, Any], where: str) -> Any:
        if name not in scope:
            raise ImportFailure(f"{where} reads {name!r}, which nothing before it computes")
        return scope[name]

    def output(self, name: str, value: Value) -> None:
        """Make a value the graph's next output, called as in the model where it can be."""
        if value.producer is None or value in self.graph.outputs:
            value = self.graph.add(Identity(), value, loc=f"output {name}", name=name)
        elif not any(other.name == name for other in self.graph.values()):
            self.graph.rename(value, name)
        self.graph.mark_output(value)

    # -- a node ------------------------------------------------------------------------------------------------

    def node(
        self,
        node: onnx.NodeProto,
        operands: Sequence[Any],
        scope: Mapping[str, Any],
        opsets: Mapping[str, int],
        loc: str,
    ) -> Sequence[Any]:
        """The results of one node."""
        if any(operand is _LOST for operand in operands):
            return [_LOST] * len(node.output)
        domain = _domain(node.domain)
        opset = opsets.get(domain, 1)
        attributes = {attribute.name: self.attribute(attribute) for attribute in node.attribute}
        self.b.loc = loc

        def run(graph: onnx.GraphProto, given: Sequence[Item]) -> list[Item]:
            inner = dict(scope) | {info.name: value for info, value in zip(graph.input, given, strict=True)}
            return self.run(graph, inner)

        try:
            function = self.functions.get((domain, node.op_type, node.overload))
            if function is not None:
                return self.call(function, operands, attributes, node.output, loc)
            importer = importer_of(domain, node.op_type, opset)
            if importer is not None:
                result = importer(Call(self.b, node, opset, attributes, run, loc), *operands)
                return result if isinstance(result, tuple) else (result,)
            body = _standard_body(node, operands, domain, opset)
            if body is not None:
                return self.call(body, operands, attributes, node.output, loc)
            raise Unsupported("no importer")
        except Unsupported as refusal:
            return self.instead(node, operands, domain, opset, refusal, loc)
        except ShapeError as error:
            raise ImportFailure(f"node {loc}: {error}") from error

    def attribute(self, attribute: onnx.AttributeProto) -> Any:
        if attribute.type == onnx.AttributeProto.TENSOR:
            return self.read(attribute.t)
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            return _dense(attribute.sparse_tensor, self.read)
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if attribute.type == onnx.AttributeProto.STRINGS:
            return [text.decode("utf-8", "replace") for text in value]
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    def call(
        self,
        function: onnx.FunctionProto,
        operands: Sequence[Any],
        attributes: Mapping[str, Any],
        wanted: Sequence[str],
        loc: str,
    ) -> list[Any]:
        """Inline a function: its body's nodes on these operands, attributes it refers to filled in. A body may leave
        out a result that the call has no name for: `wanted` are its names."""
        given = {attribute.name: attribute for attribute in function.attribute_proto}
        scope: dict[str, Any] = dict.fromkeys(function.input)
        scope |= dict(zip(function.input, operands, strict=False))
        opsets = {_domain(entry.domain): entry.version for entry in function.opset_import}
        nodes = [_filled(node, attributes, given) for node in function.node]
        outer, self.opsets = self.opsets, opsets  # subgraphs of the body are in its opsets too
        try:
            self.nodes(nodes, scope, opsets)
        finally:
            self.opsets = outer
        where = f"{loc}, function {function.name}"
        return [self.lookup(inner, scope, where) if name else None for inner, name in zip(function.output, wanted)]

    # -- what fails --------------------------------------------------------------------------------------------

    def instead(
        self, node: onnx.NodeProto, operands: Sequence[Any], domain: str, opset: int, refusal: Unsupported, loc: str
    ) -> Sequence[Any]:
        """The results of a node that cannot be imported: those of a step on the host, or `_LOST`."""
        if self.fallback and not isinstance(refusal, Known):
            from jitrt.frontend.onnx.fallback import host_step

            try:
                return host_step(self.graph, node, operands, domain, opset, str(refusal), loc)
            except Unsupported as why:
                refusal = Unsupported(f"{refusal}, and no step on the host: {why}")
        self.miss(node, domain, refusal, loc)
        return [_LOST] * len(node.output)

    def miss(self, node: onnx.NodeProto, domain: str, refusal: Unsupported, loc: str) -> None:
        if isinstance(refusal, Known):
            for source in _inputs_of(refusal.value):
                self.needed.setdefault(self.inputs.get(source, source), f"node {loc}: {refusal}")
        name = f"{domain}::{node.op_type}" if domain else node.op_type
        entry = self.missing.setdefault((name, str(refusal)), Missing(name, 0, loc, str(refusal)))
        entry.count += 1

    def refuse_missing(self) -> None:
        """Raise what was collected, if anything was."""
        if not self.missing:
            return
        if self.needed:
            names = list(self.needed)
            raise NeedsInput(
                names, f"{self.needed[names[0]]}: give the values of input {', '.join(names)} at the build"
            )
        raise UnsupportedOpError("ONNX", [(f"{m.name}: {m.reason}", m.count, m.where) for m in self.missing.values()])


class _Lost:
    """What stands for the result of a node that could not be imported."""


_LOST = _Lost()


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _inputs_of(value: Value) -> Iterator[str]:
    """The graph inputs a value depends on."""
    seen, waiting = {value}, [value]
    while waiting:
        current = waiting.pop()
        if current.producer is None:
            if not current.is_constant:
                yield current.name
            continue
        for operand in current.producer.inputs:
            if operand not in seen:
                seen.add(operand)
                waiting.append(operand)


def _dense(sparse: onnx.SparseTensorProto, read: Reader) -> Array:
    """A sparse tensor with its zeros."""
    values, indices, shape = read(sparse.values), read(sparse.indices), tuple(sparse.dims)
    dense = np.zeros(shape, values.dtype)
    places = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, shape)
    dense[places] = values
    return dense


def _filled(
    node: onnx.NodeProto, attributes: Mapping[str, Any], defaults: Mapping[str, onnx.AttributeProto]
) -> onnx.NodeProto:
    """A function's node with the attributes it takes from the call put in (those the call leaves out, left out)."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH and attribute.g.node:
            graph = onnx.AttributeProto()
            graph.CopyFrom(attribute)
            inner = [_filled(each, attributes, defaults) for each in attribute.g.node]
            del graph.g.node[:]
            graph.g.node.extend(inner)
            copy.attribute.append(graph)
        elif not attribute.ref_attr_name:
            copy.attribute.append(attribute)
        elif attribute.ref_attr_name in attributes:
            copy.attribute.append(_attribute(attribute.name, attributes[attribute.ref_attr_name], attribute.type))
        elif attribute.ref_attr_name in defaults:
            default = onnx.AttributeProto()
            default.CopyFrom(defaults[attribute.ref_attr_name])
            default.name = attribute.name
            copy.attribute.append(default)
    return copy


def _attribute(name: str, value: Any, kind: int) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        value = numpy_helper.from_array(value)
    return helper.make_attribute(name, value, attr_type=kind)


def _standard_body(node: onnx.NodeProto, operands: Sequence[Any], domain: str, opset: int) -> onnx.FunctionProto | None:
    """The body that the standard itself defines an operator by, if it does. It says which opsets its nodes are of."""
    if not onnx.defs.has(node.op_type, opset, domain):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, opset, domain)  # its stub leaves out what is asked below
    body = onnx.FunctionProto()
    if schema.has_function:
        body.CopyFrom(schema.function_body)
    elif schema.has_context_dependent_function:
        types = [_proto(operand).SerializeToString() for operand in operands]
        body.ParseFromString(schema.get_context_dependent_function(node.SerializeToString(), types))
    # The body refers to attributes that the call may leave out; their defaults are in the schema alone.
    defaults = [attribute.default_value for attribute in schema.attributes.values()]
    body.attribute_proto.extend(default for default in defaults if default.type)
    return body if body.node else None


def _proto(operand: Any) -> onnx.TypeProto:
    if not isinstance(operand, Value):
        return onnx.TypeProto()
    return helper.make_tensor_type_proto(element_of(operand.type.dtype), operand.type.shape)


_ELEMENTS: dict[DType, int] = {
    DType.f64: onnx.TensorProto.DOUBLE,
    DType.f32: onnx.TensorProto.FLOAT,
    DType.f16: onnx.TensorProto.FLOAT16,
    DType.bf16: onnx.TensorProto.BFLOAT16,
    DType.i64: onnx.TensorProto.INT64,
    DType.i32: onnx.TensorProto.INT32,
    DType.i16: onnx.TensorProto.INT16,
    DType.i8: onnx.TensorProto.INT8,
    DType.u64: onnx.TensorProto.UINT64,
    DType.u32: onnx.TensorProto.UINT32,
    DType.u16: onnx.TensorProto.UINT16,
    DType.u8: onnx.TensorProto.UINT8,
    DType.b8: onnx.TensorProto.BOOL,
}
_DTYPES = {element: dtype for dtype, element in _ELEMENTS.items()}


def element_of(dtype: DType) -> int:
    """ONNX's number for an element type."""
    return _ELEMENTS[dtype]


def dtype_of(element: int) -> DType:
    """The element type of ONNX's number. Raises ImportFailure for one jitrt has none for."""
    if element not in _DTYPES:
        names = onnx.TensorProto.DataType
        known = names.Name(element) if element in names.values() else f"number {element}"
        raise ImportFailure(f"jitrt has no element type {known}")
    return _DTYPES[element]


__all__ = ["Imported", "Importer", "NeedsInput", "dtype_of", "element_of", "import_model"]
