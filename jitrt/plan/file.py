"""The plan file: safetensors whose tensors are the weights (`constants`, one flat uint8 array) and the cubins.

Its metadata has the one entry `jitrt`, a JSON object of

- `digest`: SHA-256 of the header, length prefix included, with these 64 digits as zeros. It covers everything below.
- `plan`: the plan (`jitrt.plan.codec`).
- `sha256`: for each tensor the SHA-256 of every 16 MiB of it, so that cores can share the work of checking.
- `others`, where the file holds plans for several architectures: the further ones, each with the name of its tensor of
  weights, which it shares with an earlier plan if they are the same.

So every byte of the file is covered, and equal plans give equal files. Reading maps the file; only cubins are copied.

Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import re
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jitrt.errors import PlanError
from jitrt.plan.codec import plan_from_json, plan_to_json
from jitrt.plan.schema import Plan, PlanFile

_CONSTANTS = "constants"
_CHUNK = 16 << 20
_NO_DIGEST = "0" * 64
_MARK = rb"{\"digest\":\""  # how the digest's place looks in the header: JSON inside a JSON string
_MAX_HEADER = 100_000_000  # the limit of safetensors itself
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# -- writing ---------------------------------------------------------------------------------------------------------


def write_plan(path: str | os.PathLike[str], file: PlanFile, *, instead: str = "save to another place") -> None:
    """Write a plan to `path`: whole or not at all, replacing the file that was there.

    Raises PlanError, ending in what to do `instead`, if the folder cannot be written or is full, or if `path` is a
    folder or device; then `path` is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    tensors, weights = _gathered(file)
    if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
        raise PlanError(f"cannot write {path}: it is a folder or device, not a file; {instead}")
    digests = {name: [f.result() for f in _digests(data.data)] for name, data in tensors.items()}
    sums = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    others = ",".join(
        f'{{"constants":{json.dumps(name)},"plan":{plan_to_json(one.plan)}}}'
        for one, name in zip(file.others, weights[1:])
    )
    body = f'"plan":{plan_to_json(file.plan)},"sha256":{sums}' + (f',"others":[{others}]' if others else "")
    metadata = {"jitrt": f'{{"digest":"{_NO_DIGEST}",{body}}}'}

    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        # Made here to learn the permissions the umask leaves; safetensors may put a private file in its place.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(handle).st_mode
        os.close(handle)
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, mode)
        with open(temporary, "r+b") as stream:
            _seal(stream)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        raise PlanError(f"cannot write {path}: {_why_not_written(error, nbytes)}, or {instead}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _gathered(file: PlanFile) -> tuple[dict[str, Any], list[str]]:
    """(all tensors by name, the name of each plan's weights)."""
    tensors: dict[str, Any] = {}
    weights: list[str] = []
    for number, one in enumerate(file.every):
        for name, data in one.images.items():
            if name.startswith(_CONSTANTS):
                raise PlanError(f"a cubin cannot be named {name!r}: that is a tensor of weights")
            if name in tensors and bytes(tensors[name]) != data:
                raise PlanError(f"two different cubins are named {name!r}")
            tensors[name] = np.frombuffer(data, np.uint8)
        mine = np.frombuffer(one.constants, np.uint8)
        same = next((name for name in weights if np.array_equal(tensors[name], mine)), None)
        weights.append(same or (_CONSTANTS if number == 0 else f"{_CONSTANTS}.{number}"))
        tensors[weights[-1]] = mine
    return tensors, weights


def _seal(stream: Any) -> None:
    """Fill in the header's digest and push the file to the disk."""
    prefix = stream.read(8)
    header = prefix + stream.read(int.from_bytes(prefix, "little"))
    stream.seek(header.index(_MARK) + len(_MARK))
    stream.write(hashlib.sha256(header).hexdigest().encode())
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename last. Some file systems cannot do this to a folder; the file itself is safe by then."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _why_not_written(error: Exception, nbytes: int) -> str:
    # safetensors hides the error number inside the text of its own exception.
    hidden = re.search(r"\(os error (\d+)\)", str(error))
    code = error.errno if isinstance(error, OSError) else int(hidden[1]) if hidden else None
    todo = f"free {max(1, nbytes >> 20)} MiB" if code in _FULL else "check that the folder exists and can be written"
    return f"{error if code is None else os.strerror(code)}; {todo}"


# -- reading ---------------------------------------------------------------------------------------------------------


def read_plan(path: str | os.PathLike[str]) -> PlanFile:
    """The plan at `path`, every byte checked. Raises PlanError, in one line, for what is not exactly a plan."""
    file, check = open_plan(path)
    check()
    return file


def open_plan(path: str | os.PathLike[str]) -> tuple[PlanFile, Callable[[], None]]:
    """The plan at `path` with all but its weights checked, and a function that ends their check.

    The weights are hashed on other threads meanwhile, so that a loader can prepare the GPU in that time. Nothing may
    be launched before the function has returned: it raises PlanError if the weights were tampered with.
    `PlanFile.constants` is a view of the mapped file.
    """
    path = Path(path)
    data = _map(path)
    header, start = _header(path, data)
    body = _metadata(path, header, bytes(data[:start]))
    tensors = _tensors(path, header, data, start)
    parts = _parts(path, body)
    sums = body.get("sha256")
    weights = {name for _, name in parts}
    if not isinstance(sums, dict) or set(sums) != set(tensors) or not weights <= set(sums):
        raise PlanError(f"{path}: the list of checksums does not fit the tensors; build the plan again")
    pending = {name: _digests(tensor) for name, tensor in tensors.items()}

    def check(*names: str) -> None:
        for name in names:
            if [future.result() for future in pending[name]] != sums[name]:
                raise PlanError(f"{path} was changed since it was written (in tensor {name!r}); copy or build it again")

    images = {name: bytes(tensor) for name, tensor in tensors.items() if name not in weights}
    check(*images)
    files = [PlanFile(plan, tensors[name], images if len(parts) == 1 else _used(plan, images)) for plan, name in parts]
    return replace(files[0], others=tuple(files[1:])), lambda: check(*weights)


def _parts(path: Path, body: dict[str, Any]) -> list[tuple[Plan, str]]:
    """Each plan in the file, with the name of its tensor of weights."""
    others = body.get("others", [])
    if not isinstance(others, list) or not all(isinstance(other, dict) for other in others):
        raise PlanError(f"{path}: its list of further plans is none; build the plan again")
    try:
        plans = [plan_from_json(part.get("plan")) for part in (body, *others)]
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error
    return list(zip(plans, [_CONSTANTS, *(str(other.get("constants")) for other in others)], strict=True))


def _used(plan: Plan, images: dict[str, bytes]) -> dict[str, bytes]:
    names = {kernel.image for kernel in plan.kernels}
    return {name: data for name, data in images.items() if name in names}


def _map(path: Path) -> memoryview:
    try:
        with open(path, "rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise PlanError(f"there is no plan at {path}") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise PlanError(f"{path} is empty; copy or build it again") from error
    except OSError as error:
        raise PlanError(f"cannot read a plan from {path}: {error.strerror}; check its permissions") from error


def _header(path: Path, data: memoryview) -> tuple[dict[str, Any], int]:
    """The header's JSON and where the tensors start."""
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= _MAX_HEADER:
        raise PlanError(f"{path} is not a plan (it does not start like a safetensors file)")
    if len(data) < 8 + size:
        raise PlanError(f"{path} is truncated: {len(data)} bytes, its header alone takes {8 + size}; copy it again")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
    except ValueError as error:  # bad UTF-8 or bad JSON
        raise PlanError(f"{path} is not a plan, or its header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise PlanError(f"{path} is not a plan (its header is no JSON object)")
    return header, 8 + size


def _metadata(path: Path, header: dict[str, Any], raw: bytes) -> dict[str, Any]:
    """The `jitrt` entry, with the header's digest checked."""
    metadata = header.get("__metadata__")
    text = metadata.get("jitrt") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise PlanError(f"{path} is a safetensors file but no jitrt plan; make one with Engine.save or `jitrt build`")
    at = raw.find(_MARK) + len(_MARK)
    digest = raw[at : at + len(_NO_DIGEST)]
    blank = raw[:at] + _NO_DIGEST.encode() + raw[at + len(_NO_DIGEST) :]
    if digest != hashlib.sha256(blank).hexdigest().encode():
        raise PlanError(f"{path} was changed since it was written (in its header); copy or build it again")
    body = json.loads(text)
    return body if isinstance(body, dict) else {}


def _tensors(path: Path, header: dict[str, Any], data: memoryview, start: int) -> dict[str, memoryview]:
    """Name -> bytes; the tensors must fill the rest of the file."""
    ranges = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        match entry:
            case {"data_offsets": [int(first), int(end)]} if 0 <= first <= end:
                ranges[name] = (start + first, start + end)
            case _:
                raise PlanError(f"{path}: tensor {name!r} has no place in the file; build the plan again")
    wanted = max((end for _, end in ranges.values()), default=start)
    if len(data) < wanted:
        raise PlanError(f"{path} is truncated: {len(data)} of {wanted} bytes; copy it again")
    if len(data) > wanted:
        raise PlanError(f"{path} has {len(data) - wanted} bytes too many; copy it again")
    return {name: data[first:end] for name, (first, end) in ranges.items()}


def _digests(data: memoryview) -> list[Future[str]]:
    """SHA-256 of every 16 MiB, worked out on other threads (hashlib lets go of the interpreter lock)."""
    with_threads = len(data) > _CHUNK
    chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    if not with_threads:
        return [_done(_digest(chunk)) for chunk in chunks]
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="jitrt-hash")
    futures = [pool.submit(_digest, chunk) for chunk in chunks]
    pool.shutdown(wait=False)
    return futures


def _digest(chunk: memoryview) -> str:
    return hashlib.sha256(chunk).hexdigest()


def _done(value: str) -> Future[str]:
    future: Future[str] = Future()
    future.set_result(value)
    return future
