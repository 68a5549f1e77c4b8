"""Where another process finds what was defined here.

Candidates are compiled and measured in fresh interpreters. What is defined in a module that they can import is imported
there by name. What is defined in a notebook, in a script or at a prompt has no such module: then the source itself is
sent, the statement that defines the thing with all it needs of its surroundings, imports and plain constants included.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import types
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jitrt.codegen.digests import digest, source_digest
from jitrt.errors import PluginError
from jitrt.plugins.source import gather, importable, statement_at

_OWN = "__jitrt_definition__"  # in the namespace of a module that was sent: what it was made of


@dataclass(frozen=True)
class Definition:
    """A module to import, or the `text` of one that does not exist elsewhere. `digest` is that of the source; `problem`
    says why there is no way to another process, if so."""

    module: str
    text: str
    digest: str
    problem: str = ""

    def load(self) -> None:
        """Define the same in this process. Raises PluginError if that fails."""
        try:
            if self.text:
                self._run()
            else:
                importlib.import_module(self.module)
        except Exception as error:  # whatever the user's code raises
            raise PluginError(
                f"what {self.module} defines cannot be defined in another process: {type(error).__name__}: {error}"
            ) from error

    def _run(self) -> None:
        name = f"jitrt_shipped_{self.digest}"
        filename = f"<{name}>"
        linecache.cache[filename] = (len(self.text), None, self.text.splitlines(keepends=True), filename)
        module = types.ModuleType(name)
        module.__dict__[_OWN] = self
        sys.modules[name] = module  # where `inspect` looks for source
        exec(compile(self.text, filename, "exec"), module.__dict__)


@dataclass
class Place:
    """Where in a running program something is defined: by a function, if `local`, or at the top level."""

    filename: str
    line: int
    namespace: dict[str, Any]
    local: bool

    @classmethod
    def above(cls, depth: int) -> Place:
        """The place `depth` calls above the caller."""
        frame = sys._getframe(depth + 1)
        return cls(frame.f_code.co_filename, frame.f_lineno, frame.f_globals, frame.f_locals is not frame.f_globals)

    @cached_property
    def definition(self) -> Definition:
        """The definition of what is defined here, as things stand when it is first asked for."""
        if _OWN in self.namespace:
            own: Definition = self.namespace[_OWN]
            return own
        module = str(self.namespace.get("__name__", "__main__"))
        if importable(module, self.filename):
            return Definition(module, "", source_digest(module, within=(module.split(".")[0],)))
        statement = statement_at(self.filename, self.line)
        if statement is None:
            problem = "its source cannot be found; define it in a file"
            return Definition(module, "", digest(self.filename, str(self.line)), problem)
        if self.local:
            problem = "it is defined inside a function; define it at the top level of a module, script or notebook"
            return Definition(module, "", digest(statement.text), problem)
        text, problem = gather(statement, self.namespace)
        return Definition(module, text, digest(text), problem)


def portable(name: str, definition: Definition) -> Definition:
    """The definition. Raises PluginError if no other process could load it."""
    if definition.problem:
        raise PluginError(f"{name} cannot be handed to the processes that compile and measure: {definition.problem}")
    return definition
