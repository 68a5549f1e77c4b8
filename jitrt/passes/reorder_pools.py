"""Average pools and 1x1 convolutions in the order that is less work.

    conv1x1(avg_pool(x)) = avg_pool(conv1x1(x))

One sums over pixels, the other over channels; what a window lacks at an edge it lacks for all channels. Inception-v3's
branches pool up to 2048 channels and keep 192: convolved first, a tenth is pooled, by a kernel that adds the bias on
its way out, and the convolution reads what its siblings read. The other way round fewer pixels are convolved, unless
the convolution computes its input while it loads that (DenseNet's norms), which pools do not.
"""

from __future__ import annotations

import math

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import AvgPool, Conv
from jitrt.graph.types import TensorType
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader, remove_dead


def reorder_pools(graph: Graph, context: PassContext) -> None:
    """Swap each such pair where that leaves less in memory between the two or less to multiply, and more of neither."""
    for first in list(graph.nodes):
        second = only_reader(graph, first.output) if isinstance(first.op, AvgPool | Conv) else None
        if second is None or second.inputs[0] is not first.output or not _commute(first, second):
            continue
        text = f"{second.op.name} before {first.op.name}"
        between, multiplied = _work(first, second)
        if isinstance(first.op, Conv) and _is_computed(graph, first.inputs[0]):
            context.refused(second, f"no {text}: what the convolution reads is computed on the way into it")
            continue
        if not all(then <= now for now, then in (between, multiplied)) or between[0] == between[1]:
            context.refused(second, f"no {text}: {_told(between, multiplied)}")
            continue
        swapped = graph.append(second.op, [first.inputs[0], *second.inputs[1:]], loc=second.loc, before=second)
        last = graph.append(first.op, [swapped.output, *first.inputs[1:]], loc=first.loc, before=second)
        if bypass(graph, second, last.output):
            context.applied(last, f"{text}: {_told(between, multiplied)}")
    remove_dead(graph)


def _commute(first: Node, second: Node) -> bool:
    """Whether one is an average pool, the other a convolution of single pixels that leaves none out."""
    pair = [node.op for node in (first, second)]
    if sum(isinstance(op, AvgPool) for op in pair) != 1:
        return False
    node = second if isinstance(first.op, AvgPool) else first
    op = node.op
    if not isinstance(op, Conv) or op.groups != 1 or math.prod(node.inputs[1].type.shape[2:]) != 1:
        return False
    return all(step == 1 for step in op.stride) and not any(margin for pair in op.padding for margin in pair)


def _is_computed(graph: Graph, x: Value) -> bool:
    """Whether `fuse_prologue` may have it computed while its only reader loads it."""
    node = x.producer
    return node is not None and node.has(Trait.ELEMENTWISE) and only_reader(graph, x) is not None


def _work(first: Node, second: Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """Elements in memory between the two, and pixels that are multiplied by the filters: as it is, and swapped."""
    x, y = first.inputs[0].type, second.output.type
    if isinstance(first.op, AvgPool):
        return (first.output.type.numel, _pixels(x) * y.shape[1]), (_pixels(y), _pixels(x))
    return (first.output.type.numel, _pixels(y) * x.shape[1]), (_pixels(x), _pixels(y))


def _pixels(type: TensorType) -> int:
    return type.numel // max(1, type.shape[1])


def _told(between: tuple[int, int], multiplied: tuple[int, int]) -> str:
    return (
        f"{between[1]} elements between them instead of {between[0]}, {multiplied[1]} pixels multiplied instead of "
        f"{multiplied[0]}"
    )
