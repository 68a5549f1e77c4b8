"""Make the table of tactics that comes with jitrt: `python -m jitrt.tune.table timings-v1.sqlite ... -o sm_90.json`.

Merges timing caches of one GPU. Of a tactic that was tried more than once the latest counts. A problem gets its best
tactic, and up to two more that were within 5% of it, all of which were verified and won when they were tried, and which
a template still offers for the problem. A template counts as searched if enough of its candidates were tried: as many
as there are, or six; but none does if something was faster that is no candidate any more. In 110 searches on the H200
the best of the first six was 1.3% slower than the best of 24, on average, and the best of the first three 3.5%.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import CacheError, GraphError, JitrtError, TuningError
from jitrt.graph.draw import label_of
from jitrt.kernels.base import Problem, Tactic, templates
from jitrt.knobs import cache_dir
from jitrt.tune.budget import Budget
from jitrt.tune.candidates import candidates_of
from jitrt.tune.samples import is_stale, read_problem, read_rows
from jitrt.tune.shipped import MOST, Advice, Entry, Table, key_of, likeness, write_table
from jitrt.tune.timing_cache import VERSION, Record

_QUERY = (
    "SELECT text, device, toolchain, template, config, microseconds, slower, reason, created FROM timings"
    " JOIN problems USING (problem) ORDER BY created"
)
_CLOSE = 1.05  # times the best
_ENOUGH = 6  # candidates of a template that make a search


@dataclass
class Timings:
    """What caches hold of one GPU: the latest record of each tactic, by problem, and the toolchain of the last. The
    same problem may have several texts: one that an older jitrt wrote has not all of today's attributes."""

    arch: int = 0
    toolchain: str = ""
    unread: set[str] = field(default_factory=set)
    problems: dict[str, Problem] = field(default_factory=dict)  # by their text
    records: dict[str, dict[Tactic, Record]] = field(default_factory=lambda: defaultdict(dict))  # by the problem's key

    def add(self, text: str, tactic: Tactic, record: Record, created: float) -> None:
        """A record that is newer than all before."""
        if text not in self.problems and text not in self.unread:
            try:
                self.problems[text] = read_problem(text)
            except GraphError:
                self.unread.add(text)
        if text in self.problems and not is_stale(self.problems[text], created):
            self.records[self.problems[text].key][tactic] = record


def make_table(paths: Sequence[Path], device: str | None = None) -> tuple[Table, Counter[str]]:
    """The table of these cache files, and how many problems were left out, by reason. `device` is the GPU's name,
    which may be left out where there is only one. Raises CacheError if a file is none, and if there is nothing to put
    into the table."""
    name, timings = read_timings(paths, device)
    target = TARGETS[timings.arch]
    entries, left_out = [], Counter[str]()
    if timings.unread:
        left_out["are written in words of another version"] = len(timings.unread)
    for problem in {problem.key: problem for problem in timings.problems.values()}.values():
        entry = _entry(problem, timings.records[problem.key], target)
        if isinstance(entry, str):
            left_out[entry] += 1
        else:
            entries.append(entry)
    if not entries:
        raise CacheError(f"no problem will do: {dict(left_out)}; tune a model first")
    return Table(timings.arch, name, timings.toolchain, tuple(entries)), left_out


def _entry(problem: Problem, records: Mapping[Tactic, Record], target: Target) -> Entry | str:
    """A problem's line in the table, or why it gets none."""
    try:
        offered = {c.tactic for c in candidates_of(problem, target, templates(), None, Advice())}
        wanted = candidates_of(problem, target, templates(), Budget.parse("60s").keep, Advice())
    except TuningError:
        return "are of no template any more"
    won = {t: r.microseconds for t, r in records.items() if r.wins and r.microseconds is not None and t in offered}
    if not won:
        return "have no tactic that won and is still a candidate"
    best = min(won.values())
    tactics = sorted(((t, us) for t, us in won.items() if us <= _CLOSE * best), key=lambda pair: pair[1])[:MOST]
    fastest = min(r.microseconds for r in records.values() if r.reason is None and r.microseconds is not None)
    there = Counter(candidate.tactic.template for candidate in wanted)
    tried = Counter(tactic.template for tactic in records)
    searched = sorted(name for name, count in there.items() if tried[name] >= min(_ENOUGH, count))
    if best > _CLOSE * fastest:
        searched = []
    return Entry(key_of(problem), likeness(problem), words_of(problem), tuple(searched), tuple(tactics))


def words_of(problem: Problem) -> str:
    """The problem as a person would name it; strides and alignment go unsaid."""
    types = [problem.body.inputs[0].type, problem.output.type]
    read, made = (f"{type.dtype.value}[{','.join(map(str, type.shape))}]" for type in types)
    return f"{label_of(problem.body)}: {read} -> {made}"


def read_timings(paths: Sequence[Path], device: str | None = None) -> tuple[str, Timings]:
    """(name of the GPU, its timings) of these cache files. Raises CacheError if a file is none, or if there are timings
    of several GPUs or none of `device`."""
    found: dict[str, Timings] = defaultdict(Timings)
    for path in paths:
        for text, described, toolchain, template, config, us, slower, reason, created in read_rows(path, _QUERY):
            facts = json.loads(described)
            if facts["arch"] not in TARGETS:
                continue
            timings = found[facts["name"]]
            timings.arch, timings.toolchain = facts["arch"], toolchain
            record = Record(us, reason, bool(slower))
            timings.add(text, Tactic(template, ast.literal_eval(config)), record, created)
    names = ", ".join(sorted(found)) or "no GPU"
    if device is None and len(found) > 1:
        raise CacheError(f"there are timings of {names}: choose one by --device")
    name = device or next(iter(found), "")
    if name not in found:
        raise CacheError(f"there are timings of {names}{f', none of {device!r}' if device else ''}")
    return name, found[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 1 if it failed."""
    parser = argparse.ArgumentParser(prog="python -m jitrt.tune.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("timings", nargs="*", type=Path, help="timing caches, oldest first; default: the user's")
    parser.add_argument("-o", "--output", type=Path, help="default: the table in this package")
    parser.add_argument("--device", metavar="NAME", help="the GPU whose timings count, where there are several")
    args = parser.parse_args(arguments)
    try:
        table, left_out = make_table(args.timings or [cache_dir() / f"timings-v{VERSION}.sqlite"], args.device)
    except JitrtError as error:
        print(error, file=sys.stderr)
        return 1
    path = args.output or Path(__file__).with_name("tables") / f"sm_{table.arch}.json"
    write_table(table, path)
    searched = sum(bool(entry.searched) for entry in table.entries)
    tactics = sum(len(entry.tactics) for entry in table.entries)
    print(f"{path}: {len(table.entries)} problems of {table.device}, {searched} of them searched; {tactics} tactics")
    for reason, number in left_out.items():
        print(f"left out: {number} that {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
