"""What a tuning result depends on, as text and digests: kernel source, toolchain, device, problem."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

from jitrt.codegen.compile import describe_toolchain
from jitrt.codegen.digests import digest, source_digest
from jitrt.codegen.target import Target
from jitrt.kernels.base import Problem, Template
from jitrt.runtime.seam import Device
from jitrt.tune.candidates import Candidate

_OURS = ("jitrt.kernels", "jitrt.codegen", "jitrt.plugins")
_ALWAYS = ("jitrt.kernels.base", "jitrt.codegen.compile")


def source_of(template: Template) -> str:
    """Digest of a template's file and of every kernels and codegen file it imports, directly or not, and of what it was
    given from outside."""
    own = _source_of(type(template).__module__)
    return digest(own, template.source) if template.source else own


@cache
def _source_of(module: str) -> str:
    return source_digest(module, *_ALWAYS, within=_OURS)


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
