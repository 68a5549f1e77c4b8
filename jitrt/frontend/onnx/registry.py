"""Which function imports which ONNX operator, and from which version of its operator set on.

An importer is a function `(n, *operands)`: `n` is the node (`jitrt.frontend.onnx.node.Call`), through which it adds
to the graph and reads attributes; an operand is a graph Value, or None where the node leaves an optional one out. It
returns the node's result (a tuple of several). A new one is a decorated function in any module of
`jitrt.frontend.onnx.ops`; where an operator changed its meaning there is a function for each version that did.

>>> @onnx_op("Example", since=7)
... def example(n, x):
...     return n.add(LeakyRelu(n.attribute("alpha", 0.01)), x)
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

Importer = Callable[..., Any]
_Function = TypeVar("_Function", bound=Importer)
_IMPORTERS: dict[tuple[str, str], dict[int, Importer]] = {}  # by (domain, operator), then by version

MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"


class Unsupported(Exception):
    """Raised by an importer that knows its operator but not with these operands or attributes. The text says which."""


def onnx_op(*names: str, since: int = 1, domain: str = "") -> Callable[[_Function], _Function]:
    """Make the decorated function the importer of the named operators, from opset version `since` of `domain` on.

    Raises ValueError if another function is.
    """

    def decorate(function: _Function) -> _Function:
        for name in names:
            versions = _IMPORTERS.setdefault((domain, name), {})
            if since in versions:
                raise ValueError(f"{domain}::{name} since {since} already has an importer: {versions[since]}")
            versions[since] = function
        return function

    return decorate


@cache
def importers() -> dict[tuple[str, str], dict[int, Importer]]:
    """All importers, from every module of `jitrt.frontend.onnx.ops`."""
    from jitrt.frontend.onnx import ops

    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")
    return _IMPORTERS


def importer_of(domain: str, name: str, opset: int) -> Importer | None:
    """The importer of an operator in a model of `opset`; None if there is none for that version."""
    versions = importers().get((domain, name), {})
    fitting = [since for since in versions if since <= opset]
    return versions[max(fitting)] if fitting else None
