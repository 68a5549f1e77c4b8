"""What a kernel does before it waits for its predecessor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import triton
import triton.language as tl

from jitrt.codegen.compile import Binary, compile_call, use_cache_dir
from jitrt.codegen.overlap import constants_of, least_shared, overlapping, together
from jitrt.codegen.target import TARGETS
from jitrt.errors import KernelError
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.ops import Add
from jitrt.kernels.base import KernelCall, Number, Operand, Problem, Result
from jitrt.testing.ptx import run_ptx
from jitrt.testing.ptx_hopper import HopperBlock

H200 = TARGETS[90]
SHAPE = (64, 100)
BYTES = 64 * 100 * 2
LET, WAIT = "griddepcontrol.launch_dependents", "griddepcontrol.wait"


@triton.jit
def added(y, start, operands, DEPENDENT: tl.constexpr):
    i = tl.program_id(0) * 32 + tl.arange(0, 32)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    tl.store(y + i, tl.load(operands[0] + start + i) + tl.load(operands[1] + start + i))


def problem(alignment: int = 16) -> Problem:
    g = Graph("region")
    x, w = (g.add_input(name, TensorType(f16, SHAPE)) for name in "xw")
    g.mark_output(g.add(Add(), x, w))
    return Problem(g, (False, True), (16, alignment, 16))


def call(programs: int = 200, warps: int = 1, dependent: bool = True) -> KernelCall:
    arguments: dict[str, Any] = {"y": Result(), "start": Number(0), "operands": (Operand(0), Operand(1))}
    return KernelCall(added, arguments, {"DEPENDENT": dependent}, (programs, 1, 1), warps)


def compiled(launch: KernelCall, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Binary, str]:
    """The binary and its PTX."""
    kept = []
    compile_once = triton.compile

    def keep(*args: Any, **kwargs: Any) -> Any:
        kept.append(compile_once(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(triton, "compile", keep)
    return compile_call(launch, problem(), H200, **options), kept[-1].asm["ptx"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    with triton.knobs.cache.scope():
        use_cache_dir(str(tmp_path / "triton"))
        yield


@pytest.mark.parametrize(
    ("launch", "shared", "count"),
    [
        (call(1), 0, 1),
        (call(132, 8), 227 << 10, 1),
        (call(133, 4), 0, 2),
        (call(264, 4), 113 << 10, 2),
        (call(264, 4), (113 << 10) + 1, 0),  # no two fit
        (call(264, 8), 0, 0),  # nor if each thread has 255 registers
        (call(265, 4), 0, 0),
        (call(1, dependent=False), 0, 0),
        (replace(call(1), options={"num_ctas": 2}), 0, 0),
    ],
)
def test_programs_that_run_at_once(launch: KernelCall, shared: int, count: int) -> None:
    assert together(launch, shared, H200) == count


@pytest.mark.parametrize("arch", TARGETS)
@pytest.mark.parametrize("count", [1, 2])
def test_no_other_program_fits(count: int, arch: int) -> None:
    target = TARGETS[arch]
    of_an_sm = target.shared + 1024  # the driver adds 1,024 bytes to each block
    each = least_shared(count, target) + 1024
    assert count * each <= of_an_sm < (count + 1) * each


def test_constants_are_those_a_pointer_is_sure_to_reach() -> None:
    assert constants_of(call(), problem(), ()) == [(3, BYTES)]  # y, start, and the tuple's two
    assert constants_of(call(), problem(), {1}) == []
    assert constants_of(call(), problem(alignment=2), ()) == []


def test_the_successor_may_launch_before_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    binary, ptx = compiled(call(), monkeypatch)
    assert ptx.index(LET) < ptx.index(WAIT)
    assert "prefetch" in ptx
    assert binary.shared_bytes == least_shared(2, H200)
    assert overlapping(ptx, (200, 1, 1), [(3, BYTES)]) == ptx  # once is enough


@pytest.mark.parametrize("launch", [call(dependent=False), call(1000)])
def test_not_if_the_kernel_does_not_wait_or_programs_wait_for_others(
    launch: KernelCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary, ptx = compiled(launch, monkeypatch)
    assert LET not in ptx
    assert "prefetch" not in ptx
    assert binary.shared_bytes == 0


def test_packed_and_small_constants_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ptx = compiled(call(), monkeypatch, packed={1})
    assert LET in ptx
    assert "prefetch" not in ptx
    text = f".entry k(\n.param .u64 k_param_0\n)\n{{\n{WAIT};\n}}"
    assert "prefetch" not in overlapping(text, (1, 1, 1), [(0, 4095)])
    assert "prefetch" in overlapping(text, (1, 1, 1), [(0, 4096)])


class Asking(HopperBlock):
    """Keeps what is asked for."""

    asked: ClassVar[list[tuple[int, int]]] = []

    def _ask(self, operands: tuple[str, ...], on: Any) -> None:
        super()._ask(operands, on)
        self.asked += zip(self._address(operands[0])[on], self._read(operands[1], "u32")[on], strict=True)


@pytest.mark.parametrize("grid", [(1, 1, 1), (5, 1, 1), (200, 1, 1), (3, 2, 5)])
def test_every_byte_is_asked_for_once(grid: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jitrt.codegen.compile.overlapping", lambda ptx, *_: ptx)
        _, plain = compiled(call(), patch)
    monkeypatch.setattr(Asking, "asked", [])
    memory = np.zeros(4 * 12800 + 16, np.uint8)
    x, w = (memory[at : at + BYTES].view(np.float16) for at in (12800, 25600))
    x[:], w[:] = np.random.default_rng(0).standard_normal((2, x.size))
    ptx = overlapping(plain, grid, [(3, BYTES)])
    run_ptx(ptx, grid, [0, 0, 12800, 25600, 0, 0], memory, 0, Asking)
    whole = np.zeros(memory.size, int)
    for at, size in Asking.asked:
        whole[at : at + size] += 1
    np.testing.assert_array_equal(np.flatnonzero(whole), np.arange(25600, 25600 + BYTES))
    assert whole.max() == 1
    done = 32 * grid[0]
    np.testing.assert_array_equal(memory[: 2 * done].view(np.float16), x[:done] + w[:done])
    assert len(Asking.asked) <= 16


def test_the_machine_finds_a_request_outside_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jitrt.codegen.compile.overlapping", lambda ptx, *_: ptx)
        _, plain = compiled(call(), patch)
    memory = np.zeros(25600 + BYTES, np.uint8)
    with pytest.raises(KernelError, match="asks for bytes outside"):
        run_ptx(overlapping(plain, (1, 1, 1), [(3, BYTES + 16)]), 1, [0, 0, 0, 25600, 0, 0], memory, 0, HopperBlock)
