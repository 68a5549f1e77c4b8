"""jitrt.bench.roofline: floors, what bounds a layer, and the sums."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jitrt.bench.report import Report, to_markdown
from jitrt.bench.roofline import BYTES, HEADINGS, LATENCY, TENSOR_CORES, Rates, Roofline, precision_of
from jitrt.plan.schema import Binding, Launch, Layer, Plan
from jitrt.runtime.report import LayerTime, Profile


def layer(name: str, nbytes: int, flops: int) -> Layer:
    return Layer(name, "conv", "conv+add|relu", f"net.py:1 ({name})", "conv2d BLOCK_M=64", 0.0, nbytes, flops)


LAYERS = (
    layer("wide", 430_000_000, 1_000_000_000),  # 100 us of bytes
    layer("deep", 43_000_000, 79_000_000_000),  # 10 us of bytes, 100 of products
    layer("tiny", 4_300_000, 0),  # 1 us
)


def plan(precision: str = "fp16", arch: int = 90) -> Plan:
    return Plan(
        name="net",
        arch=arch,
        inputs=(Binding("x", "f16", (128, 3), (3, 1)),),
        outputs=(),
        kernels=(),
        launches=tuple(Launch(0, (1, 1, 1), (), (), number) for number in (0, 1, 1, 2)),
        layers=LAYERS,
        constants=(),
        arena_bytes=0,
        zeros_bytes=0,
        constants_bytes=0,
        notes={"options": {"precision": precision}},
    )


def roofline(precision: str = "fp16") -> Roofline:
    times = (LayerTime(LAYERS[0], 200.0, 90.0), LayerTime(LAYERS[1], 125.0, 74.0), LayerTime(LAYERS[2], 4.0, 0.9))
    return Roofline.of("resnet50", 128, plan(precision), Profile("net", "H200", times, 300.0, 329.0, 3.0))


def test_floors_and_bounds() -> None:
    found = roofline()
    assert [x.floor for x in found.layers] == pytest.approx([100.0, 100.0, 1.0])
    assert [x.bound for x in found.layers] == [BYTES, TENSOR_CORES, LATENCY]
    assert (found.floor, found.achieved) == (pytest.approx(201.0), pytest.approx(329.0))
    assert found.reached == pytest.approx(0.67)
    assert found.shares() == ["bytes 61%", "tensor cores 38%", "launch latency 1%"]


def test_a_layer_of_several_launches_is_bound_by_them_sooner() -> None:
    rates = Rates.of(90, "fp16")
    assert rates.bound(13_000_000, 0, 1) == BYTES  # 3 us
    assert rates.bound(13_000_000, 0, 2) == LATENCY


def test_the_precision_decides_the_rate() -> None:
    deep = [roofline(precision).layers[1].floor for precision in ("bf16", "tf32", "fp32")]
    assert deep == pytest.approx([100.0, 79e3 / 400, 79e3 / 67])
    assert roofline("fp32").layers[1].bound == "fp32 units"
    assert precision_of(replace(plan(), notes={})) == "fp16"
    assert precision_of(replace(plan(), notes={}, inputs=())) == "fp32"


def test_rows_are_slowest_first_and_end_with_the_sums() -> None:
    rows = roofline().rows()
    assert [row[0] for row in rows] == ["net.py:1 (wide)", "net.py:1 (deep)", "net.py:1 (tiny)", "sum"]
    assert rows[0][2:9] == ["430.00", "1.00", "100.00", "200.00", "60.8%", "50%", "bytes"]
    assert rows[-1][4:8] == ["201.00", "329.00", "100.0%", "61%"]
    assert {len(row) for row in rows} == {len(HEADINGS)}


def test_the_report_has_a_table_of_it() -> None:
    text = to_markdown(Report("2026-01-02T03:04:05+00:00", None, "Linux", {}, (), rooflines=(roofline(),)))
    assert "resnet50, batch 128, fp16: 300 us a call, layers one by one 329 us" in text
    assert "67% of the floor" in text
    assert "conv+add\\|relu" in text
