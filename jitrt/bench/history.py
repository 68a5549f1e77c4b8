"""The history of runs: a line of JSON a run, and what has changed since the last one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitrt.bench.outcome import Outcome
from jitrt.bench.report import Report, Section
from jitrt.errors import OptionError

_Key = tuple[str, int, str, str, str]  # model, batch, precision, contestant, device


@dataclass(frozen=True)
class Change:
    """An outcome beside the last one of the same model, batch, precision, contestant and device. Microseconds back to
    back; `noise` is the larger spread of the two."""

    now: Outcome
    when: str
    before: float
    after: float
    noise: float

    @property
    def text(self) -> str:
        """Such as "-3.1%", or that it is less than the noise."""
        change = f"{self.after / self.before - 1:+.1%}"
        return change if abs(self.after - self.before) > self.noise else f"{change}, within ±"


def append(report: Report, path: Path) -> None:
    """Add a run to the history; those before it stay as they are."""
    line = json.dumps(dataclasses.asdict(report)) + "\n"
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        line = "\n" + line  # a run that was cut off keeps its line to itself
    with path.open("a") as history:
        history.write(line)


def read(path: Path) -> list[dict[str, Any]]:
    """The runs, oldest first, as JSON has them. Raises OptionError for a file that is not there or holds no runs."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the history {path} cannot be read: {error}") from error
    runs = []
    for number, line in enumerate(lines, 1):
        try:
            run = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise OptionError(f"{path}, line {number}, is no JSON ({error}); take the line out") from error
        if isinstance(run, dict) and "outcomes" in run:
            runs.append(run)
    if not runs:
        raise OptionError(f"{path} holds no runs of jitrt bench; --output NAME.md writes them to NAME.jsonl")
    return runs


def changes(report: Report, runs: Iterable[dict[str, Any]]) -> list[Change]:
    """Every outcome of the report that an earlier run on such a device has too."""
    last: dict[_Key, tuple[str, dict[str, Any]]] = {}
    for run in runs:
        device = (run.get("device") or {}).get("name", "")
        for old in run["outcomes"]:
            if old.get("timing"):
                key = (old["model"], old["batch"], old["precision"], old["contestant"], device)
                last[key] = run["when"], old
    device = report.device.name if report.device else ""
    found = []
    for now in report.outcomes:
        key = (now.model, now.batch, now.precision, now.contestant, device)
        if now.timing is None or key not in last:
            continue
        when, old = last[key]
        before = old["timing"]["back_to_back"]
        noise = max(now.spread, abs(old.get("repeat", 0.0)), before["spread"])
        found.append(Change(now, when, before["median"], now.timing.back_to_back.median, noise))
    return found


def section(found: Iterable[Change], path: Path) -> Section:
    """The changes as a table."""
    header = ("Model", "Batch", "Precision", "Contestant", "Last run", "Then (us)", "Now (us)", "±", "Change")
    rows = [_row(change) for change in found]
    below = () if rows else ("Nothing there is of the same model, batch, precision, contestant and device.",)
    return Section((f"Against the last runs in {path}:",), header, rows, below)


def _row(change: Change) -> list[str]:
    now = change.now
    times = (f"{us:,.1f}" for us in (change.before, change.after, change.noise))
    return [now.model, str(now.batch), now.precision, now.contestant, change.when, *times, change.text]
