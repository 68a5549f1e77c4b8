"""A first cost model: what a problem must cost at least, and roughly what a lowering of it will.

The templates order their own candidates, knowing their loops; this model knows none of that. It says how the tuning
budget is shared between problems, and how the candidates of different templates compare.
"""

from __future__ import annotations

import math

from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Node
from jitrt.kernels.base import Lowered, Problem

_LAUNCH = 2e-6  # seconds between two dependent kernels of one CUDA graph
_PROGRAM = 1e-6  # seconds a program spends before and after its work
_CORE_FLOPS = 0.4e12  # float32 FLOP/s of one SM's plain cores
_WARPS = 64  # warps an SM holds


def floor_seconds(problem: Problem, target: Target) -> float:
    """The roofline: every operand read and the output written once, or the arithmetic at the peak rate."""
    arithmetic = sum(_node_flops(node) / _rate(node, target) for node in problem.body.nodes)
    return max(problem.moved_bytes / target.bandwidth, arithmetic)


def weight(problem: Problem, target: Target) -> float:
    """Seconds a launch of the problem will take, for sharing out the budget: small ones cost a launch."""
    return _LAUNCH + floor_seconds(problem, target)


def estimate(problem: Problem, lowered: Lowered, target: Target) -> float:
    """Seconds of one lowering: the floor, stretched by how unevenly its programs fill the SMs (wave quantisation), with
    a start-up for every round of programs and every launch, and the workspace written and read once more."""
    work = floor_seconds(problem, target) + 2 * lowered.workspace_bytes / target.bandwidth
    total = 0.0
    for position, call in enumerate(lowered.calls):
        programs = max(1, math.prod(call.grid))
        rounds = math.ceil(programs / target.sms)
        resident = max(1, min(16, _WARPS // call.num_warps))
        stretch = rounds * target.sms / programs
        total += _LAUNCH + math.ceil(rounds / resident) * _PROGRAM
        total += work * stretch if position == 0 else 0.0
    return total


def _node_flops(node: Node) -> int:
    return node.op.flops([v.type for v in node.inputs], [v.type for v in node.outputs])


def _rate(node: Node, target: Target) -> float:
    """FLOP/s of the unit that runs a node: tensor cores for matrix products unless in ieee float32."""
    if not hasattr(node.op, "tf32") or node.output.type.dtype == DType.f64:
        return _CORE_FLOPS * target.sms
    if node.output.type.dtype == DType.f32:
        return target.flops32 if node.op.tf32 else _CORE_FLOPS * target.sms
    return target.flops16
