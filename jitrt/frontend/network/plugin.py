"""Custom layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitrt.frontend.network.frame import Frame, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import Value

if TYPE_CHECKING:
    from jitrt.plugins import Plugin


@layer
def add_plugin(net: Frame, plugin: str | Plugin, *tensors: Tensor, name: str | None = None, **attributes: Any) -> Value:
    """A layer declared by `@jitrt.plugin("ns::name", ...)`, itself or its name; operands and attributes are its own.

    Raises PluginError for a name that is not declared or an attribute that it has not, ShapeError for operands that do
    not fit.
    """
    from jitrt.plugins import find

    found = find(plugin) if isinstance(plugin, str) else plugin
    net.call(found.name.split("::")[1])
    values = [net.value(tensor) for tensor in tensors]
    return net.builder.add(found.op(**attributes), *values)
