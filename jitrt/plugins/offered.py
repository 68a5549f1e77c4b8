"""A template from outside jitrt, as the tuner sees it: a stand-in that other processes can be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jitrt.codegen.target import Target
from jitrt.errors import PluginError
from jitrt.graph.graph import Graph
from jitrt.kernels.base import Config, Lowered, Problem, Template, anchor_of, templates
from jitrt.plugins.definition import Definition, Place, portable

if TYPE_CHECKING:
    from jitrt.plugins.registry import Plugin


class Offered(Template):
    """Hands everything on to `inner`, a template that was defined at `place`. With a `plugin` it is asked about regions
    anchored by that plugin's op and no others."""

    def __init__(self, inner: Template, place: Place, plugin: Plugin | None = None):
        self.inner, self.place, self.plugin = inner, place, plugin
        self.name = plugin.name if plugin else inner.name  # type: ignore[misc]
        self.priority, self.in_place = inner.priority, inner.in_place  # type: ignore[misc]

    @property
    def source(self) -> str:  # type: ignore[override]
        return self.place.definition.digest

    def accepts(self, body: Graph) -> str | None:
        if self.plugin is not None:
            anchor = anchor_of(body)
            if anchor is None or getattr(anchor.op, "plugin", None) is not self.plugin:
                return f"anchor is no {self.name}"
        return self.inner.accepts(body)

    def supports(self, problem: Problem, target: Target) -> str | None:
        return self.inner.supports(problem, target)

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return self.inner.spreads_nonfinite(problem)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return self.inner.candidates(problem, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        return self.inner.lower(problem, config, target)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (portable(self.name, self.place.definition), self.name)


def restored(definition: Definition, name: str) -> Template:
    """The template that a definition offers: how one is unpickled. Raises PluginError if it offers none so named."""
    known = templates().get(name)
    if getattr(known, "source", "") != definition.digest:
        definition.load()
        known = templates().get(name)
    if known is None or known.source != definition.digest:
        raise PluginError(
            f"importing {definition.module} does not offer the template {name} as this process knows it; define it at "
            "the top level of that module, and start again if the file was edited meanwhile"
        )
    return known
