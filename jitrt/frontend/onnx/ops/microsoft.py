"""Operators of the domain com.microsoft, which ONNX Runtime's optimiser puts in place of several standard ones.

Their formulas are in onnxruntime's docs/ContribOperators.md. Attention is in `microsoft_attention`, whole numbers in
`microsoft_quantized`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitrt.frontend.layers import norm
from jitrt.frontend.layers.activation import hard_sigmoid, swish
from jitrt.frontend.layers.arithmetic import scaled
from jitrt.frontend.layers.index import embedding
from jitrt.frontend.layers.linear import transposed
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.conv import conv
from jitrt.frontend.onnx.ops.linear import gemm, product
from jitrt.frontend.onnx.registry import MICROSOFT, onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

# -- activations -------------------------------------------------------------------------------------------------------

_Activation = Callable[[Call, Value, Sequence[float]], Value]
_ACTIVATIONS: dict[str, _Activation] = {  # after a fused product, with its parameters
    "Relu": lambda n, x, _: n.add(g.Relu(), x),
    "Tanh": lambda n, x, _: n.add(g.Tanh(), x),
    "Sigmoid": lambda n, x, _: n.add(g.Sigmoid(), x),
    "LeakyRelu": lambda n, x, p: n.add(g.LeakyRelu(_first(p, 0.01)), x),
    "Clip": lambda n, x, p: n.add(g.Clamp(*p), x),
    "HardSigmoid": lambda n, x, p: hard_sigmoid(n.b, x, *(p or (0.2, 0.5))),
}


def _first(parameters: Sequence[float], default: float) -> float:
    return parameters[0] if parameters else default


def _activated(n: Call, x: Value, parameters: Sequence[float]) -> Value:
    name = n.attribute("activation", "")
    if not name:
        return x
    if name not in _ACTIVATIONS:
        n.refuse(f"activation {name!r}, expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name](n, x, parameters)


def _plus(n: Call, x: Value, bias: Value | None) -> Value:
    return x if bias is None else n.add(g.Add(), x, bias)


@onnx_op("Gelu", "BiasGelu", domain=MICROSOFT)
def gelu(n: Call, x: Value, bias: Value | None = None) -> Value:
    return n.add(g.Gelu(), _plus(n, x, bias))


@onnx_op("FastGelu", domain=MICROSOFT)
def fast_gelu(n: Call, x: Value, bias: Value | None = None) -> Value:
    return n.add(g.Gelu(approximate=True), _plus(n, x, bias))


@onnx_op("QuickGelu", domain=MICROSOFT)
def quick_gelu(n: Call, x: Value) -> Value:
    return swish(n.b, x, n.attribute("alpha", 1.702))


@onnx_op("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(n: Call, x: Value, bias: Value) -> Value:
    """The first half of x + bias times the gelu of the second."""
    y, axis, half = n.add(g.Add(), x, bias), x.type.rank - 1, x.type.shape[-1] // 2
    gate = n.add(g.Gelu(), n.b.slice(y, axis, half, 2 * half))
    return n.add(g.Mul(), n.b.slice(y, axis, 0, half), gate)


@onnx_op("BiasAdd", domain=MICROSOFT)
def bias_add(n: Call, x: Value, bias: Value, skip: Value) -> Value:
    return n.add(g.Add(), n.add(g.Add(), x, bias), skip)


# -- products ----------------------------------------------------------------------------------------------------------


@onnx_op("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(n: Call, a: Value, b: Value) -> Value:
    """alpha * op(a) @ op(b). `transBatch` takes the first dimension of a batch for the row (or inner) one."""
    sides = []
    for x, name in ((a, "A"), (b, "B")):
        if n.attribute(f"transBatch{name}", 0):
            rank = x.type.rank
            x = n.b.permute(x, (*range(1, rank - 1), 0, rank - 1))
        sides.append(transposed(n.b, x) if n.attribute(f"trans{name}", 0) and x.type.rank > 1 else x)
    return scaled(n.b, product(n, *sides), n.attribute("alpha", 1.0))


@onnx_op("FusedGemm", domain=MICROSOFT)
def fused_gemm(n: Call, a: Value, b: Value, c: Value | None = None) -> Value:
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return _activated(n, gemm(n, a, b, c), [n.attribute(name) for name in names if name in n.attributes])


@onnx_op("GemmFastGelu", domain=MICROSOFT)
def gemm_fast_gelu(n: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    return n.add(g.Gelu(approximate=True), _plus(n, product(n, x, w), bias))


@onnx_op("FusedConv", domain=MICROSOFT)
def fused_conv(n: Call, x: Value, w: Value, bias: Value | None = None, other: Value | None = None) -> Value:
    return _activated(n, _plus(n, conv(n, x, w, bias), other), n.attribute("activation_params", []))


@onnx_op("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def nhwc_conv(n: Call, x: Value, w: Value, bias: Value | None = None, other: Value | None = None) -> Value:
    """A convolution whose channels are the last dimension; its filters are as those of others."""
    y = conv(n, _channels_first(n, x), w, bias)
    y = _activated(
        n, y if other is None else n.add(g.Add(), y, _channels_first(n, other)), n.attribute("activation_params", [])
    )
    return _channels_last(n, y)


def _channels_first(n: Call, x: Value) -> Value:
    rank = x.type.rank
    return n.b.permute(x, (0, rank - 1, *range(1, rank - 1)))


def _channels_last(n: Call, x: Value) -> Value:
    return n.b.permute(x, (0, *range(2, x.type.rank), 1))


# -- normalisations ----------------------------------------------------------------------------------------------------


def _no_statistics(n: Call) -> None:
    if n.wants(1) or n.wants(2):
        n.refuse("its mean and deviation as results")


@onnx_op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    n: Call, x: Value, skip: Value, gamma: Value, beta: Value | None = None, bias: Value | None = None
) -> tuple[Value | None, ...]:
    _no_statistics(n)
    total = _plus(n, n.add(g.Add(), x, skip), bias)
    return norm.layer_norm(n.b, total, 1, gamma, beta, n.attribute("epsilon", 1e-12)), None, None, total


@onnx_op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_norm(n: Call, x: Value, skip: Value, gamma: Value, bias: Value | None = None) -> tuple[Value | None, ...]:
    _no_statistics(n)
    total = _plus(n, n.add(g.Add(), x, skip), bias)
    return norm.rms_norm(n.b, total, 1, gamma, n.attribute("epsilon", 1e-12)), None, None, total


@onnx_op("SimplifiedLayerNormalization", domain=MICROSOFT)
@onnx_op("SimplifiedLayerNormalization")
def rms_norm(n: Call, x: Value, gamma: Value) -> Value:
    """ONNX Runtime has it in the standard's domain, too."""
    if n.wants(1):
        n.refuse("its deviation as a result")
    dims = x.type.rank - n.axis(n.attribute("axis", -1), x.type.rank)
    return norm.rms_norm(n.b, x, dims, gamma, n.attribute("epsilon", 1e-5))


