"""A plan's arguments against the parameters that a cubin really has."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import triton
import triton.language as tl

from jitrt.codegen import compile as codegen
from jitrt.codegen.target import target_of
from jitrt.errors import CompileError
from jitrt.graph import Graph, TensorType, f16, f32
from jitrt.graph.ops import Add
from jitrt.kernels.base import Descriptor, KernelCall, Number, Operand, Problem, Result, Workspace, Zeros
from jitrt.lowering import Place, plan_arguments
from jitrt.plan.schema import Argument, Pointer, Scalar, TensorMap


@triton.jit
def everything(y, aux, nothing, BLOCK: tl.constexpr, long, tile, ratio, one, partial, arrivals):
    index = tl.arange(0, BLOCK)
    value = tl.load(aux[0] + index).to(tl.float32) + tl.load(aux[1] + index).to(tl.float32)
    value = value * ratio + tl.sum(tile.load([0, 0]).to(tl.float32)) + long + one + tl.load(arrivals) + len(nothing)
    tl.store(partial + index, value)
    tl.store(y + index, value.to(y.dtype.element_ty))


def problem() -> Problem:
    body = Graph("region")
    a = body.add_input("a", TensorType(f16, (32,)))
    b = body.add_input("b", TensorType(f16, (32,)))
    body.mark_output(body.add(Add(), a, b))
    return Problem(body, (False, False), (16, 16, 16))


def call() -> KernelCall:
    tile = Descriptor(Operand(0), "f16", (16, 64), (64,), (16, 64), 128, "tensordesc<fp16[16,64]>")
    arguments = {
        "y": Result(),
        "aux": (Operand(0), Operand(1)),
        "nothing": (),
        "long": Number(5, "i64"),
        "tile": tile,
        "ratio": Number(0.5, "f32"),
        "one": Number(1),
        "partial": Workspace(256),
        "arrivals": Zeros(16),
    }
    return KernelCall(everything, arguments, {"BLOCK": 32}, (1, 1, 1))


def pointer_of(place: Place) -> Pointer:
    if isinstance(place, Operand):
        return Pointer("input", index=place.index)
    if isinstance(place, Result):
        return Pointer("output")
    return Pointer("arena" if isinstance(place, Workspace) else "zeros", place.offset)


def parameter_sizes(cubin: bytes) -> list[int]:
    """Bytes of each parameter, in order: the EIATTR_KPARAM_INFO (0x17) entries of the kernel's `.nv.info` section."""
    found = {}
    for name, data in codegen._sections(cubin):
        at = 0
        while name.startswith(".nv.info.") and at + 4 <= len(data):
            kind, attribute, size = struct.unpack_from("<BBH", data, at)
            if attribute == 0x17:
                _, ordinal, _, flags = struct.unpack_from("<IHHI", data, at + 4)
                found[ordinal] = flags >> 18
            at += 4 + (size if kind == 4 else 0)
    return [found[i] for i in range(len(found))]


def size(argument: Argument) -> int:
    if isinstance(argument, Scalar):
        return 8 if argument.kind == "i64" else 4
    return 128 if isinstance(argument, TensorMap) else 8


def test_arguments_are_the_cubins_parameters(tmp_path: Path) -> None:
    codegen.use_cache_dir(str(tmp_path))
    arguments = plan_arguments(call(), pointer_of)
    assert arguments == (
        Pointer("output"),
        Pointer("input", index=0),
        Pointer("input", index=1),
        Scalar("i64", 5),
        TensorMap(Pointer("input", index=0), "f16", (16, 64), (128,), (16, 64), 128),
        Scalar("i32", 16),
        Scalar("i32", 64),
        Scalar("i64", 64),
        Scalar("i64", 1),
        Scalar("f32", 0.5),
        Scalar("i32", 1),
        Pointer("arena", 256),
        Pointer("zeros", 16),
    )
    binary = codegen.compile_call(call(), problem(), target_of(90))
    assert parameter_sizes(binary.cubin) == [*map(size, arguments), 8, 8]  # and the two hidden pointers


def test_a_parameter_without_an_argument_is_refused() -> None:
    function = SimpleNamespace(arg_names=["y", "x"], __name__="broken")
    with pytest.raises(CompileError, match="broken: no argument for parameter 'x'"):
        plan_arguments(KernelCall(function, {"y": Result()}, {}, (1, 1, 1)), pointer_of)


def test_a_box_that_is_not_the_block() -> None:
    tile = Descriptor(
        Workspace(), "f16", (9, 64), (64,), (4, 64), 128, "tensordesc<fp16[4,64]>", box=(10, 64), steps=(2, 1)
    )
    function = SimpleNamespace(arg_names=["t"], __name__="f")
    (first, *_) = plan_arguments(KernelCall(function, {"t": tile}, {}, (1, 1, 1)), pointer_of)
    assert first == TensorMap(Pointer("arena"), "f16", (9, 64), (128,), (10, 64), 128, (2, 1))


def test_strides_of_a_descriptor_become_bytes_of_its_own_dtype() -> None:
    tile = Descriptor(Workspace(), "f32", (4, 8), (8,), (4, 8), 0, "tensordesc<fp32[4,8]>")
    function = SimpleNamespace(arg_names=["t"], __name__="f")
    (first, *_) = plan_arguments(KernelCall(function, {"t": tile}, {}, (1, 1, 1)), pointer_of)
    assert isinstance(first, TensorMap)
    assert first.strides == (8 * f32.itemsize,)
