"""jitrt.bench.report: ratios, tables, and the file it appends to."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jitrt.bench.measure import DeviceState, Stats, Timing
from jitrt.bench.outcome import Gains, Outcome
from jitrt.bench.report import DETAIL, Report, Section, geometric_mean, speedup, to_console, to_markdown, write
from jitrt.bench.run import Jitrt


def timing(us: float) -> Timing:
    return Timing(Stats.of([us] * 3), Stats.of([us + 10]), Stats.of([4.0]), Stats.of([us]))


def report(*outcomes: Outcome) -> Report:
    state = DeviceState("NVIDIA H200", "580.1", 1980, 3201, 30, 100)
    return Report("2026-01-02T03:04:05+00:00", state, "Linux", {"torch": "2.13.0"}, outcomes)


OURS = Outcome("resnet50", 8, "fp16", "jitrt", 30.0, 1.5e-3, timing(400.0), repeat=-2.0)
SLOW = Outcome("resnet50", 8, "fp16", "eager", 0.5, 1e-3, timing(1000.0))
FAST = Outcome("resnet50", 8, "fp16", "compile", 20.0, 1e-3, timing(600.0))
DEAD = Outcome("resnet50", 8, "fp16", "cudnn-fused", failure="RuntimeError: a | b")


def test_the_ratio_is_to_the_best_peer_that_ran() -> None:
    assert speedup([OURS, SLOW, FAST, DEAD]) == 1.5
    assert speedup([SLOW, FAST]) is None
    assert speedup([OURS, DEAD]) is None


def test_jitrt_with_something_left_out_is_no_peer() -> None:
    assert Jitrt("fp16", without=("fuse_horizontal",)).name == "without fuse_horizontal"
    crippled = Outcome("resnet50", 8, "fp16", "without fuse_horizontal", 1.0, 1e-3, timing(450.0))
    assert speedup([OURS, crippled, FAST]) == 1.5
    assert speedup([OURS, crippled]) is None


def test_throughput_counts_samples() -> None:
    assert OURS.throughput == 20_000
    assert DEAD.throughput is None


def test_markdown_has_every_contestant_and_every_failure() -> None:
    text = to_markdown(report(OURS, SLOW, FAST, DEAD))
    summary = next(line for line in text.splitlines() if line.startswith("| resnet50"))
    assert summary == "| resnet50 | 8 | fp16 | 400 (410) | 1,000 (1,010) | 600 (610) | failed | 1.50x | 1.5e-03 |"
    assert "400.0 ± 2.0" in text
    assert "cudnn-fused failed on resnet50, batch 8: `RuntimeError: a | b`" in text
    rows = [line for line in text.splitlines() if line.startswith("| resnet50 | 8 | ") and line != summary]
    assert {line.count(" | ") for line in rows} == {len(DETAIL) - 1}


def test_who_does_not_apply_has_not_failed() -> None:
    unfit = replace(DEAD, failure="does not apply: the network has no convolutions")
    text = to_markdown(report(OURS, FAST, unfit))
    assert "| 600 (610) | n/a | 1.50x |" in text
    assert "- cudnn-fused does not apply to resnet50, batch 8: `the network has no convolutions`" in text
    assert "fail" not in text


def test_the_terminal_shows_the_failure_too() -> None:
    stream = io.StringIO()
    Console(file=stream, width=200).print(to_console(report(OURS, DEAD)))
    assert "RuntimeError: a | b" in stream.getvalue()
    assert "NVIDIA H200, driver 580.1" in stream.getvalue()


def test_the_geometric_mean_ends_the_table() -> None:
    twice = [replace(outcome, batch=1, timing=timing(us)) for outcome, us in ((OURS, 100.0), (FAST, 600.0))]
    both = report(OURS, FAST, *twice)
    assert geometric_mean(both) == pytest.approx(3.0)  # of 1.5 and 6
    assert "| geometric mean | - | - | - | - | 3.00x | - |" in to_markdown(both)
    assert "geometric mean" not in to_markdown(report(OURS, FAST))
    assert geometric_mean(report(OURS)) is None


def test_write_appends(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write(replace(report(OURS, FAST), command="jitrt bench resnet50"), path)
    write(report(OURS), path, [Section(("Against R.jsonl:",), ("Model",), [["resnet50"]])])
    text = path.read_text()
    assert text.count("# Measured results") == 1
    assert text.count("## 2026-01-02") == 2
    assert text.count("`jitrt bench resnet50`") == 1
    assert "Against R.jsonl:" in text


def test_what_each_optimisation_gains_is_a_table_of_its_own() -> None:
    found = (
        {"name": "fuse_horizontal", "with_it": 100.0, "without": 110.0, "kept": True},
        {"name": "parallel", "with_it": 104.0, "without": 100.0, "kept": False},
    )
    told = to_markdown(replace(report(OURS), gains=(Gains("resnet50", 8, found),)))
    assert "| resnet50 | 8 | fuse_horizontal | 100.0 | 110.0 | +10.0% | kept |" in told
    assert "| resnet50 | 8 | parallel | 104.0 | 100.0 | -3.8% | left out |" in told
    assert "Optimisation" not in to_markdown(replace(report(OURS), gains=(Gains("resnet50", 8, ()),)))
