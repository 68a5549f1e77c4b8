"""A network's first convolution and the max pool after it as one kernel.

Saves the write and read of the image between them, four times as large as the pooled one. Convolutions of more than
four channels compute too much for a halo of their own to pay, and are not looked at.
"""

from __future__ import annotations

from jitrt.graph.graph import Node
from jitrt.graph.ops import Conv, MaxPool
from jitrt.passes.join_regions import JoinRegions

_CHANNELS = 4


class JoinStemPool(JoinRegions):
    """The rule for the template `stem_pool`."""

    name = "join_stem_pool"
    what = "a stem and its max pool"

    def follows(self, first: Node, second: Node) -> bool:
        if not isinstance(first.op, Conv) or not isinstance(second.op, MaxPool):
            return False
        return first.op.groups == 1 and first.inputs[1].type.shape[1] <= _CHANNELS
