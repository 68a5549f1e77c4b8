"""What of a graph runs on the host: where from, why, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jitrt import compiler
from jitrt.codegen.target import Target, target_of
from jitrt.compiler import Options
from jitrt.errors import FallbackError
from jitrt.graph import Graph, Node
from jitrt.graph.ops import Region

REFERENCE = "onnx_host"  # the op of an ONNX operator by its reference: on the host since it was imported


@dataclass(frozen=True)
class Step:
    """What runs on the host in one call: the operator, why, where it comes from, and its floating-point operations."""

    operator: str
    reason: str
    location: str
    flops: int

    @classmethod
    def of(cls, node: Node, reason: str) -> Step:
        types = [value.type for value in node.inputs], [value.type for value in node.outputs]
        return cls(getattr(node.op, "title", node.op.name), reason, node.loc, node.op.flops(*types))


def imported_steps(graph: Graph) -> dict[Node, str]:
    """The steps that a front end put into a graph, with the reason."""
    return {node: getattr(node.op, "reason", "") for node in graph.nodes if node.op.name == REFERENCE}


def uncovered(graph: Graph, options: Options, target: str | Sequence[str] | None = None) -> dict[Node, str]:
    """The nodes of a graph that no kernel takes on the target, with the reason; none that the passes get rid of."""
    from jitrt.kernels.base import Problem
    from jitrt.planner import why_no_kernel

    found: dict[Node, str] = {}
    for chip in _chips(target):
        optimized = compiler.optimize_graph(graph, options, target=chip).graph
        for region in optimized.nodes:
            if isinstance(region.op, Region):
                reason = why_no_kernel(Problem.of(region), chip)
                if reason is not None:
                    found |= dict.fromkeys(_sources(graph, region), reason)
    return found


def steps_of(graph: Graph, host: Mapping[Node, str]) -> list[Step]:
    """The steps that nodes of a graph are, in its order."""
    return [Step.of(node, host[node]) for node in graph.nodes if node in host]


def forbid(steps: Sequence[Step]) -> None:
    """Raise FallbackError, listing all steps by kind, if there are any."""
    kinds: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        kinds.setdefault((step.operator, step.reason), []).append(step)
    if kinds:
        raise FallbackError([(*kind, len(alike), alike[0].location) for kind, alike in kinds.items()])


def _chips(target: str | Sequence[str] | None) -> list[Target]:
    if target is None:
        return [compiler.resolve(None)[0]]
    return [target_of(name) for name in ([target] if isinstance(target, str) else target)]


def _sources(graph: Graph, region: Node) -> list[Node]:
    """The nodes of the graph as it came that a region was made of: by location and op, or else by its result's name."""
    assert isinstance(region.op, Region)
    made_of = {(node.loc, node.op.name) for node in region.op.body.nodes if node.loc}
    found = [node for node in graph.nodes if (node.loc, node.op.name) in made_of]
    return found or [node for node in graph.nodes if any(v.name == region.output.name for v in node.outputs)]
