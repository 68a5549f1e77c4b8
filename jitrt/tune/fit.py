"""Fit the cost model of matrix products to the timings at hand: `python -m jitrt.tune.fit [timings-v1.sqlite ...]`.

Says how much slower the model's first guess is than the best configuration that was timed (its regret), then fits
`gemm_cost.Constants` and prints them to be pasted. The default is the user's timing cache; constants are of one GPU.

The fit is a hill climb over the constants' logarithms. What it lowers: the mean log regret of a softened first guess,
0.15 of the root mean square log error, near the best configurations above all, and a little for each constant's
distance from where the climb began. Beside it stands the regret of problems left out of the fit: for each of
`--held-out` folds the constants are fitted to all problems but the fold's, beginning with round numbers, since the
present ones may have been fitted to these timings.

Only configurations that were timed count. Which those are was up to the model of that time and the tuner's budget: the
best of all may not be among them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from jitrt.errors import JitrtError, OptionError
from jitrt.graph.op import Array
from jitrt.kernels.gemm_cost import H200, Constants, Counts, GemmShape, count, estimate
from jitrt.knobs import cache_dir
from jitrt.tune.samples import Sample, read_samples
from jitrt.tune.timing_cache import VERSION

# What one would write down without a fit.
UNFITTED = Constants(
    setup=1800,
    latency=750,
    step=60,
    l2=42,
    dram=2.5e12,
    store=20,
    peak=0.9,
    narrow=0.8,
    wide=1,
    mma=0.5,
    addresses=0.3 / 8,
    late=0.5,
    split=1500,
    partial=90,
    sharpness=4,
    launch=1.5e-6,
)
_FITTED = tuple(name for name in asdict(H200) if name != "clock")  # the clock is only a unit
_SOFTNESS = 0.04  # of the first guess: configurations whose estimates are that close are as likely
_ERROR, _PULL = 0.15, 0.001  # weights beside the regret
_FARTHEST = 2.5  # from the start, in logarithms
_SHARES = ("peak", "narrow", "wide", "mma")  # at most 1
_CLIMBS = 2
_CLOSE = 1.15  # a good guess


class Rows:
    """All timings of some samples as arrays, sample by sample; ties in cost go to the first, as in `rank_configs`."""

    def __init__(self, samples: Sequence[Sample]):
        counts: list[Counts] = []
        logs: list[float] = []
        starts: list[int] = []
        for sample in samples:
            starts.append(len(logs))
            order = range(len(sample.configs))
            for i in sorted(order, key=lambda i: -min(sample.configs[i]["num_stages"], 4)):
                counts.append(count(sample.configs[i], sample.shape, sample.target))
                logs.append(math.log(sample.microseconds[i] * 1e-6))
        self.counts = Counts(*np.array(counts, np.float64).T)
        self.logs = np.array(logs)
        self.starts = np.array(starts)
        self.sizes = np.diff([*starts, len(logs)])
        self.over = self.logs - self._each(np.minimum, self.logs)  # the best, in logarithms

    def _each(self, function: np.ufunc, values: Array) -> Array:
        """The sum, minimum, ... of each sample, for each of its rows."""
        return np.repeat(function.reduceat(values, self.starts), self.sizes)

    def regret(self, of: Constants) -> Array:
        """What the first guess took over the best, for each sample: 1 is perfect."""
        seconds = estimate(self.counts, of)
        guesses = [at + np.argmin(seconds[at : at + n]) for at, n in zip(self.starts, self.sizes, strict=True)]
        return np.exp(self.over[guesses])

    def loss(self, of: Constants) -> float:
        """What the fit lowers, but for the pull to the start."""
        with np.errstate(invalid="ignore"):  # constants may be such that a time is below 0: no loss is lower than NaN
            guessed = np.log(estimate(self.counts, of))
        likely = np.exp((self._each(np.minimum, guessed) - guessed) / _SOFTNESS)
        likely /= self._each(np.add, likely)
        weight = np.exp(-self.over) * np.isfinite(guessed)
        error = np.where(np.isfinite(guessed), guessed - self.logs, 0)
        regret = np.sum(likely * self.over) / len(self.starts)
        return float(regret + _ERROR * np.sqrt(np.sum(weight * error**2) / np.sum(weight)))


def fit(samples: Sequence[Sample], start: Constants = H200, *, rounds: int = 2000, seed: int = 0) -> Constants:
    """The constants that are best of several climbs of so many rounds, one from `start`, the others from near it."""
    rows = Rows(samples)
    begin = np.array([getattr(start, name) for name in _FITTED])
    best, least = begin, math.inf
    for climb in range(_CLIMBS):
        logs, loss = _climb(rows, start, begin, rounds, np.random.default_rng((seed, climb)), spread=0.3 * (climb > 0))
        if loss < least:
            best, least = begin * np.exp(logs), loss
    return _with(start, best)


def held_out(samples: Sequence[Sample], folds: int, *, rounds: int = 2000, seed: int = 0) -> Array:
    """The regret of each sample with constants fitted to the other folds. Samples whose products differ only in what
    the epilogue reads are in one fold. Raises OptionError if there are fewer products than folds."""
    keys = [replace(sample.shape, epilogue_reads=0) for sample in samples]
    distinct = list(dict.fromkeys(keys))
    if not 2 <= folds <= len(distinct):
        raise OptionError(f"--held-out is {folds}: there are {len(distinct)} products, so 2 to {len(distinct)} folds")
    order = np.random.default_rng(seed).permutation(len(distinct))
    fold_of: dict[GemmShape, int] = {distinct[which]: at % folds for at, which in enumerate(order)}
    regret = np.empty(len(samples))
    for fold in range(folds):
        inside = np.array([fold_of[key] == fold for key in keys])
        constants = fit([s for s, i in zip(samples, inside, strict=True) if not i], UNFITTED, rounds=rounds, seed=seed)
        regret[inside] = Rows([s for s, i in zip(samples, inside, strict=True) if i]).regret(constants)
    return regret


def rounded(constants: Constants) -> Constants:
    """To three digits, as they are printed."""
    return replace(constants, **{name: float(f"{getattr(constants, name):.3g}") for name in _FITTED})


def literal(constants: Constants) -> str:
    """The constants as an expression; numbers in as many digits as they need."""
    fields = "".join(f"    {name}={value!r},\n" for name, value in asdict(constants).items())
    return f"Constants(\n{fields})"


def _with(start: Constants, values: Array) -> Constants:
    return replace(start, **dict(zip(_FITTED, map(float, values), strict=True)))


def _climb(
    rows: Rows, start: Constants, begin: Array, rounds: int, random: np.random.Generator, spread: float
) -> tuple[Array, float]:
    """(logarithms of what to multiply `begin` by, loss): steps of a few constants at a time, or of all, whose length
    grows with success and shrinks without."""

    def loss(logs: Array) -> float:
        return rows.loss(_with(start, begin * np.exp(logs))) + _PULL * float(np.sum(logs**2))

    shares = np.isin(_FITTED, _SHARES)
    most = np.where(shares, np.minimum(_FARTHEST, -np.log(np.where(shares, begin, 1))), _FARTHEST)
    at = np.clip(random.normal(size=len(begin)) * spread, -_FARTHEST, most)
    here, length, last = loss(at), 0.3, 0
    for number in range(rounds):
        step = random.normal(size=len(begin)) * length
        if number % 5 != 4:
            some = random.choice(len(begin), size=random.integers(1, 4), replace=False)
            step = np.where(np.isin(np.arange(len(begin)), some), 2 * step, 0)
        there = np.clip(at + step, -_FARTHEST, most)
        value = loss(there)
        if value < here:
            at, here, last, length = there, value, number, min(0.5, length * 1.2)
        else:
            length = max(0.03, length * 0.985)
        if number - last > 300:
            length, last = 0.3, number
    return at, here


def _first(sample: Sample, of: Constants) -> int:
    """Which configuration of a sample the model would take."""

    def rank(i: int) -> tuple[float, int]:
        config = sample.configs[i]
        return float(estimate(count(config, sample.shape, sample.target), of)), -min(config["num_stages"], 4)

    return min(range(len(sample.configs)), key=rank)


def _summary(name: str, regret: Array) -> str:
    mean, median, most = np.mean(regret), np.median(regret), np.quantile(regret, 0.9)
    within = np.mean(regret <= _CLOSE)
    return f"{name:28}{mean:8.3f}{median:8.3f}{most:8.3f}{np.max(regret):8.2f}{within:14.0%}"


def _worst(samples: Sequence[Sample], regret: Array, of: Constants) -> list[str]:
    """What was chosen, and what was best, where the first guess is farthest off."""
    lines = []
    for at in np.argsort(-regret)[:5]:
        sample, shape = samples[at], samples[at].shape
        chosen, best = _first(sample, of), int(np.argmin(sample.microseconds))
        product = f"{shape.rows} x {shape.columns}, {shape.taps} x {shape.channels} deep"
        product += f", {shape.batches} times" * (shape.batches > 1) + ", residual" * (shape.epilogue_reads > 0)
        lines.append(f"  {regret[at]:.2f}  {sample.template}: {product}")
        lines.append(f"        chosen {_described(sample, chosen)}")
        lines.append(f"        best   {_described(sample, best)}")
    return lines


def _described(sample: Sample, which: int) -> str:
    c = sample.configs[which]
    tile = "x".join(str(c[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    text = f"{tile} split {c['SPLIT_K']}, {c['num_warps']} warps, {c['num_stages']} stages" + ", early" * c["EARLY"]
    return f"{sample.microseconds[which]:8.2f} us  {text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, 1 if it failed, 2 if an option's value is wrong."""
    parser = argparse.ArgumentParser(prog="python -m jitrt.tune.fit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("timings", nargs="*", type=Path, help="timing caches; default: the user's")
    parser.add_argument(
        "--rounds", type=int, default=2000, metavar="N", help="steps of a climb; 0: measure, do not fit"
    )
    parser.add_argument("--held-out", type=int, default=5, metavar="K", help="folds of problems left out; 0: none")
    parser.add_argument("--device", metavar="NAME", help="the GPU whose timings count, where there are several")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        _run(args)
    except JitrtError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    return 0


def _run(args: argparse.Namespace) -> None:
    for option, value in (("--rounds", args.rounds), ("--held-out", args.held_out), ("--seed", args.seed)):
        if value < 0:
            raise OptionError(f"{option} is {value}; it counts something")
    read = read_samples(args.timings or [cache_dir() / f"timings-v{VERSION}.sqlite"], args.device)
    samples = read.samples
    for template, number in Counter(sample.template for sample in samples).items():
        timings = sum(len(sample.configs) for sample in samples if sample.template == template)
        print(f"{template}: {number} problems, {timings} timings on {samples[0].target.name}")
    for reason, number in read.left_out.items():
        print(f"left out: {number} that {reason}")
    print(f"\n{'regret of the first guess':28}{'mean':>8}{'median':>8}{'p90':>8}{'worst':>8}{'15% or less':>14}")
    regret = Rows(samples).regret(H200)
    print(_summary("present constants", regret))
    if args.rounds:
        if args.held_out:  # refused, if at all, before the long work
            folds = held_out(samples, args.held_out, rounds=args.rounds, seed=args.seed)
            print(_summary(f"left out of {args.held_out} folds' fits", folds))
        fitted = rounded(fit(samples, rounds=args.rounds, seed=args.seed))
        print(_summary("fitted to all", Rows(samples).regret(fitted)))
    print("\nworst with the present constants:", *_worst(samples, regret, H200), sep="\n")
    if args.rounds:
        print("\nfor jitrt/kernels/gemm_cost.py:", literal(fitted), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
