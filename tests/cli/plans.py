"""A small plan, for commands that look at one."""

from __future__ import annotations

from typing import Any

from jitrt.plan.schema import Binding, Constant, Kernel, Launch, Layer, Plan, PlanFile, Pointer


def tiny_arena() -> dict[str, Any]:
    """What a plan notes of its arena: a value, a workspace beside it, and two values one after another on top, the
    second in the place of the first."""
    rows = (
        ("stem", 2048, 0, 3, False, 0),
        ("stem", 512, 0, 0, True, 2048),
        ("left", 1024, 1, 2, False, 2048),
        ("sum", 1024, 2, 3, False, 2048),
    )
    names = ("name", "nbytes", "first", "last", "workspace", "offset")
    return {
        "arena_bytes": 3072,
        "naive_bytes": 4608,
        "lower_bound_bytes": 3072,
        "blocks": [dict(zip(names, row, strict=True)) for row in rows],
        "in_place": {"sum": "left"},
        "not_in_place": {"stem": "it is read later", "scores": "it is read later", "left": "not today"},
    }


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
        notes={"memory": tiny_arena(), "seconds": {"fusions": 4.0, "kernels": 30.2}},
    )
    return PlanFile(plan, bytes(270), {"cubin.a": b"\x7fELF a", "cubin.b": b"\x7fELF b"})
