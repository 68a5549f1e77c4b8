"""The torch importer: a model and example arguments in, a plain graph out."""

from __future__ import annotations

import inspect
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from jitrt.errors import GraphError, ImportFailure, UnsupportedOpError
from jitrt.frontend.torch.arrays import DTYPES, dtype_of, is_tensor, to_numpy
from jitrt.frontend.torch.autocast import Regions, cast_to
from jitrt.frontend.torch.capture import Capture, capture
from jitrt.frontend.torch.complex import Complex, complex_importer_of, is_complex
from jitrt.frontend.torch.context import Context, type_of
from jitrt.frontend.torch.decompose import decompose
from jitrt.frontend.torch.known import compute
from jitrt.frontend.torch.locations import location, module_path
from jitrt.frontend.torch.registry import Unsupported, importer_of, writes_first_operand
from jitrt.frontend.torch.scope import Scope, parts_of
from jitrt.frontend.torch.strangers import Stranger, depends_on_values, of_two_types, operator_name, stand_in
from jitrt.frontend.tree import Tree, flatten
from jitrt.graph import Graph, Layout, TensorType, Value, bf16, f16, f32, verify
from jitrt.graph.graph import is_name
from jitrt.graph.types import channels_last

_SET_GRAD, _AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"


@dataclass(frozen=True)
class Imported:
    """A graph, and how the model's arguments and results nest around its flat inputs and outputs.

    `inputs.leaves` are the example tensors in the order of `graph.inputs`; `outputs.build(tensors)` makes the model's
    own result; `structure` is the same as JSON, for a plan. `device` is where PyTorch has the first of them.
    """

    graph: Graph
    inputs: Tree
    outputs: Tree
    device: torch.device | None

    @property
    def structure(self) -> Any:
        return self.outputs.structure


