"""jitrt: what TensorRT does in a closed library, in readable Python and Triton.

    import jitrt

    fast = jitrt.jit(model, precision="fp16")        # or @jitrt.jit on a function, a module or a module class
    engine = jitrt.compile(model, (x,))              # or jitrt.compile("model.onnx", {"x": (8, 3, 224, 224)})
    engine.save("model.plan")
    engine = jitrt.load("model.plan")                # needs neither torch nor triton

Importing jitrt loads neither torch nor triton: every name is fetched when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> where it lives. No module may have the name of something here that is no module: importing it would hide that.
_HOMES = {
    "jit": ("jitrt.api", "jit"),
    "compile": ("jitrt.api", "compile"),
    "load": ("jitrt.runtime", "load"),
    "verify": ("jitrt.plan.verify", "verify_plan"),
    "explain": ("jitrt.explanation", "explain"),
    "plugin": ("jitrt.plugins", "plugin"),
    "kernel": ("jitrt.plugins", "kernel"),
    "fusion_rule": ("jitrt.plugins", "fusion_rule"),
    "plugins": ("jitrt.plugins", None),
    "onnx": ("jitrt.onnx", None),
    "Engine": ("jitrt.runtime", "Engine"),
    "Network": ("jitrt.frontend.network", "Network"),
    "errors": ("jitrt.errors", None),
}

__all__ = [
    "Engine",
    "Network",
    "compile",
    "errors",
    "explain",
    "fusion_rule",
    "jit",
    "kernel",
    "load",
    "onnx",
    "plugin",
    "plugins",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jitrt' has no attribute {name!r}")
    module_name, attribute = _HOMES[name]
    module = importlib.import_module(module_name)
    value = globals()[name] = module if attribute is None else getattr(module, attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
