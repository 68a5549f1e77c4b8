"""A convolution and the pool after it as one kernel, where the pool's windows share no pixel (VGG).

Saves a launch, and the write and read of the image between them: with 2x2 windows, four times as large as what is left.
The max pool of a network's first convolution is a matter for the rule `join_stem_pool`, whichever kernel takes it.
VGG-19 gains 3% by it at batch 1 and 2 to 3% at 128, but loses 5% at 8 (H200): in between it must be measured.
"""

from __future__ import annotations

from jitrt.graph.graph import Node
from jitrt.graph.ops import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, Conv, MaxPool
from jitrt.passes.join_regions import JoinRegions
from jitrt.passes.join_stem_pool import JoinStemPool

_FEW, _MANY = 1, 128  # images


class JoinConvPool(JoinRegions):
    """The rule for the template `conv_pool`."""

    name = "join_conv_pool"
    what = "a convolution and its pool"

    def follows(self, first: Node, second: Node) -> bool:
        if not isinstance(first.op, Conv) or JoinStemPool().follows(first, second):
            return False
        return isinstance(second.op, MaxPool | AvgPool | AdaptiveMaxPool | AdaptiveAvgPool)

    def doubts(self, first: Node, second: Node) -> str | None:
        images = first.inputs[0].type.shape[0]
        return f"of {images} images two were faster" if _FEW < images < _MANY else None
