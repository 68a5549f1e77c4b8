"""jitrt cache: what it counts as its own, what it finds damaged, and what it never touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jitrt.codegen.compile import Binary
from jitrt.errors import CacheError
from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Relu
from jitrt.kernels.base import Problem, Tactic
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.timing_cache import Record, Setting, TimingCache


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("JITRT_CACHE_DIR", str(path))
    return path


@pytest.fixture
def filled(folder: Path, plan_path: Path) -> Path:
    """A plan, a compiled kernel and two timings of one problem."""
    (folder / "plans").mkdir(parents=True)
    plan_path.rename(folder / "plans" / "a.plan")
    KernelCache(folder).put("ab" * 32, (Binary(b"cubin", "pointwise", 0, 4, (1, 1, 1), 0, 32, 0),))
    body = Graph("region")
    body.mark_output(body.add(Relu(), body.add_input("x", TensorType(f32, (4,)))))
    problem, setting = Problem(body, (False,), (16, 16)), Setting("a GPU", "triton 3", {"pointwise": "1"})
    timings = TimingCache(folder)
    for block in (256, 512):
        timings.put(problem, setting, Tactic("pointwise", (("BLOCK", block),)), Record(3.5))
    timings.close()
    return folder


def test_path(jitrt: Any, folder: Path) -> None:
    assert jitrt("cache", "path") == (0, f"{folder}\n", "")


@pytest.mark.parametrize("action", ["list", "verify", "clear"])
def test_a_cache_that_does_not_exist_is_not_made(jitrt: Any, folder: Path, action: str) -> None:
    status, out, _ = jitrt("cache", action)
    assert status == 0
    assert "does not exist yet" in out
    assert not folder.exists()


def test_list(jitrt: Any, filled: Path) -> None:
    _, out, _ = jitrt("cache")
    rows = [[cell.strip() for cell in row.strip("│").split("│")] for row in out.splitlines() if row.startswith("│")]
    assert [row[:2] for row in rows] == [
        ["timings", "2 of 1 problems"],
        ["compiled kernels", "1"],
        ["plan plans/a.plan", "1"],
    ]


def test_verify_finds_nothing_wrong(jitrt: Any, filled: Path) -> None:
    assert jitrt("cache", "verify")[:2] == (0, f"all of {filled} is whole\n")


@pytest.mark.parametrize("kind", ["plan", "kernel"])
def test_verify_finds_a_flipped_bit(jitrt: Any, filled: Path, kind: str) -> None:
    (path,) = filled.rglob(f"*.{kind}")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    status, out, _ = jitrt("cache", "verify")
    assert status == 1
    assert out.startswith("damaged: ")
    assert path.name in out


def test_verify_finds_a_timing_cache_that_is_none(jitrt: Any, filled: Path) -> None:
    (path,) = filled.glob("*.sqlite")
    for journal in filled.glob("*.sqlite-*"):
        journal.unlink()
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    status, out, _ = jitrt("cache", "verify")
    assert status == 1
    assert "the timing cache was damaged" in out


def test_clear_deletes_ours_and_nothing_else(jitrt: Any, filled: Path) -> None:
    (filled / "holiday.jpg").write_bytes(b"x")
    status, out, _ = jitrt("cache", "clear")
    assert status == 0
    assert "deleted 1 plans, 1 compiled kernels and 2 timings" in out
    assert (filled / "holiday.jpg").exists()
    assert not [*filled.rglob("*.plan"), *filled.rglob("*.kernel")]
    assert "0 of 0 problems" in jitrt("cache")[1]


def test_a_file_where_the_folder_should_be(jitrt: Any, folder: Path) -> None:
    folder.write_text("")
    assert jitrt("cache") == (1, "", f"jitrt: error: {folder} is no folder; set JITRT_CACHE_DIR to one\n")


def test_clear_makes_room_on_a_full_disk(jitrt: Any, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite can do nothing on a full disk: it must come after what is deleted."""
    real = TimingCache._open

    def full(self: TimingCache) -> Any:
        if [*filled.rglob("*.plan"), *filled.rglob("*.kernel")]:
            raise CacheError("its disk is full")
        return real(self)

    monkeypatch.setattr(TimingCache, "_open", full)
    assert jitrt("cache") == (1, "", "jitrt: error: its disk is full\n")
    assert jitrt("cache", "clear")[0] == 0
    assert jitrt("cache")[0] == 0


def test_compiled_kernels_that_cannot_be_deleted_are_named(
    jitrt: Any, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    status, _, err = jitrt("cache", "clear")
    assert (status, err) == (1, f"jitrt: error: cannot delete {filled / 'kernels-v1'}: Permission denied\n")


def test_what_cannot_be_deleted_is_named(jitrt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "a.plan").write_bytes(b"x")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    status, _, err = jitrt("cache", "clear")
    assert status == 1
    assert err == f"jitrt: error: cannot delete {folder / 'a.plan'}: Permission denied\n"
