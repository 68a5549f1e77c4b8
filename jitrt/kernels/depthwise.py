"""Depthwise convolution: one filter a channel, so there is no matrix product.

Formula: y[n, p, q, k] = f(sum over (r, s) of x[n, p * stride + r, q * stride + s, k / mult] * w[k, r, s]), and the like
in one and three dimensions. Fires for `groups == channels`. Floors: (x + w + y) bytes / bandwidth, which binds filters
of 3x3, and one FMA a tap of the plain cores, which binds those of 7x7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jitrt.codegen.epilogue import make_epilogue
from jitrt.codegen.target import Target
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Conv
from jitrt.graph.types import row_major
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.kernels.conv_shape import ConvShape, describe, operands_of, output_space, refuse_conv, three
from jitrt.kernels.depthwise_cost import DepthwiseShape, ranked
from jitrt.kernels.depthwise_kernel import depthwise


class Depthwise(Template):
    """Convolutions with one input channel a group."""

    name = "depthwise"
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Conv):
            return "anchor is no convolution"
        if anchor.op.groups == 1 or anchor.op.groups != anchor.inputs[0].type.shape[1]:
            return "anchor is not depthwise"
        return refuse_conv(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = problem.anchor
        assert anchor is not None
        x, out = problem.body.inputs[operands_of(problem, anchor)[0]].type, problem.output.type
        conv = _describe(problem, anchor)
        read = sum(value.type.numel >= out.numel for value in problem.body.inputs if value.type is not x)
        shape = DepthwiseShape(
            lines=conv.rows // conv.out[2],
            width=conv.out[2],
            channels=out.shape[1],
            rows=conv.filter[0] * conv.filter[1],
            taps=conv.filter[2],
            stride=conv.stride[2],
            dilation=conv.dilation[2],
            itemsize=x.dtype.itemsize,
            adjacent=conv.x_strides[1] == 1 and out.shape[1] == x.shape[1],
            x_bytes=x.nbytes,
            y_bytes=out.nbytes * (1 + read),
        )
        return ranked(shape, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, Conv)
        x_index, w_index = operands_of(problem, anchor)
        x, filters = problem.body.inputs[x_index].type, anchor.output.type.shape[1]
        shape = _describe(problem, anchor)
        epilogue = make_epilogue(problem.body, anchor.output, output_space(anchor))
        groups = shape.rows // shape.out[2] * -(-shape.out[2] // config["COLUMNS"])
        tiles = -(-groups // config["BLOCK_G"]) * -(-filters // config["BLOCK_C"])
        constexprs: dict[str, Any] = {
            "GROUPS": groups,
            "FILTERS": filters,
            "MULTIPLIER": filters // anchor.op.groups,
            "SIZE": shape.size,
            "OUT": shape.out,
            "FILTER": shape.filter,
            "STRIDE": shape.stride,
            "PADDING": shape.padding,
            "DILATION": shape.dilation,
            "X_STRIDES": shape.x_strides,
            "W_STRIDES": shape.w_strides,
            "WIDE": x.span >= 2**31,
            "CONSTANT": problem.weights[w_index],
            "COLUMNS": config["COLUMNS"],
            "BLOCK_G": config["BLOCK_G"],
            "BLOCK_C": config["BLOCK_C"],
            "STRIP": config["STRIP"],
            "FORM": config["FORM"],
            "DEPENDENT": target.arch >= 90,
            "FETCH": epilogue.fetch,
            "FINISH": epilogue.finish,
            "STORE": epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x": Operand(x_index),
            "w": Operand(w_index),
            "aux": tuple(Operand(i) for i in epilogue.operands),
        }
        pack = {w_index: lambda weights: np.moveaxis(weights[:, 0], 0, -1)} if problem.weights[w_index] else {}
        return Lowered((KernelCall(depthwise, arguments, constexprs, (tiles, 1, 1), config["num_warps"]),), pack=pack)


def _describe(problem: Problem, anchor: Node) -> ConvShape:
    """The shape with the strides of the packed weights, (taps, k): the channels of one tap side by side."""
    x, w = (problem.body.inputs[index] for index in operands_of(problem, anchor))
    shape = describe(anchor, x.type, w.type)
    taps, step = three(w.type.strides[2:], 0), w.type.strides[0]
    if problem.weights[problem.body.inputs.index(w)]:
        taps, step = tuple(s * w.type.shape[0] for s in row_major(shape.filter)), 1
    return replace(shape, w_strides=(step, 1, *taps))
