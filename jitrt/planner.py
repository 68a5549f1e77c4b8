"""From an optimised graph and a tactic for each of its regions to the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jitrt.errors import CompileError, OptionError, TuningError
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Region
from jitrt.passes.plan_memory import MemoryPlan, plan_memory
from jitrt.passes.report import Decision, Report

if TYPE_CHECKING:
    from jitrt.codegen.target import Target
    from jitrt.kernels.base import Lowered, Problem, Tactic
    from jitrt.plan.schema import PlanFile
    from jitrt.tune.select import Choice


@dataclass(frozen=True)
class Options:
    """What a caller may ask of a build; the same names as the arguments of `jitrt.compile`. With `parallel`,
    independent branches of the graph are independent in the CUDA graph. `without` names rules to leave out."""

    precision: str = "fp32"
    tune: str = "60s"
    outputs: tuple[str, ...] | None = None
    workspace_limit: int | None = None
    cache: bool = True
    parallel: bool = True
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Optimized:
    """A graph after all passes, what they decided, and the graph as it came."""

    source: Graph
    graph: Graph
    report: Report


def problems_of(graph: Graph) -> list[Problem]:
    """The problem of every region of an optimised graph, in order."""
    from jitrt.kernels.base import Problem

    return [Problem.of(node) for node in _regions(graph)]


def report_guesses(optimized: Optimized, choices: Sequence[Choice]) -> None:
    """Say which kernels nobody verified, for want of time."""
    for node, choice in zip(_regions(optimized.graph), choices, strict=True):
        if not choice.verified:
            text = f"{choice.tactic} is the likeliest, and was not verified: the time was over"
            optimized.report.add(Decision("verify", f"region %{node.output.name}", node.loc, False, text))


def plan_of(
    optimized: Optimized,
    choices: Sequence[Choice],
    target: Target,
    options: Options,
    *,
    structure: object = None,
    seconds: Mapping[str, float] | None = None,
) -> PlanFile:
    """The plan that runs every region by its choice, in order. `seconds` is what the build took, part by part."""
    from jitrt.assemble import Step, assemble

    regions, problems = _regions(optimized.graph), problems_of(optimized.graph)
    lowered = [choice.tactic.lower(problem, target) for choice, problem in zip(choices, problems, strict=True)]
    chosen = {n: (choice.tactic, low) for n, choice, low in zip(regions, choices, lowered, strict=True)}
    memory = plan_arena(optimized.graph, chosen, parallel=options.parallel)
    _check_workspace(chosen, options.workspace_limit)
    steps = [
        Step(node, problem, choice.tactic, low, choice.binaries, choice.microseconds, choice.source)
        for node, problem, choice, low in zip(regions, problems, choices, lowered, strict=True)
    ]
    return assemble(
        optimized.graph,
        steps,
        memory,
        arch=target.arch,
        structure=structure,
        notes=_notes(optimized, target, options, memory, choices, seconds or {}),
        parallel=options.parallel,
    )


def plan_arena(
    graph: Graph, chosen: Mapping[Node, tuple[Tactic, Lowered]], *, parallel: bool = Options.parallel
) -> MemoryPlan:
    """The arena of an optimised graph whose regions run as chosen; one that is left out needs no workspace and
    overwrites nothing."""
    from jitrt.kernels.base import Problem, templates
    from jitrt.kernels.in_place import in_place_offers

    workspace, offers = {}, {}
    for node, (tactic, lowered) in chosen.items():
        workspace[node.output.name] = lowered.workspace_bytes
        offers[node.output.name] = in_place_offers(node, Problem.of(node), templates()[tactic.template], lowered)
    return plan_memory(graph, workspace, parallel=parallel, in_place=offers)


def forecast(graph: Graph, target: Target) -> tuple[dict[Node, tuple[Tactic, Lowered]], dict[Node, str]]:
    """How a build for `target` that measures nothing would run each region: by its likeliest tactic. And the regions
    that have no kernel, with the reason."""
    from jitrt.kernels.base import Problem, templates
    from jitrt.tune.candidates import candidates_of

    known: dict[str, tuple[Tactic, Lowered] | str] = {}  # by the problem's key
    chosen, uncovered = {}, {}
    for node in _regions(graph):
        problem = Problem.of(node)
        if problem.key not in known:
            try:
                first = candidates_of(problem, target, templates(), 1)[0]
                known[problem.key] = first.tactic, first.lower(problem, target)
            except (TuningError, CompileError) as error:
                known[problem.key] = str(error)
        answer = known[problem.key]
        if isinstance(answer, str):
            uncovered[node] = answer
        else:
            chosen[node] = answer
    return chosen, uncovered


def check_buildable(graph: Graph, target: Target) -> None:
    """Raise CompileError for an input or output that has no elements, as no kernel can be launched for it, or listing
    every region that no template can run."""
    _check_filled(graph)
    _check_covered(problems_of(graph), [node.loc for node in _regions(graph)], target)


def _regions(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if isinstance(node.op, Region)]


def _check_filled(graph: Graph) -> None:
    """Raise CompileError for an input or output that has no elements: no kernel can be launched for it."""
    for what, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            if value.type.numel == 0:
                raise CompileError(
                    f"{what} %{value.name} is empty (shape {value.type.shape}), which a plan cannot hold: leave it "
                    "out, or use target='reference'"
                )


def why_no_kernel(problem: Problem, target: Target) -> str | None:
    """None if a template runs the problem on the target, else why none does."""
    from jitrt.kernels.base import accepts, templates

    fitting = [t for t in templates().values() if t.accepts(problem.body) is None]
    # The plainest templates have the least priority: they answer at once, and one that supports it is enough.
    if any(t.supports(problem, target) is None for t in reversed(fitting)):
        return None
    refusals = [t.supports(problem, target) for t in fitting]
    return next((r for r in refusals if r), None) or accepts(problem.body)


def _check_covered(problems: Sequence[Any], locations: Sequence[str], target: Target) -> None:
    lines = []
    for problem, location in zip(problems, locations, strict=True):
        reason = why_no_kernel(problem, target)
        if reason is None:
            continue
        ops = "+".join(node.op.name for node in problem.body.nodes)
        lines.append(f"  {ops} at {location or 'unknown location'}: {reason}")
    if lines:
        advice = "Compute them in another type, or use torch.compile(model, backend='jitrt'), which falls back."
        raise CompileError("\n".join([f"{len(lines)} region(s) have no kernel for {target}:", *lines, advice]))


def _check_workspace(chosen: Mapping[Node, tuple[Tactic, Lowered]], limit: int | None) -> None:
    if limit is None:
        return
    sizes = [(node.output.name, lowered.workspace_bytes) for node, (_, lowered) in chosen.items()]
    name, size = max(sizes, key=lambda item: item[1], default=("", 0))
    if size > limit:
        raise OptionError(f"%{name} needs a workspace of {size} bytes, above workspace_limit={limit}; raise the limit")


def _notes(
    optimized: Optimized,
    target: Target,
    options: Options,
    memory: MemoryPlan,
    choices: Sequence[Any],
    seconds: Mapping[str, float],
) -> dict[str, object]:
    from jitrt.codegen.compile import describe_toolchain

    return {
        "toolchain": dict(describe_toolchain()),
        "target": {"arch": target.arch, "name": target.name, "sms": target.sms},
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()},
        "decisions": optimized.report.to_json(),
        "memory": memory.to_json(),
        "tactics": {kind: _count(choices, kind) for kind in ("measured", "table")} | {"of": len(choices)},
        "seconds": {part: round(spent, 1) for part, spent in seconds.items()},
    }


def _count(choices: Sequence[Choice], kind: str) -> int:
    return sum(choice.source == kind for choice in choices)
