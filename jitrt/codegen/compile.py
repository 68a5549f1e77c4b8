"""From a kernel call to a cubin: the only place that calls `triton.compile`. Needs no GPU."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jitrt.codegen.overlap import constants_of, least_shared, overlapping, together
from jitrt.codegen.pointwise import TRITON_TYPES
from jitrt.codegen.ptx import safe
from jitrt.codegen.target import Target
from jitrt.errors import CompileError
from jitrt.graph.dtype import DType
from jitrt.kernels.base import Argument, Descriptor, KernelCall, Number, Operand, Problem, Result, Workspace, Zeros


@dataclass(frozen=True)
class Binary:
    """A cubin and what launching it takes. `shared_bytes` may be more than the kernel uses (overlap.py says why);
    `scratch_bytes` is global scratch a program; `spills` is the bytes of local memory a thread uses, which is where
    registers spill to."""

    cubin: bytes
    entry: str
    shared_bytes: int
    num_warps: int
    cluster: tuple[int, int, int]
    scratch_bytes: int
    registers: int
    spills: int


def compile_call(call: KernelCall, problem: Problem, target: Target, *, packed: Container[int] = ()) -> Binary:
    """Compile one launch of a lowered problem for `target`; `packed` are the operands that `Lowered.pack` changes.
    Raises CompileError with Triton's own last line."""
    import triton
    from triton.backends.compiler import GPUTarget

    descriptors = _descriptors(call, target)
    source = _source(call, problem)
    options = {"num_warps": call.num_warps, "num_stages": call.num_stages, "enable_fp_fusion": True, **call.options}
    constants = constants_of(call, problem, packed)

    def finish(ptx: str, shared: int) -> str:
        # What loads by TMA sees to its successor, and to its constants, itself.
        overlaps = not descriptors and together(call, shared, target)
        return safe(overlapping(ptx, call.grid, constants) if overlaps else ptx)

    try:
        with triton.knobs.compilation.scope(), triton.knobs.runtime.scope():
            triton.knobs.compilation.disable_line_info = True  # cubins are reproducible then and much smaller
            triton.knobs.compilation.always_compile = True  # Triton's own cache does not know `finish`
            triton.knobs.runtime.add_stages_inspection_hook = partial(_finish_ptx, finish)
            built = triton.compile(source, target=GPUTarget("cuda", target.arch, 32), options=options)
    except Exception as error:  # Triton raises whatever its passes, LLVM or ptxas raised
        what = f"{call.function.__name__} for {target}"
        raise CompileError(f"{what}: {type(error).__name__}: {_last_line(error)}") from error
    cubin, meta = built.asm["cubin"], built.metadata
    _check_descriptors(call, descriptors, meta.tensordesc_meta if descriptors else [])
    count = together(call, meta.shared, target)
    registers, spills = cubin_resources(cubin)
    cluster = getattr(meta, "cluster_dims", None) or (1, 1, 1)
    return Binary(
        cubin=cubin,
        entry=meta.name,
        shared_bytes=max(meta.shared, least_shared(count, target)) if count else meta.shared,
        num_warps=meta.num_warps,
        cluster=tuple(cluster),
        scratch_bytes=getattr(meta, "global_scratch_size", 0) or 0,
        registers=registers,
        spills=spills,
    )


def _finish_ptx(finish: Callable[[str, int], str], *given: Any) -> tuple[str, str]:
    """Triton's hook on its stages: PTX goes through `finish`, with the bytes of shared memory, on its way to ptxas.
    Called without arguments it names what it changes, for Triton's cache, which is not read."""
    if given:
        stages = given[1]
        generate = stages["ptx"]
        stages["ptx"] = lambda source, metadata: finish(generate(source, metadata), metadata["shared"])
    return "jitrt", "jitrt"


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _source(call: KernelCall, problem: Problem) -> Any:
    from triton.compiler.compiler import ASTSource

    function = call.function
    signature: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    constants: dict[Any, Any] = {}
    for position, name in enumerate(function.arg_names):
        if name in call.constexprs:
            signature[name] = "constexpr"
            constants[(position,)] = call.constexprs[name]
        elif name in call.arguments:
            signature[name] = _type(call.arguments[name], problem)
            _specialise(call.arguments[name], problem, (position,), attributes)
        else:
            raise CompileError(f"{function.__name__}: no argument for parameter {name!r}")
    if type(function).__name__ == "GluonJITFunction":
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource(function, signature=signature, constexprs=constants, attrs=attributes)
    return ASTSource(function, signature=signature, constexprs=constants, attrs=attributes)


