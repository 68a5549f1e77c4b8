"""`python -m jitrt.tune.replay`: first guesses and short searches, by timings made up for the purpose."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jitrt.kernels.base import Tactic
from jitrt.tune.replay import Replay, main, replays, report, share_reached
from jitrt.tune.table import read_timings
from jitrt.tune.timing_cache import Record
from tests.tune.test_table import LAYER, OTHER, candidates, put, timed

REFUSED = math.inf


def replay(*times: float, weight: float = 1.0, names: str = "") -> Replay:
    tactics = tuple(Tactic(names[i] if names else "a", (("choice", i),)) for i in range(len(times)))
    return Replay("a problem", weight, tactics, times, offered=2 * len(times))


def test_the_first_guess_is_the_first_that_is_right() -> None:
    assert replay(REFUSED, 6.0, 5.0, 4.0).regret == 1.5
    assert [replay(REFUSED, 6.0, 5.0, 4.0).after(n) for n in (1, 2, 3, 4, 9)] == [1.5, 1.5, 1.25, 1.0, 1.0]


def test_a_template_by_itself() -> None:
    both = replay(9.0, 3.0, 6.0, REFUSED, names="abab")
    own = both.of("a")
    assert (both.regret, own and own.regret) == (3.0, 1.5)
    assert both.of("b") is None, "only one of its candidates is right"


def test_a_budget_goes_to_what_costs_most() -> None:
    large, small = replay(200.0, 150.0, 100.0, weight=90.0), replay(3.0, 2.0, 1.0)
    assert share_reached([large, small], 2) == pytest.approx(101 / 203)
    assert share_reached([large, small], 4) == pytest.approx(101 / 103)
    assert share_reached([large, small], 100) == 1


def test_candidates_come_in_todays_order(tmp_path: Path) -> None:
    a, b, c = candidates(LAYER, 3)
    records = {c: Record(9.0), b: Record(reason="wrong numbers"), a: Record(12.0), Tactic("gone", ()): Record(1.0)}
    put(tmp_path, LAYER, records)
    _, timings = read_timings([put(tmp_path, OTHER, timed(candidates(OTHER, 1), 5.0))])
    (found,), left_out = replays(timings)
    assert (found.tactics, found.times) == ((a, b, c), (12.0, REFUSED, 9.0))
    assert found.offered > 3
    assert left_out == {"have fewer than two timed candidates": 1}


def test_the_report_names_what_is_farthest_off() -> None:
    text = "\n".join(report([replay(6.0, 5.0, 4.0), *[replay(*range(41, 20, -1))] * 2]))
    assert "farthest off:\n  1.95  a problem\n        chosen     41.00 us  a(choice=0)" in text
    assert "2 problems of which 20 candidates or more were tried" in text
    assert "a tenth of the candidates tried, 2.0 a problem: 52.5% of the best" in text
    assert "a tenth of the candidates offered, 4.0 a problem: 55.3% of the best" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, LAYER, timed(candidates(LAYER, 2), 10.0, 8.0))
    assert main([str(path)]) == 0
    assert "1.25  conv 3x3 + bias + relu: f16[1,64,56,56]" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing.sqlite")]) == 1
    assert "there is no timing cache" in capsys.readouterr().err
    alone = put(tmp_path / "alone", LAYER, timed(candidates(LAYER, 1), 10.0))
    assert main([str(alone)]) == 1
    assert "have fewer than two timed candidates" in capsys.readouterr().err
