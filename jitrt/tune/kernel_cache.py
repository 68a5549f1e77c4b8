"""Compiled candidates on disk, by a digest of all that decides their bytes: a second build compiles nothing.

Triton's own cache serves flipped and truncated cubins without a word. A file here begins with the SHA-256 of the rest,
and one that does not match is deleted and compiled again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from jitrt.codegen.compile import Binary
from jitrt.errors import CacheError
from jitrt.knobs import cache_dir

_HEX = 64


class KernelCache:
    """Files `kernels-v1/ab/abcdef....kernel` in a folder (by default the user's cache folder)."""

    def __init__(self, folder: Path | None = None):
        self.folder = (folder or cache_dir()) / "kernels-v1"

    def get(self, key: str) -> tuple[Binary, ...] | None:
        """The binaries stored under `key`, or None. A damaged file is deleted."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if not _intact(data):
            with contextlib.suppress(OSError):  # what is compiled next replaces it
                path.unlink()
            return None
        return _decode(data[_HEX:])

    def put(self, key: str, binaries: tuple[Binary, ...]) -> None:
        """Store binaries; readers see all of the file or none. Raises CacheError if the folder cannot be written."""
        path = self._path(key)
        body = _encode(binaries)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(body).hexdigest().encode() + body)
                os.replace(name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "its disk is full: free some space there" if full else f"{error.strerror}: make it writable"
            advice = f"{what}, or set JITRT_CACHE_DIR to another folder"
            raise CacheError(f"the kernel cache {self.folder}: {advice}") from error

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self._files())

    def count(self) -> int:
        """Candidates stored."""
        return len(self._files())

    def clear(self) -> int:
        """Delete everything; returns how many candidates there were. Raises CacheError if that cannot be done."""
        count = self.count()
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise CacheError(f"cannot delete {self.folder}: {error.strerror}") from error
        return count

    def verify(self) -> list[str]:
        """The files that are damaged; they are left in place."""
        return [str(path) for path in self._files() if not _intact(path.read_bytes())]

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.kernel"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*/*.kernel"))


def _intact(data: bytes) -> bool:
    return hashlib.sha256(data[_HEX:]).hexdigest().encode() == data[:_HEX]


def _encode(binaries: tuple[Binary, ...]) -> bytes:
    """A line of JSON, then the cubins one after another."""
    heads = [{**dataclasses.asdict(b), "cubin": len(b.cubin)} for b in binaries]
    return json.dumps(heads).encode() + b"\n" + b"".join(b.cubin for b in binaries)


def _decode(body: bytes) -> tuple[Binary, ...]:
    head, _, rest = body.partition(b"\n")
    out = []
    for fields in json.loads(head):
        size = fields["cubin"]
        out.append(Binary(**{**fields, "cubin": rest[:size], "cluster": tuple(fields["cluster"])}))
        rest = rest[size:]
    return tuple(out)