def import_torch(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> Imported:
    """The graph of `model(*args, **kwargs)`: a module or a function of tensors (torch, numpy or DLPack).

    Weights, and everything that is no tensor among the arguments, are frozen into it. Inputs keep the layout of the
    example where it is channels-last. Raises UnsupportedOpError with all operators that have no importer,
    TrainingModeError for batch norm or dropout in training mode, ImportFailure for everything else.
    """
    return import_capture(capture(model, args, kwargs or {}), model, name=name)


def import_capture(captured: Capture, model: Callable[..., Any], *, name: str | None = None) -> Imported:
    """The graph of a model that has been traced; as `import_torch`."""
    try:
        json.dumps(captured.outputs.structure)
    except TypeError as error:
        raise ImportFailure(f"the model returns something that is neither tensor nor JSON: {error}") from None
    graph = Graph(name or _identifier(model))
    importer = Importer(graph)
    arguments = arguments_of(importer, captured.program, _input_names(captured.inputs, model))
    importer.outputs(importer.run(captured.program.graph_module, arguments))
    _name_outputs(graph, captured.outputs.paths)
    return Imported(graph, captured.inputs, captured.outputs, captured.device)


def arguments_of(importer: Importer, program: torch.export.ExportedProgram, names: Sequence[str]) -> list[Argument]:
    """What stands for each placeholder of an exported program: a graph input (called by the next of `names`), or a
    weight still to be read."""
    tensors = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    fresh = iter(names)
    arguments: list[Argument] = []
    placeholders = _placeholders(program.graph)
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind == torch.export.graph_signature.InputKind.USER_INPUT:
            arguments.append(importer.input(next(fresh), node.meta["val"]))
        elif isinstance(tensors.get(spec.target), torch.Tensor):
            arguments.append(Weight(module_path(spec.target), tensors[spec.target]))
        else:
            held = type(tensors.get(spec.target)).__name__
            raise ImportFailure(
                f"the model reads {spec.target}, a {held}: only tensors can become constants of a graph."
            )
    return arguments


def _input_names(inputs: Tree, model: Callable[..., Any]) -> list[str]:
    """A name for each flat input: the parameter it came in by, and its path below that."""
    args, kwargs = inputs.build(inputs.leaves)
    try:
        bound = inspect.signature(model.forward if isinstance(model, torch.nn.Module) else model).bind(*args, **kwargs)
    except ValueError:  # a builtin without a signature
        return [f"input_{path}" for path in inputs.paths]
    named = flatten(bound.arguments, is_tensor)
    names: dict[int, list[str]] = {}  # a tensor passed twice has two
    for leaf, path in zip(named.leaves, named.paths, strict=True):
        names.setdefault(id(leaf), []).append(re.sub(r"\W", "_", path))
    return [names[id(leaf)].pop(0) for leaf in inputs.leaves]


def _name_outputs(graph: Graph, paths: Sequence[str]) -> None:
    """Call what was computed for a key or field of the result by its (first) path, unless the name is taken."""
    first = dict(reversed(list(zip(graph.outputs, paths, strict=True))))
    for value, path in first.items():
        taken = any(other.name == path for other in graph.values())
        if value.producer is not None and is_name(path) and not path[0].isdigit() and not taken:
            graph.rename(value, path)


def _identifier(model: object) -> str:
    return re.sub(r"\W", "_", getattr(model, "__name__", type(model).__name__))


def _placeholders(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


@dataclass(frozen=True)
class Weight:
    """A parameter, buffer or other tensor known at import: becomes a constant when first read."""

    name: str
    tensor: torch.Tensor


Argument = Value | Weight


class Importer:
    """Imports torch graphs of aten operators into one jitrt graph, node by node."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.ctx = Context(graph)
        self._outer = ""  # where the operator stands that is being taken apart
        self._regions: Regions = {}  # of autocast
        self._constants: dict[object, Value] = {}
        self.unsupported: list[Stranger] = []
        self._refusals: list[str] = []

    def input(self, name: str, example: torch.Tensor) -> Value:
        """A graph input for a tensor like `example`."""
        type = type_of(example)
        if example.dim() > 3 and not example.is_contiguous() and example.stride() == channels_last(type.shape):
            type = type.with_layout(Layout(channels_last(type.shape)))
        return self.graph.add_input(name, type)

    def outputs(self, values: Sequence[Any]) -> None:
        """Finish: mark the outputs, report what could not be imported, drop what is not read, check the graph."""
        if self.unsupported:
            told = [found for found in self.unsupported if not found.follows] or self.unsupported
            first = {found.operator: found.location for found in reversed(told)}
            counts = Counter(found.operator for found in told)
            raise UnsupportedOpError("torch", [(name, count, first[name]) for name, count in counts.most_common()])
        if self._refusals:
            raise ImportFailure(self._refusals[0])
        if any(isinstance(value, Complex) for value in values):
            raise ImportFailure("the model returns complex numbers, which a graph has not: torch.view_as_real(y) has.")
        self.graph.mark_output(*values)
        self.ctx.finish()
        verify(self.graph)

    def run(self, module: torch.fx.GraphModule, arguments: Sequence[Any], outer: Scope | None = None) -> list[Any]:
        """Import every node of a torch graph; `arguments` stand for its placeholders. Returns its outputs.

        An argument is a Value, a Weight, or, from an enclosing graph, a pair (Value, storage).
        """
        scope = Scope(module.graph, outer)
        waiting = iter(arguments)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self._bind_argument(scope, node, next(waiting))
            elif node.op == "get_attr":
                self._bind_attribute(scope, node, operator.attrgetter(str(node.target))(module))
            elif node.op == "output":
                return [self._resolve(scope, x) for x in node.args[0]]
            else:
                self._call(scope, node)
            scope.release(node)
        raise ImportFailure("the traced graph has no output")

    def _bind_argument(self, scope: Scope, node: torch.fx.Node, argument: Any) -> None:
        value, storage = argument if isinstance(argument, tuple) else (argument, ("external", node.name))
        scope.bind(node, value, storage)

    def _bind_attribute(self, scope: Scope, node: torch.fx.Node, attribute: Any) -> None:
        if isinstance(attribute, torch.Tensor):
            scope.bind(node, Weight(str(node.target), attribute), ("external", node.name))
        else:
            scope.bind(node, attribute)

    def _resolve(self, scope: Scope, node: torch.fx.Node) -> Any:
        value = scope.values[node]
        if isinstance(value, Weight) and value.tensor.is_complex():
            parts = (Weight(f"{value.name}_{part}", getattr(value.tensor, part)) for part in ("real", "imag"))
            value = scope.values[node] = Complex(*map(self._constant, parts))
        elif isinstance(value, Weight):
            value = scope.values[node] = self._constant(value)
        return value

    def _constant(self, weight: Weight) -> Value:
        """The constant of a weight; one storage is read once, however many names it has."""
        tensor = weight.tensor
        place = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
        key = place if tensor.numel() else weight
        if key not in self._constants:
            dtype_of(tensor.dtype)
            # A copy: the graph must not change when the model's weights do.
            self._constants[key] = self.graph.add_constant(np.array(to_numpy(tensor), order="C"), weight.name)
        return self._constants[key]

    def _call(self, scope: Scope, node: torch.fx.Node) -> None:
        ctx = self.ctx
        ctx.node, ctx.loc = node, location(node) or self._outer
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: self._resolve(scope, n))
        if node.target is operator.getitem:
            scope.bind(node, self._item(node, *cast(tuple[Sequence[Any], int], args)))
            return
        block = str(getattr(node.target, "__name__", ""))
        if block in (_SET_GRAD, _AUTOCAST):
            inlined = self._inline(scope, node, 1) if block == _SET_GRAD else self._inline_autocast(scope, node)
            scope.bind(node, inlined)
            return
        if any(depends_on_values(read.meta.get("val")) for read in node.all_input_nodes):
            self.unsupported.append(Stranger(node, operator_name(node), ctx.loc, follows=True))
            scope.bind(node, stand_in(node.meta.get("val")))
            return
        of_complex = is_complex(node, (args, kwargs))
        importer = complex_importer_of(node.target) if of_complex else importer_of(node.target)
        if importer is None and (known := compute(ctx, node, args, kwargs)) is not None:
            scope.bind(node, known)
            return
        if importer is None and (made_of := decompose(node, self._regions)) is not None:
            scope.bind(node, self._take_apart(scope, node, made_of))
            return
        try:
            if importer is None:
                raise Unsupported("of complex numbers" if of_complex else "")
            if ctx.out is not None and ctx.out.dtype not in DTYPES and not of_complex:
                raise Unsupported(f"making {ctx.out.dtype}")
            result = self._import(importer, node, args, kwargs)
            if writes_first_operand(node.target) and not _only_relabels(node.target):
                result = self._write(scope, node, result)
        except Unsupported as reason:
            if (known := compute(ctx, node, args, kwargs)) is not None:
                scope.bind(node, known)
                return
            self.unsupported.append(Stranger(node, f"{operator_name(node)} {reason}".strip(), ctx.loc))
            scope.bind(node, stand_in(node.meta.get("val")))
            return
        self._check(node, result)
        if isinstance(result, Value) and result.producer is not None and result.name.isdigit():
            self.graph.rename(result, node.name)
        scope.bind(node, result)

    def _import(self, importer: Callable[..., Any], node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        """What an importer makes of a node. Whatever goes wrong there names the node and the line."""
        args, kwargs = self._autocast(node, args), self._autocast(node, kwargs)
        try:
            return importer(self.ctx, *args, **kwargs)
        except (Unsupported, ImportFailure):
            raise
        except GraphError as error:
            raise ImportFailure(f"{node.target} at {self._where}: {error}{of_two_types(args)}") from error
        except Exception as error:
            raise ImportFailure(
                f"the importer of {node.target} at {self._where} failed with {type(error).__name__}: {error}; this is "
                "a bug in jitrt, please report it with this line."
            ) from error

    @property
    def _where(self) -> str:
        return self.ctx.loc or "unknown location"

    def _item(self, node: torch.fx.Node, values: Sequence[Any], index: int) -> Any:
        if values[index] is None and node.users:
            producer = cast(torch.fx.Node, node.args[0])
            self.unsupported.append(Stranger(producer, f"{producer.target} (output {index})", self.ctx.loc))
            return stand_in(node.meta["val"])
        return values[index]

    def _take_apart(self, scope: Scope, node: torch.fx.Node, made_of: torch.fx.GraphModule) -> Any:
        """The results of an operator without an importer: those of the operators it is made of."""
        arguments = [(self._resolve(scope, x), scope.storage(x)) for x in node.all_input_nodes]
        strangers, outer, regions = len(self.unsupported), self._outer, self._regions
        self._outer, self._regions = self.ctx.loc, {}  # casts are among the parts
        results = self.run(made_of, arguments, scope)
        where, self._outer, self._regions = self._outer, outer, regions
        if len(self.unsupported) > strangers:
            parts = ", ".join(dict.fromkeys(found.operator for found in self.unsupported[strangers:]))
            self.unsupported[strangers:] = [Stranger(node, f"{node.target} (made of {parts})", where)]
        return results if isinstance(node.meta.get("val"), (tuple, list)) else results[0]

    def _inline_autocast(self, scope: Scope, node: torch.fx.Node) -> list[Any]:
        """A `with torch.autocast(...):` block, its casts made explicit."""
        device, dtype, enabled = cast(tuple[str, torch.dtype, bool], node.args[:3])
        outer = self._regions
        others = {other: chosen for other, chosen in outer.items() if other != device}
        self._regions = {**others, device: dtype} if enabled else others
        results = self._inline(scope, node, 4)
        self._regions = outer
        return results

    def _autocast(self, node: torch.fx.Node, operands: Any) -> Any:
        """The operands of an operator as the autocast region around it casts them."""
        dtype = cast_to(node, self._regions) if self._regions else None
        if dtype is None:
            return operands

        def one(x: Any) -> Any:
            floating = isinstance(x, Value) and x.type.dtype in _AUTOCAST_FROM
            return self.ctx.operand(x, DTYPES[dtype]) if floating else x

        return torch.fx.node.map_aggregate(operands, one)

    def _inline(self, scope: Scope, node: torch.fx.Node, options: int) -> list[Any]:
        """A block such as `with torch.no_grad():`, its nodes as if they stood here; its options come first."""
        submodule, *operands = node.args[options:]
        body = self._resolve(scope, submodule)  # type: ignore[arg-type]
        arguments = [(self._resolve(scope, x), scope.storage(x)) for x in operands]  # type: ignore[arg-type]
        return self.run(body, arguments, scope)

    def _write(self, scope: Scope, node: torch.fx.Node, result: Any) -> Any:
        """An in-place operator wrote `result` into its first operand."""
        target = node.args[0]
        assert isinstance(target, torch.fx.Node)
        storage = scope.storage(target)
        if isinstance(storage, tuple) and storage[0] == "external":
            # Said at the end: batch norm in training mode does this too, and has a better explanation.
            self._refusals.append(
                f"{node.target} at {self._where} changes a model input or a buffer in place; "
                "a plan never writes to its inputs or weights. Work on a copy (x = x.clone()), or call model.eval() if "
                "it is a training statistic."
            )
            return result
        for part in parts_of(scope.values[target]):
            type = part.of(scope.values[target]).type
            written = self.ctx.expand(self.ctx.operand(part.of(result), type.dtype), type.shape)
            scope.write(self.ctx, target, written, part)
        return scope.values[target]

    def _check(self, node: torch.fx.Node, result: Any) -> None:
        """Every importer must arrive at the dtype and shape that PyTorch did."""
        if isinstance(result, Complex):
            self._check_type(node, result.imag)
            result = result.real
        if isinstance(result, Value):
            self._check_type(node, result)

    def _check_type(self, node: torch.fx.Node, result: Value) -> None:
        expected = TensorType(self.ctx.dtype, self.ctx.shape)
        if result.type.logical() != expected:
            raise ImportFailure(
                f"the importer of {node.target} made {result.type} where PyTorch has {expected} (at {self.ctx.loc}); "
                "this is a bug in jitrt, please report it with this line."
            )


def _only_relabels(target: object) -> bool:
    """Whether an in-place operator changes its operand's shape or history, but no element."""
    return str(target).split(".")[1].removesuffix("_") in _RELABELS


_AUTOCAST_FROM = (f32, f16, bf16)
_RELABELS = ("detach", "squeeze", "unsqueeze", "transpose", "t", "swapaxes", "swapdims")
