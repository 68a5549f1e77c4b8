"""A model from outside, read so that nothing in it can do harm.

>>> model = read_model("model.onnx")                     # doctest: +SKIP
>>> model.read(model.proto.graph.initializer[0])         # doctest: +SKIP

Every way a file can be wrong ends in one ModelError that says where. Reading takes time and memory in proportion to the
file; see `check` for what is refused, `tensors` and `external` for how the numbers are reached.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from jitrt.errors import ModelError
from jitrt.frontend.onnx.check import Limits, check
from jitrt.frontend.onnx.tensors import array_of
from jitrt.graph.op import Array

__all__ = ["Limits", "Model", "read_model"]

_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Model:
    """A model that has been checked. `folder` is where the files with its external data may lie; None if the model did
    not come from a file, and then it may have none."""

    proto: onnx.ModelProto
    folder: Path | None
    limits: Limits

    def read(self, tensor: onnx.TensorProto) -> Array:
        """The numbers in one of its tensors; external data is read now. Raises ModelError, which names the tensor."""
        return array_of(tensor, self.folder)


def read_model(source: Any, limits: Limits | None = None, *, folder: Path | None = None) -> Model:
    """The model in a file, in bytes, in a ModelProto, or in what has one as `model_proto`. `folder` is where the
    external data of a model may lie that is not given as a file.

    Raises ModelError for a file that cannot be read or is no ONNX model, and for a model that does not hold together.
    """
    limits = limits or Limits()
    if isinstance(source, Model):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        proto, folder = _parse(_bytes_of(path, limits), str(path)), path.parent
    elif isinstance(source, bytes | bytearray | memoryview):
        proto = _parse(bytes(source), "the model")
    else:
        proto = getattr(source, "model_proto", source)
        if not isinstance(proto, onnx.ModelProto):
            raise ModelError(f"a {type(source).__name__} is no model: give a path, bytes or a ModelProto")
    check(proto, limits)
    return Model(proto, folder, limits)


def _bytes_of(path: Path, limits: Limits) -> bytes:
    """What is in a model's file, which may itself be behind a link: the caller named it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ModelError(f"cannot read {path}: not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limits.file:
            raise ModelError(
                f"{path} has {status.st_size} bytes, more than {limits.file}: keep its tensors in a file beside it"
            )
        return file.read(status.st_size)


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        hint = ": it is a pointer of Git LFS; run `git lfs pull`" if data.startswith(_LFS) else f": {error}"
        raise ModelError(f"{name} is no ONNX model, or only the beginning of one{hint}") from error
    return proto
