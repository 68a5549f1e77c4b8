"""Check a template on a problem: its numbers in the interpreter, its resources in the compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np

from jitrt.codegen.compile import Binary, compile_call
from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.interpret import interpret
from jitrt.graph.op import Array
from jitrt.graph.rebuild import rebuild
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, Problem, Tactic, Template
from jitrt.testing.interpreter import run_interpreted
from jitrt.tune.tolerance import disagreement
from jitrt.tune.verify import UNSTEADY, bound_of, is_steady

_EXTREMES = (np.nan, np.inf, -np.inf, 300.0, -300.0, 1e-7, 0.0, -0.0)


def make_problem(
    body: Graph,
    *,
    strides: Mapping[str, Sequence[int]] | None = None,
    weights: Sequence[str] = (),
    alignment: int | Sequence[int] = 16,
) -> Problem:
    """The problem of a hand-written body. `strides` gives inputs or the output, by name, other strides than row-major;
    `weights` names the inputs that are constants of the model; `alignment` is in bytes, an element's size at least."""
    given = strides or {}
    for value in (*body.inputs, *body.outputs):
        if value.name in given:
            value.type = value.type.with_layout(Layout(tuple(given[value.name])))
    values = (*body.inputs, *body.outputs)
    wanted = [alignment] * len(values) if isinstance(alignment, int) else alignment
    aligned = tuple(max(a, v.type.dtype.itemsize) for a, v in zip(wanted, values, strict=True))
    return Problem(body, tuple(v.name in weights for v in body.inputs), aligned)


def random_operands(problem: Problem, *, seed: int = 0, extreme: bool = False) -> list[Array]:
    """An array for every operand: normal floats, small integers, coin tosses. With `extreme` every tenth float is NaN,
    an infinity, large, tiny or a zero of either sign."""
    rng = np.random.default_rng(seed)
    return [_random(v.type, rng, extreme) for v in problem.body.inputs]


def _random(type: TensorType, rng: np.random.Generator, extreme: bool) -> Array:
    # A dimension of stride 0 repeats one element.
    shape = tuple(1 if stride == 0 else size for size, stride in zip(type.shape, type.strides, strict=True))
    if type.dtype == DType.b8:
        data: Array = np.asarray(rng.integers(0, 2, shape)).astype(bool)
    elif not type.dtype.is_float:
        data = np.asarray(rng.integers(0 if type.dtype.is_unsigned else -9, 10, shape))
    else:
        data = np.asarray(rng.standard_normal(shape))
        if extreme and data.size:
            count = min(data.size, max(len(_EXTREMES), data.size // 10))
            data.flat[rng.choice(data.size, count, replace=False)] = np.resize(_EXTREMES, count)
    return np.broadcast_to(data.astype(type.dtype.numpy), type.shape).copy()


def check_problem(
    problem: Problem,
    template: Template,
    configs: Sequence[Config] | None = None,
    *,
    target: Target = TARGETS[90],
    extremes: bool = True,
    seed: int = 0,
) -> None:
    """Run `configs` (the template's first candidate if None) in the interpreter and compare with the body run exactly
    in numpy: on random operands and, unless `extremes` is False or the template lets NaN spread, on operands full of
    NaN, infinities and zeros.

    Raises KernelError with the configuration and what is wrong, or with the reason if the template refuses.
    """
    reason = template.accepts(problem.body) or template.supports(problem, target)
    if reason is not None:
        raise KernelError(f"{template.name} refuses the problem: {reason}")
    if configs is None:
        configs = template.candidates(problem, target)[:1]
    extremes = extremes and not template.spreads_nonfinite(problem)
    for extreme in (False, True) if extremes else (False,):
        arrays = random_operands(problem, seed=seed, extreme=extreme)
        for config in configs:
            tactic = Tactic.make(template, config)
            got = run_interpreted(problem, tactic, arrays, target, template=template)
            wrong = disagrees(problem, arrays, got)
            if wrong is not None:
                raise KernelError(f"{tactic}{' on extreme operands' if extreme else ''}: {wrong}")


def disagrees(problem: Problem, arrays: Sequence[Array], got: Array) -> str | None:
    """None if `got` is what the problem's body makes of `arrays`, by the table in `jitrt.tune.tolerance`."""
    body, dtype = problem.body, problem.output.type.dtype
    (exact,) = interpret(body, arrays, exact=True)
    if not is_steady(body, arrays, exact):
        return UNSTEADY
    bound = bound_of(problem)
    if not dtype.is_float:
        return disagreement(got, exact, dtype, bound)
    # Infinities must be met exactly, except where float32 arithmetic overflows and float64 does not. Large terms that
    # cancel leave float32 with an error that no kernel can be blamed for.
    single = rebuild(body, type=lambda v: v.type.with_dtype(DType.f32) if v.type.dtype.is_float else v.type)
    with np.errstate(all="ignore"):
        rounded = interpret(single, arrays)[0].astype(np.float64)
        finite = np.isfinite(rounded) & np.isfinite(exact.astype(dtype.numpy).astype(np.float64))
        infinite = np.isinf(exact) & ~finite
        wide = got.astype(np.float64)
        slack = 4 * np.abs(rounded - exact)[finite].max(initial=0.0)
    if (wide != exact)[infinite].any():
        return f"finite numbers or the wrong infinity at {int((wide != exact)[infinite].sum())} elements"
    if not np.isnan(wide[np.isnan(exact)]).all():
        return "a number where the reference is NaN"
    return disagreement(np.where(finite, wide, 0.0), np.where(finite, exact, 0.0), dtype, bound, slack)


def compiles(
    problem: Problem,
    template: Template,
    config: Config | None = None,
    targets: Sequence[int] = (80, 90, 100),
    *,
    spills: int = 0,
) -> list[Binary]:
    """Compile every launch of a configuration (the first candidate if None) for each target; no GPU needed.

    Raises KernelError if one spills more than `spills` bytes a thread or asks for more shared memory than the target
    has, CompileError if Triton refuses it."""
    out = []
    for arch in targets:
        target = TARGETS[arch]
        chosen = config if config is not None else template.candidates(problem, target)[0]
        for call in template.lower(problem, chosen, target).calls:
            with _triton_cache():
                binary = compile_call(call, problem, target)
            what = f"{Tactic.make(template, chosen)} for {target}"
            if binary.spills > spills:
                raise KernelError(f"{what} spills {binary.spills} bytes a thread")
            if binary.shared_bytes > target.shared:
                needed = f"{binary.shared_bytes} bytes of shared memory"
                raise KernelError(f"{what} needs {needed}, there are {target.shared}")
            out.append(binary)
    return out


@contextmanager
def _triton_cache() -> Iterator[None]:
    """A scope in which Triton's cache is a folder of this process."""
    import triton

    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = _cache_folder().name
        yield


@cache
def _cache_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jitrt-testing-")
