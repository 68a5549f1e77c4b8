"""From a model and example arguments to PyTorch's own graph of it, through torch.export."""

from __future__ import annotations

import inspect
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._dynamo.convert_frame import compile_lock  # tracing changes modules and torch itself: one thread at a time

from jitrt.errors import ImportFailure, InputError
from jitrt.frontend.torch.arrays import as_tensor, dtype_of, is_tensor
from jitrt.frontend.torch.autocast import ambient, entered
from jitrt.frontend.torch.locations import recording, run_user_code, users_line
from jitrt.frontend.tree import Call, Tree, flatten

_LOUD = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")
_tracing: ContextVar[bool] = ContextVar("jitrt_tracing", default=False)


def is_tracing() -> bool:
    """Whether the caller is being traced by jitrt: a jitted function inside a traced one then runs as it is."""
    return _tracing.get()


@dataclass(frozen=True)
class Capture:
    """A traced model: the exported program over flat tensors, and how arguments and results nest."""

    program: torch.export.ExportedProgram
    inputs: Tree
    outputs: Tree

    @property
    def device(self) -> torch.device | None:
        """Where the first result lies; None if there is none."""
        results = self.program.graph.output_node().args[0]
        examples = [node.meta.get("val") for node in results if isinstance(node, torch.fx.Node)]
        return next((x.device for x in examples if isinstance(x, torch.Tensor)), None)


