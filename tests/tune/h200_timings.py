"""Timings of 25 convolutions on an H200, all that the tuner took, frozen in `h200_timings.json`, with constants of the
cost model that were fitted to the other problems of the same caches.

Remade by `python -m tests.tune.h200_timings timings-v1.sqlite ...`; which 25 is drawn by lot.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from jitrt.codegen.target import TARGETS
from jitrt.kernels.gemm_cost import Constants, GemmShape
from jitrt.tune.fit import UNFITTED, fit, rounded
from jitrt.tune.samples import Sample, read_samples

PATH = Path(__file__).with_name("h200_timings.json")
NAMES = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K", "EARLY", "FLATTEN", "num_warps", "num_stages")


def read() -> tuple[list[Sample], Constants]:
    """(the samples, constants fitted without them)."""
    held = json.loads(PATH.read_text())
    samples = []
    for problem in held["problems"]:
        *configs, times = zip(*problem["timings"], strict=True)
        chosen = tuple(dict(zip(NAMES, config, strict=True)) for config in zip(*configs, strict=True))
        samples.append(Sample(problem["template"], GemmShape(**problem["shape"]), TARGETS[90], chosen, times))
    return samples, Constants(**held["fitted_to_others"])


def write(paths: list[Path], count: int = 25) -> None:
    """Draw `count` problems by lot and fit the constants to those that are other products than theirs."""
    samples = read_samples(paths).samples
    drawn = {int(i) for i in np.random.default_rng(0).choice(len(samples), count, replace=False)}
    products = {replace(samples[i].shape, epilogue_reads=0) for i in drawn}
    others = [s for s in samples if replace(s.shape, epilogue_reads=0) not in products]
    lines = []
    for sample in (samples[i] for i in sorted(drawn)):
        rows = [
            [*(config[name] for name in NAMES), round(time, 3)]
            for config, time in zip(sample.configs, sample.microseconds, strict=True)
        ]
        lines.append({"template": sample.template, "shape": asdict(sample.shape), "timings": rows})
    text = json.dumps({"fitted_to_others": asdict(rounded(fit(others, UNFITTED))), "problems": lines})
    PATH.write_text(text.replace('{"template"', '\n{"template"') + "\n")


if __name__ == "__main__":
    write([Path(name) for name in sys.argv[1:]])
