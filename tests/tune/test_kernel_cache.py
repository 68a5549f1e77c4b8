"""Compiled candidates on disk: what comes back is what was stored, or nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jitrt.codegen.compile import Binary
from jitrt.errors import CacheError
from jitrt.tune.kernel_cache import KernelCache

KEY = "ab" * 16
BINARIES = (
    Binary(b"\x7fELF first", "main", 1024, 4, (1, 1, 1), 0, 40, 0),
    Binary(b"\x7fELF \n second", "sum", 0, 8, (2, 1, 1), 128, 255, 16),
)


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path)


def test_binaries_come_back_whole(cache: KernelCache) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, BINARIES)
    assert cache.get(KEY) == BINARIES
    assert cache.count() == 1
    assert cache.size() > len(BINARIES[0].cubin)
    assert cache.verify() == []


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_file_is_found_and_deleted(cache: KernelCache, damage: str) -> None:
    cache.put(KEY, BINARIES)
    (path,) = cache.folder.glob("*/*")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes({"flipped": bytes(data), "truncated": bytes(data[:-1]), "empty": b""}[damage])
    assert cache.verify() == [str(path)]
    assert cache.get(KEY) is None
    assert not path.exists()


def test_clearing(cache: KernelCache) -> None:
    cache.put(KEY, BINARIES)
    assert cache.clear() == 1
    assert (cache.count(), cache.size()) == (0, 0)


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "its disk is full: free some"), (errno.EACCES, "make it writable")]
)
def test_a_failed_write_leaves_nothing_and_says_what_to_do(
    cache: KernelCache, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CacheError, match=advice):
        cache.put(KEY, BINARIES)
    assert list(cache.folder.glob("*/*")) == []


def test_a_damaged_file_that_cannot_be_deleted_is_compiled_again(
    cache: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(KEY, BINARIES)
    (path,) = cache.folder.glob("*/*")
    path.write_bytes(b"")

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert cache.get(KEY) is None
    cache.put(KEY, BINARIES)
    assert cache.get(KEY) == BINARIES
