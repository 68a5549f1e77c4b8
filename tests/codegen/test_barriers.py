"""Barriers that come into being at once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import triton

from jitrt.codegen.barriers import at_once
from jitrt.codegen.target import TARGETS
from jitrt.kernels.gemm_tma import GemmTma
from tests.kernels import compiled
from tests.kernels.pointwise_products import pointwise_problem

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INIT = """\telect.sync \t%r{n}|%p{n}, -1;
\tand.pred \t%p1{n}, %p77, %p{n};
\tadd.s32 \t%r4{n}, %r473, {at};
\t// begin inline asm
\t@%p1{n} mbarrier.init.shared::cta.b64 [%r4{n}], 1;
\t// end inline asm
"""


def inits(count: int) -> str:
    return "".join(INIT.format(n=n, at=1024 + 8 * n) for n in range(count))


def test_one_thread_initialises_all_of_them_in_a_row() -> None:
    text = at_once("\tmov.b32 %r473, global_smem;\n" + inits(5) + "\tbar.sync 0, 128;")
    made = [line.strip() for line in text.splitlines() if "mbarrier" in line]
    assert [re.findall(r"\[%r4(\d)\], 1", line) for line in made] == [[str(n)] for n in range(5)]
    assert not any(line.startswith("@") for line in made)
    assert text.count("bra ") == 1
    first = text.index("bra $INITIALISED;")
    order = [
        first,
        text.index("mbarrier"),
        text.rindex("mbarrier"),
        text.index("$INITIALISED:"),
        text.index("bar.sync"),
    ]
    assert order == sorted(order)
    assert all(text.index(f"%r4{n}, %r473") < first for n in range(5))  # their places are known by then


@pytest.mark.parametrize(
    "text",
    [
        inits(2),
        inits(3) + "\tbar.sync 0, 128;\n" + inits(3),
        inits(3) + "$L__BB0_1:\n" + inits(3),
        inits(3) + "\t@%p9 bra $L__BB0_1;\n" + inits(3),
        inits(3) + "\tst.shared.b64 [%r473], %rd1;\n" + inits(3),
        "\tadd.s32 %r1, %r2, %r3;\n",
    ],
)
def test_few_or_mixed_with_something_else(text: str) -> None:
    assert at_once(text) == text


def test_of_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the initialisations stands between the first and the last of them, and one fence before."""
    problem, target = pointwise_problem((8, 256, 14, 14), 1024, residual=True), TARGETS[90]
    (call,) = GemmTma().lower(problem, GemmTma().candidates(problem, target)[0], target).calls

    def instructions() -> str:
        cubin = compiled.build(call, problem, target).asm["cubin"]
        (tmp_path / "kernel.cubin").write_bytes(cubin)
        tool = [TOOLS / "cuobjdump", "-sass", tmp_path / "kernel.cubin"]
        return subprocess.run(tool, capture_output=True, text=True, check=True).stdout

    def between(code: str) -> int:
        """Instructions from the first to the last initialisation that are none."""
        lines = re.findall(r"/\*[0-9a-f]{4}\*/\s+(.*?);", code)
        at = np.flatnonzero(["SYNCS.EXCH" in line for line in lines])
        assert len(at) > 8
        return int(at[-1] - at[0] + 1 - len(at))

    assert between(instructions()) == 0
    monkeypatch.setattr("jitrt.codegen.compile.at_once", str)
    assert between(instructions()) > 20  # if this fails, Triton does so by itself, and jitrt/codegen/barriers.py can go
