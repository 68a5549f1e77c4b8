"""What jitrt makes of a model, before anything is built: the graph before and after, every fusion, the memory plan.

Launches and memory are those of a build for an sm_90 that measures nothing: a tuner may choose otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitrt.graph.draw import draw_module, find_module, label
from jitrt.graph.graph import Graph
from jitrt.graph.layers import count_layers
from jitrt.graph.ops import Region
from jitrt.graph.types import TensorType
from jitrt.passes.plan_memory import MemoryPlan
from jitrt.passes.report import Report
from jitrt.runtime.report import Table, nbytes_text

if TYPE_CHECKING:
    from jitrt.compiler import Optimized


def explain(
    model: Any,
    inputs: Any = (),
    *,
    precision: str = "fp32",
    outputs: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> Explanation:
    """Trace `model` on example `inputs` and run all passes; nothing is compiled and no GPU is needed.

    The arguments are those of `jitrt.compile`. Raises ImportFailure, UnsupportedOpError or OptionError.

    >>> print(jitrt.explain(model, (x,)))                  # doctest: +SKIP
    >>> jitrt.explain(model, (x,)).after                   # doctest: +SKIP
    """
    from jitrt.api import import_model
    from jitrt.compiler import optimize_graph
    from jitrt.request import Request

    graph, returned = import_model(model, inputs, outputs)
    request, _ = Request(precision=precision, outputs=outputs, without=without).selecting(graph, returned)
    return Explanation.of(optimize_graph(graph, request.options))


@dataclass(frozen=True)
class Explanation:
    """`before` is the graph as imported, `after` the optimised one, `report` every decision the passes took, `memory`
    the plan of the arena, `launches` how many launches it takes. `uncovered` has the regions without a kernel, by the
    name of their result, and why; a build would fail. `listed` counts those whose tactic is from the shipped table."""

    before: Graph
    after: Graph
    report: Report
    memory: MemoryPlan
    launches: int
    uncovered: Mapping[str, str]
    listed: int = 0

    @classmethod
    def of(cls, optimized: Optimized) -> Explanation:
        from jitrt.codegen.target import TARGETS
        from jitrt.kernels.base import Problem
        from jitrt.planner import forecast, plan_arena
        from jitrt.tune.shipped import shipped

        chosen, uncovered = forecast(optimized.graph, TARGETS[90])
        advice = {node: shipped(90).advice(Problem.of(node), TARGETS[90]) for node in chosen}
        return cls(
            before=optimized.source,
            after=optimized.graph,
            report=optimized.report,
            memory=plan_arena(optimized.graph, chosen),
            launches=sum(len(lowered.calls) for _, lowered in chosen.values()),
            uncovered={node.output.name: reason for node, reason in uncovered.items()},
            listed=sum(tactic in advice[node].tactics for node, (tactic, _) in chosen.items()),
        )

    @property
    def layers(self) -> Counter[str]:
        """How many layers of each kind the model has, by the rule of `graph/layers.py`."""
        return count_layers(self.before)

    @property
    def kernels(self) -> Counter[str]:
        """How many kernels of each kind are left: "conv 3x3 + bias + relu" and so on."""
        return Counter(label(node) for node in self.after.nodes if isinstance(node.op, Region))

    def module(self, index: int = 0) -> tuple[str, str]:
        """The `index`-th group of parallel branches in text, before and after. Raises GraphError if there is none."""
        return draw_module(find_module(self.before, index)), draw_module(find_module(self.after, index))

    def count(self) -> str:
        """Layers before and kernels after, by kind."""
        lines = []
        before, after = self.layers, self.kernels
        title = f"{before.total()} layer{'' if before.total() == 1 else 's'} before"
        lines += [title, *(f"{count:6d} {kind}" for kind, count in before.most_common()), ""]
        title = f"{after.total()} kernel{'' if after.total() == 1 else 's'} after"
        title += f", {self.launches} launch{'' if self.launches == 1 else 'es'}"
        lines += [title, *(f"{count:6d} {kind}" for kind, count in after.most_common()), ""]
        if self.listed:
            lines += [f"{self.listed} of the kernels have their first tactic from the shipped table for sm_90", ""]
        lines += [f"no kernel for %{name}: {reason.splitlines()[0]}" for name, reason in self.uncovered.items()]
        return "\n".join(lines).rstrip()

    def __repr__(self) -> str:
        return "\n\n".join((self.count(), str(self.report), self._memory_text(), str(self.table)))

    def _memory_text(self) -> str:
        memory = self.memory
        lines = [
            f"activations: {nbytes_text(memory.arena_bytes)} in one arena, {nbytes_text(memory.naive_bytes)} if "
            f"each value had its own, {nbytes_text(memory.lower_bound)} live at once at the least",
            f"{len(memory.in_place.over)} results lie where an operand lay that died with them",
        ]
        reasons = Counter(memory.in_place.refused.values()).most_common()
        lines += [f"{count:6d} x not in place: {reason}" for reason, count in reasons]
        return "\n".join(lines)

    @property
    def table(self) -> Table:
        """The kernels in order: what each runs, what it makes, and the user's line."""
        regions = [node for node in self.after.nodes if isinstance(node.op, Region)]
        rows = tuple((n.output.name, label(n), _size(n.output.type), n.loc) for n in regions)
        return Table(("kernel", "what", "result", "from"), rows)

    def _repr_html_(self) -> str:
        title = f"<h4>{self.layers.total()} layers become {self.kernels.total()} kernels</h4>"
        return title + self.report._repr_html_() + self.after._repr_html_()


def _size(type: TensorType) -> str:
    return f"{type.dtype.value}[{','.join(map(str, type.shape))}]"
