"""Check this machine: versions, GPU, compiler and cache folder; or, with MODEL, whether jitrt can run an ONNX model.

Of the machine it says what is missing and how to mend it; no GPU is not missing: everything up to the plan works
without one. Of a model it lists every operator that jitrt has no ops for, with the nodes, the reason, and whether a
build would run it on the host; the dims it leaves open; and inputs whose numbers decide what is built. That takes no
GPU and neither PyTorch nor Triton.

Exit status 1 if something is missing, or an operator is not supported.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from jitrt.cli.shapes import SHAPES_HELP, named_shapes
from jitrt.cli.terminal import console, line, size, table
from jitrt.errors import JitrtError, NoGpuError, OptionError
from jitrt.knobs import cache_dir, knobs

EXAMPLES = """examples:
  jitrt doctor
  jitrt doctor model.onnx
  jitrt doctor model.onnx --shapes x:8x3x224x224,mask:8x77
  jitrt doctor model.onnx --json | jq .unsupported
  jitrt doctor model.onnx --kernels
"""

LOW_DISK = 1_000_000_000  # bytes: a plan of VGG-19 in fp32 takes 0.6 GB


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `fix` says what to do unless the state is ok."""

    subject: str
    state: Literal["ok", "note", "wrong"]
    text: str
    fix: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="an ONNX file to look at instead of the machine")
    parser.add_argument("--shapes", action="append", default=[], metavar="NAME:DIMS", help=SHAPES_HELP)
    parser.add_argument("--json", action="store_true", help="what was found of a model, for other programs")
    parser.add_argument(
        "--kernels", action="store_true", help="ask the kernels too which of a model they can run (loads Triton)"
    )


def run(args: argparse.Namespace) -> int:
    if args.model is not None:
        from jitrt.cli.model_doctor import look_at

        return look_at(args.model, named_shapes(args.shapes), as_json=args.json, kernels=args.kernels)
    if args.shapes or args.json or args.kernels:
        raise OptionError("--shapes, --json and --kernels are about a model; name an ONNX file")
    terminal = console()
    findings: list[Finding] = []
    for check in CHECKS:
        findings += check()
    rows = [(f.state, f.subject, f.text + (f"\n-> {f.fix}" if f.fix else "")) for f in findings]
    terminal.print(table(None, ("", "What", "Found"), rows))
    wrong = [f for f in findings if f.state == "wrong"]
    terminal.print(line(f"{len(wrong)} thing(s) to mend" if wrong else "all that jitrt needs is here"))
    return 1 if wrong else 0


def python() -> Iterator[Finding]:
    """The interpreter itself."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Iterator[Finding]:
    """Every package that jitrt's own metadata requires, at a version it allows."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        needed = [r for r in requires("jitrt") or [] if "extra ==" not in r]
    except PackageNotFoundError:
        yield Finding("jitrt", "wrong", "not installed", "pip install -c constraints.txt -e .")
        return
    for requirement in needed:
        name, bounds = parse_requirement(requirement)
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "wrong", "not installed", f"pip install -c constraints.txt {name}")
            continue
        if satisfies(found, bounds):
            yield Finding(name, "ok", found)
        else:
            wanted = ",".join(f"{sign}{bound}" for sign, bound in bounds)
            yield Finding(name, "wrong", f"{found}, jitrt needs {wanted}", f"pip install '{name}{wanted}'")


