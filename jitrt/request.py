"""What a user may ask of a build, checked before anything is traced; and the build itself."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_args

from jitrt.errors import InputError, JitrtWarning, OptionError, TargetError

if TYPE_CHECKING:
    from jitrt.compiler import Options
    from jitrt.frontend.tree import Tree
    from jitrt.graph import Graph
    from jitrt.hybrid import HybridEngine, Step
    from jitrt.reference import ReferenceEngine
    from jitrt.runtime import Engine


PARALLEL = "parallel"


def optional() -> list[str]:
    """What `without` can name."""
    from jitrt.passes.pipeline import rule_names

    return [*rule_names(), PARALLEL]


def left_out(names: Sequence[str]) -> tuple[str, ...]:
    """The optimisations that `without` names, in full. Raises OptionError for a name of none, or of several."""
    return tuple(map(_in_full, names))


def _in_full(name: str) -> str:
    there = optional()
    found = [name] if name in there else [full for full in there if full.endswith(f"_{name}")]
    if len(found) != 1:
        raise OptionError(f"without names {name!r}; what can be left out is {', '.join(found or there)}")
    return found[0]


@dataclass(frozen=True)
class Request:
    """The keyword arguments of `jitrt.compile`; `jitrt.jit` and torch.compile's options are the same.

    precision        "fp32" (IEEE), "tf32", "fp16" or "bf16": what float32 is computed in.
    target           None: the GPU here; "reference": numpy; "sm_90", or a list: architectures to cross-build for (the
                     plan file holds a plan each, the one that fits is run).
    tune             the time a build may take ("60s", "2m"), import included, and up to 15 s more to verify what it
                     uses; a kernel that even then was not is the likeliest one, and reported. Or "heuristic" (no
                     measuring), or "exhaustive".
    calibration      for 8-bit integers, which this version does not have: None.
    dynamic_shapes   a plan has one shape in this version: None.
    outputs          names of results to compute ("logits"; "0" in a tuple), or of values of the graph; None: all the
                     model returns. What only the others need is dropped, see `frontend.outputs`.
    strict           nothing may fall back: without a GPU a jitted function raises instead of running the original,
                     torch.compile's backend refuses models with unsupported operators, and of an ONNX model no step may
                     run on the host.
    workspace_limit  bytes of scratch memory one kernel may use; None: no limit.
    cache            whether to read and write plans and timings on disk.
    without          optimisations to leave out, to see what they gain: "fuse_horizontal" (or "horizontal", the end of
                     one name only) and the other rules of `jitrt.passes.pipeline.RULES` or your own, or "parallel" for
                     branches side by side.

    Raises OptionError for a value it cannot have, TargetError for an architecture jitrt does not build for.
    """

    precision: str = "fp32"
    target: str | Sequence[str] | None = None
    tune: str = "60s"
    calibration: object = None
    dynamic_shapes: object = None
    outputs: Sequence[str] | None = None
    strict: bool = False
    workspace_limit: int | None = None
    cache: bool = True
    without: Sequence[str] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any], *, also: Sequence[str] = ()) -> Request:
        """A request from loose options. Raises OptionError naming an unknown one; `also` lists further known names."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, [*known, *also], n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join([*known, *also])}"
                raise OptionError(f"unknown option {name!r}; {hint}")
        return cls(**options)

    @property
    def is_reference(self) -> bool:
        """Whether to run in numpy."""
        return self.target == "reference"

    @property
    def options(self) -> Options:
        """The part of the request that the compiler needs, beside the target."""
        from jitrt.compiler import Options

        return Options(
            precision=self.precision,
            tune=self.tune,
            outputs=None if self.outputs is None else tuple(self.outputs),
            workspace_limit=self.workspace_limit,
            cache=self.cache,
            parallel=PARALLEL not in left_out(self.without),
            without=tuple(name for name in left_out(self.without) if name != PARALLEL),
        )

    def selecting(self, graph: Graph, returned: Tree | None) -> tuple[Request, object]:
        """The same request for values of `graph`, and the structure of what it then returns; `returned` is how the
        model's result nests around the graph's outputs. Raises OptionError for an output that is not there."""
        if self.outputs is None:
            return self, None if returned is None else returned.structure
        from jitrt.frontend.outputs import select_outputs

        names, structure = select_outputs(graph, self.outputs, returned)
        return replace(self, outputs=names), structure

    def engine(
        self, graph: Graph, structure: object = None, *, fallback: bool = False, began: float | None = None
    ) -> Engine | ReferenceEngine | HybridEngine:
        """The engine of a graph on the target asked for; `structure` as in a plan.

        With `fallback`, and for graphs that were imported with steps on the host, what has no kernel runs there, after
        a JitrtWarning; if `strict`, that is a FallbackError instead. The time in `tune` runs from `began`
        (`time.monotonic()`), by default from now. Raises what the build raises.
        """
        from jitrt import compiler
        from jitrt.hybrid import build_with_fallback, imported_steps

        if fallback or imported_steps(graph):
            options, target = self.options, self.target
            engine = build_with_fallback(
                graph, options, target=target, structure=structure, strict=self.strict, began=began
            )
            _warn(steps_on_host(graph, engine), stacklevel=3)
            return engine
        if self.is_reference:
            from jitrt.reference import ReferenceEngine

            return ReferenceEngine(compiler.optimize_for_reference(graph, self.options).graph, structure)
        _refuse_empty(graph)
        return compiler.build(graph, self.options, target=self.target, structure=structure, began=began)

    def __post_init__(self) -> None:
        from jitrt.passes.base import Precision
        from jitrt.tune.budget import Budget

        if self.precision not in get_args(Precision):
            raise OptionError(f"precision is {self.precision!r}; it can be {', '.join(get_args(Precision))}")
        Budget.parse(self.tune)
        self._check_target()
        if self.calibration is not None:
            raise OptionError("calibration is given, but this version computes in no 8-bit type; leave it out")
        if self.dynamic_shapes is not None:
            raise OptionError(
                "dynamic_shapes is given, but a plan of this version has one shape; leave it out and compile an engine "
                "a shape (jitrt.jit does so by itself)"
            )
        if isinstance(self.outputs, str) or not all(isinstance(name, str) for name in self.outputs or ()):
            raise OptionError(f"outputs is {self.outputs!r}; give a sequence of names")
        if isinstance(self.without, str):
            raise OptionError(f"without is {self.without!r}; give a sequence of names")
        left_out(self.without)
        for name in ("strict", "cache"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} is {getattr(self, name)!r}; it can be True or False")
        limit = self.workspace_limit
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise OptionError(f"workspace_limit is {limit!r}; give a number of bytes, or None")

    def _check_target(self) -> None:
        from jitrt.codegen.target import target_of

        if self.target is None or self.is_reference:
            return
        names = [self.target] if isinstance(self.target, str) else list(self.target)
        if not names:
            raise TargetError("target is empty; name an architecture such as 'sm_90', 'reference', or leave it out")
        for name in names:
            target_of(name)


