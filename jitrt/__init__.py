"""jitrt: what TensorRT does in a closed library, in readable Python and Triton.

>>> import jitrt
>>> fast = jitrt.jit(model, precision="fp16")        # or @jitrt.jit on a function, a module or a module class
>>> engine = jitrt.compile(model, (x,)); engine.save("model.plan"); engine = jitrt.load("model.plan")

Importing jitrt loads neither torch nor triton: every name below is fetched when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "jit": "jitrt.api",
    "compile": "jitrt.api",
    "load": "jitrt.runtime",
    "verify": "jitrt.plan.verify",
    "explain": "jitrt.explain",
    "Engine": "jitrt.runtime",
    "Network": "jitrt.frontend.network",
    "errors": "jitrt.errors",
}

__all__ = ["Engine", "Network", "compile", "errors", "explain", "jit", "load", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jitrt' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    module = importlib.import_module(_HOME[name])
    value = module if module.__name__ == f"jitrt.{name}" and not hasattr(module, name) else getattr(module, name)
    globals()[name] = value  # also where importing a submodule of the same name has just set it
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
