"""`python -m jitrt.tune.table`: what of the timings comes into the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.errors import CacheError
from jitrt.kernels.base import Problem, Tactic, templates
from jitrt.tune.candidates import candidates_of
from jitrt.tune.shipped import MOST, Advice, key_of, likeness, read_table
from jitrt.tune.table import main, make_table
from jitrt.tune.timing_cache import Record, Setting, TimingCache
from tests.kernels.convolutions import conv_problem

TARGET = TARGETS[90]
LAYER = conv_problem((1, 64, 56, 56), 64, (3, 3), padding=((1, 1), (1, 1)))
OTHER = conv_problem((1, 256, 14, 14), 512, (1, 1))


def candidates(problem: Problem, count: int) -> list[Tactic]:
    return [c.tactic for c in candidates_of(problem, TARGET, templates(), None, Advice())[:count]]


def put(folder: Path, problem: Problem, records: dict[Tactic, Record], name: str = "a GPU", arch: int = 90) -> Path:
    """Write timings to the cache in a folder."""
    device = json.dumps({"arch": arch, "name": name, "sms": 132})
    setting = Setting(device, "a toolchain", {tactic.template: "a source" for tactic in records})
    cache = TimingCache(folder)
    for tactic, record in records.items():
        cache.put(problem, setting, tactic, record)
    cache.close()
    return cache.path


def timed(tactics: Sequence[Tactic], *microseconds: float) -> dict[Tactic, Record]:
    return {tactic: Record(time) for tactic, time in zip(tactics, microseconds, strict=True)}


def test_the_best_and_what_came_close(tmp_path: Path) -> None:
    tried = candidates(LAYER, 8)
    records = timed(tried, 10.4, 10.0, 10.3, 10.1, 10.6, 9.0, 9.5, 10.2)
    records[tried[5]] = Record(reason="wrong numbers")
    records[tried[6]] = Record(9.5, slower=True)  # of another best, and never verified in full
    table, left_out = make_table([put(tmp_path, LAYER, records)])
    (entry,) = table.entries
    assert [tactic for tactic, _ in entry.tactics] == [tried[1], tried[3], tried[7]]
    assert len(entry.tactics) == MOST
    assert (entry.key, entry.likeness) == (key_of(LAYER), likeness(LAYER))
    assert entry.text == "conv 3x3 + bias + relu: f16[1,64,56,56] -> f16[1,64,56,56]"
    assert (table.arch, table.device, table.toolchain, left_out) == (90, "a GPU", "a toolchain", {})


@pytest.mark.parametrize(("count", "searched"), [(5, False), (6, True)])
def test_a_few_tries_are_no_search(tmp_path: Path, count: int, searched: bool) -> None:
    tried = [t for t in candidates(LAYER, 40) if t.template == "conv2d"][:count]
    table, _ = make_table([put(tmp_path, LAYER, timed(tried, *range(10, 10 + count)))])
    assert ("conv2d" in table.entries[0].searched) == searched


def test_what_was_much_faster_but_is_gone_must_be_searched_for(tmp_path: Path) -> None:
    tried = [t for t in candidates(LAYER, 40) if t.template == "conv2d"][:6]
    slower = {**timed(tried, *range(100, 106)), Tactic("gone", ()): Record(96.0)}
    assert "conv2d" in make_table([put(tmp_path / "1", LAYER, slower)])[0].entries[0].searched
    much = {**timed(tried, *range(100, 106)), Tactic("gone", ()): Record(90.0)}
    assert make_table([put(tmp_path / "2", LAYER, much)])[0].entries[0].searched == ()


def test_caches_are_merged_and_the_latest_counts(tmp_path: Path) -> None:
    a, b, c = candidates(LAYER, 3)
    first = put(tmp_path / "1", LAYER, timed([a, b], 9.0, 10.0))
    second = put(tmp_path / "2", LAYER, timed([a, c], 12.0, 10.2))
    put(tmp_path / "2", OTHER, timed(candidates(OTHER, 1), 3.0))
    table, _ = make_table([first, second])
    by_key = {entry.key: entry for entry in table.entries}
    assert by_key[key_of(LAYER)].tactics == ((b, 10.0), (c, 10.2))
    assert by_key[key_of(OTHER)].tactics == ((candidates(OTHER, 1)[0], 3.0),)


def test_what_no_template_offers_is_left_out(tmp_path: Path) -> None:
    (kept,) = candidates(LAYER, 1)
    odd = Tactic(kept.template, tuple((name, 3 if name == "BLOCK_M" else value) for name, value in kept.config))
    put(tmp_path, LAYER, timed([kept, odd, Tactic("gone", ())], 10.0, 9.8, 9.7))
    path = put(tmp_path, OTHER, timed([Tactic("gone", ())], 10.0))
    table, left_out = make_table([path])
    assert [entry.tactics for entry in table.entries] == [((kept, 10.0),)]
    assert left_out == {"have no tactic that won and is still a candidate": 1}


def test_a_table_is_of_one_gpu(tmp_path: Path) -> None:
    put(tmp_path, LAYER, timed(candidates(LAYER, 1), 10.0))
    put(tmp_path, LAYER, timed(candidates(LAYER, 1), 1.0), "a toaster", arch=75)  # nothing jitrt builds for
    path = put(tmp_path, LAYER, timed(candidates(LAYER, 1), 8.0), "another GPU")
    with pytest.raises(CacheError, match="of a GPU, another GPU: choose one by --device"):
        make_table([path])
    assert make_table([path], "another GPU")[0].entries[0].tactics[0][1] == 8.0
    with pytest.raises(CacheError, match="none of 'a third'"):
        make_table([path], "a third")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, LAYER, timed(candidates(LAYER, 2), 10.0, 10.1))
    out = tmp_path / "sm_90.json"
    assert main([str(path), "-o", str(out)]) == 0
    assert "1 problems of a GPU, 0 of them searched; 2 tactics" in capsys.readouterr().out
    assert read_table(out).entries == make_table([path])[0].entries
    assert main([str(tmp_path / "nothing.sqlite"), "-o", str(out)]) == 1
    assert "there is no timing cache" in capsys.readouterr().err


def test_timings_of_which_nothing_will_do_make_no_table(tmp_path: Path) -> None:
    path = put(tmp_path, LAYER, {candidates(LAYER, 1)[0]: Record(reason="wrong numbers")})
    with pytest.raises(CacheError, match="have no tactic that won"):
        make_table([path])
