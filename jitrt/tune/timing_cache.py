"""The timing cache: what every tried tactic took, shared by all models and processes of a user.

One SQLite file. A row is one tactic of one problem on one device, with one toolchain and one state of the kernel's
source; models appear nowhere, so that a second model finds the first one's layers. Rows are committed as they come:
whatever stops a tuning run, the next one goes on from there.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jitrt.codegen.digests import digest
from jitrt.errors import CacheError
from jitrt.kernels.base import Problem, Tactic
from jitrt.knobs import cache_dir

VERSION = 1  # of the tables; part of the file's name, so that versions live side by side

_TABLES = """
CREATE TABLE IF NOT EXISTS problems (problem TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timings (
    problem TEXT NOT NULL, device TEXT NOT NULL, toolchain TEXT NOT NULL, source TEXT NOT NULL,
    template TEXT NOT NULL, config TEXT NOT NULL,
    microseconds REAL, slower INTEGER NOT NULL, reason TEXT, created REAL NOT NULL,
    PRIMARY KEY (problem, device, toolchain, source, template, config)
) WITHOUT ROWID;
"""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WAIT = 10.0  # seconds for another process to finish its write

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """What came of trying a tactic: microseconds if it was right, or a reason if it was refused. `slower` says that it
    was behind the best by then, so that its time may be a first estimate and the last of the checks was left out."""

    microseconds: float | None = None
    reason: str | None = None
    slower: bool = False

    @property
    def wins(self) -> bool:
        """Fully verified and timed: it may be chosen."""
        return self.reason is None and not self.slower


@dataclass(frozen=True)
class Setting:
    """What timings hold for besides the problem: the device's full description, the toolchain, and the digest of each
    template's source by the template's name."""

    device: str
    toolchain: str
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One problem on one device in the cache, for listings: its text, how many tactics were tried, and the best."""

    text: str
    device: str
    toolchain: str
    tried: int
    best: Tactic | None
    microseconds: float | None
    created: float


class TimingCache:
    """The timings in a folder (by default the user's cache folder). Safe for many processes at once.

    A damaged file is moved aside and said so in `messages`. Methods raise CacheError if the folder cannot be used.
    """

    def __init__(self, folder: Path | None = None):
        self.path = (folder or cache_dir()) / f"timings-v{VERSION}.sqlite"
        self.messages: list[str] = []
        self._connection = self._open()

    def records(self, problem: Problem, setting: Setting) -> dict[Tactic, Record]:
        """Everything known of a problem's tactics that still holds."""
        query = (
            "SELECT template, config, source, microseconds, slower, reason FROM timings"
            " WHERE problem = ? AND device = ? AND toolchain = ?"
        )
        key = (digest(problem.key), setting.device, setting.toolchain)
        rows = self._run(lambda c: c.execute(query, key).fetchall())
        return {
            Tactic(template, ast.literal_eval(config)): Record(microseconds, reason, bool(slower))
            for template, config, source, microseconds, slower, reason in rows
            if setting.sources.get(template) == source
        }

    def put(self, problem: Problem, setting: Setting, tactic: Tactic, record: Record) -> None:
        """Remember what came of a tactic, at once and for good."""
        name = digest(problem.key)
        row = (
            *(name, setting.device, setting.toolchain, setting.sources[tactic.template]),
            *(tactic.template, repr(tactic.config)),
            *(record.microseconds, int(record.slower), record.reason, time.time()),
        )

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("INSERT OR IGNORE INTO problems VALUES (?, ?)", (name, problem.key))
                connection.execute("INSERT OR REPLACE INTO timings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

        self._run(write)

    def why(self, problem: Problem, setting: Setting) -> str:
        """One line on why the cache has, or has not, an answer for a problem."""
        known = self.records(problem, setting)
        if known:
            best = min((r.microseconds or 0.0 for r in known.values() if r.wins), default=None)
            refused = sum(r.reason is not None for r in known.values())
            found = "none may win" if best is None else f"best {best:.2f} us"
            return f"hit: {len(known)} tactics known, {refused} of them refused, {found}"
        query = "SELECT DISTINCT device, toolchain, template, source FROM timings WHERE problem = ?"
        rows = self._run(lambda c: c.execute(query, (digest(problem.key),)).fetchall())
        if not rows:
            return "miss: this problem was never tuned"
        here = [row for row in rows if row[0] == setting.device]
        if not here:
            return "miss: tuned on another device or driver version only"
        same = [row for row in here if row[1] == setting.toolchain]
        if not same:
            return f"miss: tuned with {here[0][1]}, this is {setting.toolchain}"
        changed = sorted({row[2] for row in same})
        return f"miss: the source of {', '.join(changed)} has changed since"

    def entries(self) -> list[Entry]:
        """Every problem and device, latest first."""
        query = (
            "SELECT p.text, t.device, t.toolchain, COUNT(*), MAX(t.created) AS latest, t.problem FROM timings t"
            " JOIN problems p USING (problem) GROUP BY t.problem, t.device, t.toolchain ORDER BY latest DESC"
        )
        best = (
            "SELECT template, config, microseconds FROM timings WHERE problem = ? AND device = ? AND toolchain = ?"
            " AND reason IS NULL AND NOT slower ORDER BY microseconds LIMIT 1"
        )

        def read(connection: sqlite3.Connection) -> list[Entry]:
            out = []
            for text, device, toolchain, tried, created, name in connection.execute(query).fetchall():
                row = connection.execute(best, (name, device, toolchain)).fetchone()
                tactic = Tactic(row[0], ast.literal_eval(row[1])) if row else None
                out.append(Entry(text, device, toolchain, tried, tactic, row[2] if row else None, created))
            return out

        return self._run(read)

    def clear(self) -> int:
        """Forget everything; returns how many timings there were."""

        def wipe(connection: sqlite3.Connection) -> int:
            with connection:
                count = connection.execute("DELETE FROM timings").rowcount
                connection.execute("DELETE FROM problems")
            connection.execute("VACUUM")
            return count

        return self._run(wipe)

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.path.parent.glob(self.path.name + "*"))

    def verify(self) -> list[str]:
        """What is wrong with the file: nothing, if the list is empty."""
        found = [row[0] for row in self._run(lambda c: c.execute("PRAGMA integrity_check").fetchall())]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        self._connection.close()

    def _run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """`action`, once more on a fresh file if this one turns out to be damaged."""
        try:
            return action(self._connection)
        except sqlite3.Error as error:
            if _code(error) not in _DAMAGED:
                raise self._trouble(error) from error
        self._connection.close()
        self._connection = self._open()
        try:
            return action(self._connection)
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                try:
                    return self._connect()
                except sqlite3.DatabaseError as error:
                    if _code(error) not in _DAMAGED:
                        raise
                self._move_aside()
                return self._connect()
        except (sqlite3.Error, OSError) as error:
            raise self._trouble(error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_WAIT)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_TABLES)
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                error = sqlite3.DatabaseError(damage)
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _move_aside(self) -> None:
        target = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.rename(target)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.messages.append(f"the timing cache was damaged and starts anew; the old file is kept as {target}")

    def _trouble(self, error: Exception) -> CacheError:
        if _code(error) == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            what = "its disk is full: free some space there"
        elif _code(error) == sqlite3.SQLITE_IOERR:  # where there is no room for its journal, too
            what = f"{error}: free some space on its disk"
        elif _code(error) == sqlite3.SQLITE_BUSY:
            what = f"another process has held it for {_WAIT:.0f} s: try again"
        else:
            what = f"{getattr(error, 'strerror', None) or error}: make it writable"
        return CacheError(f"the timing cache {self.path}: {what}, or set JITRT_CACHE_DIR to another folder")


def _code(error: Exception) -> int:
    """The primary result code of an SQLite error; 0 if there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time opens the file, so that a damaged one is moved aside once."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
