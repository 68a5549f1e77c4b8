"""Rules for kernels with two anchors: what the graph becomes, that it means the same, and where they do not fire."""

from __future__ import annotations

import pytest

from jitrt.graph import TensorType, Value, f16, f32
from jitrt.graph.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Conv,
    HardSwish,
    MaxPool,
    Permute,
    ReduceMean,
    Relu,
    Reshape,
)
from tests.passes import nets

Outcome = tuple[list[str], list[str], list[str]]


class Net(nets.Net):
    """What the rules of joined regions make of it."""

    def optimized(
        self, *outputs: Value, faster: bool | None = True, tf32: bool = False, signed: str = "join"
    ) -> Outcome:
        return super().optimized(*outputs, faster=faster, tf32=tf32, signed=signed)


# -- mean + linear -----------------------------------------------------------------------------------------------------


def head(net: Net, x: Value) -> Value:
    return net(Reshape((x.type.shape[0], x.type.shape[1])), net(AdaptiveAvgPool((1, 1)), x))


def test_a_head_is_one_kernel() -> None:
    net = Net(2, 8, 5, 5)
    y = net.linear(head(net, net.conv(net.x, 16, 3)), 10)
    kernels, done, _ = net.optimized(y)
    assert kernels == ["conv+add+relu", "reduce_mean+linear+add"]
    assert done == ["a mean and the layer that reads it in one kernel: faster"]


def test_a_squeeze_is_one_kernel() -> None:
    net = Net(2, 8, 5, 5)
    kernels, _, _ = net.optimized(net.conv(net(ReduceMean((2, 3), True), net.conv(net.x, 16, 3)), 4, 1))
    assert kernels == ["conv+add+relu", "reduce_mean+conv+add+relu"]


def test_a_head_stays_two_kernels_where_one_is_slower() -> None:
    net = Net(2, 8, 5, 5)
    kernels, _, refused = net.optimized(net.linear(head(net, net.conv(net.x, 16, 3)), 10), faster=False)
    assert kernels == ["conv+add+relu", "reduce_mean", "linear+add"]
    assert refused == ["not done: a mean and the layer that reads it in one kernel: slower"]


def test_means_of_many_images_stay() -> None:
    net = Net(3, 8, 5, 5)
    kernels, done, refused = net.optimized(net.linear(head(net, net.conv(net.x, 16, 3)), 10))
    assert "reduce_mean" in kernels and not done
    assert refused == ["not joined with what follows: of 3 images it is slower than two"]


def test_means_that_are_read_twice_or_returned_stay() -> None:
    net = Net(2, 8, 5, 5)
    means = head(net, net.conv(net.x, 16, 3))
    kernels, _, refused = net.optimized(net.linear(means, 10), net.linear(net(Relu(), means), 3))
    assert "reduce_mean" in kernels and refused == ["not joined with what follows: its result is read elsewhere too"]
    net = Net(2, 8, 5, 5)
    means = head(net, net.conv(net.x, 16, 3))
    kernels, _, refused = net.optimized(net.linear(means, 10), means)
    assert "reduce_mean" in kernels and refused == ["not joined with what follows: its result is read elsewhere too"]


def test_means_of_an_nchw_image_or_of_something_else_stay() -> None:
    net = Net(2, 8, 5, 5)
    _, done, refused = net.optimized(net.linear(head(net, net.x), 10))
    assert not done and "innermost" in refused[0]
    net = Net(2, 8, 5, 5)  # two rows of means, seen as four
    means = net(Reshape((4, 8)), net(ReduceMean((2, 3), True), net.conv(net.x, 16, 3)))
    kernels, done, _ = net.optimized(net.linear(means, 10))
    assert not done and "reduce_mean" in kernels


# -- stem + pool -------------------------------------------------------------------------------------------------------


def test_a_stem_and_its_pool_are_one_kernel() -> None:
    net = Net(2, 3, 20, 20)
    kernels, done, _ = net.optimized(net(MaxPool((3, 3), (2, 2), (1, 1)), net.conv(net.x, 8, 7, stride=2)), tf32=True)
    assert kernels == ["conv+add+relu+max_pool"]
    assert done == ["a stem and its max pool in one kernel: faster"]


def test_a_stem_that_somebody_else_reads_keeps_its_pool() -> None:
    pool = MaxPool((3, 3), (2, 2), (1, 1))
    net = Net(2, 3, 20, 20)
    stem = net.conv(net.x, 8, 7, stride=2)
    _, done, refused = net.optimized(net(pool, stem), stem)
    assert not done and refused == ["not joined with what follows: its result is read elsewhere too"]
    net = Net(2, 3, 20, 20)
    _, done, refused = net.optimized(
        net(pool, net(HardSwish(), net(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), net.x, net.weight(8, 3, 3, 3)))),
        tf32=True,
    )
    assert not done and "may fall" in refused[0]
    net = Net(2, 3, 20, 20)
    _, done, refused = net.optimized(net(pool, net.conv(net.x, 8, 7, stride=2)))
    assert not done and "IEEE float32" in refused[0]


