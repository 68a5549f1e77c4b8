"""The timing cache: what it finds, what it says when it does not, and what it survives."""

from __future__ import annotations

import dataclasses
import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import planted
import pytest

from jitrt.errors import CacheError
from jitrt.kernels.base import Tactic
from jitrt.knobs import environment
from jitrt.tune.timing_cache import Record, Setting, TimingCache

PROBLEM = planted.relu_problem(4, 8)
SETTING = Setting("an H200", "triton 3.7.1", {"listed": "abc", "other": "def"})
FAST = Tactic("listed", (("BLOCK_M", 16), ("FLATTEN", True)))
WRONG = Tactic("other", (("mode", "split"),))


@pytest.fixture
def cache(tmp_path: Path) -> TimingCache:
    return TimingCache(tmp_path)


def fill(cache: TimingCache) -> None:
    cache.put(PROBLEM, SETTING, FAST, Record(3.5))
    cache.put(PROBLEM, SETTING, WRONG, Record(reason="wrong numbers"))


def test_what_was_put_is_found_by_another_opening(cache: TimingCache, tmp_path: Path) -> None:
    fill(cache)
    assert TimingCache(tmp_path).records(PROBLEM, SETTING) == {FAST: Record(3.5), WRONG: Record(reason="wrong numbers")}


def test_a_later_result_replaces_an_earlier_one(cache: TimingCache) -> None:
    cache.put(PROBLEM, SETTING, FAST, Record(9.0, slower=True))
    cache.put(PROBLEM, SETTING, FAST, Record(3.5))
    assert cache.records(PROBLEM, SETTING) == {FAST: Record(3.5)}


def test_only_complete_right_results_may_win() -> None:
    assert Record(3.5).wins
    assert not Record(3.5, slower=True).wins
    assert not Record(reason="crashed").wins


@pytest.mark.parametrize(
    ("problem", "setting", "reason"),
    [
        (planted.relu_problem(4, 16), SETTING, "miss: this problem was never tuned"),
        (PROBLEM, dataclasses.replace(SETTING, device="an A100"), "miss: tuned on another device"),
        (PROBLEM, dataclasses.replace(SETTING, toolchain="triton 3.8"), "tuned with triton 3.7.1, this is triton 3.8"),
        (PROBLEM, dataclasses.replace(SETTING, sources={"listed": "new"}), "the source of listed, other has changed"),
    ],
)
def test_a_miss_says_why(cache: TimingCache, problem: object, setting: Setting, reason: str) -> None:
    fill(cache)
    assert cache.records(problem, setting) == {}  # type: ignore[arg-type]
    assert reason in cache.why(problem, setting)  # type: ignore[arg-type]


def test_a_hit_says_what_is_known(cache: TimingCache) -> None:
    fill(cache)
    assert cache.why(PROBLEM, SETTING) == "hit: 2 tactics known, 1 of them refused, best 3.50 us"


def test_a_changed_source_forgets_that_templates_timings_only(cache: TimingCache) -> None:
    fill(cache)
    changed = dataclasses.replace(SETTING, sources={"listed": "abc", "other": "new"})
    assert cache.records(PROBLEM, changed) == {FAST: Record(3.5)}


def test_listing_size_and_clearing(cache: TimingCache) -> None:
    fill(cache)
    (entry,) = cache.entries()
    assert (entry.tried, entry.best, entry.microseconds, entry.device) == (2, FAST, 3.5, "an H200")
    assert entry.text == PROBLEM.key
    assert cache.size() > 0
    assert cache.verify() == []
    assert cache.clear() == 2
    assert cache.entries() == []


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped"])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, damage: str) -> None:
    first = TimingCache(tmp_path)
    fill(first)
    first.close()
    data = bytearray(first.path.read_bytes())
    if damage == "garbage":
        data = bytearray(b"this is no database" * 100)
    elif damage == "truncated":
        data = data[: len(data) // 2 + 7]
    else:
        data[100:4096] = bytes(255 - b for b in data[100:4096])
    first.path.write_bytes(data)
    cache = TimingCache(tmp_path)
    assert "damaged" in cache.messages[0]
    assert str(tmp_path) in cache.messages[0]
    assert cache.records(PROBLEM, SETTING) == {}
    fill(cache)
    assert len(cache.records(PROBLEM, SETTING)) == 2
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_a_file_that_is_damaged_while_open_is_replaced(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    fill(cache)
    sqlite3.connect(cache.path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cache.path.write_bytes(b"this is no database" * 1000)
    cache.put(PROBLEM, SETTING, FAST, Record(1.0))
    assert cache.records(PROBLEM, SETTING)[FAST] == Record(1.0)
    assert "damaged" in cache.messages[0]


def test_a_folder_that_cannot_be_made_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="set JITRT_CACHE_DIR to another folder"):
        TimingCache(tmp_path / "file" / "cache")


def test_a_full_disk_is_an_error_with_advice(cache: TimingCache) -> None:
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CacheError, match="its disk is full: free some space"):
        cache.put(PROBLEM, SETTING, FAST, Record(reason="a long story " * 10_000))


def test_a_read_only_folder_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str = "r") -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CacheError, match=r"sqlite: Read-only file system: make it writable, or set JITRT_CACHE_DIR"):
        TimingCache(tmp_path)


def test_a_cache_that_another_process_holds_is_an_error_with_advice(
    cache: TimingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache._connection.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(cache.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CacheError, match="another process has held it for 10 s: try again"):
        cache.put(PROBLEM, SETTING, FAST, Record(1.0))
    other.execute("ROLLBACK")
    cache.put(PROBLEM, SETTING, FAST, Record(1.0))


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import planted\n"
        "from jitrt.kernels.base import Tactic\n"
        "from jitrt.tune.timing_cache import Record, Setting, TimingCache\n"
        "cache = TimingCache(Path(sys.argv[2]))\n"
        "setting = Setting('an H200', 't', {'listed': 's'})\n"
        "for i in range(40):\n"
        "    tactic = Tactic('listed', (('writer', sys.argv[3]), ('i', i)))\n"
        "    cache.put(planted.relu_problem(4, 8), setting, tactic, Record(float(i)))\n"
    )
    root = str(Path(__file__).parents[2])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path), str(writer)],
            env=environment({"PYTHONPATH": root}),
        )
        for writer in range(3)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    records = TimingCache(tmp_path).records(PROBLEM, Setting("an H200", "t", {"listed": "s"}))
    assert len(records) == 120