def capture(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Capture:
    """Trace `model(*args, **kwargs)` without decomposing operators. Values of tensors do not matter, only their types.

    A function's modules (its closure's, its globals', its `self`) give their parameters their names. Raises
    ImportFailure with the user's line if the model cannot be traced.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    inputs = flatten(Call(tuple(args), dict(kwargs)), is_tensor)
    traced = _Traced(model, inputs)
    tensors = tuple(_on_device(as_tensor(leaf), leaf, traced.device) for leaf in inputs.leaves)
    _same_device(traced, tensors, model)
    for tensor in tensors:
        dtype_of(tensor.dtype)  # refuses what the graph has none for, which torch.export might trip over
    try:
        with compile_lock, _as_tracing(), torch.no_grad(), entered({}), recording(), _quiet():
            program = torch.export.export(traced, tensors, strict=False)
            if any(_is_transform(node) for node in program.graph.nodes):  # what it does to operators is below them
                program = program.run_decompositions({})
    except ImportFailure:
        raise
    except Exception as error:
        raise ImportFailure(_explain(error, model)) from error
    return Capture(program, inputs, traced.results[-1])


def _is_transform(node: torch.fx.Node) -> bool:
    """Whether a node begins or ends a torch.vmap, or another of torch.func."""
    return getattr(node.target, "__module__", "") == "torch._functorch.predispatch"


@contextmanager
def _as_tracing() -> Iterator[None]:
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch.export says on top of its exceptions: advice that cannot be followed from here, and the half
    of a graph it had when it failed. What the model itself prints to stderr comes at the end."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    said, failed = io.StringIO(), ""
    for logger in loggers:
        logger.addFilter(_nothing)
    try:
        with warnings.catch_warnings(), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if hasattr(error, "partial_fx_graph"):
            failed = f"{error.partial_fx_graph}\n"
        raise
    finally:
        for logger in loggers:
            logger.removeFilter(_nothing)
        sys.stderr.write(said.getvalue().replace(failed, ""))


def _nothing(record: logging.LogRecord) -> bool:
    return False


class _Results(list[Tree]):
    """How the traced code's results nested, one a run. A class of its own, because torch.export undoes changes it
    sees in a module's attributes, lists among them."""


class _Traced(nn.Module):
    """The model as a module from flat tensors to flat tensors, with its own modules in it under their names."""

    def __init__(self, model: Callable[..., Any], inputs: Tree):
        super().__init__()
        self.training = False
        self.results = _Results()
        self._inputs = inputs
        self._autocast = dict(ambient())  # as a region inside the trace, where it leaves its mark
        # Interpreted, a graph module's nodes pass on the source lines they know. (And nothing here may be the model
        # itself: it would become a submodule of that name.)
        call = torch.fx.Interpreter(model).run if isinstance(model, torch.fx.GraphModule) else model
        self._call = partial(run_user_code, call)
        if isinstance(model, nn.Module):
            self.root = model
        else:
            self.captured = nn.Module()
            self.captured.training = False
            for name, module in captured_modules(model).items():
                self.captured.add_module(name if not hasattr(self.captured, name) else name + "_", module)

    @property
    def device(self) -> torch.device | None:
        """Where the model's weights are; None if it has none."""
        tensors = [*self.parameters(), *self.buffers()]
        return tensors[0].device if tensors else None

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = self._inputs.build(tensors)
        with entered(self._autocast):
            result = self._call(args, kwargs)
        try:
            outputs = flatten(result, lambda x: isinstance(x, torch.Tensor), what="the model's result")
        except InputError as error:
            raise ImportFailure(str(error)) from None
        self.results.append(replace(outputs, leaves=()))
        return outputs.leaves


def captured_modules(function: Callable[..., Any]) -> dict[str, nn.Module]:
    """The modules a function uses by name: from its closure, its globals, and the object it is a method of."""
    found: dict[str, nn.Module] = {}
    target: Any = inspect.unwrap(function)
    while hasattr(target, "func"):  # functools.partial
        target = target.func
    owner = getattr(target, "__self__", None)
    if isinstance(owner, nn.Module):
        found["self"] = owner
    target = getattr(target, "__func__", target)
    if inspect.isfunction(target):
        names = inspect.getclosurevars(target)
        found |= {name: x for name, x in {**names.globals, **names.nonlocals}.items() if isinstance(x, nn.Module)}
    return found


def _on_device(tensor: torch.Tensor, leaf: object, device: torch.device | None) -> torch.Tensor:
    """Arrays that are no torch tensors have no say in where the model runs."""
    return tensor if isinstance(leaf, torch.Tensor) or device is None else tensor.to(device)


def _same_device(traced: _Traced, tensors: Sequence[torch.Tensor], model: object) -> None:
    if traced.device is None:
        return
    if traced.device.type == "meta":
        raise ImportFailure(
            f"the model {_name(model)} is on meta, where weights have no values; move it with to_empty() and load them."
        )
    for index, tensor in enumerate(tensors):
        if tensor.device.type != traced.device.type:
            raise ImportFailure(
                f"the model {_name(model)} is on {traced.device} and input {index} on {tensor.device}; "
                f"move one of them, for example with model.to({str(tensor.device)!r})."
            )


def _name(model: object) -> str:
    return getattr(model, "__name__", type(model).__name__)


def _explain(error: Exception, model: object) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = users_line(error.__traceback__)
    lines = [f"torch.export cannot trace {_name(model)}: {reason}"]
    if where:
        lines.append(f"  at {where}")
    if _packs_sequences(error):
        lines.append(
            "A packed sequence has lengths known at run time only: run the padded batch, and mask its results."
        )
    elif "data-dependent" in reason:
        lines.append("A plan has no branches on values: use torch.where, or decide outside the compiled code.")
    elif isinstance(model, torch.jit.ScriptModule):
        lines.append("A TorchScript module hides what it is made of: give the Python module that it was made from.")
    elif not where:  # nothing of the model's had begun
        lines.append("Do the arguments fit the model? It is called with the example inputs, in their order.")
    else:
        lines.append(
            "If PyTorch runs the model with these inputs, change that line, or leave it to PyTorch with "
            "torch.compile(model, backend='jitrt')."
        )
    return "\n".join(lines)


def _packs_sequences(error: Exception) -> bool:
    """Whether a PackedSequence was at hand where the error came from."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(isinstance(x, nn.utils.rnn.PackedSequence) for frame, _ in frames for x in frame.f_locals.values())
