"""Problems with two anchors at the networks' sizes, and the two problems each would be otherwise."""

from __future__ import annotations

from jitrt.codegen.epilogue import prologue_nodes
from jitrt.graph import Graph, Layout, TensorType, f32
from jitrt.graph.graph import Node, Value
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from tests.kernels.bottlenecks import bottleneck
from tests.kernels.test_conv_pool import pooled
from tests.kernels.test_depthwise_pointwise import separable
from tests.kernels.test_mean_linear import head
from tests.kernels.test_stem_pool import stem

# image, filters, stride, whether the input is added at the end
MOBILENET_V2 = {
    "112x112 32 -> 16": ((32, 112, 112), 16, 1, False),
    "112x112 96 -> 24, by 2": ((96, 112, 112), 24, 2, False),
    "56x56 144 -> 24": ((144, 56, 56), 24, 1, True),
    "28x28 192 -> 32": ((192, 28, 28), 32, 1, True),
    "14x14 384 -> 64": ((384, 14, 14), 64, 1, True),
    "14x14 576 -> 96": ((576, 14, 14), 96, 1, True),
    "7x7 960 -> 160": ((960, 7, 7), 160, 1, True),
    "7x7 960 -> 320": ((960, 7, 7), 320, 1, False),
}

# channels, filters, height and width of the convolution, which is 3x3 and halved by its pool
VGG19 = {
    "224x224 64 -> 64": (64, 64, 224),
    "112x112 128 -> 128": (128, 128, 112),
    "56x56 256 -> 256": (256, 256, 56),
    "28x28 512 -> 512": (512, 512, 28),
    "14x14 512 -> 512": (512, 512, 14),
}

# image, channels between, filters, stride; the residual is added at the end
RESNET_50 = {
    "56x56 64 -> 256": ((64, 56, 56), 64, 256, 1),
    "28x28 128 -> 512": ((128, 28, 28), 128, 512, 1),
    "28x28 128 -> 512, by 2": ((128, 56, 56), 128, 512, 2),
}


def heads(batch: int) -> dict[str, Problem]:
    return {f"ResNet's head, batch {batch}": head((batch, 2048, 7, 7), 1000)}


def squeezes(batch: int) -> dict[str, Problem]:
    return {
        f"squeeze 112x112 32 -> 8, batch {batch}": head((batch, 32, 112, 112), 8, conv=True),
        f"squeeze 14x14 480 -> 20, batch {batch}": head((batch, 480, 14, 14), 20, conv=True),
    }


def stems(batch: int) -> dict[str, Problem]:
    return {f"ResNet's stem, batch {batch}": stem((batch, 3, 224, 224), 64, cast_from=f32)}


def separables(batch: int, names: list[str] | None = None) -> dict[str, Problem]:
    return {
        f"separable {name}, batch {batch}": separable((batch, *image), filters, stride=stride, residual=residual)
        for name, (image, filters, stride, residual) in MOBILENET_V2.items()
        if names is None or name in names
    }


def pools(batch: int, names: list[str] | None = None) -> dict[str, Problem]:
    return {
        f"conv and pool {name}, batch {batch}": pooled((batch, channels, size, size), filters)
        for name, (channels, filters, size) in VGG19.items()
        if names is None or name in names
    }


def bottlenecks(batch: int, names: list[str] | None = None) -> dict[str, Problem]:
    return {
        f"bottleneck {name}, batch {batch}": bottleneck((batch, *image), width, filters, stride=stride)
        for name, (image, width, filters, stride) in RESNET_50.items()
        if names is None or name in names
    }


def apart(problem: Problem) -> list[Problem]:
    """The problem as two regions, with what lies between in memory, channels innermost."""
    second = problem.anchors[-1]
    before = prologue_nodes(problem.body, second)
    after = [node for node in problem.body.nodes if node not in before]
    link = second.inputs[0]
    return [_part(problem, before, link), _part(problem, after, problem.output)]


def _part(problem: Problem, nodes: list[Node], result: Value) -> Problem:
    body = Graph("region")
    inside: dict[Value, Value] = {}
    weights = []
    for value in dict.fromkeys(v for node in nodes for v in node.inputs):
        if value.producer in nodes:
            continue
        if value.data is not None:
            inside[value] = body.add_constant(value.data, type=value.type)
            continue
        inside[value] = body.add_input(value.name, _innermost(value))
        weights.append(value in problem.body.inputs and problem.weights[problem.body.inputs.index(value)])
    for node in nodes:
        types = [_innermost(value) for value in node.outputs]
        made = body.append(node.op, [inside[v] for v in node.inputs], types=types)
        inside.update(zip(node.outputs, made.outputs, strict=True))
    body.mark_output(inside[result])
    return Problem(body, tuple(weights), (16,) * (len(body.inputs) + 1))


def _innermost(value: Value) -> TensorType:
    """The type of a value; with the channels innermost, if it is computed and has any."""
    if value.producer is None or value.type.rank != 4:
        return value.type
    return value.type.with_layout(Layout(channels_last(value.type.shape)))
