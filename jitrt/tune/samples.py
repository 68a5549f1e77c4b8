"""Past timings as the cost model sees them: a problem as a matrix product, and what each configuration of it took.

They are read from timing caches and never change them.
"""

from __future__ import annotations

import ast
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import CacheError, GraphError
from jitrt.graph.graph import Node
from jitrt.graph.text import parse
from jitrt.kernels import conv2d, conv_group, conv_pool
from jitrt.kernels.base import Config, Problem, Template
from jitrt.kernels.conv_shape import operands_of
from jitrt.kernels.gemm_cost import GemmShape

LEAST = 6  # timed configurations of a problem that say anything about their order

_PRODUCTS: Mapping[str, tuple[Template, Callable[[Problem], GemmShape]]] = {
    "conv2d": (conv2d.Conv2d(), conv2d.product_of),
    "conv_group": (conv_group.ConvGroup(), conv_group.product_of),
    "conv_pool": (conv_pool.ConvPool(), conv_pool.product_of),
}
_QUERY = (
    "SELECT text, device, template, config, microseconds, created FROM timings JOIN problems USING (problem)"
    f" WHERE microseconds IS NOT NULL AND template IN ({', '.join('?' * len(_PRODUCTS))}) ORDER BY created"
)
_MENDED = 1795354864  # 181e80f in Unix time, see `is_stale`
_HEAD = re.compile(r"weights=(\([^)]*\)) alignment=(\([^)]*\))\n")


@dataclass(frozen=True)
class Sample:
    """One problem of one template on one GPU: `microseconds[i]` is what `configs[i]` took."""

    template: str
    shape: GemmShape
    target: Target
    configs: tuple[Config, ...]
    microseconds: tuple[float, ...]


@dataclass(frozen=True)
class Samples:
    """What caches hold of one GPU, and how many problems were left out, by reason."""

    samples: tuple[Sample, ...]
    left_out: Mapping[str, int]


def read_samples(paths: Sequence[Path], device: str | None = None) -> Samples:
    """The timings of these cache files (`timings-v1.sqlite`) on the GPU of this name, which may be left out where there
    is only one. Of a configuration that was timed more than once the latest counts, whatever the driver, the toolchain
    and the state of the kernels were.

    Raises CacheError if a file is none, if there are timings of several GPUs or none of `device`, and if none of their
    problems will do.
    """
    found: dict[str, dict[tuple[str, str], dict[str, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    targets: dict[str, Target] = {}
    for path in paths:
        for text, device_text, template, config, microseconds, created in read_rows(path, _QUERY, tuple(_PRODUCTS)):
            facts = json.loads(device_text)
            name = facts["name"]
            if facts["arch"] in TARGETS:
                targets[name] = TARGETS[facts["arch"]].with_sms(facts["sms"], name)
                found[name][text, template][config] = microseconds, created
    if device is None and len(found) > 1:
        raise CacheError(f"there are timings of {', '.join(sorted(found))}: choose one by --device")
    name = device or next(iter(found), "")
    if name not in found:
        there = f"; there are some of {', '.join(sorted(found))}" if found else ""
        raise CacheError(f"no timings of convolutions{f' on {device!r}' if device else ''} in {_list(paths)}{there}")
    samples, left_out = [], Counter[str]()
    for (text, template), timings in found[name].items():
        few = len(timings) < LEAST
        oldest = min(created for _, created in timings.values())
        shape = f"have fewer than {LEAST} timings" if few else _product(text, template, oldest)
        if isinstance(shape, str):
            left_out[shape] += 1
            continue
        configs = tuple(dict(ast.literal_eval(config)) for config in timings)
        samples.append(Sample(template, shape, targets[name], configs, tuple(us for us, _ in timings.values())))
    if not samples:
        reasons = "; ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise CacheError(f"no problem in {_list(paths)} will do: {reasons}. Tune a model with a larger budget first")
    return Samples(tuple(samples), left_out)


def read_problem(text: str) -> Problem:
    """The problem whose `key` this is. Raises GraphError if it is none."""
    head = _HEAD.match(text)
    if head is None:
        raise GraphError(f"not the key of a problem: {text.splitlines()[0]!r}")
    return Problem(parse(text[head.end() :]), ast.literal_eval(head[1]), ast.literal_eval(head[2]))


def is_stale(problem: Problem, created: float) -> bool:
    """Whether a timing of then says nothing of today's kernels: x or w of a convolution has a spatial dimension of one
    element and an odd stride there, which hid from the compiler that channels lie 16 bytes at a time. Kernels know
    better since `conv_shape.steps`."""
    return created < _MENDED and any(_loaded_singly(problem, anchor) for anchor in problem.anchors)


def _product(text: str, template: str, oldest: float) -> GemmShape | str:
    """The matrix product that a problem is, or why its timings are of no use."""
    try:
        problem = read_problem(text)
    except GraphError:
        return "are written in words of another version"
    kind, product_of = _PRODUCTS[template]
    if kind.accepts(problem.body) is not None:
        return "are of no template any more"
    if is_stale(problem, oldest):
        return "have images of one pixel in strides that kernels once loaded element by element"
    return product_of(problem)


def _loaded_singly(problem: Problem, anchor: Node) -> bool:
    if not hasattr(anchor.op, "groups"):
        return False
    types = [problem.body.inputs[index].type for index in operands_of(problem, anchor)]
    ones = [any(n == 1 and s % 8 for n, s in zip(t.shape[2:], t.strides[2:], strict=True)) for t in types]
    return any(one and type.shape[1] % 8 == 0 for one, type in zip(ones, types, strict=True))


def read_rows(path: Path, query: str, parameters: Sequence[str] = ()) -> list[tuple[Any, ...]]:
    """What a query finds in a timing cache, which is not changed. Raises CacheError if the file is none."""
    if not path.is_file():
        raise CacheError(f"there is no timing cache {path}: tune a model first, or name the file of another")
    # Beside a file that nobody is writing, SQLite would make two more to lock it; they stay if the folder is read-only.
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise CacheError(f"{path} is no timing cache of this version: {error}") from error


def _list(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
