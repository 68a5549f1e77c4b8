"""The plugins there are, by name, and installed packages that bring more."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jitrt.errors import PluginError
from jitrt.graph.op import OPS, Op
from jitrt.graph.types import TensorType
from jitrt.kernels.base import load_installed, offered, withdraw
from jitrt.passes.apply_rules import registered
from jitrt.plugins.definition import Definition, Place, portable


@dataclass(frozen=True, eq=False)
class Plugin:
    """A custom layer: what it is called, what it takes, and what it means.

    `operands` and `attributes` (with their defaults) are the parameters of `reference`, a function of torch tensors.
    `kernel` is what was decorated: a `@triton.jit` function or a Template class. `onnx` is (domain, name) of the ONNX
    operator that it is. Called with torch tensors it is `torch.ops.<namespace>.<name>`.
    """

    name: str
    operands: tuple[str, ...]
    attributes: Mapping[str, bool | int | float | str]
    reference: Callable[..., Any]
    shape: Callable[..., Any] | None
    dtype: Callable[..., Any] | str | None
    dtypes: tuple[str, ...]
    elementwise: bool
    row_major: bool
    flops: Callable[..., int] | None
    kernel: Any
    onnx: tuple[str, str]
    place: Place

    @property
    def definition(self) -> Definition:
        return self.place.definition

    def op(self, **attributes: Any) -> Op:
        """The op of a graph node that applies the plugin. Raises PluginError for attributes it does not have."""
        from jitrt.plugins.op import make_op

        return make_op(self, attributes)

    def result(self, types: Mapping[str, TensorType], attributes: Mapping[str, Any]) -> TensorType:
        """The type that operands of such types give."""
        from jitrt.plugins.op import result_type

        return result_type(self, types, attributes)

    def __call__(self, *tensors: Any, **attributes: Any) -> Any:
        from jitrt.plugins.torch_op import torch_op

        return torch_op(self)(*tensors, **attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (portable(self.name, self.definition), self.name)

    def __repr__(self) -> str:
        return f"Plugin({self.name!r})"


_PLUGINS: dict[str, Plugin] = {}


def add(plugin: Plugin) -> None:
    """Make a plugin known; it takes the place of one of the same name."""
    _PLUGINS[plugin.name] = plugin


def forget(name: str) -> None:
    """Undo a declaration."""
    _PLUGINS.pop(name, None)
    OPS.pop(name, None)
    withdraw(name)


def lookup(name: str) -> Plugin | None:
    """The plugin "namespace::name", from an installed package if need be; None if there is none."""
    if name not in _PLUGINS:
        load_installed()
    return _PLUGINS.get(name)


def find(name: str) -> Plugin:
    """The plugin "namespace::name". Raises PluginError, with the names there are, for an unknown one."""
    found = lookup(name)
    if found is None:
        close = difflib.get_close_matches(name, _PLUGINS, n=1)
        known = ", ".join(sorted(_PLUGINS)) or "none"
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {known}; import the module that defines it"
        raise PluginError(f"there is no plugin {name!r}; {hint}")
    return found


def find_onnx(domain: str, operator: str) -> Plugin | None:
    """The plugin for an ONNX operator, for the ONNX front end; None if there is none."""
    load_installed()
    return next((p for p in _PLUGINS.values() if p.onnx == (domain, operator)), None)


def names() -> list[str]:
    """Every plugin's name, those of installed packages included."""
    load_installed()
    return sorted(_PLUGINS)


def outside() -> str:
    """What from outside decides what a build is, beside the plugins that a graph names itself: offered kernels and
    rules, and all plugins where there are rules, which may bring them in."""
    rules = registered()
    parts = [(t.name, t.source) for t in offered().values() if t.name not in _PLUGINS]
    parts += [(rule.name, rule.source) for rule in rules]
    parts += [(p.name, p.definition.digest) for p in _PLUGINS.values() if rules]
    return repr(sorted(parts))


def restored(definition: Definition, name: str) -> Plugin:
    """The plugin that a definition makes: how one is unpickled. Raises PluginError if it makes none of that name."""
    known = _PLUGINS.get(name)
    if known is None or known.definition.digest != definition.digest:
        definition.load()
        known = _PLUGINS.get(name)
    if known is None or known.definition.digest != definition.digest:
        raise PluginError(
            f"importing {definition.module} does not define the plugin {name} as this process knows it; define it at "
            "the top level of that module, and start again if the file was edited meanwhile"
        )
    return known


def call(what: str, function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call a function that was declared with a plugin with those of `given` that it has parameters for. Raises
    PluginError, saying `what` it is, for a parameter that is not given, and for whatever it raises."""
    parameters = inspect.signature(function).parameters
    unknown = [p for p in parameters if p not in given and parameters[p].default is inspect.Parameter.empty]
    if unknown:
        raise PluginError(f"{what} takes {', '.join(unknown)}, but is offered {', '.join(given)}")
    try:
        return function(**{name: value for name, value in given.items() if name in parameters})
    except Exception as error:  # the user's function
        raise PluginError(f"{what} raises {type(error).__name__}: {error}") from error
