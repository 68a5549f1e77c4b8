"""Show what jitrt makes of a model: layers before, kernels after, every fusion, and why one did not happen."""

from __future__ import annotations

import argparse

from jitrt.cli.subject import load_subject, model_arguments, one_batch, precision_arguments, prepared
from jitrt.cli.terminal import show

EXAMPLES = """examples:
  jitrt explain googlenet
  jitrt explain resnet152 --count
  jitrt explain resnet18 --fp16 --graph
  jitrt explain mymodels:make_model --shape 4x3x64x64
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    precision_arguments(parser)
    less = parser.add_mutually_exclusive_group()
    less.add_argument("--count", action="store_true", help="only how many layers and kernels there are, by kind")
    less.add_argument("--graph", action="store_true", help="only the two graphs, before and after, in full")


def run(args: argparse.Namespace) -> int:
    import jitrt

    # Settled: the batch norms of an untrained model add nothing, and no kernel would show a bias.
    subject = load_subject(args.model, args.shape, settled=True)
    model, inputs = prepared(subject, one_batch(args.batch), args.precision)
    explanation = jitrt.explain(model, inputs, precision=args.precision)
    if args.graph:
        show(f"{explanation.before}\n{explanation.after}")
    else:
        show(explanation.count() if args.count else explanation)
    return 0
