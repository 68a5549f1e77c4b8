"""Compile a model into a plan: one file with kernels, weights and schedule, that runs without PyTorch.

Without --target the plan is tuned on the GPU in this machine. With --target it is built for that architecture, no GPU
needed, and uses the best guesses of the cost model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from jitrt.cli.subject import load_subject, model_arguments, one_batch, prepared
from jitrt.cli.terminal import console, line, size
from jitrt.errors import OptionError

EXAMPLES = """examples:
  jitrt build resnet50 --fp16 -o resnet50.plan
  jitrt build resnet50 --fp16 --batch 8 --tune exhaustive -o resnet50_b8.plan
  jitrt build mymodels:make_model --shape 1x3x320x320 --target sm_80,sm_90 -o detector.plan
"""

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    parser.add_argument("-o", "--output", metavar="PLAN", required=True, help="file to write")
    precision_arguments(parser)
    parser.add_argument("--target", help="architecture(s) to build for instead of this GPU's: sm_80, sm_90, sm_100")
    parser.add_argument("--tune", default="60s", help="a time budget, heuristic or exhaustive (default: 60s)")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor write the cache")


def precision_arguments(parser: argparse.ArgumentParser) -> None:
    """--fp32, --tf32, --fp16, --bf16, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    for name in PRECISIONS:
        text = "the default: IEEE float32" if name == "fp32" else None
        group.add_argument(f"--{name}", dest="precision", action="store_const", const=name, default="fp32", help=text)


def run(args: argparse.Namespace) -> int:
    import jitrt

    output = Path(args.output)
    if not output.parent.is_dir():
        raise OptionError(f"--output is {args.output}, but there is no folder {output.parent}")
    terminal = console(stderr=True)
    start = time.perf_counter()
    batch = one_batch(args.batch)
    model, inputs = prepared(load_subject(args.model, args.shape, settled=True), batch, args.precision)
    options: dict[str, Any] = {"precision": args.precision, "tune": args.tune, "cache": not args.no_cache}
    if args.target:
        targets = [part.strip() for part in args.target.split(",")]
        options["target"] = targets[0] if len(targets) == 1 else targets
    engine = jitrt.compile(model, inputs, **options)
    engine.save(output)
    took = time.perf_counter() - start
    nbytes = size(output.stat().st_size)
    terminal.print(line(f"wrote {output} ({nbytes}) in {took:.1f} s; jitrt inspect {output} shows it"))
    return 0
