"""The backend of `torch.compile(model, backend="jitrt")`, found through the entry point `torch_dynamo_backends`.

    fast = torch.compile(model, backend="jitrt", options={"precision": "fp16"})
    print(jitrt.integrations.torch_compile.last_report())

Options are those of `jitrt.request.Request`; mode is "default", "reduce-overhead" (the same: an engine is a CUDA graph
anyway) or "max-autotune" (tune="exhaustive"). What Dynamo traced is exported again, operators whole, and goes through
the same importer as `jitrt.jit`. Operators without an importer stay in PyTorch, unless `strict=True`; a warning says so
and `last_report()` names and costs them. There is no gradient: GradientError for an input that requires one while
gradients are enabled, TrainingModeError (a GradientError) for batch norm or dropout in training mode.

Dynamo itself leaves a model with an nn.LSTM, nn.GRU or nn.RNN to PyTorch, and this backend never hears of it, unless
`torch._dynamo.config.allow_rnn` is set. `jitrt.jit` needs no such switch.

Weights are frozen into the engine. Replacing or changing one in place is noticed, and builds a new engine; changing it
behind PyTorch's back (`weight.data`) is not: call `torch.compiler.reset()` after it.
"""

from __future__ import annotations

import itertools
import keyword
import operator
import re
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import fx
from torch.export import ExportedProgram

from jitrt.errors import (
    CompileError,
    GradientError,
    ImportFailure,
    JitrtError,
    JitrtWarning,
    NoGpuError,
    OptionError,
    TrainingModeError,
    UnsupportedOpError,
)
from jitrt.frontend.torch.autocast import ambient, enter, leave
from jitrt.frontend.torch.capture import capture
from jitrt.frontend.torch.importer import import_capture
from jitrt.graph import Graph
from jitrt.integrations.aliases import views_of
from jitrt.integrations.partition import Build, Partitioned, Report, Stayed, operators, partition
from jitrt.jitted import of_tensors, signature
from jitrt.request import Request

Role = Literal["weight", "number", "input"]
Run = Callable[..., Any]

_MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "reduce-overhead": {},
    "max-autotune": {"tune": "exhaustive"},
}
_KEPT = 8  # engines of one traced graph, for shapes that Dynamo made dynamic and weights that changed
_numbers = itertools.count()
_reports: deque[Report] = deque(maxlen=64)


def last_report() -> Report | None:
    """What of the graph compiled last runs in jitrt, and what stayed in PyTorch; None before the first."""
    return _reports[-1] if _reports else None


def reports() -> list[Report]:
    """The reports of the last 64 graphs: a model with graph breaks has one each."""
    return list(_reports)


