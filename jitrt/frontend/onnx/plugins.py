"""ONNX operators that are plugins: `@jitrt.plugin(..., onnx=(domain, name))` is their importer.

A plugin that says it is an operator is that operator, whatever jitrt, the standard or the model's own functions make of
it. Attributes are those of the plugin, by name.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from typing import Any

from jitrt.errors import PluginError
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import Importer
from jitrt.graph.graph import Value


def plugin_importer(domain: str, name: str) -> Importer | None:
    """What imports an operator as a plugin; None if no plugin is it. Loads Triton only where there are plugins."""
    if "jitrt.plugins.registry" not in sys.modules and not _installed():
        return None
    from jitrt.plugins import find_onnx

    plugin = find_onnx(domain, name)
    if plugin is None:
        return None

    def importer(n: Call, *operands: Any) -> Value:
        if not all(isinstance(operand, Value) for operand in operands):
            n.refuse(f"plugin {plugin.name} takes {', '.join(plugin.operands)}; one of them is left out or no tensor")
        try:
            op = plugin.op(**n.attributes)
        except (PluginError, TypeError, ValueError) as error:
            n.refuse(f"plugin {plugin.name}: {error}")
        return n.add(op, *operands)

    return importer


@cache
def _installed() -> bool:
    """Whether an installed package brings plugins."""
    return bool(metadata.entry_points(group="jitrt.kernels"))
