"""How good first guesses and short searches are by timings at hand: `python -m jitrt.tune.replay [timings]`.

Every problem's candidates are put in the order that a build without the shipped table would try them in today, and what
each of them took is looked up. Nothing is timed. Printed are

* the regret of the first guess, for each template among its own candidates and for problems among all: what the first
  one took that was right, over the best that was timed (1 is perfect), and the problems where it is farthest off;
* for problems that were well searched, how far off the best of the first few is;
* what a budget of a tenth of the candidates reaches, shared out as the tuner does it: the time of all these problems,
  each launched once, with the best tactics that are known over their time with those found. In proportion to what was
  tried, and to what templates offer, of which the best may not have been tried.

Which candidates were timed was up to the cost model and the budget of that time: one that was not counts as not there.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import CacheError, JitrtError, TuningError
from jitrt.kernels.base import Problem, Tactic, templates
from jitrt.knobs import cache_dir
from jitrt.tune.budget import next_share
from jitrt.tune.candidates import candidates_of
from jitrt.tune.cost import weight
from jitrt.tune.shipped import Advice
from jitrt.tune.table import Timings, read_timings, words_of
from jitrt.tune.timing_cache import VERSION

_WELL = 20  # candidates tried
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16)
_WORST = 10
_HEADINGS = f"{'number':>7}{'mean':>8}{'median':>8}{'p90':>8}{'worst':>8}{'<= 15%':>8}"


@dataclass(frozen=True)
class Replay:
    """What came of a problem's candidates, in today's order: microseconds, infinite where one was refused. `offered`
    counts those that were never tried as well."""

    text: str
    weight: float
    tactics: tuple[Tactic, ...]
    times: tuple[float, ...]
    offered: int

    @property
    def best(self) -> float:
        return min(self.times)

    @property
    def first(self) -> int:
        """The first that is right."""
        return next(index for index, time in enumerate(self.times) if math.isfinite(time))

    @property
    def regret(self) -> float:
        return self.times[self.first] / self.best

    def after(self, tries: int) -> float:
        """The best of so many tries, over the best; a search goes on until one is right."""
        return min(self.times[: max(tries, self.first + 1)]) / self.best

    def of(self, template: str) -> Replay | None:
        """The same with one template only, if two of its candidates are right."""
        kept = [i for i, tactic in enumerate(self.tactics) if tactic.template == template]
        times = tuple(self.times[i] for i in kept)
        if sum(map(math.isfinite, times)) < 2:
            return None
        return Replay(self.text, self.weight, tuple(self.tactics[i] for i in kept), times, len(kept))


def replays(timings: Timings) -> tuple[list[Replay], Counter[str]]:
    """The problems of which two candidates or more were timed, and how many were left out, by reason."""
    target = TARGETS[timings.arch]
    found, left_out = [], Counter[str]()
    for problem in {problem.key: problem for problem in timings.problems.values()}.values():
        replay = _replay(problem, timings, target)
        if isinstance(replay, str):
            left_out[replay] += 1
        else:
            found.append(replay)
    return found, left_out


def _replay(problem: Problem, timings: Timings, target: Target) -> Replay | str:
    records = timings.records[problem.key]
    try:
        order = [c.tactic for c in candidates_of(problem, target, templates(), None, Advice())]
    except TuningError:
        return "are of no template any more"
    tried = [tactic for tactic in order if tactic in records]
    results = [records[tactic] for tactic in tried]
    times = tuple(math.inf if r.reason is not None else r.microseconds or math.inf for r in results)
    if sum(map(math.isfinite, times)) < 2:
        return "have fewer than two timed candidates"
    return Replay(words_of(problem), weight(problem, target), tuple(tried), times, len(order))


def share_reached(searched: Sequence[Replay], tries: int) -> float:
    """The time of all problems with the best tactics, over that with the best of so many tries of all together."""
    given = dict.fromkeys(range(len(searched)), 1)
    for _ in range(tries - len(searched)):
        weights = {i: r.weight for i, r in enumerate(searched) if given[i] < len(r.times)}
        if not weights:
            break
        given[next_share(weights, given)] += 1
    found = sum(replay.after(given[i]) * replay.best for i, replay in enumerate(searched))
    return sum(replay.best for replay in searched) / found


def report(found: Sequence[Replay]) -> list[str]:
    """All that the command prints of the replays."""
    lines = [
        f"{'regret of the first guess':34}{'number':>7}{'mean':>8}{'median':>8}{'p90':>8}{'worst':>8}{'<= 15%':>8}"
    ]
    by_template: dict[str, list[float]] = defaultdict(list)
    for replay in found:
        for name in {tactic.template for tactic in replay.tactics}:
            if own := replay.of(name):
                by_template[name].append(own.regret)
    for name, regrets in sorted(by_template.items(), key=lambda item: -len(item[1])):
        lines.append(_summary(name, regrets))
    lines.append(_summary("problems", [replay.regret for replay in found]))
    lines += ["", "farthest off:"]
    for replay in sorted(found, key=lambda replay: -replay.regret)[:_WORST]:
        lines.append(f"  {replay.regret:.2f}  {replay.text}")
        for what, index in (("chosen", replay.first), ("best", replay.times.index(replay.best))):
            lines.append(f"        {what:7}{replay.times[index]:9.2f} us  {replay.tactics[index]}")
    searched = [replay for replay in found if len(replay.times) >= _WELL]
    if not searched:
        return lines
    lines += ["", f"{len(searched)} problems of which {_WELL} candidates or more were tried", ""]
    lines.append(
        f"{'best of the first':34}{'':7}{'mean':>8}{'median':>8}{'p90':>8}{'worst':>8}{'<= 15%':>8}{'<= 3%':>8}"
    )
    for tries in _STEPS:
        regrets = [replay.after(tries) for replay in searched]
        lines.append(f"{_summary(str(tries), regrets)}{np.mean(np.array(regrets) <= 1 / 0.97):8.0%}")
    counts: tuple[tuple[str, Callable[[Replay], int]], ...] = (
        ("tried", lambda replay: len(replay.times)),
        ("offered", lambda replay: replay.offered),
    )
    for name, count in counts:
        tries = sum(map(count, searched)) // 10
        reached = share_reached(searched, tries)
        lines.append(
            f"a tenth of the candidates {name}, {tries / len(searched):.1f} a problem: {reached:.1%} of the best"
        )
    return lines


def _summary(name: str, regrets: Sequence[float]) -> str:
    r = np.array(regrets)
    figures = f"{r.mean():8.3f}{np.median(r):8.3f}{np.quantile(r, 0.9):8.3f}{r.max():8.2f}"
    return f"{name:34}{len(r):7}{figures}{np.mean(r <= 1.15):8.0%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 1 if it failed."""
    parser = argparse.ArgumentParser(prog="python -m jitrt.tune.replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("timings", nargs="*", type=Path, help="timing caches, oldest first; default: the user's")
    parser.add_argument("--device", metavar="NAME", help="the GPU whose timings count, where there are several")
    args = parser.parse_args(arguments)
    try:
        name, timings = read_timings(args.timings or [cache_dir() / f"timings-v{VERSION}.sqlite"], args.device)
        found, left_out = replays(timings)
        if not found:
            raise CacheError(f"no problem of {name} will do: {dict(left_out)}; tune a model first")
    except JitrtError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(found)} problems timed on {name}")
    for reason, number in left_out.items():
        print(f"left out: {number} that {reason}")
    print("", *report(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
