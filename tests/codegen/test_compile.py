"""From a kernel call to a cubin, and what is read back from it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import triton
import triton.language as tl

from jitrt.codegen.compile import Binary, compile_call, cubin_resources, describe_toolchain, use_cache_dir
from jitrt.codegen.target import TARGETS
from jitrt.errors import CompileError
from jitrt.graph import Graph, TensorType, f16, f32
from jitrt.graph.ops import Add, Relu
from jitrt.kernels.base import KernelCall, Number, Operand, Problem, Result, Workspace, Zeros
from jitrt.kernels.pointwise import Pointwise
from jitrt.testing import compiles, make_problem


@triton.jit
def every_argument(y, aux, part, counters, size, big, factor, unused, SHAPE: tl.constexpr):
    i = tl.arange(0, 128)
    x = tl.load(aux[0] + i, mask=i < size, other=0.0) + tl.load(aux[1] + i + big)
    tl.atomic_add(counters, SHAPE[0])
    tl.store(part + i, x)
    tl.store(y + i, x * factor)


@triton.jit
def centred(y, x):
    i = tl.arange(0, 2048)
    value = tl.load(x + i)  # 64 numbers a thread, all needed until the end
    tl.store(y + i, value - tl.sum(value, 0))


ARGUMENTS = {
    "y": Result(),
    "aux": (Operand(0), Operand(1)),
    "part": Workspace(256),
    "counters": Zeros(),
    "size": Number(100),
    "big": Number(1 << 40, "i64"),
    "factor": Number(0.5, "f32"),
}
CONSTEXPRS = {"unused": None, "SHAPE": (3, 4)}


def problem(dtype=f32, alignment: int = 16) -> Problem:
    g = Graph()
    x, y = (g.add_input(n, TensorType(dtype, (4, 128))) for n in "xy")
    g.mark_output(g.add(Relu(), g.add(Add(), x, y)))
    return make_problem(g, alignment=alignment)


def cuobjdump(cubin: bytes, option: str, folder: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


def build(arch: int = 90) -> Binary:
    return compile_call(KernelCall(every_argument, ARGUMENTS, CONSTEXPRS, (1, 1, 1)), problem(), TARGETS[arch])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    """Triton's cache is this test's own, and afterwards what it was before."""
    with triton.knobs.cache.scope():
        use_cache_dir(str(tmp_path / "triton"))
        yield


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_every_kind_of_argument_compiles(arch: int, tmp_path: Path) -> None:
    binary = build(arch)
    assert binary.cubin[:4] == b"\x7fELF"
    assert (binary.entry, binary.num_warps, binary.cluster, binary.scratch_bytes) == ("every_argument", 4, (1, 1, 1), 0)
    assert re.search(f"sm[=_]{arch}", cuobjdump(binary.cubin, "-elf", tmp_path))


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("starved", [False, True])
def test_resources_are_those_cuobjdump_prints(starved: bool, arch: int, tmp_path: Path) -> None:
    options = {"maxnreg": 24} if starved else {}
    call = KernelCall(centred, {"y": Result(), "x": Operand(0)}, {}, (1, 1, 1), num_warps=1, options=options)
    binary = compile_call(call, problem(), TARGETS[arch])
    usage = cuobjdump(binary.cubin, "-res-usage", tmp_path)
    printed = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert printed is not None, usage
    assert cubin_resources(binary.cubin) == (binary.registers, binary.spills) == tuple(map(int, printed.groups()))
    assert (binary.spills > 0) == starved


def test_cubins_are_reproducible(tmp_path: Path) -> None:
    first = build()
    use_cache_dir(str(tmp_path / "second"))
    assert build() == first


def test_aligned_pointers_give_wide_loads(tmp_path: Path) -> None:
    config = {"BLOCK_M": 1, "BLOCK_K": 1024, "num_warps": 4, "FLAT": True}
    wide, narrow = (
        cuobjdump(compiles(problem(f16, alignment), Pointwise(), config, (90,))[0].cubin, "-sass", tmp_path)
        for alignment in (16, 2)
    )
    assert "LDG.E.128" in wide
    assert "LDG.E.128" not in narrow
    assert "LDG.E.U16" in narrow


def test_a_missing_argument_is_named() -> None:
    call = KernelCall(every_argument, {k: v for k, v in ARGUMENTS.items() if k != "size"}, CONSTEXPRS, (1, 1, 1))
    with pytest.raises(CompileError, match="every_argument: no argument for parameter 'size'"):
        compile_call(call, problem(), TARGETS[90])


def test_what_triton_refuses_is_a_compile_error() -> None:
    call = KernelCall(every_argument, ARGUMENTS, {**CONSTEXPRS, "SHAPE": 3}, (1, 1, 1))
    with pytest.raises(CompileError, match="every_argument for sm_90: "):
        compile_call(call, problem(), TARGETS[90])


def test_an_unknown_argument_is_a_compile_error() -> None:
    call = KernelCall(every_argument, {**ARGUMENTS, "size": 100}, CONSTEXPRS, (1, 1, 1))
    with pytest.raises(CompileError, match="no signature for argument 100"):
        compile_call(call, problem(), TARGETS[90])


def test_options_reach_the_compiler() -> None:
    call = KernelCall(every_argument, ARGUMENTS, CONSTEXPRS, (1, 1, 1), num_warps=8, options={"maxnreg": 32})
    binary = compile_call(call, problem(), TARGETS[90])
    assert binary.num_warps == 8
    assert binary.registers <= 32
    assert replace(binary, num_warps=4) != binary


def test_the_toolchain_names_triton() -> None:
    assert describe_toolchain()["triton"] == triton.__version__
