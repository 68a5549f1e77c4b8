"""The ONNX importer: a checked model in, a plain graph out."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from jitrt.errors import GraphError, ImportFailure, JitrtError
from jitrt.frontend.onnx.bodies import filled, needed_nodes, standard_body
from jitrt.frontend.onnx.check import Limits, called, domain_of, operator_of
from jitrt.frontend.onnx.elements import element_name, element_of
from jitrt.frontend.onnx.failures import LOST, Failures, Lost
from jitrt.frontend.onnx.node import Call, FoldingBuilder, Item, Known
from jitrt.frontend.onnx.plugins import plugin_importer
from jitrt.frontend.onnx.registry import Unsupported, importer_of, importers
from jitrt.frontend.onnx.tensors import array_of, dense
from jitrt.graph import Graph, TensorType, Value, verify
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.ops import Identity

Reader = Callable[[onnx.TensorProto], Array]
Scope = ChainMap[str, Any]  # what names mean: a subgraph's own first, then those around it

_MOST_BYTES = 1 << 40  # of one result: no machine holds more, so the sizes a model gives are wrong


def read_inside(tensor: onnx.TensorProto) -> Array:
    """The numbers in a tensor of a model that has all of them inside."""
    return array_of(tensor, None)


@dataclass(frozen=True)
class Imported:
    """A graph, and the names its inputs and outputs have in the model (the graph may have had to change some)."""

    graph: Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def import_model(
    model: onnx.ModelProto,
    types: Mapping[str, TensorType],
    constants: Mapping[str, Array],
    read: Reader = read_inside,
    *,
    name: str = "",
    outputs: Sequence[str] | None = None,
    fallback: bool = False,
    limits: Limits | None = None,
) -> Imported:
    """The graph of a model that has been checked.

    `types` has a static type for every input that is not among `constants`, which become part of the graph. `read`
    turns an initialiser into an array. `outputs` are names of values to return in place of the model's own outputs;
    what none of them depends on is left out. With `fallback`, what has no importer becomes a step on the host, if it
    can be one (`jitrt.frontend.onnx.fallback`). Raises UnsupportedOpError with all operators that cannot be imported,
    NeedsInput, ImportFailure for a model that contradicts itself or goes beyond `limits`.
    """
    importer = Importer(model, read, name or model.graph.name or "onnx", limits or Limits(), fallback=fallback)
    scope: Scope = ChainMap()
    names = []
    held = {tensor.name for tensor in model.graph.initializer}
    held |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    for info in model.graph.input:
        if info.name in constants:
            scope[info.name] = importer.graph.add_constant(constants[info.name], info.name)
        elif info.name in types:
            value = scope[info.name] = importer.graph.add_input(info.name, types[info.name])
            importer.failures.inputs[value.name] = info.name
            names.append(info.name)
        elif info.name not in held:
            raise ImportFailure(f"input {info.name!r} has no static shape; give one")
    results = importer.run(model.graph, scope, outputs)
    importer.failures.check()
    if outputs is None:
        _check_types(model.graph.output, results)
    returned = [info.name for info in model.graph.output] if outputs is None else list(outputs)
    importer.outputs(returned, results)
    importer.b.finish()
    verify(importer.graph)
    return Imported(importer.graph, tuple(names), tuple(returned))


class Importer:
    """Walks the nodes of a model in order, and those of its functions and subgraphs where they are called.

    What fails is collected, so that one error names all of it: the results of a node that cannot be imported are
    `LOST`, and nodes that read those are skipped.
    """

    def __init__(self, model: onnx.ModelProto, read: Reader, name: str, limits: Limits, *, fallback: bool = False):
        importers()  # here, where an error in one of their files is not taken for an error of some node
        self.limits = limits
        self.fallback = fallback
        self.graph = Graph(name)
        self.b = FoldingBuilder(self.graph, limits.grow, limits.nodes * 4)
        self.read = read
        self.opsets = {domain_of(entry.domain): entry.version for entry in model.opset_import}
        self.functions = {(domain_of(f.domain), f.name, f.overload): f for f in model.functions}
        self.failures = Failures()
        self.given: Mapping[str, Any] = {}  # attributes of the call, in a function's body
        self.arrays: dict[int, tuple[Any, Array]] = {}  # what was read, with its proto, whose address is the key
        self.count = self.depth = 0

    # -- a graph -----------------------------------------------------------------------------------------------

    def run(self, graph: onnx.GraphProto, scope: Scope, wanted: Sequence[str] | None = None) -> list[Any]:
        """Import a graph, or a subgraph in the scope of the one around it; returns its results, or those `wanted`."""
        own = scope.maps[0]
        if len(scope.maps) > 1:  # a body without nodes, run for ever, is bounded too
            self.spend(1 + len(graph.initializer) + len(graph.sparse_initializer), self.b.loc)
        for tensor in graph.initializer:
            if tensor.name not in own:
                own[tensor.name] = self.constant(tensor, tensor.name)
        for sparse in graph.sparse_initializer:
            if sparse.values.name not in own:
                own[sparse.values.name] = self.constant(sparse, sparse.values.name)
        self.nodes(graph.node if wanted is None else needed_nodes(graph, wanted), scope, self.opsets)
        names = [info.name for info in graph.output] if wanted is None else wanted
        return [self.lookup(name, scope, f"output of {graph.name or 'the graph'}") for name in names]

    def nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope, opsets: Mapping[str, int]) -> None:
        self.depth += 1
        for position, node in enumerate(nodes):
            loc = called(node, position)
            self.spend(1, loc)
            if self.depth > self.limits.depth:
                raise ImportFailure(f"node {loc}: functions and subgraphs nest deeper than {self.limits.depth}")
            operands = [self.lookup(name, scope, loc) if name else None for name in node.input]
            results = self.node(node, operands, scope, opsets, loc)
            for name, result in zip(node.output, results, strict=False):
                if name:
                    scope[name] = result
        self.depth -= 1

    def spend(self, count: int, loc: str) -> None:
        """Count what is walked: nodes, and initialisers of subgraphs. Raises ImportFailure beyond the limit."""
        self.count += count
        if self.count > self.limits.nodes:
            raise ImportFailure(f"node {loc}: with loops and functions written out, over {self.limits.nodes} nodes")

    def lookup(self, name: str, scope: Mapping[str, Any], where: str) -> Any:
        if name not in scope:
            raise ImportFailure(f"{where} reads {name!r}, which nothing before it computes")
        return scope[name]

    def constant(self, tensor: onnx.TensorProto | onnx.SparseTensorProto, name: str) -> Value | Lost:
        """An initialiser."""
        array = self.array(tensor)
        if DType.knows(array.dtype):
            return self.graph.add_constant(array, name)
        reason = f"jitrt has no element type {array.dtype.name.replace('object', 'string')}"
        self.failures.add("initialiser", reason, name)
        return LOST

    def array(self, tensor: onnx.TensorProto | onnx.SparseTensorProto) -> Array:
        """The numbers in a tensor, read once however often a loop or a function comes by it."""
        found = self.arrays.get(id(tensor))
        if found is None:
            if isinstance(tensor, onnx.SparseTensorProto):
                array = dense(tensor, self.read, self.b.claim)
                self.b.hold(array.nbytes)
            else:
                array = self.read(tensor)
                self.b.earn(2 * array.nbytes)
            found = self.arrays[id(tensor)] = tensor, array
        return found[1]

    def outputs(self, names: Sequence[str], results: Sequence[Any]) -> None:
        """Make values the graph's outputs, called as in the model where they can be."""
        taken = {value.name for value in self.graph.values()}
        renamed: dict[Value, str] = {}
        for name, value in zip(names, results, strict=True):
            if not isinstance(value, Value):
                raise ImportFailure(f"output {name!r} is a sequence or an optional; jitrt's engines return tensors")
            if value.producer is None or value in renamed:
                value = self.graph.add(Identity(), value, loc=f"output {name}", name=name)
            renamed[value] = value.name if name in taken else name
            taken.discard(value.name)
            taken.add(renamed[value])
            self.graph.mark_output(value)
        self.graph.rename_all(renamed)

    # -- a node ------------------------------------------------------------------------------------------------

    def node(
        self,
        node: onnx.NodeProto,
        operands: Sequence[Any],
        scope: Scope,
        opsets: Mapping[str, int],
        loc: str,
    ) -> Sequence[Any]:
        """The results of one node. Whatever an importer meets in a node that is not as it should be (a string for a
        number, an axis out of range) becomes an ImportFailure that names the node; `--debug` shows what it was."""
        if any(operand is LOST for operand in operands):
            return [LOST] * len(node.output)
        domain = domain_of(node.domain)
        opset = opsets.get(domain, 1)
        self.b.loc = loc

        def run(graph: onnx.GraphProto, given: Sequence[Item]) -> list[Item]:
            names = (info.name for info in graph.input)
            return self.run(graph, scope.new_child(dict(zip(names, given, strict=True))))

        try:
            try:
                results = self.results(node, operands, domain, opset, run, loc)
            except Unsupported as refusal:
                results = self.instead(filled(node, self.given), operands, domain, opset, refusal, loc)
        except GraphError as error:
            raise ImportFailure(f"node {loc}: {error}") from error
        except JitrtError:
            raise
        except Exception as error:
            raise ImportFailure(f"node {loc}: {type(error).__name__}: {error}") from error
        for value in results:
            if isinstance(value, Value) and value.type.nbytes > _MOST_BYTES:
                raise ImportFailure(f"node {loc}: a result of {value.type} is more than {_MOST_BYTES} bytes")
        return results

    def results(
        self,
        node: onnx.NodeProto,
        operands: Sequence[Any],
        domain: str,
        opset: int,
        run: Callable[[onnx.GraphProto, Sequence[Item]], list[Item]],
        loc: str,
    ) -> Sequence[Any]:
        """What a plugin, a node's function, its importer or the standard's own function makes of it, the first of them
        there is."""
        attributes = self.attributes(node)
        function = self.functions.get((domain, node.op_type, node.overload))
        importer = plugin_importer(domain, node.op_type)
        if function is not None and importer is None:
            return self.call(function, operands, attributes, node.output, loc)
        importer = importer or importer_of(domain, node.op_type, opset)
        if importer is not None:
            result = importer(Call(self.b, node, opset, attributes, run, loc), *operands)
            return result if isinstance(result, tuple) else (result,)
        body = standard_body(filled(node, self.given), operands, domain, opset)
        if body is not None:
            return self.call(body, operands, attributes, node.output, loc)
        raise Unsupported("no importer")

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """A node's attributes; those it takes from the call of the function it is in only where the call has them."""
        found = {}
        for attribute in node.attribute:
            if not attribute.ref_attr_name:
                found[attribute.name] = self.attribute(attribute)
            elif attribute.ref_attr_name in self.given:
                found[attribute.name] = self.given[attribute.ref_attr_name]
        return found

    def attribute(self, attribute: onnx.AttributeProto) -> Any:
        if attribute.type == onnx.AttributeProto.TENSOR:
            return self.array(attribute.t)
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            return self.array(attribute.sparse_tensor)
        value = helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.FLOAT:
            return float(str(np.float32(value)))  # 1e-5 as from PyTorch, not the 9.99999974e-06 float32 has for it
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
        scope: Scope = ChainMap(dict.fromkeys(function.input))
        if len(operands) > len(function.input):
            raise ImportFailure(f"node {loc}: {len(operands)} inputs, function {function.name} takes fewer")
        scope.update(zip(function.input, operands, strict=False))
        opsets = self.opsets | {domain_of(entry.domain): entry.version for entry in function.opset_import}
        defaults = {attribute.name: self.attribute(attribute) for attribute in function.attribute_proto}
        outer = self.opsets, self.given
        self.opsets, self.given = opsets, defaults | dict(attributes)  # subgraphs of the body have these too
        try:
            self.nodes(function.node, scope, opsets)
        finally:
            self.opsets, self.given = outer
        where = f"{loc}, function {function.name}"
        return [self.lookup(inner, scope, where) if name else None for inner, name in zip(function.output, wanted)]

    # -- what fails --------------------------------------------------------------------------------------------

    def instead(
        self, node: onnx.NodeProto, operands: Sequence[Any], domain: str, opset: int, refusal: Unsupported, loc: str
    ) -> Sequence[Any]:
        """The results of a node that cannot be imported: those of a step on the host, or `LOST`."""
        if self.fallback and not isinstance(refusal, Known):
            from jitrt.frontend.onnx.fallback import host_step

            try:
                return host_step(self.graph, node, operands, domain, opset, str(refusal), loc)
            except Unsupported as why:
                refusal = Unsupported(f"{refusal}, and no step on the host: {why}")
        self.failures.trace(refusal, loc)
        self.failures.add(operator_of(node), str(refusal), loc)
        return [LOST] * len(node.output)


def _check_types(infos: Iterable[onnx.ValueInfoProto], results: Sequence[Any]) -> None:
    for info, value in zip(infos, results, strict=True):
        declared = info.type.tensor_type.elem_type
        if declared and isinstance(value, Value) and element_of(value.type.dtype) != declared:
            found, wanted = element_name(element_of(value.type.dtype)), element_name(declared)
            raise ImportFailure(f"output {info.name!r} is declared {wanted}, but its nodes compute {found}")
