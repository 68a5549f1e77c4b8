"""BERT-base's encoder in plain PyTorch (Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019).

Written as Hugging Face's is: queries, keys and values by a linear layer each, PyTorch's scaled_dot_product_attention,
layer norms after the residual sums, GELU by the error function. `torch.nn.TransformerEncoder` would hand the peers one
opaque operator in place of a layer, which torch.compile cannot look into.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    """Attention and a perceptron of one hidden layer, each added to what it read, and normed."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.attended, self.done = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.attended(self.mix(y) + x)
        return self.done(self.narrow(F.gelu(self.widen(x))) + x)


class Bert(nn.Module):
    """Hidden states (batch, length, width) of tokens (batch, length), all of one segment and none of them padding.

    Embeddings of words, positions and the first segment, normed, then the layers. There is no pooler and no head. The
    defaults are BERT-base's.
    """

    def __init__(
        self,
        layers: int = 12,
        width: int = 768,
        heads: int = 12,
        hidden: int = 3072,
        words: int = 30522,
        positions: int = 512,
    ):
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(positions, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(layers))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = self.positions.weight[: tokens.shape[1]]
        x = self.norm(self.words(tokens) + places + self.segments.weight[0])
        for layer in self.layers:
            x = layer(x)
        return x
