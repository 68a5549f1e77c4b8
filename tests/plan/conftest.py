from __future__ import annotations

import pytest

from jitrt.plan.schema import (
    Binding,
    Constant,
    Kernel,
    Launch,
    Layer,
    Plan,
    PlanFile,
    Pointer,
    Scalar,
    TensorMap,
)


@pytest.fixture
def file() -> PlanFile:
    """A plan with one of everything; nothing is wrong with it."""
    x = Binding("x", "f16", (8, 64), (64, 1))
    plan = Plan(
        name="tiny",
        arch=90,
        inputs=(x,),
        outputs=(Binding("y", "f32", (8,), (1,)),),
        kernels=(Kernel("kernel", "cubin.0", 1024, 4, cluster=(2, 1, 1), scratch_bytes=128, registers=32),),
        launches=(
            Launch(0, (4, 1, 1), (Pointer("input"), Pointer("constants", 256), Pointer("arena", 512)), (), 0),
            Launch(
                0,
                (4, 1, 1),
                (
                    TensorMap(Pointer("input"), "f16", (8, 64), (128,), (8, 64), 128),
                    Scalar("i32", -1),
                    Scalar("i64", 2**40),
                    Scalar("f32", 0.1),
                    Pointer("zeros", 4),
                    Pointer("output", 16),
                ),
                (0,),
                0,
                dependent=True,
            ),
        ),
        layers=(Layer("l", "conv", "conv+relu", "model.py:7", "conv2d(BLOCK_M=64)", 3.25, 1000, 2000),),
        constants=(Constant("w", "f32", (4, 16), 256, 256),),
        arena_bytes=1024,
        zeros_bytes=256,
        constants_bytes=512,
        structure={"logits": {"output": 0}, "aux": [None, {"output": 0}]},
        notes={"toolchain": {"triton": "3.7.1"}, "ratio": 0.1, "é": [1, None, True]},
    )
    return PlanFile(plan, bytes(range(256)) * 2, {"cubin.0": b"\x7fELF not really"})