# -- convolution + pool ------------------------------------------------------------------------------------------------

HALVES = MaxPool((2, 2), (2, 2), (0, 0))


def test_a_convolution_and_its_pool_are_one_kernel() -> None:
    net = Net(2, 8, 11, 9)
    y = net(HALVES, net.conv(net.x, 16, 3))
    kernels, done, refused = net.optimized(net.conv(net(AvgPool((2, 2), (2, 2), (0, 0)), net.conv(y, 16, 3)), 8, 1))
    assert kernels == ["conv+add+relu+max_pool", "conv+add+relu+avg_pool", "conv+add+relu"]
    assert done == ["a convolution and its pool in one kernel: faster"] * 2 and not refused


@pytest.mark.parametrize(("images", "alone"), [(1, False), (2, True), (127, True), (128, False)])
def test_a_pool_of_some_images_must_be_measured(images: int, alone: bool) -> None:
    net = Net(images, 3, 4, 4)
    y = net.conv(net.conv(net.x, 16, 1), 16, 3)
    kernels, _, refused = net.optimized(net(HALVES, y), faster=None)
    assert len(kernels) == 2 + alone
    assert [f"{images} images two were faster" in text for text in refused] == [True] * alone


def test_what_follows_the_pool_comes_along() -> None:
    net = Net(2, 16, 6, 6)
    y = net(HALVES, net.conv(net.x, 16, 3))
    kernels, _, _ = net.optimized(net(HardSwish(), net(Add(), y, net.weight(2, 16, 3, 3))))
    assert kernels == ["conv+add+relu+max_pool+add+hard_swish"]


def test_a_stem_takes_the_kernel_that_there_is() -> None:
    net = Net(2, 3, 12, 12)
    y = net(Conv((1, 1), ((1, 1), (1, 1)), (1, 1)), net.x, net.weight(8, 3, 3, 3))
    kernels, done, _ = net.optimized(net(HALVES, net(HardSwish(), y)))
    assert kernels == ["conv+hard_swish+max_pool"] and len(done) == 1


def test_a_pool_stays_where_it_is_slower_or_something_is_in_the_way() -> None:
    net = Net(2, 8, 6, 6)
    kernels, _, refused = net.optimized(net(HALVES, net.conv(net.x, 16, 3)), faster=False)
    assert kernels == ["conv+add+relu", "max_pool"]
    assert refused == ["not done: a convolution and its pool in one kernel: slower"]

    elsewhere = ["not joined with what follows: its result is read elsewhere too"]
    net = Net(2, 8, 6, 6)
    wide = net.conv(net.x, 16, 3)
    assert net.optimized(net(HALVES, wide), net.conv(wide, 4, 1), signed="join_conv_pool")[1:] == ([], elsewhere)
    net = Net(2, 8, 6, 6)
    wide = net.conv(net.x, 16, 3)
    assert net.optimized(net(HALVES, wide), wide)[1:] == ([], elsewhere)

    net = Net(2, 8, 6, 6)
    added = net(Add(), net.conv(net.x, 16, 3), net.conv(net.x, 16, 1))
    _, done, refused = net.optimized(net(HALVES, added))
    assert not done and "more than a number for each channel" in refused[0]
    for pool, reason in (
        (MaxPool((3, 3), (2, 2), (1, 1)), "padded"),
        (MaxPool((3, 3), (2, 2), (0, 0)), "overlap"),
        (MaxPool((2, 2), (2, 2), (0, 0), ceil_mode=True), "beyond the image"),
    ):
        net = Net(2, 8, 7, 7)
        _, done, refused = net.optimized(net(pool, net.conv(net.x, 16, 3)))
        assert not done and reason in refused[0]


# -- depthwise + pointwise ---------------------------------------------------------------------------------------------


def test_a_separable_convolution_is_one_kernel() -> None:
    net = Net(2, 8, 6, 6)
    wide = net.conv(net.x, 16, 1)
    shortcut = net.conv(net.x, 8, 1)
    y = net(Add(), shortcut, net.conv(net.conv(wide, 16, 3, groups=16), 8, 1))
    kernels, done, _ = net.optimized(y)
    assert kernels.count("conv+add+relu+conv+add+relu+add") == 1
    assert done == ["a depthwise convolution and the 1x1 convolution of it in one kernel: faster"]


def test_a_separable_convolution_must_be_measured() -> None:
    net = Net(2, 8, 6, 6)
    y = net.conv(net.conv(net.conv(net.x, 16, 1), 16, 3, groups=16), 8, 1)
    kernels, done, refused = net.optimized(y, faster=None, signed="join_separable")
    assert kernels == ["conv+add+relu"] * 3 and not done
    assert refused[0].endswith(
        "2 kernels become 1 (not measured), and two were faster wherever whole networks were measured"
    )


