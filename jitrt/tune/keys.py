"""What a tuning result depends on, as text and digests: kernel source, toolchain, device, problem."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from jitrt.codegen.compile import describe_toolchain
from jitrt.codegen.target import Target
from jitrt.kernels.base import Problem, Template
from jitrt.runtime.seam import Device
from jitrt.tune.candidates import Candidate

_OURS = ("jitrt.kernels", "jitrt.codegen")
_ALWAYS = ("jitrt.kernels.base", "jitrt.codegen.compile")


def digest(*parts: str) -> str:
    """SHA-256 of some texts, 32 hex digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def source_of(template: Template) -> str:
    """Digest of a template's file and of every kernels and codegen file it imports, directly or not."""
    return _source_of(type(template).__module__)


@cache
def _source_of(module: str) -> str:
    files: dict[str, bytes] = {}
    stack = [module, *_ALWAYS]
    while stack:
        name = stack.pop()
        path = _path(name)
        if name in files or path is None:
            continue
        files[name] = path.read_bytes()
        stack += [found for found in _imports(files[name]) if found.startswith(_OURS)]
    return digest(*(f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)))


def _path(name: str) -> Path | None:
    """A module's source file; None if `name` is something inside a module."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return Path(loaded.__file__) if loaded.__file__ else None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _imports(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def toolchain(target: Target) -> str:
    """The versions a cubin for `target` comes from."""
    return _toolchain(blackwell=target.arch >= 100)


@cache
def _toolchain(*, blackwell: bool) -> str:
    import triton

    tool = triton.knobs.nvidia.ptxas_blackwell if blackwell else triton.knobs.nvidia.ptxas
    versions = {**describe_toolchain(), "ptxas": tool.version}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def device_text(device: Device) -> str:
    """Everything the driver says of a GPU but its number: timings are good for another one just like it."""
    facts = dataclasses.asdict(device)
    del facts["index"]
    return json.dumps(facts, sort_keys=True)


def kernel_key(problem: Problem, candidate: Candidate, target: Target) -> str:
    """Digest of all that decides a candidate's binaries."""
    tactic = candidate.tactic
    chip = repr(dataclasses.replace(target, name=""))
    source = source_of(candidate.template)
    return digest(problem.key, tactic.template, repr(tactic.config), source, chip, toolchain(target))
