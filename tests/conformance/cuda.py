"""ONNX's test suite through jitrt's kernels on the GPU here, many cases at a time.

    python -m tests.conformance.cuda --out results.jsonl [--workers 12] [--limit-s 240] [--build-only] [PATTERN]

Every result is a line of --out as soon as there is one: {"case", "status", "reason", "seconds"}; status is "pass",
"fallback" (right, with a step on the host) or "fail". What the reference target excludes is left out, unless --all is
given. Families take turns, so that a run cut short by --limit-s has seen most of them; --done leaves
out what an earlier file has. Two ways need no GPU: --build-only compiles for sm_90 and runs nothing, --interpret runs
every kernel in Triton's interpreter, which takes minutes, and seconds for some cases.

Kernels are the first guess of the cost model, compiled in the processes themselves, neither timed nor verified by the
tuner: the suite itself says whether they are right.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import onnx

from tests.conformance import fleet
from tests.conformance.reference import Expected
from tests.conformance.suite import Case, Outcome, cases, run

Mode = Literal["run", "build", "interpret"]

_NOT_INTERPRETED = {"recurrence_resident"}  # its programs wait for each other
_STICKY = re.compile(r"CUDA error (?!2\b)\d+")  # all but out of memory leave the context unusable


def _compiled(target: str) -> Any:
    """Builds a part in this process, from nobody's cache."""
    from jitrt import compiler
    from jitrt.tune.compile_pool import ThisProcess

    return lambda part, options, structure: compiler.build(
        part, options, target=target, structure=structure, compiler=ThisProcess()
    )


class _Interpreted:
    """What an engine must have for this, over a plan whose kernels run in the interpreter."""

    def __init__(self, planned: Any):
        self._planned = planned
        self.file = planned.file

    def __call__(self, *inputs: Any) -> Any:
        from jitrt.runtime.loaded import nester

        plan = self._planned.plan
        return nester(plan.structure, len(plan.outputs))(self._planned.run(inputs))

    def close(self) -> None:
        """Nothing to free."""


def _interpreted(part: Any, options: Any, structure: object) -> Any:
    from jitrt.errors import CompileError, TuningError
    from jitrt.testing.plan import plan_interpreted

    def first(candidates: Sequence[Any]) -> Any:
        return next((c for c in candidates if c.tactic.template not in _NOT_INTERPRETED), candidates[0])

    try:
        return _Interpreted(plan_interpreted(part, options, structure=structure, pick=first))
    except TuningError as error:
        raise CompileError(str(error)) from error


def execute_on(target: str, mode: Mode = "run") -> Any:
    """What runs a model for `suite.run` on an architecture."""
    from jitrt.hybrid import build_with_fallback
    from jitrt.integrations.onnx_backend import JitrtRep, listed
    from jitrt.request import Request

    build = _interpreted if mode == "interpret" else _compiled(target)

    def engine_of(graph: Any, request: Any) -> Any:
        return build_with_fallback(
            graph, request.options, target=target, structure=listed(graph), strict=request.strict, build=build
        )

    def execute(
        model: onnx.ModelProto, inputs: Sequence[Any], fallback: bool
    ) -> tuple[Sequence[Any] | None, Sequence[str]]:
        request = Request(target=target, tune="heuristic", cache=False, strict=not fallback)
        rep = JitrtRep(model, request, engine_of)
        try:
            if mode == "build":
                return None, [step.operator for step in rep.build_for(inputs)]
            outputs = rep.run(inputs)
            return outputs, [step.operator for step in rep.steps]
        finally:
            rep.close()

    return execute


def in_turns(found: Sequence[Case]) -> list[Case]:
    """The cases so that every operator has its first before any has its second."""
    families: dict[str, list[Case]] = {}
    for case in found:
        families.setdefault(case.operator, []).append(case)
    return [case for turn in zip_longest(*families.values()) for case in turn if case is not None]


def run_on_gpu(found: Sequence[Case], *, workers: int, limit: float, each: float = 40.0, mode: Mode = "run") -> Any:
    """(case, outcome, seconds) of every case, as they come, until `limit` seconds are over."""
    import triton  # noqa: F401 (once, for all processes)

    from jitrt.codegen.compile import use_cache_dir
    from jitrt.integrations import onnx_backend  # noqa: F401
    from jitrt.kernels.base import templates

    templates()
    target = "sm_90"
    executes: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="jitrt-conformance-") as folder:

        def setup() -> None:
            use_cache_dir(folder)
            name = target
            if mode == "run":
                from jitrt.runtime.driver import cuda_driver

                name = f"sm_{cuda_driver(0).device.arch}"
            executes.append(execute_on(name, mode))

        def one(index: int) -> Outcome:
            return run(found[index], executes[0])

        for result in fleet.run_all(
            one,
            range(len(found)),
            workers=workers,
            limit=limit,
            each=each,
            setup=setup,
            spoils=lambda outcome: bool(_STICKY.search(outcome.reason)),
        ):
            yield found[result.index], result.answer or Outcome("fail", result.died), result.seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.cuda", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="", help="part of the cases' names, a regular expression")
    parser.add_argument("--out", type=Path, required=True, help="the file of results, a JSON object a line")
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--limit-s", type=float, default=240.0, help="seconds after which the run ends")
    parser.add_argument("--case-s", type=float, default=40.0, help="seconds after which a case is given up")
    parser.add_argument("--done", type=Path, help="a file of results whose cases are left out")
    parser.add_argument("--all", action="store_true", help="also what the reference target does not pass")
    parser.add_argument("--build-only", action="store_true", help="compile for sm_90, run nothing")
    parser.add_argument("--interpret", action="store_true", help="run the kernels in Triton's interpreter")
    arguments = parser.parse_args()
    started = time.perf_counter()
    known = Expected.read()
    done = {json.loads(line)["case"] for line in arguments.done.read_text().splitlines()} if arguments.done else set()
    found = [case for case in cases() if re.search(arguments.pattern, case.name) and case.name not in done]
    if not arguments.all:
        found = [case for case in found if case.name not in known.excluded]
    counted: Counter[str] = Counter()
    print(f"{len(found)} cases, {time.perf_counter() - started:.1f} s to load", flush=True)
    with arguments.out.open("w") as out:
        for case, outcome, seconds in run_on_gpu(
            in_turns(found),
            workers=arguments.workers,
            limit=arguments.limit_s,
            each=arguments.case_s,
            mode="interpret" if arguments.interpret else "build" if arguments.build_only else "run",
        ):
            counted[outcome.status] += 1
            line = {"case": case.name, "status": outcome.status, "reason": outcome.reason, "seconds": round(seconds, 3)}
            out.write(json.dumps(line) + "\n")
            out.flush()
    reasons = Counter(
        (entry["status"], entry["reason"])
        for entry in map(json.loads, arguments.out.read_text().splitlines())
        if entry["status"] != "pass"
    )
    for (status, reason), count in reasons.most_common(60):
        print(f"{count:4d} {status}  {reason}")
    missing = len(found) - sum(counted.values())
    print(f"{dict(counted)}, {missing} not reached, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
