"""What a user types: `jit` and `compile`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from jitrt.errors import ImportFailure, OptionError
from jitrt.request import Request

if TYPE_CHECKING:
    from jitrt.frontend.tree import Tree
    from jitrt.graph import Graph
    from jitrt.hybrid import HybridEngine
    from jitrt.jitted import Jitted
    from jitrt.reference import ReferenceEngine
    from jitrt.runtime import Engine

_Type = TypeVar("_Type", bound=type)


def compile(
    model: Any,
    inputs: Any = (),
    *,
    precision: str = "fp32",
    target: str | Sequence[str] | None = None,
    tune: str = "60s",
    calibration: object = None,
    dynamic_shapes: object = None,
    outputs: Sequence[str] | None = None,
    strict: bool = False,
    workspace_limit: int | None = None,
    cache: bool = True,
    without: Sequence[str] = (),
) -> Engine | ReferenceEngine | HybridEngine:
    """Build an engine of `model` for inputs like `inputs`; the options are those of `jitrt.request.Request`.

    `model` is a torch module in eval mode or a function of tensors; an ONNX model (a path, its bytes or a ModelProto);
    or, then without inputs, a `jitrt.Network` or a `jitrt.graph.Graph`. `inputs` is a tuple of example arguments (one
    tensor may stand alone): torch, numpy or DLPack tensors, nested as the model wants them, of which only shapes and
    dtypes matter. The engine takes its tensors flat, in that order, and returns the model's nesting as lists and dicts;
    with `outputs=["logits"]` what is left of it. Weights are frozen into it.

    An ONNX model needs inputs only if it leaves shapes open; then also a dict by name will do, and a shape in place of
    an array. Where what is built depends on the numbers in an input, those of the example become part of the engine,
    after a JitrtWarning. `outputs` names any values of the file, in the order they are to come in. What jitrt has no op
    or no kernel for runs on the host, after a JitrtWarning that names it, unless `strict`.

    Raises OptionError, TargetError, ImportFailure, UnsupportedOpError, FallbackError, NoGpuError, CompileError or
    TuningError.

    >>> engine = jitrt.compile(model, (x,), precision="fp16")      # doctest: +SKIP
    >>> engine(x); engine.save("model.plan")                       # doctest: +SKIP
    >>> jitrt.compile("model.onnx", {"x": (8, 3, 224, 224)})       # doctest: +SKIP
    """
    began = time.monotonic()
    request = Request(
        precision=precision,
        target=target,
        tune=tune,
        calibration=calibration,
        dynamic_shapes=dynamic_shapes,
        outputs=outputs,
        strict=strict,
        workspace_limit=workspace_limit,
        cache=cache,
        without=without,
    )
    graph, returned = import_model(model, inputs, request.outputs)
    request, structure = request.selecting(graph, returned)
    return request.engine(graph, structure, fallback=is_onnx(model), began=began)


def import_model(model: Any, inputs: Any, outputs: Sequence[str] | None = None) -> tuple[Graph, Tree | None]:
    """The graph of a model of any kind, and how its result nests around the graph's outputs; None if it does not. Of an
    ONNX model these are `outputs` already, and operators that jitrt has no ops for are steps on the host, if they can
    be."""
    from jitrt.frontend.network import Network
    from jitrt.graph import Graph

    if isinstance(model, Graph | Network):
        if not isinstance(inputs, tuple | list) or len(inputs):
            raise OptionError(f"a {type(model).__name__} knows its inputs' shapes; leave the example inputs out")
        return model if isinstance(model, Graph) else model.graph, None
    if is_onnx(model):
        return _import_onnx(model, inputs, outputs)
    if not callable(model):
        raise OptionError(
            f"model is of type {type(model).__name__}; give a torch module, a function of tensors, an ONNX model (its "
            "path, its bytes or a ModelProto), a Network or a Graph"
        )
    from jitrt.frontend.torch import import_torch
    from jitrt.frontend.torch.arrays import is_tensor

    if not isinstance(inputs, tuple | list) and not is_tensor(inputs):
        raise OptionError(f"inputs is of type {type(inputs).__name__}; give a tuple of example arguments, such as (x,)")
    imported = import_torch(model, (inputs,) if is_tensor(inputs) else tuple(inputs))
    return imported.graph, imported.outputs


def is_onnx(model: Any) -> bool:
    """Whether a model is given as ONNX: a path, bytes, or a ModelProto (or what has one, as torch.onnx returns)."""
    if isinstance(model, str | os.PathLike | bytes | bytearray | memoryview):
        return True
    onnx, read = (sys.modules.get(name) for name in ("onnx", "jitrt.frontend.onnx"))  # whoever has one has loaded them
    if read is not None and isinstance(model, read.Model):
        return True
    return onnx is not None and isinstance(getattr(model, "model_proto", model), onnx.ModelProto)


def _import_onnx(model: Any, inputs: Any, outputs: Sequence[str] | None) -> tuple[Graph, Tree]:
    from jitrt.frontend.onnx.signature import import_bound
    from jitrt.frontend.tree import Tree

    if isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".plan"):
        raise ImportFailure(f"{model} is a plan, not a model: jitrt.load loads it")
    bound = import_bound(model, inputs, outputs=outputs, fallback=True)
    bound.warn(stacklevel=4)
    bound.lay_as_given()
    names = bound.imported.outputs
    return bound.imported.graph, Tree((), names, None, names, list)


@overload
def jit(function: None = None, *, specialisations: int = 8, **options: Any) -> Callable[[Any], Any]: ...
@overload
def jit(function: _Type, *, specialisations: int = 8, **options: Any) -> _Type: ...
@overload
def jit(function: Callable[..., Any], *, specialisations: int = 8, **options: Any) -> Jitted: ...
def jit(function: Any = None, *, specialisations: int = 8, **options: Any) -> Any:
    """Compile a function of tensors, a module or a module class at its first call: a decorator, or a plain call.

    Each new signature (nesting, shapes, dtypes, devices, channels-last or not, and the values of arguments that are no
    tensors) compiles a specialisation; the `specialisations` used last are kept. `options` are those of
    `jitrt.request.Request`. Weights are frozen at the first call of each signature; after changing them call `clear()`.

    There is no gradient: an input that requires one while gradients are enabled raises GradientError; parameters may.
    On a machine without a GPU the original runs, after one warning, unless `target="reference"` or `strict=True`.

    >>> @jitrt.jit                                                 # doctest: +SKIP
    ... def predict(x): return model(x)
    >>> fast = jitrt.jit(model, precision="fp16")                  # doctest: +SKIP
    """
    from torch import nn

    from jitrt.jitted import Jitted
    from jitrt.jitted_module import jit_class, jit_module

    request = _request(options, specialisations)
    if function is None:
        return lambda function: jit(function, specialisations=specialisations, **options)
    if isinstance(function, type):
        return jit_class(function, request, specialisations)
    if not callable(function):
        hint = "; put @jitrt.jit below @classmethod" if isinstance(function, classmethod) else ""
        kind = type(function).__name__
        raise OptionError(f"jitrt.jit takes a function, a module or a module class, not a {kind}{hint}")
    make = jit_module if isinstance(function, nn.Module) else Jitted
    return make(function, request, specialisations)


def _request(options: Mapping[str, Any], specialisations: int) -> Request:
    if not isinstance(specialisations, int) or isinstance(specialisations, bool) or specialisations < 1:
        raise OptionError(f"specialisations is {specialisations!r}; give how many to keep, at least 1")
    return Request.of(options, also=("specialisations",))
