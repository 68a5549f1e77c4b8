"""Look after the cache: built plans, compiled kernels, and the timings by which a model reuses the tuning of another.

list    what is there, and how big
verify  check all of it to the byte; exit status 1 if something is damaged
clear   delete what jitrt put there
path    print the folder (JITRT_CACHE_DIR moves it)
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from jitrt.cli.terminal import console, line, size, table
from jitrt.errors import CacheError, PlanError
from jitrt.knobs import cache_dir
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.timing_cache import TimingCache

EXAMPLES = """examples:
  jitrt cache
  jitrt cache verify
  JITRT_CACHE_DIR=/scratch/jitrt jitrt cache path
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=("list", "verify", "clear", "path"))


def run(args: argparse.Namespace) -> int:
    folder = cache_dir()
    if args.action == "path":
        print(folder)
    elif not os.path.lexists(folder):
        console().print(line(f"nothing in {folder}: it does not exist yet"))
    elif not folder.is_dir():
        raise CacheError(f"{folder} is no folder; set JITRT_CACHE_DIR to one")
    else:
        return {"list": _list, "verify": _verify, "clear": _clear}[args.action](folder)
    return 0


def _plans(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.plan"))


def _list(folder: Path) -> int:
    timings, kernels, plans = TimingCache(folder), KernelCache(folder), _plans(folder)
    entries = timings.entries()
    tried = sum(entry.tried for entry in entries)
    rows = [
        ("timings", f"{tried} of {len(entries)} problems", size(timings.size()), _age(timings.path)),
        ("compiled kernels", str(kernels.count()), size(kernels.size()), ""),
        *((f"plan {path.relative_to(folder)}", "1", size(path.stat().st_size), _age(path)) for path in plans),
    ]
    timings.close()
    terminal = console()
    terminal.print(table(None, ("In the cache", "How many", "Size", "Age"), rows, right=(2, 3)))
    terminal.print(line(str(folder)))
    return 0


def _age(path: Path) -> str:
    hours = (time.time() - path.stat().st_mtime) / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _verify(folder: Path) -> int:
    from jitrt.plan.verify import verify_plan

    damaged = [f"compiled kernel {name}; jitrt cache clear removes it" for name in KernelCache(folder).verify()]
    timings = TimingCache(folder)
    damaged += [*timings.messages, *(f"timings: {what}" for what in timings.verify())]
    timings.close()
    for path in _plans(folder):
        try:
            verify_plan(path)
        except PlanError as error:
            damaged.append(str(error))
    terminal = console()
    for what in damaged:
        terminal.print(line(f"damaged: {what}"))
    if not damaged:
        terminal.print(line(f"all of {folder} is whole"))
    return 1 if damaged else 0


def _clear(folder: Path) -> int:
    """Only what is known to be jitrt's: JITRT_CACHE_DIR may name a folder that holds other things too."""
    plans = _plans(folder)
    try:
        for path in plans:
            path.unlink()
    except OSError as error:
        raise CacheError(f"cannot delete {error.filename}: {error.strerror}") from error
    compiled = KernelCache(folder).clear()
    timings = TimingCache(folder)  # last: on a full disk it opens only when there is room again
    forgotten = timings.clear()
    timings.close()
    what = f"{len(plans)} plans, {compiled} compiled kernels and {forgotten} timings"
    console().print(line(f"deleted {what} from {folder}"))
    return 0