def test_separable_convolutions_with_a_reader_in_between_or_a_large_window_stay() -> None:
    net = Net(2, 8, 6, 6)
    deep = net.conv(net.conv(net.x, 16, 1), 16, 3, groups=16)
    _, done, refused = net.optimized(net.conv(deep, 8, 1), net(Relu(), deep))
    assert not done and refused == ["not joined with what follows: its result is read elsewhere too"]
    net = Net(2, 8, 9, 9)
    deep = net.conv(net.conv(net.x, 16, 1), 16, 7, groups=16)
    _, done, refused = net.optimized(net.conv(deep, 8, 1))
    assert not done and "49 taps" in refused[0]
    net = Net(2, 8, 6, 6)
    dense = net.conv(net.conv(net.x, 16, 1), 16, 3, groups=2)
    assert net.optimized(net.conv(dense, 8, 1))[1:] == ([], [])


# -- the end of a bottleneck -------------------------------------------------------------------------------------------


class Light(Net):
    """With weights that leave sums of many in the middle of what a float16 can be."""

    def weight(self, *shape: int) -> Value:
        return self.graph.add_constant((self.rng.standard_normal(shape) / 8).astype(self.dtype.numpy))


def test_the_end_of_a_bottleneck_is_one_kernel() -> None:
    """Its shortcut included."""
    kernels, done, _ = bottleneck(Light(8, 8, 56, 56, dtype=f16))
    assert kernels.count("conv+add+relu+conv+add+add+relu") == 1
    assert done == ["a convolution and the 1x1 convolution of it in one kernel: faster"]


def test_the_end_of_a_bottleneck_stays_two_kernels_where_one_is_slower() -> None:
    kernels, _, refused = bottleneck(Light(8, 8, 56, 56, dtype=f16), faster=False)
    assert kernels.count("conv+add+add+relu") == 1
    assert refused == ["not done: a convolution and the 1x1 convolution of it in one kernel: slower"]


def test_bottlenecks_that_stay_and_why() -> None:
    def why(net: Light, width: int = 8) -> str:
        kernels, done, refused = bottleneck(net, width, 16)
        assert kernels.count("conv+add+add+relu") == 1 and not done
        return "\n".join(refused)

    assert "sm_80 has no wgmma" in why(Light(2, 8, 6, 6, dtype=f16))  # nor is any other target for it
    assert "136 channels between the convolutions" in why(Light(2, 8, 6, 6, dtype=f16), 136)
    assert "16-bit floats" in why(Light(2, 8, 6, 6))
    net = Light(2, 8, 6, 6, dtype=f16)
    middle = net.conv(net.conv(net.x, 8, 1), 16, 3)
    _, done, refused = net.optimized(net.conv(middle, 16, 1), net.conv(middle, 8, 3))
    assert not done and refused == ["not joined with what follows: its result is read elsewhere too"]
    net = Light(2, 8, 6, 6, dtype=f16)
    grouped = net.conv(net.conv(net.x, 8, 1), 16, 3, groups=2)
    assert net.optimized(net.conv(grouped, 16, 1))[1:] == ([], [])


def bottleneck(net: Light, width: int = 64, filters: int = 256, faster: bool = True) -> Outcome:
    """relu(conv(relu(conv(x))) + shortcut(x)) between two 1x1 convolutions, so that all channels lie innermost."""
    x = net.conv(net.x, 8, 1)
    shortcut = net.conv(x, filters, 1, relu=False)
    end = net.conv(net.conv(x, width, 3), filters, 1, relu=False)
    return net.optimized(net.conv(net(Relu(), net(Add(), end, shortcut)), 8, 1), faster=faster)


# -- what lies between, and what the kernel asks of its operands -------------------------------------------------------


def test_a_transposed_square_is_another_image() -> None:
    """Of the same shape, which is not enough."""
    net = Net(2, 8, 6, 6)
    turned = net(Permute((0, 1, 3, 2)), net.conv(net.x, 8, 3, groups=8))
    kernels, done, _ = net.optimized(net.conv(turned, 16, 1))
    assert kernels == ["conv+add+relu"] * 2 and not done
    net = Net(2, 8, 6, 6)
    turned = net(Permute((0, 1, 3, 2)), net.conv(net.x, 8, 3))
    kernels, done, _ = net.optimized(net(MaxPool((1, 2), (1, 2), (0, 0)), turned))
    assert kernels == ["conv+add+relu", "max_pool"] and not done


def test_weights_that_are_no_constants_cannot_be_packed() -> None:
    net = Net(2, 8, 6, 6)
    w = net.graph.add_input("w", TensorType(f32, (8, 1, 3, 3)))
    deep = net(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 8), net.x, w)
    kernels, _, refused = net.optimized(net.conv(deep, 16, 1))
    assert kernels == ["conv", "conv+add+relu"]
    assert [text for text in refused if "needs constant weights" in text]