@onnx_op("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    n: Call,
    words: Value,
    segments: Value | None,
    word_table: Value,
    position_table: Value,
    segment_table: Value | None,
    gamma: Value,
    beta: Value,
    mask: Value | None = None,
    positions: Value | None = None,
) -> tuple[Value, ...]:
    """BERT's first layer; its second result is how many words of each row the mask shows."""
    rows, columns = words.type.shape
    total = embedding(n.b, word_table, words)
    if positions is None:
        total = n.add(g.Add(), total, n.b.slice(position_table, 0, 0, columns))
    else:
        total = n.add(g.Add(), total, embedding(n.b, position_table, positions))
    if segments is not None and segment_table is not None:
        total = n.add(g.Add(), total, embedding(n.b, segment_table, segments))
    shown = n.b.full((rows,), 0, DType.i32) if mask is None else n.b.operand(n.add(g.ReduceSum((1,)), mask), DType.i32)
    y = norm.layer_norm(n.b, total, 1, gamma, beta, n.attribute("epsilon", 1e-12))
    return y, shown, total


@onnx_op("GroupNorm", domain=MICROSOFT)
def group_norm(n: Call, x: Value, gamma: Value, beta: Value) -> Value:
    first = _channels_first(n, x) if n.attribute("channels_last", 1) else x
    weight, bias = (n.b.operand(parameter, x.type.dtype) for parameter in (gamma, beta))
    y = norm.group_norm(n.b, first, n.required("groups"), weight, bias, n.attribute("epsilon", 1e-5))
    y = n.add(g.Silu(), y) if n.required("activation") else y
    return _channels_last(n, y) if n.attribute("channels_last", 1) else y


@onnx_op("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(
    n: Call, x: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None
) -> tuple[Value, Value]:
    """Of x + skip + bias, which is the second result; skip may be one number a channel of every image."""
    if skip.type.rank == 2:
        skip = n.b.reshape(skip, (skip.type.shape[0], 1, 1, skip.type.shape[1]))
    total = _plus(n, n.add(g.Add(), x, skip), bias)
    return group_norm(n, total, gamma, beta), total
