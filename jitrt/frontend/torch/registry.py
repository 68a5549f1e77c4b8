"""Which function imports which aten operator.

An importer is a function `(ctx, *args, **kwargs)` called with the operator's own arguments, in which every tensor is a
graph Value. It adds nodes through `ctx` and returns the Value of the result (a tuple for several, None for none). A
new one is a decorated function in any module of `jitrt.frontend.torch.ops`; in-place variants need none of their own.

>>> @register("aten.example.default")
... def example(ctx, x, negative_slope=0.01):
...     return ctx.add(LeakyRelu(negative_slope), x)
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

Importer = Callable[..., Any]
_Function = TypeVar("_Function", bound=Importer)
_IMPORTERS: dict[str, Importer] = {}


class Unsupported(Exception):
    """Raised by an importer that knows its operator but not with these arguments. The text says which."""


def register(*names: str) -> Callable[[_Function], _Function]:
    """Make the decorated function the importer of the named operators. Raises ValueError if a name is taken."""

    def decorate(function: _Function) -> _Function:
        for name in names:
            if name in _IMPORTERS:
                raise ValueError(f"{name} already has an importer: {_IMPORTERS[name]}")
            _IMPORTERS[name] = function
        return function

    return decorate


@cache
def importers() -> dict[str, Importer]:
    """All importers by operator name, from every module of `jitrt.frontend.torch.ops`."""
    from jitrt.frontend.torch import ops

    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")
    return _IMPORTERS


def importer_of(target: object) -> Importer | None:
    """The importer of an operator; for an in-place variant without one, its functional sibling's. None if unknown."""
    name = str(target)
    known = importers()
    if name in known or not writes_first_operand(target):
        return known.get(name) or _importer_of_plugin(name)
    namespace, operator, overload = name.split(".")
    return known.get(f"{namespace}.{operator.removesuffix('_')}.{overload}")


def _importer_of_plugin(target: str) -> Importer | None:
    """The importer of a plugin's operator, "namespace.name.default"; None if it is no plugin's."""
    from jitrt import plugins
    from jitrt.plugins.torch_op import bind

    plugin = plugins.lookup("::".join(target.split(".")[:2]))
    if plugin is None or not target.endswith(".default"):
        return None

    def import_plugin(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        operands, attributes = bind(plugin, args, kwargs)
        return ctx.add(plugin.op(**attributes), *operands)

    return import_plugin


def writes_first_operand(target: object) -> bool:
    """Whether an operator writes its result into its first operand, as `aten.relu_` does."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    alias = target._schema.arguments[0].alias_info if target._schema.arguments else None
    return alias is not None and alias.is_write
