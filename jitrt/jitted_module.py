"""Jitted modules: still modules, of the class they were."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any

import torch
from torch import nn

from jitrt.errors import OptionError
from jitrt.jitted import ByInstance, Specialisations
from jitrt.request import Request


def jit_class(kind: type, request: Request, limit: int) -> type:
    """Let every instance of a module class run compiled when called. The class itself is changed and returned, so that
    `super()`, pickling and isinstance work as before. Raises OptionError for a class that is no module."""
    if not issubclass(kind, nn.Module):
        raise OptionError(f"jitrt.jit on a class takes a subclass of torch.nn.Module; {kind.__name__} is none")
    original = kind.__call__
    instances = ByInstance(Specialisations(request, limit))

    @functools.wraps(original)
    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # which cannot read on
            return original(self, *args, **kwargs)
        return instances.of(self).call(self, types.MethodType(original, self), args, kwargs)

    kind.__call__ = __call__  # type: ignore[method-assign]
    return kind


def jit_module(original: nn.Module, request: Request, limit: int) -> Any:
    """The same module, which runs compiled when called: it shares all attributes with the original, is of its class,
    and may stand in its place in a larger one. What changes the weights through it, or through what it is part of,
    makes it forget its engines."""
    kind = type(original)
    jitted: Any = object.__new__(types.new_class(kind.__name__, (kind,), {}, _fill(kind)))
    for name, value in (("__dict__", vars(original)), ("original", original)):
        object.__setattr__(jitted, name, value)
    object.__setattr__(jitted, "specialisations", Specialisations(request, limit))
    return jitted


def _fill(kind: type) -> Any:
    """What the class of a jitted module has beside what `kind` has."""

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        return kind(*args, **kwargs)  # what the module makes of its own kind, such as a slice of a Sequential

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # which cannot read on
            return kind.__call__(self, *args, **kwargs)
        return self.specialisations.call(self, types.MethodType(kind.__call__, self), args, kwargs)

    def clear(self: Any) -> None:
        """Forget all engines; the next call builds anew, with the weights of then."""
        self.specialisations.clear()

    def clearing(name: str) -> Any:
        original = getattr(kind, name)

        @functools.wraps(original)
        def cleared(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            self.specialisations.clear()
            return result

        return cleared

    def __reduce__(self: Any) -> Any:
        return jit_module, (self.original, self.specialisations.request, self.specialisations.limit)

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        made, arguments = self.__reduce__()
        return made(*copy.deepcopy(arguments, memo))

    def __repr__(self: Any) -> str:
        return f"jitrt.jit({kind.__qualname__}) with {len(self.specialisations)} specialisation(s)"

    def fill(body: dict[str, Any]) -> None:
        body.update({f.__name__: f for f in (__new__, __call__, clear, __reduce__, __deepcopy__, __repr__)})
        body.update({name: clearing(name) for name in _CHANGE_WEIGHTS})
        body.update({"__slots__": ("original", "specialisations"), "__module__": kind.__module__})
        body.update({"__qualname__": kind.__qualname__, "__doc__": kind.__doc__})

    return fill


# Through these go `to`, `half`, `cuda` and so on, and what a parent's do to its children.
_CHANGE_WEIGHTS = ("_apply", "apply", "load_state_dict", "_load_from_state_dict")
