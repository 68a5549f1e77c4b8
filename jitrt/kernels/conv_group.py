"""Several convolutions that meet in a concat as one launch: each program runs a tile of one of them.

Formula: y[:, o_i : o_i + k_i] = f_i(conv(x_i, w_i)) for every operand i of the concat, whatever its input, filter and
number of channels, as long as all have the same size of image. Saves the launches, and the fork and join of branches
side by side, where each alone is too small for the chip; the programs of all share one tile shape, which is what it
costs. Floors: those of its convolutions together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jitrt.codegen.epilogue import Epilogue
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.ops import Concat, Conv
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, Workspace, Zeros
from jitrt.kernels.conv2d import Conv2d, constexprs_of, conv2d_tile, gemm_shape, tiles_of, unpack
from jitrt.kernels.conv_shape import ConvShape, operands_of
from jitrt.kernels.gemm_cost import GemmShape, rank_configs

_KEEP, _ALL = 48, 1 << 20  # candidates
_SHARED = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "FLATTEN", "PRECISION", "DEPENDENT", "EARLY")


@dataclass(frozen=True)
class _Part:
    """One convolution of the group: the region it would be alone, which operands of the group it reads (`operands[i]`
    for its operand i), and where in the result its channels begin, in elements."""

    problem: Problem
    operands: tuple[int, ...]
    offset: int

    @property
    def shape(self) -> ConvShape:
        return unpack(self.problem)[0]


class ConvGroup(Template):
    """A concat of dense convolutions, each with its own epilogue."""

    name = "conv_group"

    def accepts(self, body: Graph) -> str | None:
        last = body.outputs[0].producer
        if last is None or not isinstance(last.op, Concat) or last.op.axis != 1:
            return "anchor is no concat of channels"
        if len(anchors_of(body)) < 2 or len(last.inputs) < 2:
            return "a group has two convolutions or more"
        chains = [_chain(value) for value in last.inputs]
        if sum(len(nodes) for nodes in chains) + 1 != len(body.nodes):
            return "the convolutions of a group share nothing but their input"
        for value, nodes in zip(last.inputs, chains, strict=True):
            groups = [node.op.groups for node in nodes if isinstance(node.op, Conv)]
            if groups != [1]:
                return "every operand of the concat is to be a dense convolution"
            reason = Conv2d().accepts(_sub_body(body, value, nodes, value.type)[0])
            if reason is not None:
                return reason
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        widest = max(part.shape.filters for part in _parts(problem))
        # Of all, not of the first: those may all be wider than any of the convolutions.
        ranked = rank_configs(product_of(problem), target, keep=_ALL)
        return [c for c in ranked if c["BLOCK_N"] < max(17, 2 * widest)][:_KEEP]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        # The longest programs first: the short ones fill the gaps at the end.
        parts = sorted(_parts(problem), key=lambda part: -part.shape.reduction)
        lines: list[str] = []
        constexprs: dict[str, Any] = {"CONV": conv2d_tile}
        programs = tiles = elements = 0
        for number, part in enumerate(parts):
            shape, anchor, epilogue = unpack(part.problem)
            own = dict(config) | {"SPLIT_K": _split(shape, config)}
            wide = max(v.type.span for v in part.problem.body.inputs) >= 2**31
            tf32 = anchor.op.tf32  # type: ignore[attr-defined]
            values = constexprs_of(shape, own, epilogue, tf32=tf32, wide=wide, target=target)
            constexprs |= {name if name in _SHARED else f"{name}_{number}": v for name, v in values.items()}
            count = tiles_of(shape, own)
            x, w = operands_of(part.problem, anchor)
            lines += _call(number, part, epilogue, x, w, count, own["SPLIT_K"], programs, tiles, elements, list(values))
            programs += count * own["SPLIT_K"]
            if own["SPLIT_K"] > 1:
                elements += count * own["SPLIT_K"] * config["BLOCK_M"] * config["BLOCK_N"]
                tiles += count
        arguments: dict[str, Any] = {"y": Result()}
        if tiles:
            arguments |= {"partials": Workspace(), "counters": Zeros()}
        else:
            constexprs |= {"partials": None, "counters": None}
        arguments["operands"] = tuple(Operand(index) for index in range(len(problem.body.inputs)))
        head = ["@triton.jit", "def conv_group(", "    y, partials, counters, operands,"]
        head += [f"    {name}: tl.constexpr," for name in constexprs if name not in ("partials", "counters")]
        source = "\n".join([*head, "):", "    program = tl.program_id(0)", *lines, ""])
        kernel = function(source, "conv_group")
        call = KernelCall(kernel, arguments, constexprs, (programs, 1, 1), config["num_warps"], config["num_stages"])
        return Lowered((call,), elements * 4, tiles * 4)


def product_of(problem: Problem) -> GemmShape:
    """The matrix product that a problem of `ConvGroup` is to the cost model: the longest reduction, of all columns."""
    parts = _parts(problem)
    longest = max(parts, key=lambda part: part.shape.reduction)
    shape, anchor = longest.shape, longest.problem.anchor
    assert anchor is not None
    return replace(gemm_shape(shape, anchor, 0), columns=sum(part.shape.filters for part in parts))


def _call(
    number: int,
    part: _Part,
    epilogue: Epilogue,
    x: int,
    w: int,
    count: int,
    split: int,
    first: int,
    tiles: int,
    elements: int,
    names: list[str],
) -> list[str]:
    """The lines that run this part's tiles on the programs from `first` on."""
    aux = "".join(f"operands[{part.operands[index]}], " for index in epilogue.operands)
    parameters = ", ".join(name if name in _SHARED else f"{name}_{number}" for name in names)
    scratch = f"partials + {elements}, counters + {tiles}" if split > 1 else "None, None"
    return [
        f"    if (program >= {first}) & (program < {first + count * split}):",
        f"        number_{number} = program - {first}",
        "        CONV(",
        f"            y + {part.offset}, operands[{part.operands[x]}], operands[{part.operands[w]}], {scratch},",
        f"            {f'({aux})' if aux else 'operands'}, number_{number} % {count}, number_{number} // {count},",
        f"            {parameters},",
        "        )",
    ]