def steps_on_host(graph: Graph, engine: object) -> Sequence[Step]:
    """What of a graph runs on the host in its engine, although it was not meant to: in a reference engine, which runs
    nowhere else, what was imported so."""
    from jitrt.hybrid import HybridEngine, imported_steps, steps_of

    return engine.steps if isinstance(engine, HybridEngine) else steps_of(graph, imported_steps(graph))


def _warn(steps: Sequence[Step], stacklevel: int) -> None:
    if steps:
        kinds = dict.fromkeys(f"{step.operator} ({step.reason})" for step in steps)
        warnings.warn(
            f"{len(steps)} step(s) run on the host, in numpy: {'; '.join(kinds)}. engine.inspect() names them, "
            "engine.profile(...) costs them, strict=True forbids them.",
            JitrtWarning,
            stacklevel=stacklevel + 1,
        )


def _refuse_empty(graph: Graph) -> None:
    """Raise InputError if a tensor of the graph has no elements: there is nothing to launch a kernel for."""
    values = [*graph.inputs, *(value for node in graph.nodes for value in node.outputs)]
    for value in values:
        if 0 in value.type.shape:
            raise InputError(
                f"%{value.name} is empty (shape {value.type.shape}), and jitrt builds no kernels for that: skip the "
                "call for an empty batch, or use target='reference'"
            )
