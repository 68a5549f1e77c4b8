"""Attention, and the operators that nn.MultiheadAttention and nn.TransformerEncoderLayer are at inference, if all their
conditions hold (torch.compile sees them, torch.export does not)."""

from __future__ import annotations

import math

from jitrt.frontend.layers.arithmetic import binary
from jitrt.frontend.layers.attention import attention, masked, masked_softmax, products
from jitrt.frontend.layers.linear import linear
from jitrt.frontend.layers.norm import layer_norm
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import DType, Value
from jitrt.graph import ops as g


@register("aten.scaled_dot_product_attention.default")
def scaled_dot_product_attention(
    ctx: Context,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    if dropout_p > 0:
        raise Unsupported(f"dropout_p={dropout_p}: dropout is for training, call model.eval() first")
    return attention(ctx, query, key, value, attn_mask, causal=is_causal, scale=scale)


@register("aten._transformer_encoder_layer_fwd.default")
def transformer_encoder_layer(
    ctx: Context,
    src: Value,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Value,
    qkv_bias: Value,
    proj_weight: Value,
    proj_bias: Value,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Value,
    norm_bias_1: Value,
    norm_weight_2: Value,
    norm_bias_2: Value,
    ffn_weight_1: Value,
    ffn_bias_1: Value,
    ffn_weight_2: Value,
    ffn_bias_2: Value,
    mask: Value | None = None,
    mask_type: int | None = None,
) -> Value:
    """Attention and two linear layers, each with its input added, normed before or after."""

    def attend(x: Value) -> Value:
        weights = qkv_weight, qkv_bias, proj_weight, proj_bias
        return multi_head_attention(ctx, x, x, x, embed_dim, num_heads, *weights, mask, False, True, mask_type)[0]

    def feed_forward(x: Value) -> Value:
        wide = linear(ctx, x, ffn_weight_1, ffn_bias_1)
        return linear(ctx, ctx.add(g.Gelu(), wide) if use_gelu else ctx.add(g.Relu(), wide), ffn_weight_2, ffn_bias_2)

    x = src
    parameters = (norm_weight_1, norm_bias_1), (norm_weight_2, norm_bias_2)
    for part, (weight, bias) in zip((attend, feed_forward), parameters, strict=True):
        if norm_first:
            x = ctx.add(g.Add(), x, part(layer_norm(ctx, x, 1, weight, bias, eps)))
        else:
            x = layer_norm(ctx, ctx.add(g.Add(), x, part(x)), 1, weight, bias, eps)
    return x


@register("aten._native_multi_head_attention.default")
def multi_head_attention(
    ctx: Context,
    query: Value,
    key: Value,
    value: Value,
    embed_dim: int,
    num_head: int,
    qkv_weight: Value,
    qkv_bias: Value,
    proj_weight: Value,
    proj_bias: Value,
    mask: Value | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Value, Value | None]:
    """Of (batch, tokens, embed_dim). A mask is true, or not 0, where nothing is looked at: of the tokens of each image
    (mask_type 1), else of every pair."""
    if query is key is value:
        projected = linear(ctx, query, qkv_weight, qkv_bias)
        parts = [ctx.slice(projected, 2, i * embed_dim, (i + 1) * embed_dim) for i in range(3)]
    else:
        parts = []
        for i, x in enumerate((query, key, value)):
            rows = i * embed_dim, (i + 1) * embed_dim
            parts.append(linear(ctx, x, ctx.slice(qkv_weight, 0, *rows), ctx.slice(qkv_bias, 0, *rows)))
    width = embed_dim // num_head
    split = [ctx.reshape(x, (*x.type.shape[:2], num_head, width)) for x in parts]
    q, k, v = (ctx.permute(x, (0, 2, 1, 3)) for x in split)
    seen = None if mask is None else _seen(ctx, mask, mask_type)
    scores = products(ctx, q, k)
    scores = binary(ctx, g.Mul(), scores, 1 / math.sqrt(width), scores.type.dtype)
    shares = masked_softmax(ctx, masked(ctx, scores, seen), seen)
    y = ctx.permute(ctx.add(g.Matmul(), shares, v), (0, 2, 1, 3))
    y = linear(ctx, ctx.reshape(y, (*y.type.shape[:2], embed_dim)), proj_weight, proj_bias)
    if not need_weights:
        return y, None
    return y, ctx.add(g.ReduceMean((1,)), shares) if average_attn_weights else shares


def _seen(ctx: Context, mask: Value, mask_type: int | None) -> Value:
    """A mask as attention takes it: true where something is looked at, of shape (batch, heads, tokens, tokens)."""
    hidden = mask if mask.type.dtype == DType.b8 else binary(ctx, g.NotEqual(), mask, 0, mask.type.dtype)
    seen = ctx.add(g.LogicalNot(), hidden)
    n, *_, length = seen.type.shape
    return ctx.reshape(seen, (n, 1, 1, length)) if mask_type == 1 else seen
