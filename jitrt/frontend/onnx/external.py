"""The files beside a model that hold its large tensors: read from the model's folder and from nowhere else.

A location is taken apart and opened a component at a time, each relative to the folder just opened and none through a
symbolic link, so that neither the name nor a link swapped in meanwhile leads outside; what is checked (a regular file,
long enough) is the very descriptor that is read. Hard links are files of the folder like any other.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from jitrt.errors import ModelError
from jitrt.graph.op import Array

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INNER = _FOLDER | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO must not block the open
_PIECE = 1 << 30  # Linux reads at most 2 GiB a call

_KEYS = ("location", "offset", "length")  # others (checksum, basepath, a producer's own) mean nothing here
_NUMBER = re.compile(r"[0-9]{1,18}")  # fits an int64
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


@dataclass(frozen=True)
class Extent:
    """Where a tensor lies: bytes from `offset` on of the file at `parts` below the folder; `length` None: not said."""

    parts: tuple[str, ...]
    offset: int
    length: int | None

    @property
    def location(self) -> str:
        return "/".join(self.parts)


def extent_of(tensor: onnx.TensorProto) -> Extent:
    """What a tensor's `external_data` says. Raises ModelError for a location that leaves the folder, a number that is
    none, and entries that contradict each other."""
    given: dict[str, Any] = {}
    for entry in tensor.external_data:
        if entry.key not in _KEYS:
            continue
        if entry.key in given:
            raise ModelError(f"tensor {tensor.name!r}: its external data has two entries {entry.key!r}")
        given[entry.key] = entry.value
    return Extent(
        _parts(tensor.name, given.get("location", "")),
        _number(tensor.name, "offset", given.get("offset", "0")),
        _number(tensor.name, "length", given["length"]) if "length" in given else None,
    )


def read_extent(folder: Path, extent: Extent, size: int, tensor: str) -> Array:
    """The `size` bytes of an extent as an array of u8. Raises ModelError, which names the tensor and the file."""
    where = f"tensor {tensor!r} in file {extent.location!r}"
    try:
        descriptor = _open(folder, extent.parts)
    except OSError as error:
        raise ModelError(f"{where}: {_why(error)}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{where}: not a regular file")
        if extent.offset + size > status.st_size:
            raise ModelError(
                f"{where}: bytes {extent.offset} to {extent.offset + size} are wanted, the file has {status.st_size}"
            )
        return _read(descriptor, extent.offset, size, where)
    except OSError as error:
        raise ModelError(f"{where}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read(descriptor: int, offset: int, size: int, where: str) -> Array:
    data: Array = np.empty(size, np.uint8)
    view, done = data.data, 0
    while done < size:
        count = os.preadv(descriptor, [view[done : done + _PIECE]], offset + done)
        if count == 0:
            raise ModelError(f"{where}: the file became shorter while it was read")
        done += count
    return data


def _open(folder: Path, parts: tuple[str, ...]) -> int:
    current = os.open(folder, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _INNER, dir_fd=current)
            os.close(current)
            current = inner
        return os.open(parts[-1], _FILE, dir_fd=current)
    finally:
        os.close(current)


def _why(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):  # with O_DIRECTORY a link is refused as "not a directory"
        return "a symbolic link, or no folder, on the way: links are not followed; put the file itself beside the model"
    return str(error.strerror)


def _parts(tensor: str, location: Any) -> tuple[str, ...]:
    if not isinstance(location, str) or "\0" in location:
        raise ModelError(f"tensor {tensor!r}: its file's name is no text: {location!r}")
    parts = tuple(part for part in location.split("/") if part not in ("", "."))
    if _ABSOLUTE.match(location) or ".." in re.split(r"[/\\]", location):
        raise ModelError(f"tensor {tensor!r}: its file {location!r} is not inside the model's folder")
    if not parts:
        raise ModelError(f"tensor {tensor!r}: its external data names no file")
    return parts


def _number(tensor: str, key: str, text: Any) -> int:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise ModelError(f"tensor {tensor!r}: {key} {text!r} of its external data is no number of bytes")
    return int(text)