def _type(argument: Argument, problem: Problem) -> Any:
    if isinstance(argument, tuple):
        return tuple(_type(part, problem) for part in argument)
    if isinstance(argument, Operand):
        return "*" + TRITON_TYPES[problem.body.inputs[argument.index].type.dtype]
    if isinstance(argument, Result):
        return "*" + TRITON_TYPES[problem.output.type.dtype]
    if isinstance(argument, Workspace):
        return "*" + TRITON_TYPES[DType(argument.dtype)]
    if isinstance(argument, Zeros):
        return "*i32"
    if isinstance(argument, Number):
        return {"i32": "i32", "i64": "i64", "f32": "fp32"}[argument.kind]
    if isinstance(argument, Descriptor):
        return argument.signature
    raise CompileError(f"no signature for argument {argument!r}")


def _specialise(argument: Argument, problem: Problem, path: tuple[int, ...], out: dict[tuple[int, ...], Any]) -> None:
    if isinstance(argument, tuple):
        for index, part in enumerate(argument):
            _specialise(part, problem, (*path, index), out)
        return
    if isinstance(argument, Operand):
        aligned = problem.alignment[argument.index] == 16
    elif isinstance(argument, Result):
        aligned = problem.alignment[-1] == 16
    elif isinstance(argument, Number):
        aligned = argument.kind != "f32" and argument.value % 16 == 0
    else:
        aligned = isinstance(argument, Workspace | Zeros)
    if aligned:
        out[path] = [["tt.divisibility", 16]]


_SWIZZLES = (0, 32, 64, 128)  # bytes, by what Triton's metadata calls "swizzle"


def _descriptors(call: KernelCall, target: Target) -> list[Descriptor]:
    """A call's TMA descriptors, in order. Raises CompileError before sm_90: there Triton passes other parameters, and
    for a Gluon kernel aborts the process."""
    given = [call.arguments[name] for name in call.function.arg_names if name in call.arguments]
    found = [argument for argument in given if isinstance(argument, Descriptor)]
    if found and target.arch < 90:
        raise CompileError(f"{call.function.__name__} for {target}: TMA descriptors need sm_90 or later")
    return found


def _check_descriptors(call: KernelCall, descriptors: Sequence[Descriptor], metadata: Sequence[Any]) -> None:
    """Raise CompileError unless the descriptors are those that the cubin reads: Triton may choose other blocks."""
    for descriptor, found in zip(descriptors, metadata, strict=True):
        block, swizzle = tuple(found["block_size"]), _SWIZZLES[found["swizzle"]]
        if (block, swizzle) != (descriptor.block, descriptor.swizzle):
            raise CompileError(
                f"{call.function.__name__}: its cubin reads blocks of {block} swizzled by {swizzle} bytes, but the "
                f"call describes {descriptor.block} by {descriptor.swizzle}"
            )


# -- reading a cubin ---------------------------------------------------------------------------------------------------

_REGISTERS, _FRAME_SIZE = 0x2F, 0x11  # EIATTR_REGCOUNT, EIATTR_FRAME_SIZE: each a (symbol, number) pair


def cubin_resources(cubin: bytes) -> tuple[int, int]:
    """(registers a thread, bytes of stack a thread) of a cubin with one entry point, read from its `.nv.info` section:
    what `cuobjdump -res-usage` prints, which the tests compare with."""
    found = {_REGISTERS: 0, _FRAME_SIZE: 0}
    for name, data in _sections(cubin):
        at = 0
        while name == ".nv.info" and at + 4 <= len(data):
            kind, attribute, size = struct.unpack_from("<BBH", data, at)
            if kind == 4:  # the value follows, `size` bytes long
                if attribute in found:
                    found[attribute] = max(found[attribute], struct.unpack_from("<II", data, at + 4)[1])
                at += size
            at += 4
    return found[_REGISTERS], found[_FRAME_SIZE]


def _sections(elf: bytes) -> list[tuple[str, bytes]]:
    """(name, data) of every section of a 64-bit ELF file."""
    table, entry_size, count, names_index = struct.unpack_from("<Q", elf, 40)[0], *struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * entry_size) for i in range(count)]
    names_at = headers[names_index][4]
    out = []
    for name_at, kind, _, _, offset, size, *_ in headers:
        name = elf[names_at + name_at : elf.index(b"\0", names_at + name_at)].decode()
        out.append((name, b"" if kind == 8 else elf[offset : offset + size]))
    return out


def use_cache_dir(path: str) -> None:
    """Point Triton's own cache at a folder that this build made and will delete: it does not check what it reads."""
    import triton

    os.makedirs(path, exist_ok=True)
    triton.knobs.cache.dir = path


def describe_toolchain() -> Mapping[str, str]:
    """Versions that decide what a cubin looks like, for cache keys."""
    import triton

    return {"triton": triton.__version__}
