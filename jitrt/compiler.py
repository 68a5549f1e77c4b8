"""The pipeline on one screen: graph -> passes -> tactics -> plan -> engine.

Front ends end where this file begins (a plain graph); the runtime begins where it ends (a plan file). `optimize_graph`
is the half that needs no GPU and no Triton compilation; `build_plan` the half that does; `build` does both, or finds
the plan in the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from jitrt.errors import TargetError, TuningError
from jitrt.graph.graph import Graph
from jitrt.knobs import shipped_table
from jitrt.passes.base import Accepts, Judge, PassContext, Supports, any_operands, fewer_kernels, one_anchor
from jitrt.passes.pipeline import RULES, optimize
from jitrt.passes.report import Decision
from jitrt.planner import Optimized, Options, check_buildable, plan_of, problems_of, report_guesses
from jitrt.refine import Optimize, Refiner

_log = logging.getLogger("jitrt")

_SEARCH = 0.75  # of the time left, to tune problems alone; the rest is for the network as a whole

__all__ = ["Optimized", "Options", "build", "build_plan", "optimize_for_reference", "optimize_graph", "plan_of"]

if TYPE_CHECKING:
    from jitrt.codegen.target import Target
    from jitrt.plan.schema import PlanFile
    from jitrt.runtime import Engine
    from jitrt.tune.compile_pool import Compiler
    from jitrt.tune.progress import Progress
    from jitrt.tune.tuner import Tuner


def optimize_graph(
    graph: Graph,
    options: Options,
    *,
    accepts: Accepts | None = None,
    judge: Judge = fewer_kernels,
    target: Target | None = None,
) -> Optimized:
    """Run every pass. `accepts` defaults to the kernels jitrt has, for `target` or any; the reference target takes any
    region. `judge` says which optional rewrites are worth it."""
    supports: Supports = any_operands
    if accepts is None:
        from jitrt.kernels import base as kernels

        accepts, supports = kernels.accepts, partial(kernels.supports, target=target)
    context = PassContext(
        precision=options.precision,  # type: ignore[arg-type]
        accepts=accepts,
        supports=supports,
        judge=judge,
        outputs=options.outputs,
        without=options.without,
    )
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
    compiler: Compiler | None = None,
    began: float | None = None,
) -> Engine:
    """The engine of a graph for the GPU here (`target=None`) or an architecture ("sm_90"), from the cache if it was
    built before with the same graph, weights, options, code and device. Of several architectures the engine holds a
    plan each and runs the one that fits.

    Progress is shown on stderr unless `progress` takes it. What compiles kernels is `compiler`, by default processes of
    this build. The time in `options.tune` runs from `began` (`time.monotonic()`), by default from now. Raises
    NoGpuError or TargetError for a target that cannot be, OptionError, CompileError or TuningError.
    """
    from jitrt.judge import MeasuredJudge
    from jitrt.plan_cache import PlanCache, plan_key
    from jitrt.progress import TuningProgress
    from jitrt.runtime import Engine
    from jitrt.tune.tuner import Tuner

    if target is not None and not isinstance(target, str):
        names = list(dict.fromkeys(target))
        if not names:
            raise TargetError("target is empty; name an architecture such as 'sm_90', or leave it out")
        once = partial(build, graph, options, structure=structure, progress=progress, compiler=compiler, began=began)
        built = [once(target=name).file for name in names]
        return Engine(replace(built[0], others=tuple(built[1:])))
    chip, device, description = resolve(target)
    plans = PlanCache() if options.cache else None
    key = plan_key(graph, repr((options, structure, shipped_table())), chip, description) if plans else ""
    found = plans.get(key) if plans else None
    if found is not None:
        return Engine(found)
    with (
        TuningProgress(also=progress) as shown,
        Tuner(
            chip, device, mode=options.tune, cache=options.cache, progress=shown, compiler=compiler, began=began
        ) as tuner,
    ):
        if began is not None:
            tuner.lap("import")
        judge = MeasuredJudge(tuner, options) if tuner.measures else fewer_kernels
        file = _plan_of_graph(graph, tuner, options, judge, structure)
    if plans and not shown.interrupted and not tuner.guessed:
        plans.put(key, file)
    return Engine(file)


def _plan_of_graph(graph: Graph, tuner: Tuner, options: Options, judge: Judge, structure: object) -> PlanFile:
    """The plan of a graph. Should no candidate of some region survive, it is built once more without jitrt's rules,
    whose kernels are the newest: said in the log and in the plan's report."""
    optimize = partial(optimize_graph, graph, judge=judge, target=tuner.target)
    optimized = optimize(options)
    try:
        return build_plan(optimized, tuner, options, structure=structure, optimize=optimize)
    except TuningError as error:
        plain = replace(options, without=tuple(dict.fromkeys((*options.without, *(rule.name for rule in RULES)))))
        if plain == options:
            raise
        text = f"all rules are left out, since with them a region has no kernel: {str(error).splitlines()[0]}"
        _log.warning("%s", text)
        optimized = optimize(plain)
        optimized.report.add(Decision("rules", "the graph", "", False, text))
        return build_plan(optimized, tuner, plain, structure=structure)


def resolve(target: str | None) -> tuple[Target, int | None, str]:
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
    chip = target_of(target)
    return chip, None, str(chip)


def build_plan(
    optimized: Optimized,
    tuner: Tuner,
    options: Options,
    *,
    structure: object = None,
    optimize: Optimize | None = None,
) -> PlanFile:
    """Choose a tactic for every region, compile it and put the plan together.

    Where the tuner measures, what was chosen for the parts is then tried in the whole network (jitrt/refine.py);
    `optimize` makes the graph anew under other options. Raises CompileError listing every region that no template can
    run.
    """
    check_buildable(optimized.graph, tuner.target)
    tuner.lap("fusions")
    choices = tuner.select(problems_of(optimized.graph), share=_SEARCH)
    if tuner.guessed:
        report_guesses(optimized, choices)
    tuner.lap("kernels")
    refiner = Refiner(tuner, optimize, structure=structure)
    return refiner.refine(refiner.draft(optimized, choices, options)).file
