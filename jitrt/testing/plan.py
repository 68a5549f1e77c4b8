"""Run a whole plan on the CPU: every launch in Triton's interpreter, at the addresses the plan gives it.

>>> planned = plan_interpreted(graph, Options(precision="fp16"))       # doctest: +SKIP
>>> (y,) = planned.run([x])                                           # doctest: +SKIP

What is checked beside the numbers is listed in `jitrt.testing.machine`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt import compiler, planner
from jitrt.codegen.compile import Binary
from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.op import Array
from jitrt.graph.text import parse, to_text
from jitrt.kernels.base import (
    Argument,
    Lowered,
    Operand,
    Problem,
    Result,
    Tactic,
    Template,
    Workspace,
    Zeros,
    templates,
)
from jitrt.passes.base import Judge, fewer_kernels
from jitrt.plan.schema import Plan, PlanFile
from jitrt.plan.verify import check_plan
from jitrt.planner import Options
from jitrt.plugins.registry import Plugin
from jitrt.testing.interpreter import ask, needs_of
from jitrt.tune.candidates import Candidate, candidates_of
from jitrt.tune.select import Choice

_DEFAULT = Options()
Pick = Callable[[Sequence[Candidate]], Candidate]


@dataclass(frozen=True)
class Step:
    """A layer of the plan: its problem, and what it was lowered to."""

    problem: Problem
    lowered: Lowered

    def dtype_of(self, argument: Argument) -> DType:
        """The type of the elements an argument points at."""
        if isinstance(argument, Operand):
            value = self.problem.body.inputs[argument.index]
            pack = self.lowered.pack.get(argument.index)
            if pack is not None:
                return DType.of(pack(np.zeros(value.type.shape, value.type.dtype.numpy)).dtype)
            return value.type.dtype
        if isinstance(argument, Result):
            return self.problem.output.type.dtype
        if isinstance(argument, Workspace):
            return DType(argument.dtype)
        if isinstance(argument, Zeros):
            return DType.i32
        raise KernelError(f"the interpreter takes no {type(argument).__name__} argument")


@dataclass(frozen=True)
class LayerRequest:
    """One layer, in terms that a fresh process understands. `needs` define themselves there as they are unpickled."""

    needs: tuple[Plugin | Template, ...]
    body: str
    constants: Mapping[str, Array]
    weights: tuple[bool, ...]
    alignment: tuple[int, ...]
    template: str
    config: Mapping[str, Any]

    @classmethod
    def of(cls, problem: Problem, tactic: Tactic) -> LayerRequest:
        return cls(
            needs=needs_of(problem, templates()[tactic.template]),
            body=to_text(problem.body, locations=False),
            constants={v.digest: v.data for v in problem.body.constants.values() if v.data is not None},
            weights=problem.weights,
            alignment=problem.alignment,
            template=tactic.template,
            config=dict(tactic.config),
        )

    def step(self, target: Target) -> Step:
        problem = Problem(parse(self.body, self.constants), self.weights, self.alignment)
        return Step(problem, templates()[self.template].lower(problem, self.config, target))


@dataclass(frozen=True)
class PlanRequest:
    """One run of a plan. `order` is in which order to run its launches."""

    plan: Plan
    constants: bytes
    layers: tuple[LayerRequest, ...]
    inputs: tuple[Array, ...]
    order: tuple[int, ...]
    target: Target


@dataclass(frozen=True)
class Planned:
    """A plan whose kernels were not compiled, with what its layers run."""

    file: PlanFile
    layers: tuple[tuple[Problem, Tactic], ...]
    target: Target

    @property
    def plan(self) -> Plan:
        return self.file.plan

    def run(self, inputs: Sequence[Array], *, seed: int = 0) -> list[Array]:
        """The outputs, in the plan's order. The launches run in an order drawn from those that `after` allows.

        Raises KernelError for whatever is wrong with a launch beside its numbers.
        """
        layers = tuple(LayerRequest.of(problem, tactic) for problem, tactic in self.layers)
        arrays = tuple(np.asarray(array) for array in inputs)
        order = some_order(self.plan, seed)
        constants = bytes(self.file.constants)
        outputs: list[Array] = ask(PlanRequest(self.plan, constants, layers, arrays, order, self.target), "the plan")
        return outputs


def plan_interpreted(
    graph: Graph,
    options: Options = _DEFAULT,
    *,
    target: Target = TARGETS[90],
    structure: object = None,
    pick: Pick = lambda candidates: candidates[0],
    judge: Judge = fewer_kernels,
) -> Planned:
    """The plan of a graph with the tactics that `pick` chooses, the likeliest if it is left out, and the rewrites that
    `judge` is for; nothing is compiled.

    Raises what a build raises, and PlanError if the runtime would refuse the plan.
    """
    optimized = compiler.optimize_graph(graph, options, target=target, judge=judge)
    problems = planner.problems_of(optimized.graph)
    choices = []
    for number, problem in enumerate(problems):
        candidate = pick(candidates_of(problem, target, templates(), None))
        calls = candidate.lower(problem, target).calls
        binaries = tuple(_no_binary(f"{number}.{i}", call.num_warps) for i, call in enumerate(calls))
        choices.append(Choice(candidate.tactic, binaries, 0.0, "heuristic", (), ""))
    file = planner.plan_of(optimized, choices, target, options, structure=structure)
    check_plan(file)
    layers = tuple((problem, choice.tactic) for problem, choice in zip(problems, choices, strict=True))
    return Planned(file, layers, target)


def some_order(plan: Plan, seed: int) -> tuple[int, ...]:
    """An order of the launches that `after` allows, drawn at random; the same for the same seed."""
    rng = random.Random(seed)
    done: list[int] = []
    left = set(range(len(plan.launches)))
    while left:
        ready = sorted(i for i in left if left.isdisjoint(plan.launches[i].after))
        done.append(rng.choice(ready))
        left.discard(done[-1])
    return tuple(done)


def _no_binary(name: str, num_warps: int) -> Binary:
    return Binary(name.encode(), name, 0, num_warps, (1, 1, 1), 0, 0, 0)
