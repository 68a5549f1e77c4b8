"""The pipeline on one screen: graph -> passes -> tactics -> plan -> engine.

Front ends end where this file begins (a plain graph); the runtime begins where it ends (a plan file). `optimize_graph`
is the half that needs no GPU and no Triton compilation; `build_plan` the half that does; `build` does both, or finds
the plan in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jitrt.errors import CompileError, OptionError, TargetError
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Region
from jitrt.passes.base import Accepts, PassContext, one_anchor
from jitrt.passes.pipeline import optimize
from jitrt.passes.plan_memory import MemoryPlan, plan_memory
from jitrt.passes.report import Report

if TYPE_CHECKING:
    from jitrt.codegen.target import Target
    from jitrt.kernels.base import Problem
    from jitrt.plan.schema import PlanFile
    from jitrt.runtime import Engine
    from jitrt.tune.progress import Progress
    from jitrt.tune.select import Choice


@dataclass(frozen=True)
class Options:
    """What a caller may ask of a build; the same names as the arguments of `jitrt.compile`. With `parallel`,
    independent branches of the graph are independent in the CUDA graph."""

    precision: str = "fp32"
    tune: str = "60s"
    outputs: tuple[str, ...] | None = None
    workspace_limit: int | None = None
    cache: bool = True
    parallel: bool = True


@dataclass(frozen=True)
class Optimized:
    """A graph after all passes, what they decided, and the graph as it came."""

    source: Graph
    graph: Graph
    report: Report


def optimize_graph(graph: Graph, options: Options, *, accepts: Accepts | None = None) -> Optimized:
    """Run every pass. `accepts` defaults to the kernels jitrt has; the reference target takes any region."""
    if accepts is None:
        from jitrt.kernels.base import accepts as kernels_accept

        accepts = kernels_accept
    context = PassContext(options.precision, accepts, options.outputs)  # type: ignore[arg-type]
    return Optimized(graph, optimize(graph, context), context.report)


def optimize_for_reference(graph: Graph, options: Options) -> Optimized:
    """Run every pass for the numpy target, which has a kernel for anything with one anchor."""
    return optimize_graph(graph, options, accepts=one_anchor)


def build(
    graph: Graph,
    options: Options,
    *,
    target: str | Sequence[str] | None = None,
    structure: object = None,
    progress: Progress | None = None,
) -> Engine:
    """The engine of a graph for the GPU here (`target=None`) or an architecture ("sm_90"), from the cache if it was
    built before with the same graph, weights, options, code and device.

    Progress is shown on stderr unless `progress` takes it. Raises NoGpuError or TargetError for a target that cannot
    be, OptionError, CompileError or TuningError.
    """
    from jitrt.plan_cache import PlanCache, plan_key
    from jitrt.progress import TuningProgress
    from jitrt.runtime import Engine

    chip, device, description = _resolve(target)
    plans = PlanCache() if options.cache else None
    key = plan_key(graph, repr((options, structure)), chip, description) if plans else ""
    found = plans.get(key) if plans else None
    if found is not None:
        return Engine(found)
    optimized = optimize_graph(graph, options)
    with TuningProgress(also=progress) as shown:
        file = build_plan(optimized, chip, options, structure=structure, device=device, progress=shown)
    if plans and not shown.interrupted:
        plans.put(key, file)
    return Engine(file)


def _resolve(target: str | Sequence[str] | None) -> tuple[Target, int | None, str]:
    """(chip, GPU to measure on or None, text that identifies the device) of a target."""
    from jitrt.codegen.target import TARGETS, target_of

    if target is None:
        from jitrt.runtime.driver import cuda_driver
        from jitrt.tune.keys import device_text

        device = cuda_driver().device
        if device.arch not in TARGETS:
            known = ", ".join(f"sm_{arch}" for arch in TARGETS)
            raise TargetError(f"{device.name} is sm_{device.arch}; jitrt builds for {known}")
        return TARGETS[device.arch].with_sms(device.sms, device.name), device.index, device_text(device)
    names = [target] if isinstance(target, str) else list(target)
    if len(names) != 1:
        raise TargetError(f"a plan holds one architecture, not {', '.join(names) or 'none'}: build one plan for each")
    chip = target_of(names[0])
    return chip, None, str(chip)


def build_plan(
    optimized: Optimized,
    target: Target,
    options: Options,
    *,
    structure: object = None,
    device: int | None = None,
    progress: Progress | None = None,
) -> PlanFile:
    """Choose a tactic for every region, compile it and put the plan together.

    With a `device` the candidates are measured there; without one the cost model decides. Raises CompileError listing
    every region that no template can run.
    """
    from jitrt.tune.select import select

    started = time.perf_counter()
    _check_filled(optimized.graph)
    problems = problems_of(optimized.graph)
    _check_covered(problems, [node.loc for node in _regions(optimized.graph)], target)
    choices = select(problems, target, mode=options.tune, device=device, use_cache=options.cache, progress=progress)
    return plan_of(optimized, choices, target, options, structure=structure, started=started)


def problems_of(graph: Graph) -> list[Problem]:
    """The problem of every region of an optimised graph, in order."""
    from jitrt.kernels.base import Problem

    return [Problem.of(node) for node in _regions(graph)]


def plan_of(
    optimized: Optimized,
    choices: Sequence[Choice],
    target: Target,
    options: Options,
    *,
    structure: object = None,
    started: float | None = None,
) -> PlanFile:
    """The plan that runs every region by its choice, in order. `started` is when the build began."""
    from jitrt.assemble import Step, assemble

    regions, problems = _regions(optimized.graph), problems_of(optimized.graph)
    lowered = [choice.tactic.lower(problem, target) for choice, problem in zip(choices, problems, strict=True)]
    workspace = {node.output.name: low.workspace_bytes for node, low in zip(regions, lowered, strict=True)}
    memory = plan_memory(optimized.graph, workspace, parallel=options.parallel)
    _check_workspace(workspace, options.workspace_limit)
    steps = [
        Step(node, problem, choice.tactic, low, choice.binaries, choice.microseconds)
        for node, problem, choice, low in zip(regions, problems, choices, lowered, strict=True)
    ]
    seconds = 0.0 if started is None else time.perf_counter() - started
    return assemble(
        optimized.graph,
        steps,
        memory,
        arch=target.arch,
        structure=structure,
        notes=_notes(optimized, target, options, memory, choices, seconds),
        parallel=options.parallel,
    )


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


def _check_covered(problems: Sequence[Any], locations: Sequence[str], target: Target) -> None:
    from jitrt.kernels.base import accepts, templates

    lines = []
    for problem, location in zip(problems, locations, strict=True):
        fitting = [t for t in templates().values() if t.accepts(problem.body) is None]
        refusals = [t.supports(problem, target) for t in fitting]
        if fitting and None in refusals:
            continue
        reason = next((r for r in refusals if r), None) or accepts(problem.body)
        ops = "+".join(node.op.name for node in problem.body.nodes)
        lines.append(f"  {ops} at {location or 'unknown location'}: {reason}")
    if lines:
        raise CompileError(f"{len(lines)} region(s) have no kernel for {target}:\n" + "\n".join(lines))


def _check_workspace(workspace: dict[str, int], limit: int | None) -> None:
    if limit is None:
        return
    name, size = max(workspace.items(), key=lambda item: item[1], default=("", 0))
    if size > limit:
        raise OptionError(f"%{name} needs a workspace of {size} bytes, above workspace_limit={limit}; raise the limit")


def _notes(
    optimized: Optimized, target: Target, options: Options, memory: MemoryPlan, choices: Sequence[Any], seconds: float
) -> dict[str, object]:
    from jitrt.codegen.compile import describe_toolchain

    return {
        "toolchain": dict(describe_toolchain()),
        "target": {"arch": target.arch, "name": target.name, "sms": target.sms},
        "options": asdict(options),
        "decisions": optimized.report.to_json(),
        "memory": {
            "arena_bytes": memory.arena_bytes,
            "naive_bytes": memory.naive_bytes,
            "lower_bound_bytes": memory.lower_bound,
        },
        "tactics": {"measured": sum(c.source == "measured" for c in choices), "of": len(choices)},
        "build_seconds": round(seconds, 3),
    }
