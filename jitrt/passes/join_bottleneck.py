"""A convolution of several taps and the 1x1 convolution of it as one kernel: the end of a ResNet's bottleneck.

Saves a launch and the trip of the image between them through memory. Not where somebody else reads that image, as a
bottleneck's never is.
"""

from __future__ import annotations

from jitrt.graph.graph import Node
from jitrt.graph.ops import Conv
from jitrt.passes.join_regions import JoinRegions


class JoinBottleneck(JoinRegions):
    """The rule for the template `conv_pointwise`."""

    name = "join_bottleneck"
    what = "a convolution and the 1x1 convolution of it"

    def follows(self, first: Node, second: Node) -> bool:
        if not isinstance(first.op, Conv) or not isinstance(second.op, Conv):
            return False
        taps, one = (set(node.inputs[1].type.shape[2:]) for node in (first, second))
        return taps != {1} and one == {1} and first.op.groups == second.op.groups == 1
