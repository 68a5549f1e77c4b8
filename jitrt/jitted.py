"""A jitted function: one engine a signature, built when a call first needs it."""

from __future__ import annotations

import functools
import inspect
import sys
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
from torch._subclasses.fake_tensor import is_fake

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

    def __reduce__(self) -> Any:
        """A copy builds engines of its own: what is copied with it may have other weights soon."""
        return Specialisations, (self.request, self.limit)

    def call(self, subject: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `subject(*args, **kwargs)` through its engine. `original` is the same, uncompiled: what runs inside a
        trace, and on a machine without a GPU."""
        if torch.compiler.is_dynamo_compiling() or _inside_a_trace():  # Dynamo cannot read on
            return original(*args, **kwargs)
        if not kwargs and all(type(arg) is torch.Tensor for arg in args):
            leaves: Sequence[Any] = args
            nesting: Hashable = len(args)
        else:
            tree = flatten(Call(args, kwargs), is_tensor)
            leaves, nesting = tree.leaves, tree.key
        if torch.compiler.is_compiling() and any(map(is_fake, leaves)):  # in torch.export, and not in another thread's
            return original(*args, **kwargs)
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
                build = imported.outputs.build
                if not imported.graph.inputs:  # no input says in what kind the outputs are to be
                    build = of_tensors(build, imported.device)
                entry = Specialisation(self.request.engine(imported.graph, flat), build)
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


def _inside_a_trace() -> bool:
    """Whether this thread is inside jitrt's own trace, torch.jit.trace, torch.vmap or another transform."""
    return is_tracing() or torch.jit.is_tracing() or torch._C._functorch.peek_interpreter_stack() is not None


def _refuse_gradients(leaves: Sequence[Any]) -> None:
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            raise GradientError(
                f"input {index} requires a gradient, but jitrt compiles for inference only; "
                "call the function under torch.no_grad(), or detach() the input"
            )


def of_tensors(build: Callable[[Any], Any], device: torch.device | None) -> Callable[[Any], Any]:
    """`build` around torch tensors on `device`, whatever kind it is given."""
    return lambda outputs: build([as_tensor(x).to(device) for x in outputs])


def signature(leaf: Any) -> Hashable:
    """What of a tensor decides which engine runs it: shape, dtype, device, and whether it is channels-last."""
    if isinstance(leaf, torch.Tensor):
        if leaf.is_nested:
            as_tensor(leaf)  # which refuses it
        last = leaf.dim() in (4, 5) and not leaf.is_contiguous() and leaf.is_contiguous(memory_format=_LAST[leaf.dim()])
        return leaf.shape, leaf.dtype, leaf.device, last
    if isinstance(leaf, np.ndarray):
        return leaf.shape, leaf.dtype.str if leaf.dtype.kind != "V" else leaf.dtype.name, "numpy"
    tensor = as_tensor(leaf)
    return type(leaf), tensor.shape, tensor.dtype, tensor.device


_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class ByInstance:
    """Engines of instances, each its own, however they compare. They hold no reference to it, so that it can go."""

    def __init__(self, prototype: Specialisations):
        self.prototype = prototype
        self._table: dict[int, tuple[weakref.ref[Any], Specialisations]] = {}

    def of(self, instance: Any) -> Specialisations:
        """Raises OptionError for an instance that nothing can refer to weakly."""
        key = id(instance)
        found = self._table.get(key)
        if found is None:
            try:
                gone = weakref.ref(instance, lambda _: self._table.pop(key, None))
            except TypeError:
                raise OptionError(
                    f"a jitted method keeps engines for each instance, which a {type(instance).__name__} has no room "
                    "for: add '__weakref__' to its __slots__, or decorate a function"
                ) from None
            found = self._table.setdefault(key, (gone, Specialisations(self.prototype.request, self.prototype.limit)))
        return found[1]

    def clear(self) -> None:
        """Forget all engines."""
        for _, engines in list(self._table.values()):
            engines.clear()

    def __reduce__(self) -> Any:
        return ByInstance, (self.prototype,)


class Jitted:
    """A function that runs compiled. Attributes are those of the original.

    `specialisations` are its engines (`len(f.specialisations)`, `f.specialisations.engines`); `clear()` forgets them.
    In a class body it makes a method, with engines of its own for each instance.
    """

    def __init__(self, function: Callable[..., Any], request: Request, limit: int):
        self.original = function
        self.specialisations = Specialisations(request, limit)
        self._instances = ByInstance(self.specialisations)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.specialisations.call(self.original, self.original, args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or isinstance(self.original, staticmethod):
            return self
        return _BoundJitted(types.MethodType(self.original, instance), self._instances.of(instance))

    def __getattr__(self, name: str) -> Any:
        if name in ("original", "specialisations", "_instances"):  # not set yet: being copied or unpickled
            raise AttributeError(name)
        return getattr(self.original, name)

    def __reduce__(self) -> Any:
        """By its name where it stands in for the original there, as functions are; else anew, without engines."""
        path = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(getattr(self, "__module__", ""))
        for part in path.split("."):
            found = inspect.getattr_static(found, part, None)
        return (
            path
            if found is self
            else (Jitted, (self.original, self.specialisations.request, self.specialisations.limit))
        )

    def clear(self) -> None:
        """Forget all engines; the next call builds anew, with the weights of then."""
        self.specialisations.clear()
        self._instances.clear()

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
