"""A Gluon kernel for tests, as a template would launch it: a tile comes in by TMA, twice its numbers go out."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from jitrt.codegen.compile import compile_call
from jitrt.codegen.target import TARGETS
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.ops import Add
from jitrt.kernels.base import Descriptor, KernelCall, Operand, Problem, Result
from jitrt.lowering import plan_arguments
from jitrt.plan.schema import Binding, Kernel, Launch, Layer, Plan, PlanFile, Pointer

ROWS, COLUMNS = 48, 256
BLOCK = (16, 64)

copy_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # since, and before, Triton 3.8


@gluon.jit
def doubled(x, y, COLUMNS: gl.constexpr, M: gl.constexpr, N: gl.constexpr):
    tile = gl.allocate_shared_memory(gl.float16, [M, N], x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(ready, count=1)
    row, column = gl.program_id(0) * M, gl.program_id(1) * N
    mbarrier.expect(ready, x.block_type.nbytes)
    copy_tile(x, [row, column], ready, tile)
    mbarrier.wait(ready, 0)
    registers: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    value = tile.load(registers)
    m = row + gl.arange(0, M, gl.SliceLayout(1, registers))
    n = column + gl.arange(0, N, gl.SliceLayout(0, registers))
    gl.store(y + m[:, None] * COLUMNS + n[None, :], value + value)


def problem() -> Problem:
    """x + x."""
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, (ROWS, COLUMNS)))
    body.mark_output(body.add(Add(), x, x))
    return Problem(body, (False,), (16, 16))


def call() -> KernelCall:
    layout = gl.NVMMASharedLayout.get_default_for(list(BLOCK), gl.float16)
    signature = f"tensordesc<fp16{list(BLOCK)},{layout!r}>"
    swizzle = layout.swizzle_byte_width
    tile = Descriptor(Operand(0), "f16", (ROWS, COLUMNS), (COLUMNS,), BLOCK, swizzle, signature)
    constexprs = {"COLUMNS": COLUMNS, "M": BLOCK[0], "N": BLOCK[1]}
    grid = (ROWS // BLOCK[0], COLUMNS // BLOCK[1], 1)
    return KernelCall(doubled, {"x": tile, "y": Result()}, constexprs, grid)


def plan_file() -> PlanFile:
    """A plan of this one launch, for sm_90."""
    launched = call()
    binary = compile_call(launched, problem(), TARGETS[90])
    kernel = Kernel(binary.entry, "cubin", binary.shared_bytes, binary.num_warps, binary.cluster, binary.scratch_bytes)
    arguments = plan_arguments(launched, lambda place: Pointer("input" if isinstance(place, Operand) else "output"))
    x, y = (Binding(name, "f16", (ROWS, COLUMNS), (COLUMNS, 1)) for name in "xy")
    layer = Layer("y", "add", "add", "", "doubled()", 0.0, 4 * ROWS * COLUMNS, 0)
    launch = Launch(0, launched.grid, arguments, (), 0)
    plan = Plan("gluon", 90, (x,), (y,), (kernel,), (launch,), (layer,), (), 0, 0, 0)
    return PlanFile(plan, b"", {"cubin": binary.cubin})
