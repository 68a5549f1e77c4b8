"""jitrt cache: what it counts as its own, and what it never touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("JITRT_CACHE_DIR", str(path))
    return path


def test_path(jitrt: Any, folder: Path) -> None:
    assert jitrt("cache", "path") == (0, f"{folder}\n", "")


def test_a_cache_that_does_not_exist_is_empty(jitrt: Any, folder: Path) -> None:
    status, out, _ = jitrt("cache")
    assert status == 0
    assert "is empty" in out
    assert jitrt("cache", "verify")[:2] == (0, "0 of 0 plans are whole\n")
    assert jitrt("cache", "clear")[0] == 0


def test_list_counts_plans_and_the_timing_cache(jitrt: Any, folder: Path, plan_path: Path) -> None:
    (folder / "plans").mkdir(parents=True)
    plan_path.rename(folder / "plans" / "a.plan")
    (folder / "timing.sqlite").write_bytes(b"12345")
    _, out, _ = jitrt("cache", "list")
    assert "plans/a.plan" in out
    assert "timing.sqlite" in out
    assert "2 files" in out


def test_verify_finds_the_damaged_plan(jitrt: Any, folder: Path, plan_path: Path) -> None:
    folder.mkdir()
    whole = plan_path.read_bytes()
    (folder / "good.plan").write_bytes(whole)
    (folder / "bad.plan").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    status, out, _ = jitrt("cache", "verify")
    assert status == 1
    assert "bad.plan was changed" in out
    assert "1 of 2 plans are whole" in out


def test_clear_deletes_ours_and_nothing_else(jitrt: Any, folder: Path) -> None:
    folder.mkdir()
    for name in ("a.plan", "timing.sqlite", "holiday.jpg"):
        (folder / name).write_bytes(b"x")
    status, out, _ = jitrt("cache", "clear")
    assert status == 0
    assert "deleted 2 files" in out
    assert [path.name for path in folder.iterdir()] == ["holiday.jpg"]


def test_what_cannot_be_deleted_is_named(jitrt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "a.plan").write_bytes(b"x")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    status, _, err = jitrt("cache", "clear")
    assert status == 1
    assert err == f"jitrt: error: cannot delete {folder / 'a.plan'}: Permission denied\n"
