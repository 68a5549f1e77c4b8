"""What ptxas and Triton get wrong: that they still do, and that what jitrt makes of it comes out right."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import triton
import triton.language as tl

from jitrt.codegen.compile import compile_call
from jitrt.codegen.ptx import fenced, waiting_in_loops, without_packed_adds, without_short_absolutes
from jitrt.codegen.target import TARGETS
from jitrt.graph import Graph, TensorType, f16, i32
from jitrt.graph.ops import Cast
from jitrt.kernels.base import KernelCall, Result
from jitrt.kernels.conv2d import Conv2d
from jitrt.testing import make_problem
from jitrt.testing.ptx import run_ptx
from tests.kernels import compiled
from tests.kernels.convolutions import conv_problem

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ONE_HALF = """
cvt.u16.u32 %h1, %r1;
mov.b32 %r2, {{%h1, %h1}};
mov.b32 %r3, {constant};
add.s16x2 \t%r4, %r2, %r3;
mov.b32 {{%h2, %h3}}, %r4;
and.b16 %h4, %{half}, 255;
mul.lo.s16 %h5, %h4, 171;
cvt.u32.u16 %r5, %h5;
"""
ABSOLUTE = """
ld.global.b32 %r2, [%rd3];
cvt.u16.u32 %h1, %r2;
abs.s16 \t%h2, %h1;
cvt.s32.s16 %r5, %h2;
"""


def kernel(arch: str, body: str) -> str:
    """A thread each of a warp stores the %r5 that `body` makes; %r1 is its number, %rd3 its place."""
    return f""".version 8.7
