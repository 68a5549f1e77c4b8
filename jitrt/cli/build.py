"""Compile a model into a plan: one file with kernels, weights and schedule, that runs without PyTorch.

Without --target the plan is tuned on the GPU in this machine. With --target it is built for that architecture, no GPU
needed, and uses the best guesses of the cost model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from jitrt.cli.onnx_subject import OnnxFile
from jitrt.cli.subject import load_subject, model_arguments, one_batch, precision_arguments, prepared
from jitrt.cli.terminal import check_writable, console, line, size
from jitrt.codegen.target import target_of
from jitrt.errors import FallbackError, NoGpuError, TargetError
from jitrt.request import Request

EXAMPLES = """examples:
  jitrt build resnet50 --fp16 -o resnet50.plan
  jitrt build resnet50 --fp16 --batch 8 --tune exhaustive -o resnet50_b8.plan
  jitrt build model.onnx --fp16 --shapes x:8x3x224x224 -o model.plan
  jitrt build mymodels:make_model --shape 1x3x320x320 --target sm_90 -o detector.plan
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    parser.add_argument("-o", "--output", metavar="PLAN", required=True, help="file to write")
    precision_arguments(parser)
    parser.add_argument("--target", help="not for this GPU: sm_80, sm_90, sm_100, or several (sm_80,sm_90)")
    parser.add_argument(
        "--tune",
        default="60s",
        help="the time the build may take (and up to 15 s more, to verify what it uses), heuristic or exhaustive "
        "(default: 60s)",
    )
    parser.add_argument(
        "--workspace", type=float, metavar="MIB", help="MiB of scratch memory one kernel may use (default: no limit)"
    )
    parser.add_argument("--no-cache", action="store_true", help="neither read nor write the cache")


def run(args: argparse.Namespace) -> int:
    import jitrt

    output = Path(args.output)
    check_writable("--output", args.output)
    terminal = console(stderr=True)
    start = time.perf_counter()
    batch = one_batch(args.batch)
    options: dict[str, Any] = {"precision": args.precision, "tune": args.tune, "cache": not args.no_cache}
    if args.workspace is not None:
        options["workspace_limit"] = int(args.workspace * (1 << 20))
    if args.target:
        names = [str(target_of(name)) for name in args.target.split(",")]
        options["target"] = names[0] if len(names) == 1 else names
    Request.of(options)  # refuses what cannot be before the model is loaded
    subject = load_subject(args.model, args.shape, args.shapes, settled=True)
    model, inputs = prepared(subject, batch, args.precision)
    if isinstance(subject, OnnxFile):
        options["strict"] = True  # a plan has no steps on the host: said before anything is tuned
        for note in subject.notes(batch):
            terminal.print(line(note))
    try:
        engine = jitrt.compile(model, inputs, **options)
    except NoGpuError as error:
        raise NoGpuError(
            "this machine has no NVIDIA GPU to tune for; --target sm_90 (or sm_80, sm_100) builds without one"
        ) from error
    except FallbackError as error:
        kinds = "; ".join(f"{what} (x{count}, first at {where}): {why}" for what, why, count, where in error.steps)
        raise TargetError(
            f"a plan runs on the GPU alone, and some of {args.model} would have to run on the host: {kinds}. "
            "jitrt.compile and jitrt.onnx.InferenceSession run it so, without a plan file"
        ) from error
    engine.save(output)
    took = time.perf_counter() - start
    nbytes = size(output.stat().st_size)
    terminal.print(line(f"wrote {output} ({nbytes}) in {took:.1f} s; jitrt inspect {output} shows it"))
    return 0
