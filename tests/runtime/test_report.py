from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jitrt.errors import InputError
from jitrt.runtime.report import Comparison, Inspection, Table, as_float64, leaves, nbytes_text


def test_inspection_tells_what_is_in_a_plan(small):
    inspection = Inspection.of(small)
    assert inspection.memory == {"arena": 768, "zeros": 256, "scratch": 512, "constants": 384, "cubins": 14}
    assert [layer.name for layer in inspection.layers] == ["sum", "twice", "both", "next"]
    text = repr(inspection)  # what a prompt shows; print shows the same
    assert "small: sm_90, 4 layers, 5 launches, 3 kernels" in text
    assert "input   x  f32 (4, 8) strides (8, 1)" in text
    assert "output  z  f32 (4, 8)" in text
    both = next(line for line in text.splitlines() if line.startswith("both"))
    assert both.split()[:4] == ["both", "scale", "scale+relu", "scale(BLOCK_M=64)"]
    assert both.split()[4:] == ["2", "64.0", "KiB", "0", "1.5", "model.py:3"]
    assert inspection._repr_html_().count("<tr>") == 5


def test_table_aligns_numbers_right_and_escapes_html():
    table = Table(("name", "us"), (("a<b>", "1.50"), ("c", "10.25")))
    assert str(table) == "name     us\na<b>   1.50\nc     10.25"
    assert "<td style='text-align:left'>a&lt;b&gt;</td><td style='text-align:right;" in table._repr_html_()
    assert str(Table(("name",), ())) == "name"
    assert Table(("name",), ())._repr_html_().count("<tr>") == 1


@pytest.mark.parametrize("cell", ["1", "1.50", "12,345", "9.90e-03", "45.5%", "5.0x", "1.5 KiB", "0 B", "nan", "-2"])
def test_what_counts_as_a_number(cell):
    assert str(Table(("a heading",), ((cell,),))).splitlines()[1] == cell.rjust(9)
    assert str(Table(("a heading",), ((cell,), ("conv2d",)))).splitlines()[1] == cell


def test_columns_that_say_nothing_are_left_out(small):
    table = Table(("name", "us", "from"), (("a", "", ""), ("b", "", "model.py:3")))
    assert table.filled() == Table(("name", "from"), (("a", ""), ("b", "model.py:3")))
    untuned = replace(small.plan, layers=tuple(replace(layer, microseconds=0.0) for layer in small.plan.layers))
    assert "tuned us" in Inspection.of(small).table.headings
    assert "tuned us" not in Inspection.of(replace(small, plan=untuned)).table.headings


def test_inspection_shows_what_the_kernels_take(small):
    kernels = tuple(replace(k, registers=32 + i, shared_bytes=2048, spills=i) for i, k in enumerate(small.plan.kernels))
    inspection = Inspection.of(replace(small, plan=replace(small.plan, kernels=kernels)))
    rows = [dict(zip(inspection.table.headings, row)) for row in inspection.table.rows]
    launches = [[n for n in small.plan.launches if n.layer == layer] for layer in range(len(rows))]
    for row, used in zip(rows, launches, strict=True):
        assert row["launches"] == str(len(used))
        assert row["registers"] == str(max(32 + n.kernel for n in used))
        assert row["spills"] == str(sum(n.kernel for n in used))
        assert row["shared"] == "2.0 KiB"


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")]
)
def test_nbytes_text(nbytes, text):
    assert nbytes_text(nbytes) == text


def test_compare(engine, x, expected):
    exact = engine.compare(expected, x)
    assert exact.worst == 0
    off = engine.compare(lambda x: {"y": expected(x)[0] * 1.01, "z": expected(x)[1]}, x)
    (name, error, largest), other = off.outputs
    assert name == "y"
    assert error == pytest.approx(0.01 / 1.01, rel=1e-5)
    assert largest == pytest.approx(0.01 * np.abs(expected(x)[0]).max(), rel=1e-5)
    assert other == ("z", 0.0, 0.0)
    assert off.worst == error
    assert "9.90e-03" in repr(off)
    assert "<table>" in off._repr_html_()


def test_compare_counts_nans_and_infinities(small):
    ours = np.array([1.0, np.nan, np.inf])
    plan = small.plan
    same = Comparison.of(plan, [ours], [ours.copy()])
    assert same.worst == 0
    assert np.isnan(Comparison.of(plan, [ours], [np.array([1.0, 2.0, np.inf])]).worst)
    assert np.isnan(Comparison.of(plan, [np.zeros(1)] * 2, [np.zeros(1), np.array([np.nan])]).worst)
    assert Comparison.of(plan, [ours], [np.array([1.0, np.nan, 3.0])]).worst == np.inf


def test_compare_refuses_what_cannot_be_compared(engine, x, expected):
    with pytest.raises(InputError, match=r"returned 1 array\(s\), the engine 2"):
        engine.compare(lambda x: x, x)
    with pytest.raises(InputError, match=r"'z' has shape \(4, 8\), the reference \(8, 4\)"):
        engine.compare(lambda x: (expected(x)[0], expected(x)[1].T), x)


def test_leaves():
    assert leaves({"a": [1, (2, None)], "b": 3}) == [1, 2, 3]
    assert leaves("one") == ["one"]


def test_as_float64():
    torch = pytest.importorskip("torch")
    given = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    assert as_float64(given).dtype == np.float64
    assert as_float64(np.ones(2, np.float16)).dtype == np.float64
