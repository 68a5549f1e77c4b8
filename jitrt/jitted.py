"""A jitted function: one engine a signature, built when a call first needs it."""

from __future__ import annotations

import functools
import threading
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from jitrt.errors import GradientError, JitrtWarning, NoGpuError, OptionError
from jitrt.frontend.torch import import_torch
from jitrt.frontend.torch.arrays import as_tensor, is_tensor
from jitrt.frontend.torch.autocast import ambient
from jitrt.frontend.torch.capture import is_tracing
from jitrt.frontend.tree import Call, flatten
from jitrt.request import Request


@dataclass(frozen=True)
class Specialisation:
    """An engine for one signature, and how its outputs nest."""

    engine: Any
    nest: Callable[[Any], Any]


class Specialisations:
    """The engines of one function, by signature; the ones used last are kept. Threads may share it."""

    def __init__(self, request: Request, limit: int):
        self.request = request
        self.limit = limit
        self._entries: OrderedDict[Hashable, Specialisation] = OrderedDict()
        self._lock = threading.RLock()
        self._warned = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def engines(self) -> list[Any]:
        """The engines there are, the one used last at the end."""
        return [entry.engine for entry in self._entries.values()]

    def clear(self) -> None:
        """Forget all engines: the next call builds anew, with the weights of then."""
        with self._lock:
            self._entries.clear()

    def call(self, subject: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `subject(*args, **kwargs)` through its engine. `original` is the same, uncompiled: what runs inside a
        trace, and on a machine without a GPU."""
        if is_tracing() or torch.compiler.is_compiling():
            return original(*args, **kwargs)
        if not kwargs and all(type(arg) is torch.Tensor for arg in args):
            leaves: Sequence[Any] = args
            nesting: Hashable = len(args)
        else:
            tree = flatten(Call(args, kwargs), is_tensor)
            leaves, nesting = tree.leaves, tree.key
        if torch.is_grad_enabled():
            _refuse_gradients(leaves)
        key = (nesting, tuple(map(signature, leaves)), getattr(subject, "training", None), ambient())
        entry = self._find(key)
        if entry is None:
            if self._must_run_original(subject, leaves):
                return original(*args, **kwargs)
            entry = self._build(key, subject, args, kwargs)
        return entry.nest(entry.engine(*leaves))

    def _find(self, key: Hashable) -> Specialisation | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def _build(self, key: Hashable, subject: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Specialisation:
        with self._lock:  # two threads with one new signature build it once
            if (entry := self._find(key)) is not None:
                return entry
            imported = import_torch(subject, args, kwargs)
            # The engine returns a list; tuples and dataclasses, which a plan does not know, are put around it here.
            flat = [{"output": index} for index in range(len(imported.graph.outputs))]
            if self.request.outputs is None:
                entry = Specialisation(self.request.engine(imported.graph, flat), imported.outputs.build)
            else:  # some of the results, or values of the graph: as an engine returns them, in lists and dicts
                request, structure = self.request.selecting(imported.graph, imported.outputs)
                entry = Specialisation(request.engine(imported.graph, structure), lambda result: result)
            self._entries[key] = entry
            while len(self._entries) > self.limit:
                self._entries.popitem(last=False)
            return entry

    def _must_run_original(self, subject: Any, leaves: Sequence[Any]) -> bool:
        """Whether there is no GPU to run on; says so once."""
        if self.request.target is not None or torch.cuda.is_available():
            return False
        name = getattr(subject, "__name__", type(subject).__name__)
        reason = f"jitrt.jit: this machine has no NVIDIA GPU that torch {torch.__version__} can see"
        if self.request.strict or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
            raise NoGpuError(f"{reason}; pass target='reference' to run {name} in numpy")
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{reason}, so {name} runs in PyTorch as it is; target='reference' runs its optimised graph in numpy.",
                JitrtWarning,
                stacklevel=4,
            )
        return True


def _refuse_gradients(leaves: Sequence[Any]) -> None:
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            raise GradientError(
                f"input {index} requires a gradient, but jitrt compiles for inference only; "
                "call the function under torch.no_grad(), or detach() the input"
            )


def signature(leaf: Any) -> Hashable:
    """What of a tensor decides which engine runs it: shape, dtype, device, and whether it is channels-last."""
    if isinstance(leaf, torch.Tensor):
        last = leaf.dim() in (4, 5) and not leaf.is_contiguous() and leaf.is_contiguous(memory_format=_LAST[leaf.dim()])
        return leaf.shape, leaf.dtype, leaf.device, last
    if isinstance(leaf, np.ndarray):
        return leaf.shape, leaf.dtype.str if leaf.dtype.kind != "V" else leaf.dtype.name, "numpy"
    tensor = as_tensor(leaf)
    return type(leaf), tensor.shape, tensor.dtype, tensor.device


_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# What a module is told through its jitted self and then no longer is what the engines were built from.
_CHANGES_WEIGHTS = {"to", "cuda", "cpu", "half", "float", "double", "bfloat16", "type", "load_state_dict", "apply"}


class Jitted:
    """A function or module that runs compiled. Attributes are those of the original.

    `specialisations` are its engines (`len(f.specialisations)`, `f.specialisations.engines`); `clear()` forgets them.
    In a class body it makes a method, with engines of its own for each instance.
    """

    def __init__(self, function: Callable[..., Any], request: Request, limit: int):
        self.original = function
        self.specialisations = Specialisations(request, limit)
        self._instances: weakref.WeakKeyDictionary[Any, Specialisations] = weakref.WeakKeyDictionary()
        if not isinstance(function, nn.Module):
            functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.specialisations.call(self.original, self.original, args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = types.MethodType(self.original, instance)
        engines = _of_instance(self._instances, instance, self.specialisations)
        return _BoundJitted(bound, engines)

    def __getattr__(self, name: str) -> Any:
        if name in ("original", "specialisations", "_instances"):  # not set yet: being copied or unpickled
            raise AttributeError(name)
        value = getattr(self.original, name)
        if not isinstance(self.original, nn.Module) or not isinstance(value, types.MethodType):
            return value

        @functools.wraps(value)
        def told(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if name in _CHANGES_WEIGHTS:
                self.clear()
            return self if result is self.original else result

        return told

    def clear(self) -> None:
        """Forget all engines; the next call builds anew, with the weights of then."""
        self.specialisations.clear()
        for engines in self._instances.values():
            engines.clear()

    def __repr__(self) -> str:
        name = getattr(self.original, "__qualname__", type(self.original).__name__)
        return f"jitrt.jit({name}) with {len(self.specialisations)} specialisation(s)"


class _BoundJitted:
    """A jitted method of one instance."""

    def __init__(self, method: types.MethodType, specialisations: Specialisations):
        self.original = method
        self.specialisations = specialisations
        functools.update_wrapper(self, method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.specialisations.call(self.original, self.original, args, kwargs)

    def clear(self) -> None:
        """Forget this instance's engines."""
        self.specialisations.clear()


def _of_instance(
    table: weakref.WeakKeyDictionary[Any, Specialisations], instance: Any, like: Specialisations
) -> Specialisations:
    """The engines of one instance. They hold no reference to it, so that it can go."""
    found = table.get(instance)
    if found is None:
        found = table.setdefault(instance, Specialisations(like.request, like.limit))
    return found


def jit_class(kind: type, request: Request, limit: int) -> type:
    """Let every instance of a module class run compiled when called. The class itself is changed and returned, so that
    `super()`, pickling and isinstance work as before. Raises OptionError for a class that is no module."""
    if not issubclass(kind, nn.Module):
        raise OptionError(f"jitrt.jit on a class takes a subclass of torch.nn.Module; {kind.__name__} is none")
    original = kind.__call__
    prototype = Specialisations(request, limit)
    table: weakref.WeakKeyDictionary[Any, Specialisations] = weakref.WeakKeyDictionary()

    @functools.wraps(original)
    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        engines = _of_instance(table, self, prototype)
        return engines.call(self, types.MethodType(original, self), args, kwargs)

    kind.__call__ = __call__  # type: ignore[method-assign]
    return kind
