"""jitrt.bench.history: runs are appended and kept, and the last like one is what a run is compared with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jitrt.bench.history import append, changes, read, section
from jitrt.bench.measure import Stats
from jitrt.bench.outcome import Outcome
from jitrt.bench.report import Report
from jitrt.errors import OptionError
from tests.bench.test_report import DEAD, FAST, OURS, SLOW, report, timing


def run(us: float, when: str, **other: object) -> Report:
    return replace(report(replace(OURS, timing=timing(us), **other)), when=when)  # type: ignore[arg-type]


def test_a_run_says_what_is_needed_to_repeat_it(tmp_path: Path) -> None:
    path = tmp_path / "R.jsonl"
    append(replace(report(replace(OURS, state=report().device), DEAD), command="jitrt bench resnet50"), path)
    (found,) = read(path)
    assert (found["when"], found["command"]) == ("2026-01-02T03:04:05+00:00", "jitrt bench resnet50")
    assert found["tools"] == {"torch": "2.13.0"}
    assert (found["device"]["name"], found["device"]["driver"]) == ("NVIDIA H200", "580.1")
    ours = found["outcomes"][0]
    assert (ours["state"]["sm_clock"], ours["state"]["memory_clock"]) == (1980, 3201)
    assert ours["timing"]["back_to_back"]["spread"] == 0
    assert ours["repeat"] == -2.0


def test_older_runs_are_kept_even_beside_one_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "R.jsonl"
    append(run(400, "a"), path)
    before = path.read_text()
    append(run(300, "b"), path)
    assert path.read_text().startswith(before)
    assert [found["when"] for found in read(path)] == ["a", "b"]
    path.write_text(path.read_text().rstrip("\n"))
    append(run(200, "c"), path)
    assert [found["when"] for found in read(path)] == ["a", "b", "c"]


def test_changes_are_against_the_last_run_of_the_same_kind(tmp_path: Path) -> None:
    path = tmp_path / "R.jsonl"
    other = replace(run(50, "z"), device=replace(report().device, name="NVIDIA A100"))  # type: ignore[type-var]
    for old in (run(999, "a"), run(500, "b"), run(70, "c", batch=1), run(60, "d", precision="bf16"), other):
        append(old, path)
    append(replace(report(DEAD), when="e"), path)
    (change,) = changes(report(OURS, FAST, DEAD), read(path))
    assert (change.now.contestant, change.when, change.before, change.after) == ("jitrt", "b", 500.0, 400.0)
    assert change.text == "-20.0%"
    assert section([change], path).rows[0][-5:] == ["b", "500.0", "400.0", "2.0", "-20.0%"]


def test_less_than_the_spread_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "R.jsonl"
    append(run(395, "a"), path)
    assert changes(report(OURS), read(path))[0].text == "+1.3%"
    append(run(398.5, "b"), path)
    assert changes(report(OURS), read(path))[0].text == "+0.4%, within ±"
    wide = replace(timing(395), back_to_back=Stats.of([380.0, 395.0, 410.0]))
    append(replace(report(replace(OURS, timing=wide)), when="c"), path)
    assert changes(report(OURS), read(path))[0].text == "+1.3%, within ±"


def test_nothing_to_compare_with_is_said(tmp_path: Path) -> None:
    path = tmp_path / "R.jsonl"
    append(report(Outcome("vgg19", 8, "fp16", "jitrt", timing=timing(1.0))), path)
    found = section(changes(report(OURS, SLOW), read(path)), path)
    assert found.rows == []
    assert "Nothing there" in found.below[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("", "holds no runs"),
        (json.dumps({"a": 1}), "holds no runs"),
        ("{", "line 1, is no JSON"),
    ],
)
def test_a_file_that_is_no_history(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "R.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read(path)
