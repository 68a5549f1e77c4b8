"""Show what jitrt makes of a model: layers before, kernels after, every fusion, and why one did not happen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jitrt.cli.subject import (
    load_subject,
    model_arguments,
    names_without,
    one_batch,
    precision_arguments,
    prepared,
    without_argument,
)
from jitrt.cli.terminal import console, line, show
from jitrt.errors import OptionError

if TYPE_CHECKING:
    from jitrt.explanation import Explanation

EXAMPLES = """examples:
  jitrt explain googlenet
  jitrt explain resnet152 --count
  jitrt explain vgg19 inception_v3 resnet152 --count
  jitrt explain googlenet --fp16 --memory
  jitrt explain googlenet --count --without fuse_horizontal,join_branches
  jitrt explain resnet18 --fp16 --graph
  jitrt explain model.onnx --shapes x:8x3x224x224
  jitrt explain mymodels:make_model --shape 4x3x64x64
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser, several=True)
    precision_arguments(parser)
    without_argument(parser, "leave these optimisations out")
    less = parser.add_mutually_exclusive_group()
    less.add_argument(
        "--count",
        action="store_true",
        help="only how many layers and kernels there are: by kind, or of several models in one table",
    )
    less.add_argument("--memory", action="store_true", help="only the plan of the arena: what lives where, and when")
    less.add_argument("--graph", action="store_true", help="only the two graphs, before and after, in full")


def run(args: argparse.Namespace) -> int:
    if len(args.model) > 1 and not args.count:
        raise OptionError(f"one model at a time, not {', '.join(args.model)}; --count takes several")
    if args.count and len(args.model) > 1:
        _count(args)
        return 0
    explanation = _explain(args.model[0], args)
    if args.graph:
        show(f"{explanation.before}\n{explanation.after}")
    elif args.memory:
        _memory(explanation)
    else:
        show(explanation.count() if args.count else explanation)
    return 0


def _explain(model: str, args: argparse.Namespace) -> Explanation:
    import jitrt

    # Settled: the batch norms of an untrained model add nothing, and no kernel would show a bias.
    subject = load_subject(model, args.shape, args.shapes, settled=True)
    prepared_model, inputs = prepared(subject, one_batch(args.batch), args.precision)
    return jitrt.explain(prepared_model, inputs, precision=args.precision, without=names_without(args))


def _count(args: argparse.Namespace) -> None:
    from jitrt.cli.count import Count, count_table, notes

    counts = [Count.of(model, _explain(model, args)) for model in args.model]
    out = console()
    out.print(count_table(counts))
    for note in notes(counts):
        out.print(line(note))


def _memory(explanation: Explanation) -> None:
    from jitrt.cli.lifetimes import lifetimes

    out = console()
    for part in lifetimes(explanation.memory.to_json(), out.width):
        out.print(part)
