"""Built plans on disk, found again by everything that decides what they are."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from functools import cache
from pathlib import Path

from jitrt.codegen.target import Target
from jitrt.errors import PlanError
from jitrt.graph.graph import Graph
from jitrt.graph.text import to_text
from jitrt.knobs import cache_dir
from jitrt.plan.file import read_plan, write_plan
from jitrt.plan.schema import PlanFile

_log = logging.getLogger("jitrt")

_MOVE = "set JITRT_CACHE_DIR to another folder"


class PlanCache:
    """Plans in `plans/` of the cache folder, one file each, checked to the byte when read.

    A damaged one is deleted and built again; a folder that is full or cannot be written costs the next process a build,
    not this one its result. Both are logged.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = (folder or cache_dir()) / "plans"

    def get(self, key: str) -> PlanFile | None:
        """The plan built under `key`, if there is one."""
        path = self._path(key)
        if not os.path.isfile(path):  # unlike the method of Path, False for a folder that may not be entered
            return None
        try:
            return read_plan(path)
        except PlanError as error:
            _log.warning("%s (the plan is built anew, in place of the one in the cache)", error)
            with contextlib.suppress(OSError):  # the one that is put there next replaces it
                path.unlink()
            return None

    def put(self, key: str, file: PlanFile) -> None:
        """Keep a plan under `key`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_plan(self._path(key), file, instead=_MOVE)
        except OSError as error:
            _log.warning("the plan cache %s: %s: make it writable, or %s", self.folder, error.strerror, _MOVE)
        except PlanError as error:
            _log.warning("the plan is not kept in the cache: %s", error)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.plan"


def plan_key(graph: Graph, options: str, target: Target, device: str) -> str:
    """32 hex digits of: graph, weights, options, target, device, toolchain, jitrt's code and what was added to it."""
    from jitrt.plugins.registry import outside
    from jitrt.tune.keys import toolchain

    hasher = hashlib.sha256(to_text(graph, locations=False).encode())
    for value in graph.constants.values():
        hasher.update(value.digest.encode())
    for text in (options, repr(target), device, toolchain(target), _code(), outside()):
        hasher.update(b"\0" + text.encode())
    return hasher.hexdigest()[:32]


@cache
def _code() -> str:
    """Digest of jitrt's source files: a changed pass, kernel or table of tactics makes another plan."""
    package = Path(__file__).parent
    hasher = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.glob("tune/tables/*.json")]):
        hasher.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return hasher.hexdigest()
