"""Which regions of an optimised graph are one convolution that cuDNN's fused calls can be asked for too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jitrt.graph.graph import Graph
from jitrt.graph.ops import Add, Cast, Conv, Relu
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Problem
from jitrt.planner import problems_of


@dataclass(frozen=True)
class Layer:
    """A region that is one convolution, as cuDNN sees it: which operand of the problem is what. `count` is how often
    the model has it."""

    problem: Problem
    conv: Conv
    x: int
    weight: int
    bias: int | None
    residual: int | None
    activation: str
    exact: bool
    count: int = 1

    @property
    def text(self) -> str:
        """Such as "3x3/2 64 -> 128, 56x56"."""
        (_, channels, *size), (filters, _, *taps) = (self.operand(i).shape for i in (self.x, self.weight))
        stride = f"/{max(self.conv.stride)}" if max(self.conv.stride) > 1 else ""
        groups = f", {self.conv.groups} groups" if self.conv.groups > 1 else ""
        return f"{_by(taps)}{stride} {channels} -> {filters}{groups}, {_by(size)}"

    @property
    def epilogue(self) -> str:
        parts = ("bias" * (self.bias is not None), "residual" * (self.residual is not None), self.activation)
        return " + ".join(part for part in parts if part) or "-"

    def operand(self, index: int) -> TensorType:
        return self.problem.body.inputs[index].type

    @property
    def bytes(self) -> int:
        values = (*self.problem.body.inputs, self.problem.output)
        return sum(value.type.nbytes for value in values)

    @property
    def flops(self) -> int:
        return sum(n.op.flops([v.type for v in n.inputs], [v.type for v in n.outputs]) for n in self.problem.body.nodes)


def layers_of(graph: Graph) -> tuple[list[Layer], Counter[str]]:
    """The distinct convolutions of an optimised graph, and why others are left out, with how many."""
    found: dict[str, Layer] = {}
    reasons: Counter[str] = Counter()
    for problem in problems_of(graph):
        if not any(isinstance(anchor.op, Conv) for anchor in problem.anchors):
            continue
        layer = layer_of(problem)
        if isinstance(layer, str):
            reasons[layer] += 1
        elif problem.key in found:
            found[problem.key] = replace(found[problem.key], count=found[problem.key].count + 1)
        else:
            found[problem.key] = layer
    return list(found.values()), reasons


def layer_of(problem: Problem) -> Layer | str:
    """A region with a convolution as cuDNN's fused call, or why it is none."""
    body = problem.body
    if len(problem.anchors) != 1:
        return "several anchors in one kernel"
    (anchor,) = problem.anchors
    conv, (x, weight) = anchor.op, anchor.inputs[:2]
    assert isinstance(conv, Conv)
    if x not in body.inputs or weight not in body.inputs:
        return "something before the convolution"
    if len(conv.stride) != 2 or any(before != after for before, after in conv.padding):
        return "not 2-d, or padded on one side"
    out = anchor.output.type.shape
    rest = [value for value in body.inputs if any(user is not anchor for user in value.users)]
    added = [value for value in rest if all(isinstance(user.op, Add) for user in value.users if user is not anchor)]
    biases = [v for v in added if problem.weights[body.inputs.index(v)] and v.type.numel == out[1]]
    residuals = [v for v in added if v not in biases and v.type.shape == out]
    if len(biases) > 1 or len(residuals) > 1 or len(rest) > len(biases) + len(residuals):
        return "an epilogue with more than a bias, a residual and an activation"
    if body.outputs[0].type.shape != out:
        return "another shape than the convolution's"
    ops = [node for node in body.nodes if node is not anchor and not isinstance(node.op, Cast)]
    adds = sum(any(v in rest for v in node.inputs) for node in ops)
    relu_last = bool(ops) and isinstance(ops[-1].op, Relu) and len(ops) == adds + 1
    return Layer(
        problem=problem,
        conv=conv,
        x=body.inputs.index(x),
        weight=body.inputs.index(weight),
        bias=body.inputs.index(biases[0]) if biases else None,
        residual=body.inputs.index(residuals[0]) if residuals else None,
        activation=" + ".join(n.op.name for n in ops if not any(v in rest for v in n.inputs)),
        exact=relu_last and conv.groups == 1,
    )


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