def jitrt_backend(
    graph_module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """A callable for a graph of Dynamo's. It compiles when first called, so that errors (OptionError, a ValueError, for
    an unknown option or mode) reach the user as they are, not wrapped by Dynamo."""
    return _Compiled(graph_module, example_inputs, mode, options)


def _request(mode: str | None, options: Mapping[str, Any] | None) -> Request:
    if (mode or "default") not in _MODES:
        raise OptionError(f"mode is {mode!r}; backend='jitrt' knows {', '.join(map(repr, _MODES))}")
    request = Request.of({**_MODES[mode or "default"], **(options or {})})
    if request.outputs is not None:
        raise OptionError(
            "outputs is given, but torch.compile returns what the model returns; use jitrt.compile for it"
        )
    return request


class _Compiled:
    """One graph of Dynamo's with its engines, by signature."""

    def __init__(
        self, module: fx.GraphModule, examples: Sequence[Any], mode: str | None, options: Mapping[str, Any] | None
    ):
        self._module = module
        self._mode, self._options = mode, options
        placeholders = module.graph.find_nodes(op="placeholder")
        self._roles = [role_of(node, example) for node, example in zip(placeholders, examples, strict=True)]
        self._weights = [i for i, role in enumerate(self._roles) if role == "weight"]
        self._others = [i for i, role in enumerate(self._roles) if role != "weight"]
        # Beside each run, the weights it holds: while they live, no other tensor can have their identity.
        self._runs: OrderedDict[Hashable, tuple[Run, list[Any]]] = OrderedDict()
        self._lock = threading.RLock()

    def __call__(self, *args: Any) -> Any:
        if torch.is_grad_enabled():
            self._refuse_gradients(args)
        weights = [args[i] for i in self._weights]
        others = tuple(_part_of_key(self._roles[i], args[i]) for i in self._others)
        key = (_identity(weights), others, ambient())
        with self._lock:
            if key in self._runs:
                self._runs.move_to_end(key)
            else:
                self._runs[key] = self._build(args), weights
                while len(self._runs) > _KEPT:
                    self._runs.popitem(last=False)
            run, _ = self._runs[key]
        return run(*args)

    def _refuse_gradients(self, args: Sequence[Any]) -> None:
        for index in self._others:
            if isinstance(args[index], torch.Tensor) and args[index].requires_grad:
                raise GradientError(
                    f"input {index} requires a gradient, but backend='jitrt' compiles for inference only; "
                    "call the model under torch.no_grad(), or detach() the input"
                )

    def _build(self, args: Sequence[Any]) -> Run:
        request = _request(self._mode, self._options)
        if request.target is None and not torch.cuda.is_available():
            return self._without_gpu(request)
        name = f"graph_{next(_numbers)}"
        try:
            return self._compiled(args, request, name)
        except TrainingModeError:
            raise
        except (ImportFailure, CompileError) as failure:  # an operator without an importer, or without a kernel
            if request.strict:
                raise
            return self._left_whole(name, failure)

    def _compiled(self, args: Sequence[Any], request: Request, name: str) -> Run:
        """The graph in one engine, or in several with PyTorch between them."""
        module, indices = specialise(self._module, self._roles, args)
        inputs = [args[i].detach() for i in indices]

        def build(graph: Graph) -> Any:
            return request.engine(graph, [{"output": i} for i in range(len(graph.outputs))])

        captured = capture(module, inputs, {})
        nest = captured.outputs.build
        if not inputs:
            nest = of_tensors(nest, captured.device)
        run: Run
        try:
            run = build(import_capture(captured, module, name=name).graph)
            _reports.append(Report(name, 1, len(list(operators(captured.program.graph)))))
        except UnsupportedOpError:
            if request.strict:
                raise
            parts = _taken_apart(captured.program, build, inputs, name)
            run = parts.run
            _reports.append(parts.report)
            warnings.warn(f"backend='jitrt': {parts.report}", JitrtWarning, stacklevel=2)
        views = views_of(captured.program)
        if not views:
            return lambda *args: nest(run(*(args[i].detach() for i in indices)))

        def with_views(*args: Any) -> Any:
            tensors = [args[i].detach() for i in indices]
            outputs = run(*tensors)
            return nest([views[i](*tensors) if i in views else x for i, x in enumerate(outputs)])

        return with_views

    def _left_whole(self, name: str, failure: JitrtError) -> Run:
        """The graph as it is, in PyTorch."""
        count = sum(node.op.startswith("call") for node in self._module.graph.nodes)
        reason = _cause(failure).splitlines()[0]
        _reports.append(Report(name, 0, 0, (Stayed("everything", reason, count, "", 0.0),)))
        warnings.warn(f"backend='jitrt' leaves a graph to PyTorch: {_cause(failure)}", JitrtWarning, stacklevel=2)
        return self._module.forward

    def _without_gpu(self, request: Request) -> Run:
        reason = f"backend='jitrt': this machine has no NVIDIA GPU that torch {torch.__version__} can see"
        if request.strict:
            raise NoGpuError(f"{reason}; pass options={{'target': 'reference'}} to run the model in numpy")
        text = f"{reason}, so PyTorch runs the model as it is; options={{'target': 'reference'}} runs it in numpy."
        warnings.warn(text, JitrtWarning, stacklevel=2)
        return self._module.forward


def _cause(failure: JitrtError) -> str:
    """What a failure says, without its advice to come here."""
    return "\n".join(line for line in str(failure).splitlines() if "backend='jitrt'" not in line)


def _taken_apart(program: ExportedProgram, build: Build, inputs: Sequence[torch.Tensor], name: str) -> Partitioned:
    """The program with engines in it. Raises ImportFailure if PyTorch cannot take it apart (torch.vmap, for one)."""
    try:
        return partition(program, build, inputs, name)
    except JitrtError:
        raise
    except Exception as error:
        raise ImportFailure(f"PyTorch cannot take this graph apart: {type(error).__name__}: {error}") from error


def role_of(placeholder: fx.Node, example: Any) -> Role:
    """What an input of a Dynamo graph is: a "weight" (parameter or buffer of a module), a "number" (a Python number, or
    a tensor that is only ever read as one), or an "input"."""
    if "_dynamo_static_input_type" in placeholder.meta.get("tensor_dict", {}):
        return "weight"
    if not isinstance(example, torch.Tensor) or (placeholder.users and all(map(_is_item, placeholder.users))):
        return "number"
    return "input"


def _is_item(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "item"


def _identity(weights: Sequence[torch.Tensor]) -> Hashable:
    """Changes when a weight is another tensor, or is written to (which inference tensors do not note)."""
    return tuple(map(id, weights)), tuple(0 if x.is_inference() else x._version for x in weights)


def _part_of_key(role: Role, value: Any) -> Hashable:
    return signature(value) if role == "input" else (type(value), _number(value))


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def specialise(module: fx.GraphModule, roles: Sequence[Role], args: Sequence[Any]) -> tuple[fx.GraphModule, list[int]]:
    """A copy of a Dynamo graph in which weights and numbers are constants, and the positions of the inputs it keeps."""
    graph = fx.Graph()
    root: dict[str, Any] = {}
    values: dict[fx.Node, Any] = {}
    indices: list[int] = []
    for index, (node, role) in enumerate(zip(module.graph.find_nodes(op="placeholder"), roles, strict=True)):
        if role == "input":
            values[node] = graph.placeholder(_input_name(node))
            indices.append(index)
        elif role == "weight":
            name = _weight_name(node)
            name = node.name if name in root else name
            root[name] = args[index]
            values[node] = graph.create_node("get_attr", name)
        else:
            values[node] = _number(args[index])
    for node in module.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            root[node.target] = operator.attrgetter(node.target)(module)
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], values.__getitem__))
        elif _is_item(node) and not isinstance(values[node.args[0]], fx.Node):
            values[node] = values[node.args[0]]
        elif node.op != "placeholder":
            values[node] = copy = graph.node_copy(node, values.__getitem__)
            copy.target = _TRACEABLE.get(copy.target, copy.target)
    return fx.GraphModule(root, graph), indices


# Dynamo writes a region's begin and end as calls that torch.export would only note down, and not do.
_TRACEABLE: dict[Any, Any] = {torch.amp._enter_autocast: enter, torch.amp._exit_autocast: leave}


def _weight_name(node: fx.Node) -> str:
    """The name of a weight in its module, from Dynamo's note of where it found it: L['self']._modules['a']._..."""
    source = getattr(node, "_dynamo_source", None)
    name = getattr(source, "name", "")
    text = str(name() if callable(name) else name)
    parts = re.findall(r"_(?:modules|parameters|buffers)\['([^']+)'\]", text) or re.findall(r"\['(\w+)'\]$", text)
    return ".".join(parts) or node.name


def _input_name(node: fx.Node) -> str:
    """Dynamo's L_x_ is the local variable x."""
    match = re.fullmatch(r"[LG]_([A-Za-z]\w*?)_?", str(node.target))
    return match[1] if match and not keyword.iskeyword(match[1]) else node.name
