"""Digests of source: what a kernel's numbers and times depend on beside its problem."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def digest(*parts: str) -> str:
    """SHA-256 of some texts, 32 hex digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def source_digest(*modules: str, within: tuple[str, ...]) -> str:
    """Digest of the files of `modules` and of every file they import, directly or not, from the packages `within`."""
    files: dict[str, bytes] = {}
    stack = list(modules)
    while stack:
        name = stack.pop()
        path = _path(name)
        if name in files or path is None:
            continue
        files[name] = path.read_bytes()
        stack += [found for found in _imports(files[name], _package(name, path)) if found.startswith(within)]
    return digest(*(f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)))


def _path(name: str) -> Path | None:
    """A module's source file; None if `name` is something inside a module."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return Path(loaded.__file__) if loaded.__file__ else None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _package(name: str, path: Path) -> tuple[str, ...]:
    """The parts of the name of the package that a module is in, or is."""
    parts = tuple(name.split("."))
    return parts if path.name == "__init__.py" else parts[:-1]


@cache  # most templates import the same files
def _imports(source: bytes, package: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_each_import(source, package))


def _each_import(source: bytes, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
