"""Look after the cache: built plans, and the timing cache that lets a second model reuse the first one's tuning.

    list    what is there, and how big
    verify  check every plan to the byte; exit status 1 if one is damaged
    clear   delete what jitrt put there
    path    print the folder (JITRT_CACHE_DIR moves it)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from jitrt.cli.terminal import console, line, size, table
from jitrt.errors import CacheError, PlanError
from jitrt.knobs import cache_dir

# Only files of these kinds are ours to list and delete: JITRT_CACHE_DIR may name a folder that holds other things too.
OURS = {".plan", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".tmp"}

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
        return 0
    if args.action == "verify":
        return _verify(folder)
    return _clear(folder) if args.action == "clear" else _list(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in OURS and path.is_file())


def _list(folder: Path) -> int:
    terminal, files = console(), _files(folder)
    if not files:
        terminal.print(line(f"{folder} is empty"))
        return 0
    rows = [(path.relative_to(folder), size(path.stat().st_size), _age(path)) for path in files]
    terminal.print(table(None, ("File", "Size", "Age"), rows, right=(1, 2)))
    terminal.print(line(f"{len(files)} files, {size(sum(p.stat().st_size for p in files))} in {folder}"))
    return 0


def _age(path: Path) -> str:
    hours = (time.time() - path.stat().st_mtime) / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _verify(folder: Path) -> int:
    from jitrt.plan.verify import verify_plan

    terminal = console()
    plans = [path for path in _files(folder) if path.suffix == ".plan"]
    damaged = 0
    for path in plans:
        try:
            verify_plan(path)
        except PlanError as error:
            damaged += 1
            terminal.print(line(f"damaged: {error}"))
    terminal.print(line(f"{len(plans) - damaged} of {len(plans)} plans are whole"))
    return 1 if damaged else 0


def _clear(folder: Path) -> int:
    files = _files(folder)
    freed = sum(path.stat().st_size for path in files)
    try:
        for path in files:
            path.unlink()
    except OSError as error:
        raise CacheError(f"cannot delete {error.filename}: {error.strerror}") from error
    console().print(line(f"deleted {len(files)} files ({size(freed)}) from {folder}"))
    return 0
