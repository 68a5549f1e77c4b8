"""The source of a definition with all it needs, as the text of a module of its own."""

from __future__ import annotations
import __future__

import ast
import builtins
import enum
import inspect
import linecache
import symtable
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Statement:
    """A statement at the top level of a file or a notebook's cell: its place, its text, the name it defines if any."""

    filename: str
    line: int
    text: str
    name: str


def statement_at(filename: str, line: int) -> Statement | None:
    """The top-level statement that `line` belongs to; None where there is no source."""
    lines = linecache.getlines(filename)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return None
    for node in tree.body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        end = node.end_lineno or start
        if start <= line <= end:
            return Statement(filename, start, "".join(lines[start - 1 : end]).rstrip("\n"), getattr(node, "name", ""))
    return None


def global_names(text: str) -> list[str]:
    """The names that source looks up outside itself, sorted; builtins included, what it defines itself too."""
    names: set[str] = set()
    tables = [symtable.symtable(text, "<source>", "exec")]
    while tables:
        table = tables.pop()
        for symbol in table.get_symbols():
            if symbol.is_global() or (table.get_type() == "module" and symbol.is_referenced()):
                names.add(symbol.get_name())
        tables += table.get_children()
    return sorted(names)


def gather(statement: Statement, namespace: dict[str, Any]) -> tuple[str, str]:
    """(the text of a module that does what `statement` does in `namespace`, "" or why it could not be had whole)."""
    gatherer = _Gatherer(namespace)
    language = sys.modules.get("triton.language")
    # The interpreter wants to see it next to every kernel, also next to one that does not use it.
    gatherer.imports |= {f"import triton.language as {name}" for name, value in namespace.items() if value is language}
    gatherer.statement(statement)
    head = ["from __future__ import annotations"] if namespace.get("annotations") is __future__.annotations else []
    return "\n".join([*head, *sorted(gatherer.imports), *gatherer.parts, ""]), "; ".join(gatherer.problems)


class _Gatherer:
    """What was found so far: import lines, and statements such that each comes after those it needs."""

    def __init__(self, namespace: dict[str, Any]):
        self.namespace = namespace
        self.imports: set[str] = set()
        self.parts: list[str] = []
        self.problems: list[str] = []
        self._seen: set[tuple[str, int]] = set()
        self._named: set[str] = set()

    def statement(self, statement: Statement) -> None:
        """Take in a statement, after what it needs."""
        if (statement.filename, statement.line) in self._seen:
            return
        self._seen.add((statement.filename, statement.line))
        self._named.add(statement.name)
        for name in global_names(statement.text):
            if name in self.namespace and name not in self._named:
                self._named.add(name)
                self._need(name, self.namespace[name])
        self.parts.append(statement.text)

    def _need(self, name: str, value: Any) -> None:
        if getattr(builtins, name, self) is value:
            return
        literal = _literal(value)
        if isinstance(value, types.ModuleType):
            self.imports.add(f"import {value.__name__} as {name}")
        elif literal is not None:
            line, modules = literal
            self.imports.update(f"import {module}" for module in modules)
            self.parts.append(f"{name} = {line}")
        elif (found := _imported(value)) is not None:
            module, attribute = found
            self.imports.add(f"from {module} import {attribute} as {name}")
        elif (statement := self._here(value)) is not None:
            self.statement(statement)
            own = getattr(value, "__name__", name)
            if own != name and own.isidentifier():
                self.parts.append(f"{name} = {own}")
        else:
            kind = type(value).__name__
            self.problems.append(f"it uses the global {name}, a {kind}, which cannot be sent; put both into a module")

    def _here(self, value: Any) -> Statement | None:
        """The statement that defines a function or a class, if it stands in this namespace."""
        place = _place(value)
        if place is None or getattr(value, "__module__", "__main__") != self.namespace.get("__name__", "__main__"):
            return None
        return statement_at(*place)


def _literal(value: Any) -> tuple[str, tuple[str, ...]] | None:
    """(an expression for a plain value, the modules it needs), or None."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return f"{kind.__module__}.{kind.__qualname__}.{value.name}", (kind.__module__,)
    if kind is float:
        return f"float({str(value)!r})", ()
    if kind.__name__ == "constexpr" and kind.__module__.startswith("triton"):
        inner = _literal(value.value)
        return None if inner is None else (f"triton.language.constexpr({inner[0]})", ("triton.language", *inner[1]))
    if kind.__name__ == "dtype" and kind.__module__ == "torch":
        return repr(value), ("torch",)
    try:
        plain = ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError, TypeError):
        plain = False
    return (repr(value), ()) if plain and kind.__module__ == "builtins" else None


def _imported(value: Any) -> tuple[str, str] | None:
    """(module, attribute) by which a function or class can be imported elsewhere, or None."""
    plain = getattr(value, "fn", value)  # what a @triton.jit function was made of
    module, name = getattr(plain, "__module__", None), getattr(plain, "__qualname__", getattr(plain, "__name__", ""))
    if not isinstance(module, str) or not str(name).isidentifier():
        return None
    loaded = sys.modules.get(module)
    if loaded is None or getattr(loaded, name, None) is not value:
        return None
    return (module, name) if importable(module, getattr(loaded, "__file__", None)) else None


def importable(module: str, filename: str | None) -> bool:
    """Whether a fresh interpreter with this one's `sys.path` would import this very file under that name."""
    if module == "__main__" or filename is None:
        return module in sys.builtin_module_names
    path, spec = None, None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return spec is not None and spec.origin is not None and Path(spec.origin) == Path(filename)


def _place(value: Any) -> tuple[str, int] | None:
    """(file, line) where a function or a class is defined."""
    plain = inspect.unwrap(getattr(value, "fn", value))
    if isinstance(plain, type):
        return next(_places(plain), None)
    code = getattr(plain, "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno)


def _places(kind: type) -> Iterator[tuple[str, int]]:
    """Where the methods of a class are defined, which is within its own statement."""
    for member in vars(kind).values():
        code = getattr(getattr(member, "fget", member), "__code__", None)
        if code is not None:
            yield code.co_filename, code.co_firstlineno
