"""Time a model under jitrt and its peers, in one process, on the same random inputs, and check every answer.

The peers: eager, eager+graph (eager in a CUDA graph), compile (torch.compile, reduce-overhead, freezing) and
cudnn-fused (batch norm folded, cuDNN's fused convolutions, one CUDA graph); of an ONNX file onnxruntime, where it is
installed. A plan file is timed alone: it has no PyTorch model. Throughput, Latency, Enqueue Time and GPU Compute Time
are what trtexec means by them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitrt.cli.subject import batch_sizes, bench_subject, is_onnx_file, names_without, shape_arguments, without_argument
from jitrt.cli.terminal import check_writable, console, line
from jitrt.errors import NoGpuError, OptionError
from jitrt.request import Request

if TYPE_CHECKING:
    from jitrt.bench.report import Report

EXAMPLES = """examples:
  jitrt bench resnet50
  jitrt bench resnet50 vgg19 googlenet --batch 1,8,128 --vs eager,compile,cudnn-fused --output RESULTS.md
  jitrt bench googlenet --vs none --without horizontal,parallel
  jitrt bench model.onnx --shapes x:8x3x224x224 --vs onnxruntime
  jitrt bench resnet50.plan --layers
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL|PLAN", nargs="+", help="models as for build, or plan files")
    parser.add_argument("--batch", default="1", help="batch sizes, such as 1,8,128 (default: 1)")
    shape_arguments(parser)
    parser.add_argument(
        "--vs",
        default="all",
        help="all, none, or some of eager,eager+graph,compile,cudnn-fused (PyTorch models), onnxruntime (ONNX files)",
    )
    parser.add_argument("--precision", default="fp16", help="fp16, bf16, tf32 or fp32 (default: fp16)")
    parser.add_argument("--tune", default="60s", help="as for build (default: 60s)")
    without_argument(parser, "time jitrt without each of these optimisations too")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time a run (default: 2)")
    parser.add_argument("--layers", action="store_true", help="jitrt's layers too, each against its floor")
    parser.add_argument("--output", metavar="MD", help="append the tables to this Markdown file, and JSON beside it")


def run(args: argparse.Namespace) -> int:
    if args.output:
        check_writable("--output", args.output)
    if not args.seconds > 0:
        raise OptionError(f"--seconds is {args.seconds}; give a time above 0")
    plans = [name for name in args.models if name.endswith(".plan")]
    if plans and len(plans) != len(args.models):
        raise OptionError("plans and models cannot be timed in one run; give either")
    report = _plans(args, plans) if plans else _models(args)
    from jitrt.bench.report import to_console, write

    console().print(to_console(report))
    if args.output:
        write(report, Path(args.output))
    return 1 if any(o.contestant == "jitrt" for o in report.failures()) else 0


def _models(args: argparse.Namespace) -> Report:
    from jitrt.bench.peers import peers_named
    from jitrt.bench.run import DTYPES, Jitrt, bench_models

    kinds = {"onnx" if is_onnx_file(name) else "torch" for name in args.models}
    batches, peers = batch_sizes(args.batch), peers_named(args.vs, kinds, args.precision)
    if args.precision not in DTYPES:
        raise OptionError(f"--precision is {args.precision!r}; choose one of {', '.join(DTYPES)}")
    Request.of({"precision": args.precision, "tune": args.tune})  # refuses what cannot be before a model is loaded
    if not any(":" in name for name in args.models):  # a module may bring rules of its own
        names_without(args)
    _need_gpu()
    subjects = [bench_subject(name, args.shape, args.shapes, settled=True) for name in args.models]
    left_out = [Jitrt(args.precision, args.tune, (name,)) for name in names_without(args)]
    contestants: list[Any] = [Jitrt(args.precision, args.tune), *left_out, *peers]
    progress = console(stderr=True)

    def say(text: str) -> None:
        progress.print(line(text))

    return bench_models(
        subjects, batches, args.precision, contestants, seconds=args.seconds, layers=args.layers, say=say
    )


def _plans(args: argparse.Namespace, plans: list[str]) -> Report:
    from jitrt.bench.run import bench_plans

    if args.vs not in ("all", "none"):
        raise OptionError("--vs needs a model: a plan has no PyTorch model to run the peers on")
    if args.without:
        raise OptionError("--without needs a model: what is in a plan is decided")
    for path in plans:
        if not Path(path).is_file():
            raise OptionError(f"there is no plan at {path}")
    _need_gpu()
    return bench_plans(plans, seconds=args.seconds, layers=args.layers)


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise NoGpuError("bench measures on an NVIDIA GPU and this machine shows none; jitrt doctor says more")
