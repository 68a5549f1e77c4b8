"""Generated source as real functions: importable by `inspect`, so Triton can read and a person can look at them."""

from __future__ import annotations

import hashlib
import linecache
from functools import lru_cache
from typing import Any

_provided: dict[str, Any] = {}


def provide(name: str, function: Any) -> None:
    """Let generated source call a `@triton.jit` function from outside jitrt by a name that is its own."""
    _provided[name] = function


@lru_cache(maxsize=4096)
def function(source: str, name: str) -> Any:
    """The function `name` that `source` defines; the same object each time."""
    return define(source, name)


def define(source: str, name: str) -> Any:
    """Execute `source` (which decorates its functions itself) and return its global `name`.

    The text is kept in `linecache` under a name made of its digest, so `inspect.getsource`, tracebacks and Triton's own
    source reader find it, and equal sources are one file.
    """
    import triton
    import triton.language as tl

    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    filename = f"<jitrt generated {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {"__name__": f"jitrt_generated_{digest}", "triton": triton, "tl": tl}
    if "special." in source:
        from jitrt.codegen import special

        scope["special"] = special
    scope |= {name: function for name, function in _provided.items() if name in source}
    if "gluon" in source:
        from triton.experimental import gluon
        from triton.experimental.gluon import language as gl

        scope |= {"gluon": gluon, "gl": gl}
    exec(compile(source, filename, "exec"), scope)
    return scope[name]
