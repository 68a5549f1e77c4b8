"""A small plan file that every command can look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jitrt.plan.file import write_plan
from jitrt.plan.schema import Binding, Constant, Kernel, Launch, Layer, Plan, PlanFile, Pointer


def tiny_plan() -> PlanFile:
    """Two layers: a convolution and what follows it. The cubin is no cubin: these tests run nothing."""
    image = Binding("image", "f16", (2, 3, 4, 4), (48, 1, 12, 3))
    scores = Binding("scores", "f32", (2, 5), (5, 1))
    kernels = (
        Kernel("conv2d", "cubin.a", 49152, 8, registers=168, spills=16),
        Kernel("pointwise", "cubin.b", 0, 4, registers=32),
    )
    launches = (
        Launch(0, (4, 1, 1), (Pointer("input"), Pointer("constants"), Pointer("arena")), (), 0),
        Launch(1, (1, 1, 1), (Pointer("arena"), Pointer("output")), (0,), 1),
    )
    layers = (
        Layer("3", "conv", "conv+add+relu", "net.py:12 (stem)", "conv2d(BLOCK_M=64)", 12.5, 4096, 2_000_000),
        Layer("4", "pointwise", "tanh", "net.py:13", "pointwise(BLOCK_M=1)", 0.0, 128, 10),
    )
    plan = Plan(
        name="tiny[net]",
        arch=90,
        inputs=(image,),
        outputs=(scores,),
        kernels=kernels,
        launches=launches,
        layers=layers,
        constants=(Constant("stem.weight", "f16", (5, 3, 3, 3), 0, 270),),
        arena_bytes=4096,
        zeros_bytes=0,
        constants_bytes=270,
        structure={"output": 0},
        notes={"memory": {"arena_bytes": 4096, "naive_bytes": 9000}},
    )
    return PlanFile(plan, bytes(270), {"cubin.a": b"\x7fELF a", "cubin.b": b"\x7fELF b"})


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.plan"
    write_plan(path, tiny_plan())
    return path


@pytest.fixture
def jitrt(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line: (exit status, stdout, stderr)."""
    from jitrt import cli

    def run(*words: object) -> tuple[int, str, str]:
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
