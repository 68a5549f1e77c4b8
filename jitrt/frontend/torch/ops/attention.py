"""Attention."""

from __future__ import annotations

from jitrt.frontend.layers.attention import attention
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import Value


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
