"""Time a model under jitrt and its peers, in one process, on the same random inputs, and check every answer.

The peers: eager, eager+graph (eager in a CUDA graph), compile (torch.compile, reduce-overhead, freezing) and
cudnn-fused (batch norm folded, cuDNN's fused convolutions, one CUDA graph); of an ONNX file onnxruntime, where it is
installed. A plan file is timed alone: it has no PyTorch model. --layers adds each layer of jitrt's with its bytes,
FLOPs and floor; --layers-vs-cudnn times every convolution alone, on rotated buffers, beside cuDNN's.

Throughput, Latency, Enqueue Time and GPU Compute Time are what trtexec means by them. Memory in use is measured too;
the table says what counts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitrt.cli.subject import batch_sizes, bench_subject, is_onnx_file, names_without, shape_arguments, without_argument
from jitrt.cli.terminal import check_writable, console, line
from jitrt.errors import NoGpuError, OptionError
from jitrt.request import Request

if TYPE_CHECKING:
    from jitrt.bench.report import Report, Section

EXAMPLES = """examples:
  jitrt bench resnet50
  jitrt bench resnet50 vgg19 googlenet --batch 1,8,128 --vs eager,compile,cudnn-fused --output RESULTS.md
  jitrt bench googlenet --vs none --without horizontal,parallel
  jitrt bench model.onnx --shapes x:8x3x224x224 --vs onnxruntime
  jitrt bench cnn --batch 1,8 --output RESULTS.md --against RESULTS.jsonl
  jitrt bench resnet50 --batch 128 --layers --vs cudnn-fused --html resnet50.html
  jitrt bench resnet50 --batch 128 --layers-vs-cudnn
  jitrt bench resnet50.plan --layers
"""


MODELS_HELP = (
    "models as for build, cnn for a set of thirteen convolutional networks, transformer for vit_b_16 and bert_base, or "
    "plan files"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL|PLAN", nargs="+", help=MODELS_HELP)
    parser.add_argument("--batch", default="1", help="batch sizes, such as 1,8,128 (default: 1)")
    shape_arguments(parser)
    parser.add_argument(
        "--vs",
        default="all",
        help="all, none, or some of eager,eager+graph,compile,cudnn-fused (PyTorch models), onnxruntime (ONNX files); "
        "by name only, torch.compile in other modes: compile-default and compile-max, which takes minutes to build",
    )
    parser.add_argument("--precision", default="fp16", help="fp16, bf16, tf32 or fp32 (default: fp16)")
    parser.add_argument("--tune", default="60s", help="as for build (default: 60s)")
    without_argument(parser, "time jitrt without each of these optimisations too")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time a run (default: 2)")
    parser.add_argument("--layers", action="store_true", help="jitrt's layers too, each against its floor")
    parser.add_argument(
        "--layers-vs-cudnn",
        action="store_true",
        help="instead of whole models, every convolution alone: jitrt's kernel against cuDNN's fused one",
    )
    parser.add_argument(
        "--output",
        metavar="MD",
        help="append the tables to this Markdown file, and the run as a line to the .jsonl beside it; write the .html "
        "beside it, which is of this run alone",
    )
    parser.add_argument("--html", metavar="HTML", help="write plots and tables to this file")
    parser.add_argument("--against", metavar="JSONL", help="what has changed since the last such runs in this history")


def run(args: argparse.Namespace) -> int:
    for option, path in (("--output", args.output), ("--html", args.html)):
        if path:
            check_writable(option, path)
    if not args.seconds > 0:
        raise OptionError(f"--seconds is {args.seconds}; give a time above 0")
    plans = [name for name in args.models if name.endswith(".plan")]
    if plans and len(plans) != len(args.models):
        raise OptionError("plans and models cannot be timed in one run; give either")
    from jitrt.bench import history
    from jitrt.bench.models import SETS

    args.models = [name for given in args.models for name in SETS.get(given, (given,))]
    runs = history.read(Path(args.against)) if args.against else []
    if args.layers_vs_cudnn:
        report = _convolutions(args, plans)
    else:
        report = _plans(args, plans) if plans else _models(args)
    report = replace(report, command=args.typed)
    changes = [history.section(history.changes(report, runs), Path(args.against))] if args.against else []
    _hand_over(report, changes, args)
    return 1 if any(o.contestant == "jitrt" for o in report.failures()) else 0


def _hand_over(report: Report, changes: list[Section], args: argparse.Namespace) -> None:
    from jitrt.bench import history
    from jitrt.bench.html import to_html
    from jitrt.bench.report import to_console, write

    console().print(to_console(report, changes))
    page = args.html or (args.output and Path(args.output).with_suffix(".html"))
    if args.output:
        write(report, Path(args.output), changes)
        history.append(report, Path(args.output).with_suffix(".jsonl"))
    if page:
        Path(page).write_text(to_html(report, changes))


def _models(args: argparse.Namespace) -> Report:
    from jitrt.bench.peers import peers_named
    from jitrt.bench.run import Jitrt, bench_models
    from jitrt.bench.subject import DTYPES

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
    return bench_models(
        subjects, batches, args.precision, contestants, seconds=args.seconds, layers=args.layers, say=_say
    )


def _convolutions(args: argparse.Namespace, plans: list[str]) -> Report:
    from jitrt.bench.layers import bench_layers
    from jitrt.bench.run import make_report
    from jitrt.bench.subject import check_request

    if plans or args.without or args.layers:
        raise OptionError("--layers-vs-cudnn takes models, and neither --layers nor --without: it tunes layers alone")
    batches = batch_sizes(args.batch)
    check_request(batches, args.precision)
    Request.of({"precision": args.precision, "tune": args.tune})
    _need_gpu()
    found = []
    for name in args.models:
        subject = bench_subject(name, args.shape, args.shapes, settled=True)  # else a folded batch norm has no bias
        for batch in batches:
            seconds = args.seconds / 20  # a layer has four runs, and a model many layers
            found.append(bench_layers(subject, batch, args.precision, tune=args.tune, seconds=seconds, say=_say))
    return make_report([], convolutions=tuple(found))


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
    return bench_plans(plans, seconds=args.seconds, layers=args.layers, say=_say)


def _say(text: str) -> None:
    console(stderr=True).print(line(text))


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise NoGpuError("bench measures on an NVIDIA GPU and this machine shows none; jitrt doctor says more")
