"""A Gluon kernel with a TMA descriptor, from a kernel call to a cubin and to the arguments of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import triton

from jitrt.codegen.compile import compile_call, use_cache_dir
from jitrt.codegen.target import TARGETS
from jitrt.errors import CompileError
from jitrt.lowering import plan_arguments
from jitrt.plan.schema import Pointer, Scalar, TensorMap
from jitrt.plan.verify import problems
from tests.codegen.gluon_kernels import BLOCK, COLUMNS, ROWS, call, plan_file, problem
from tests.codegen.test_compile import cuobjdump
from tests.test_lowering import parameter_sizes, pointer_of, size


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    with triton.knobs.cache.scope():
        use_cache_dir(str(tmp_path))
        yield


def test_a_cubin_and_its_parameters(tmp_path: Path) -> None:
    binary = compile_call(call(), problem(), TARGETS[90])
    assert (binary.entry, binary.num_warps, binary.spills) == ("doubled", 4, 0)
    assert binary.shared_bytes >= 2 * BLOCK[0] * BLOCK[1]
    assert "UTMALDG.2D" in cuobjdump(binary.cubin, "-sass", tmp_path)
    arguments = plan_arguments(call(), pointer_of)
    assert arguments == (
        TensorMap(Pointer("input", index=0), "f16", (ROWS, COLUMNS), (2 * COLUMNS,), BLOCK, 128),
        Scalar("i32", ROWS),
        Scalar("i32", COLUMNS),
        Scalar("i64", COLUMNS),
        Scalar("i64", 1),
        Pointer("output"),
    )
    assert parameter_sizes(binary.cubin) == [*map(size, arguments), 8, 8]  # and the two hidden pointers


def test_a_plan_may_hold_it() -> None:
    assert list(problems(plan_file())) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"block": (8, 64)}, r"blocks of \(16, 64\) swizzled by 128 bytes, but the call describes \(8, 64\) by 128"),
        ({"swizzle": 64}, r"the call describes \(16, 64\) by 64"),
    ],
)
def test_a_descriptor_that_is_not_what_the_cubin_reads(changes: dict[str, Any], reason: str) -> None:
    right = call()
    tile: Any = right.arguments["x"]
    wrong = replace(right, arguments={**right.arguments, "x": replace(tile, **changes)})
    with pytest.raises(CompileError, match=reason):
        compile_call(wrong, problem(), TARGETS[90])


def test_before_sm_90_there_is_no_tma() -> None:
    with pytest.raises(CompileError, match="doubled for sm_80: TMA descriptors need sm_90 or later"):
        compile_call(call(), problem(), TARGETS[80])