def gpu() -> Iterator[Finding]:
    """The GPU as the driver sees it, and whether torch sees it too."""
    import torch

    from jitrt.codegen.target import TARGETS
    from jitrt.runtime.driver import cuda_driver

    try:
        device = cuda_driver().device
    except NoGpuError as error:
        yield Finding("GPU", "note", str(error), "to build for one without having one: jitrt build --target sm_90")
        return
    except JitrtError as error:
        yield Finding("GPU", "wrong", str(error), "see that nvidia-smi works; reinstall the driver if it does not")
        return
    cuda = f"CUDA {device.driver_version // 1000}.{device.driver_version % 1000 // 10}"
    text = f"{device.name}, sm_{device.arch}, {size(device.memory_bytes)}, driver for {cuda}"
    if any(device.arch // 10 == arch // 10 and device.arch >= arch for arch in TARGETS):
        yield Finding("GPU", "ok", text)
    else:
        built = ", ".join(f"sm_{arch}" for arch in TARGETS)
        yield Finding("GPU", "wrong", text, f"jitrt builds for {built} and what runs their code; use such a GPU")
    if not torch.cuda.is_available():
        yield Finding("torch", "note", "this torch sees no GPU", "install a CUDA build to compile tensors on the GPU")


def compiler() -> Iterator[Finding]:
    """Whether Triton and ptxas make a cubin here. Needs no GPU."""
    from jitrt.codegen.compile import compile_call, use_cache_dir
    from jitrt.codegen.target import target_of
    from jitrt.graph import Graph, TensorType, f32
    from jitrt.graph.ops import Relu
    from jitrt.kernels.base import Problem, templates

    body = Graph("region")
    body.mark_output(body.add(Relu(), body.add_input("x", TensorType(f32, (64, 64)))))
    problem, target = Problem(body, (False,), (16, 16)), target_of("sm_90")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        use_cache_dir(folder)
        try:
            template = templates()["pointwise"]
            call = template.lower(problem, template.candidates(problem, target)[0], target).calls[0]
            binary = compile_call(call, problem, target)
        except JitrtError as error:
            fix = "pip install --force-reinstall triton==3.7.1; TRITON_PTXAS_PATH must be unset or name a ptxas"
            yield Finding("Triton compiler", "wrong", str(error), fix)
            return
    took = time.perf_counter() - start
    yield Finding("Triton compiler", "ok", f"made a cubin for {target} ({len(binary.cubin)} bytes) in {took:.1f} s")


def cache() -> Iterator[Finding]:
    """Whether the cache folder can be written, and has room."""
    folder = cache_dir()
    fix = "make it writable, or set JITRT_CACHE_DIR to a folder that is"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"jitrt")
    except OSError as error:
        yield Finding("cache folder", "wrong", f"{folder}: {error.strerror}", fix)
        return
    free = shutil.disk_usage(folder).free
    state: Literal["ok", "note"] = "ok" if free > LOW_DISK else "note"
    yield Finding("cache folder", state, f"{folder}, {size(free)} free", "" if state == "ok" else "free some space")


def environment() -> Iterator[Finding]:
    """Whether jitrt's environment variables have values it can use."""
    try:
        found = knobs()
    except JitrtError as error:
        yield Finding("environment", "wrong", str(error), "mend or unset the variable")
        return
    yield Finding("environment", "ok", f"log {found.log}, {found.compile_workers} compile workers")


CHECKS: Sequence[Callable[[], Iterator[Finding]]] = (python, packages, gpu, compiler, cache, environment)

_Bounds = list[tuple[str, str]]


def parse_requirement(text: str) -> tuple[str, _Bounds]:
    """("torch", [(">=", "2.11"), ("<", "2.16")]) of "torch<2.16,>=2.11"."""
    match = re.match(r"[A-Za-z0-9._-]+", text)
    if match is None:
        raise ValueError(f"not a requirement: {text!r}")
    return match[0], re.findall(r"(>=|<=|==|<|>)\s*([0-9][0-9.]*)", text[match.end() :])


def satisfies(version: str, bounds: _Bounds) -> bool:
    """Whether a version lies within bounds; only the leading numbers count ("2.13.0+cpu" is 2.13.0)."""
    found = _numbers(version)
    tests = {">=": found.__ge__, "<=": found.__le__, "<": found.__lt__, ">": found.__gt__, "==": found.__eq__}
    return all(tests[sign](_numbers(bound)) for sign, bound in bounds)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    parts = tuple(int(part) for part in match[0].split(".")) if match else ()
    return parts + (0,) * (4 - len(parts))
