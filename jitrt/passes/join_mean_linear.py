"""The mean over an image and the linear layer or 1x1 convolution of it as one kernel: a classifier's head, a squeeze.

Saves a launch and the trip of the means through memory. Not where the means have other readers, or where a view other
than the one that drops the image's dimensions lies between. Nor for many images, each of which would be read again for
every block of filters: 2048 channels of 8 images to 1000 take 9.7 us, 7 in two kernels, those of 128 images 25 and 14;
MobileNetV3-L at batch 8 was 30 us faster without it (H200).
"""

from __future__ import annotations

from jitrt.graph.graph import Node
from jitrt.graph.op import Op
from jitrt.graph.ops import Conv, Linear, ReduceMean
from jitrt.graph.types import TensorType
from jitrt.passes.join_regions import JoinRegions

_MOST_IMAGES = 2


class JoinMeanLinear(JoinRegions):
    """The rule for the template `mean_linear`."""

    name = "join_mean_linear"
    what = "a mean and the layer that reads it"

    def follows(self, first: Node, second: Node) -> bool:
        if not isinstance(first.op, ReduceMean):
            return False
        return isinstance(second.op, Linear) or (isinstance(second.op, Conv) and second.op.groups == 1)

    def loses(self, first: Node, second: Node) -> str | None:
        images = first.inputs[0].type.shape[0]
        return f"of {images} images it is slower than two" if images > _MOST_IMAGES else None

    def reshaped(self, first: Node, type: TensorType) -> Op | None:
        assert isinstance(first.op, ReduceMean)
        op = ReduceMean(first.op.axes, keepdims=False)
        return op if op.infer(first.inputs[0].type)[0].shape == type.shape else None