.target sm_{arch}
.address_size 64
.visible .entry k(
.param .u64 k_param_0
)
.reqntid 32
{{
.reg .b32 %r<9>; .reg .b16 %h<9>; .reg .b64 %rd<9>;
ld.param.u64 %rd1, [k_param_0];
mov.u32 %r1, %tid.x;
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd3, %rd1, %rd2;
{body}
st.global.b32 [%rd3], %r5;
ret;
}}
"""


@triton.jit
def few_programs(y):
    """LLVM sees that 16 bits are enough."""
    program = tl.program_id(0)
    if program < 60:
        total = 0
        for step in tl.static_range(1, 4):
            at = program // 20 * 9 + step
            total += at // 3 % 3 * 100 + at % 3
        tl.store(y + program, total)


def sass(cubin: bytes, folder: Path) -> str:
    (folder / "kernel.cubin").write_bytes(cubin)
    tool = [TOOLS / "cuobjdump", "-sass", folder / "kernel.cubin"]
    return subprocess.run(tool, capture_output=True, text=True, check=True).stdout


def assembled(ptx: str, arch: str, folder: Path) -> str:
    (folder / "kernel.ptx").write_text(ptx)
    tool = TOOLS / ("ptxas-blackwell" if arch.startswith("100") else "ptxas")
    subprocess.run([tool, f"-arch=sm_{arch}", folder / "kernel.ptx", "-o", folder / "out"], check=True)
    return sass((folder / "out").read_bytes(), folder)


@pytest.mark.parametrize("arch", ["90a", "100a"])
@pytest.mark.parametrize(("half", "constant", "added"), [("h3", 65538, 1), ("h2", 65538, 2)])
def test_half_of_a_packed_addition(half: str, constant: int, added: int, arch: str, tmp_path: Path) -> None:
    """If the first assertion fails, ptxas is right by now, and without_packed_adds can go."""
    ptx = kernel(arch, ONE_HALF.format(half=half, constant=constant))
    assert re.search(r"VIADD.16x2 R\d+, R\d+, 0x0 ;", assembled(ptx, arch, tmp_path))
    code = assembled(without_packed_adds(ptx), arch, tmp_path)
    assert "16x2" not in code
    assert re.search(rf"ADD\S* .*, {added:#x}\b.* ;", code)


@pytest.mark.parametrize("constant", [65538, 0xFFFF8001, 0])
def test_both_say_the_same(constant: int) -> None:
    ptx = kernel("90a", ONE_HALF.format(half="h3", constant=constant))
    memory = np.zeros(32, np.int32)
    run_ptx(without_packed_adds(ptx), 1, [0], memory.view(np.uint8), 0)
    expected = (np.arange(32) + (constant >> 16)) % 65536 % 256 * 171 % 65536
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize("arch", ["80", "90a", "100a"])
def test_the_absolute_value_of_a_short_number(arch: str, tmp_path: Path) -> None:
    """If the first assertion fails, ptxas is right by now, and without_short_absolutes can go."""
    ptx = kernel(arch, ABSOLUTE)
    assert "IABS" in assembled(ptx, arch, tmp_path)
    assert "IABS" not in assembled(without_short_absolutes(ptx), arch, tmp_path)
    memory = np.arange(-32768, -32736, dtype=np.int32)
    run_ptx(without_short_absolutes(ptx), 1, [0], memory.view(np.uint8), 0)
    np.testing.assert_array_equal(memory, [-32768, *range(32767, 32736, -1)])


def test_other_text_stays_as_it_is() -> None:
    text = "add.f16x2 %r1, %r2, %r3; max.s16x2 %r1, %r2, %r3; add.s16 %h1, %h2, %h3;"
    assert without_packed_adds(text) == text


@pytest.mark.parametrize("arch", [90, 100])
def test_what_is_compiled_adds_no_halves_at_once(arch: int, tmp_path: Path) -> None:
    g = Graph()
    g.mark_output(g.add(Cast(i32), g.add_input("x", TensorType(f16, (60,)))))
    call = KernelCall(few_programs, {"y": Result()}, {}, (60, 1, 1))
    code = sass(compile_call(call, make_problem(g), TARGETS[arch]).cubin, tmp_path)
    assert "STG" in code
    assert "VIADD.16x2" not in code


PRODUCT = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%a,%b,%c,%d}, LEFT, %r, %p1, 1, 1, 0;"
LOOP = """\t@%p2 bra $DONE;
$LOOP:   // a comment
\twgmma.fence.sync.aligned;
\tPRODUCT
\twgmma.commit_group.sync.aligned;
\twgmma.wait_group.sync.aligned 1;
\tPRODUCT
\twgmma.commit_group.sync.aligned;
\twgmma.wait_group.sync.aligned WAIT;
\t@%p3 bra $NEXT;
$NEXT:
\t@%p4 bra $LOOP;
$DONE:
\twgmma.wait_group.sync.aligned 0;""".replace("PRODUCT", PRODUCT)


def test_a_loop_with_a_left_operand_in_registers_ends_with_all_products_done() -> None:
    ours = LOOP.replace("LEFT", "{%e,%f,%g,%h}")
    assert waiting_in_loops(ours.replace("WAIT", "1")) == ours.replace("WAIT", "0")


@pytest.mark.parametrize("left", ["%l", "{%e,%f,%g,%h}"])
def test_other_waits_stay_as_they_are(left: str) -> None:
    """Operands in shared memory are double-buffered; what is not the end of a loop may go on."""
    text = LOOP.replace("LEFT", left).replace("WAIT", "1")
    if left[0] == "{":
        text = text.replace("@%p4 bra $LOOP;", "@%p4 bra $DONE;")
    assert waiting_in_loops(text) == text


COPIED = """\tcp.async.wait_group \t4;
\tbar.sync \t0;FENCE
\t@%p1 bra \t$NEXT;
\t@%p2 tcgen05.mma.cta_group::1.kind::f16 [ %r1 + 0 ], %rd1, %rd2, %r2, %p3;
$NEXT:
\tcp.async.wait_group \t0;
\tbar.sync \t0;"""


def test_a_fence_stands_between_copies_and_products() -> None:
    """Not behind the last copies, which no product reads; one that is there is enough."""
    with_fence = COPIED.replace("FENCE", "\n\tfence.proxy.async.shared::cta;")
    assert fenced(COPIED.replace("FENCE", "")) == with_fence
    assert fenced(with_fence) == with_fence
    plain = COPIED.replace("FENCE", "").replace("tcgen05.mma", "mma")
    assert fenced(plain) == plain


@pytest.mark.parametrize("size", [64, 128])
def test_what_is_compiled_for_sm_100_is_fenced(size: int) -> None:
    """By Triton or by jitrt: taking all fences out and putting them in again gives one before every product."""
    problem = conv_problem((2, 64, 9, 11), size, (3, 3), padding=((1, 1), (1, 1)))
    tiles = {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64, "SPLIT_K": 1, "EARLY": False, "FLATTEN": False}
    (call,) = Conv2d().lower(problem, {**tiles, "num_warps": 4, "num_stages": 3}, TARGETS[100]).calls
    built = compiled.build(call, problem, TARGETS[100])
    bare = re.sub(r"\tfence\.proxy\.async\.shared::cta;\n", "", built.asm["ptx"])
    loops = re.findall(
        r"cp\.async\.wait_group[^;]*;\s*bar\.sync[^;]*;(?:(?!cp\.async\.wait)[\s\S])*?tcgen05\.mma", fenced(bare)
    )
    assert loops
    assert all(loop.count("fence.proxy.async") == 1 for loop in loops)