def _split(shape: ConvShape, config: Config) -> int:
    """How many programs share a tile: as the configuration says, but no fewer than two steps for each."""
    steps = shape.taps * -(-shape.channels // config["BLOCK_K"])
    if config["FLATTEN"]:
        steps = -(-shape.reduction // config["BLOCK_K"])
    return max(1, min(int(config["SPLIT_K"]), steps // 2))


def _parts(problem: Problem) -> list[_Part]:
    body = problem.body
    concat = body.outputs[0].producer
    assert concat is not None
    out = problem.output.type
    parts, start = [], 0
    for value in concat.inputs:
        type = value.type.with_layout(Layout(out.strides))
        sub, operands = _sub_body(body, value, _chain(value), type)
        offset = start * out.strides[1]
        itemsize = out.dtype.itemsize
        aligned = 16 if offset * itemsize % 16 == 0 else (offset * itemsize) & -(offset * itemsize)
        alignment = (*(problem.alignment[i] for i in operands), min(problem.alignment[-1], aligned))
        parts.append(_Part(Problem(sub, tuple(problem.weights[i] for i in operands), alignment), operands, offset))
        start += value.type.shape[1]
    return parts


def _chain(value: Value) -> list[Node]:
    """The nodes a value is computed by, in order."""
    found: list[Node] = []

    def visit(node: Node | None) -> None:
        if node is None or node in found:
            return
        for operand in node.inputs:
            visit(operand.producer)
        found.append(node)

    visit(value.producer)
    return found


def _sub_body(body: Graph, value: Value, nodes: list[Node], type: TensorType) -> tuple[Graph, tuple[int, ...]]:
    """(the part of a body that computes `value`, here of `type`; which inputs of the body are its)."""
    out = Graph("region")
    inside: dict[Value, Value] = {}
    operands: list[int] = []
    for node in nodes:
        for operand in node.inputs:
            if operand in inside:
                continue
            if operand.data is not None:
                inside[operand] = out.add_constant(operand.data, type=operand.type)
            else:
                operands.append(body.inputs.index(operand))
                inside[operand] = out.add_input(f"i{len(operands) - 1}", operand.type)
        made = out.append(node.op, [inside[v] for v in node.inputs], loc=node.loc, types=[v.type for v in node.outputs])
        inside.update(zip(node.outputs, made.outputs, strict=True))
    inside[value].type = type
    out.mark_output(inside[value])
    return out, tuple(operands)
