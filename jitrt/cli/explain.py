"""Show what jitrt makes of a model: the graph before and after, every fusion, and why one did not happen."""

from __future__ import annotations

import argparse

from jitrt.cli.subject import load_subject, model_arguments, one_batch
from jitrt.cli.terminal import show

EXAMPLES = """examples:
  jitrt explain googlenet
  jitrt explain resnet152 --count
  jitrt explain mymodels:make_model --shape 4x3x64x64
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    parser.add_argument("--count", action="store_true", help="only how many nodes and kernels there are, by kind")


def run(args: argparse.Namespace) -> int:
    import jitrt

    subject = load_subject(args.model, args.shape)
    explanation = jitrt.explain(subject.model, subject.inputs(one_batch(args.batch)))
    show(explanation.count() if args.count else explanation)
    return 0
