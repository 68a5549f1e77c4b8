"""What a Network refuses, with the caller's line, and that it is as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jitrt
from jitrt import Network
from jitrt.errors import GraphError, NetworkError, OptionError, ShapeError
from jitrt.frontend.network import Tensor
from tests.frontend.network.test_network import made, zeros


def gru() -> dict[str, np.ndarray]:
    return {"weight_ih_l0": zeros(9, 8), "weight_hh_l0": zeros(9, 3)}


_OTHER = Network("other").add_input("theirs", (2, 3, 8, 8))

REFUSALS: list[tuple[Callable[[Network, Tensor], Any], type[GraphError], str]] = [
    # weights
    (
        lambda n, x: n.add_conv(x, 4, 3, weights=zeros(4, 2, 3, 3)),
        ShapeError,
        r"add_conv: weights: shape \(4, 2, 3, 3\), e"
        r"xpected \(4, 3, 3, 3\): channels, input channels / groups, kernel",
    ),
    (
        lambda n, x: n.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), bias=zeros(3)),
        ShapeError,
        r"bias: shape \(3,\), expected",
    ),
    (
        lambda n, x: n.add_conv(x, 4, 3, weights=np.zeros((4, 3, 3, 3))),
        NetworkError,
        "weights is float64, expected float32",
    ),
    (lambda n, x: n.add_elementwise(x, x, "add"), NetworkError, "it comes first: net.add_elementwise.'add', x"),
    (lambda n, x: n.add_conv(x, 4, 3, weights=None), NetworkError, "got a NoneType for a tensor"),
    (lambda n, x: n.add_conv(x, 4, 3, weights=["a"]), NetworkError, "an array of <U1 is no tensor jitrt knows"),
    (
        lambda n, x: n.add_linear(x, 2, weights=[[1.0], [1.0, 2.0]]),
        NetworkError,
        "a list that is no rectangle of numbers",
    ),
    (lambda n, x: n.add_batch_norm(x, mean=zeros(3), var=zeros(4)), ShapeError, r"var: shape \(4,\), expected \(3,\)"),
    (
        lambda n, x: n.add_conv_transpose(x, 4, 2, weights=zeros(4, 3, 2, 2)),
        ShapeError,
        r"expected \(3, 4, 2, 2\): input ch",
    ),
    (lambda n, x: n.add_constant(zeros(0, 3)), NetworkError, r"an array of shape \(0, 3\) has no elements"),
    (
        lambda n, x: n.add_constant(np.zeros(2, np.complex64)),
        NetworkError,
        "an array of complex64 .* convert it to one of",
    ),
    # shapes
    (lambda n, x: n.add_conv(x, 4, 9, weights=zeros(4, 3, 9, 9)), ShapeError, "the filter is larger than the input"),
    (
        lambda n, x: n.add_conv(x[0, 0], 4, 3, weights=zeros(4, 3, 3)),
        NetworkError,
        r"x has shape \(8, 8\), expected \(n, c",
    ),
    (lambda n, x: x + zeros(3), ShapeError, r"add: shapes \[\[2, 3, 8, 8\], \[3\]\] do not broadcast"),
    (lambda n, x: x @ zeros(7, 2), ShapeError, "inner sizes 8 and 7 differ"),
    (lambda n, x: n.add_reshape(x, (5, -1)), ShapeError, r"that is 384 elements, which \(5, -1\) has not"),
    (lambda n, x: n.add_reshape(x, (-1, -1)), NetworkError, "sizes are not negative, but for one -1"),
    (lambda n, x: n.add_expand(x, (3, 3, 8, 8)), ShapeError, "does not broadcast to"),
    (lambda n, x: n.add_concat([x, x[:, :, 1:]], 1), ShapeError, "does not fit"),
    (lambda n, x: n.add_stack([x, x[0]]), NetworkError, "they must be alike"),
    (lambda n, x: n.add_input("y", (1, 0)), NetworkError, r"shape is \(1, 0\); sizes are positive"),
    (lambda n, x: n.add_input("y", (-1, 3)), NetworkError, r"shape is \(-1, 3\); sizes are positive"),
    (lambda n, x: n.add_input("y", (1.5,)), NetworkError, r"shape is \(1.5,\); give whole numbers"),
    # attributes
    (
        lambda n, x: n.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), stride=0),
        NetworkError,
        "stride is 0; it cannot be below 1",
    ),
    (lambda n, x: n.add_conv(x, 0, 3, weights=zeros(0, 3, 3, 3)), NetworkError, "channels is 0; it cannot be below 1"),
    (lambda n, x: n.add_conv(x, 4, (3, 3, 3), weights=zeros(4, 3, 3, 3)), NetworkError, "give one number or 2"),
    (
        lambda n, x: n.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), groups=2),
        NetworkError,
        "groups is 2, which does not divide",
    ),
    (
        lambda n, x: n.add_conv(x, 4, 1, weights=zeros(4, 1, 1, 1), groups=3),
        NetworkError,
        "does not divide the 4 channels of",
    ),
    (
        lambda n, x: n.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), padding="some"),
        NetworkError,
        "unknown padding 'some'; did you",
    ),
    (lambda n, x: n.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), padding=[(1, 1)]), NetworkError, "give 2 pairs"),
    (
        lambda n, x: n.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), padding=-1),
        NetworkError,
        "padding is -1; it cannot be below",
    ),
    (
        lambda n, x: n.add_conv_transpose(x, 4, 1, weights=zeros(3, 1, 1, 1), groups=3),
        NetworkError,
        "does not divide the 4",
    ),
    (lambda n, x: n.add_activation(x, "rellu"), NetworkError, "unknown activation 'rellu'; did you mean 'relu'"),
    (lambda n, x: n.add_activation(x, "zzz"), NetworkError, "unknown activation 'zzz'; there are abs, "),
    (lambda n, x: n.add_activation(x, "clamp", lo=0), NetworkError, "clamp has no attribute 'lo'; it has low, high"),
    (lambda n, x: n.add_activation(x, "relu", slope=0), NetworkError, "relu has no attribute 'slope'; it has none"),
    (lambda n, x: n.add_activation(x, "clamp", low="a"), NetworkError, "low is 'a'; give a number"),
    (lambda n, x: n.add_activation(n.add_cast(x, "i32"), "exp"), NetworkError, "exp of int32 numbers: cast them first"),
    (
        lambda n, x: n.add_prelu(x, zeros(2)),
        NetworkError,
        r"slope has shape \(2,\), expected one number, or one a channel",
    ),
    (lambda n, x: n.add_prelu(x, np.zeros(3)), NetworkError, "slope is float64, expected float32 as x"),
    (lambda n, x: n.add_elementwise("plus", x, x), NetworkError, "unknown elementwise layer 'plus'"),
    (lambda n, x: n.add_elementwise("add", x), NetworkError, r"add takes 2 operand\(s\), got 1"),
    (lambda n, x: n.add_elementwise("add", 1, 2), NetworkError, "no operand is a tensor; compute it in numpy"),
    (lambda n, x: n.add_elementwise("where", True, x, x), NetworkError, "the condition is a number; choose in Python"),
    (lambda n, x: n.add_elementwise("and", x, x), NetworkError, "logical_and of float32 numbers; compare first"),
    (lambda n, x: x / "a", NetworkError, "got a str for a tensor"),
    (lambda n, x: n.add_cast(x, "float33"), NetworkError, "unknown dtype 'float33'; there are float64, float32"),
    (lambda n, x: n.add_cast(x, None), NetworkError, "unknown dtype None"),
    (lambda n, x: n.add_scale(x), NetworkError, "give scale, shift or power"),
    (lambda n, x: n.add_scale(x, scale=zeros(2)), NetworkError, "scale has 2 numbers, x has 3 channels"),
    (lambda n, x: n.add_scale(x, shift=np.zeros(3)), NetworkError, "shift is float64, expected float32"),
    (lambda n, x: n.add_pool(x, "mean", 2), NetworkError, "unknown pool 'mean'; there are"),
    (lambda n, x: n.add_pool(x, "max", 2, padding=2), ShapeError, "padding exceeds half the window"),
    (lambda n, x: n.add_pool(x, "average", 2, dilation=2), NetworkError, "only a max pool has one"),
    (
        lambda n, x: n.add_pool(x, "lp", 2, padding=1),
        NetworkError,
        "an lp pool has none, net.add_pad puts zeros around x",
    ),
    (lambda n, x: n.add_pool(x, "lp", 2, power=0), NetworkError, "power is 0; give a positive number"),
    (lambda n, x: n.add_pool(x, "lp", 2, power=float("nan")), NetworkError, "power is nan; give a number"),
    (lambda n, x: n.add_pool(x, "lp", 2, power=float("inf")), NetworkError, "power is inf; give a positive number"),
    (lambda n, x: n.add_pool(n.add_cast(x, "i32"), "average", 2), NetworkError, "x is int32; cast it first"),
    (lambda n, x: n.add_pool(n.add_cast(x, "bool"), "max", 2), NetworkError, "x is bool; cast it first"),
    (lambda n, x: n.add_adaptive_pool(n.add_cast(x, "i64"), "average", 2), NetworkError, "x is int64; cast it first"),
    (lambda n, x: n.add_adaptive_pool(n.add_cast(x, "bool"), "max", 2), NetworkError, "x is bool; cast it first"),
    (lambda n, x: n.add_lrn(x, 0), NetworkError, "size is 0; it cannot be below 1"),
    (lambda n, x: n.add_lrn(x, 3, alpha="a"), NetworkError, "alpha is 'a'; give a number"),
    (lambda n, x: n.add_layer_norm(x, eps="a"), NetworkError, "eps is 'a'; give a number of 0 or more"),
    (lambda n, x: n.add_rms_norm(x, eps=-1.0), NetworkError, "eps is -1.0; give a number of 0 or more"),
    (lambda n, x: n.add_layer_norm(n.add_cast(x, "i32")), NetworkError, "x is int32; cast it first"),
    (lambda n, x: n.add_adaptive_pool(x, "average", (0, 1)), NetworkError, "size is .0, 1.; it cannot be below 1"),
    (lambda n, x: n.add_group_norm(x, 2), NetworkError, "groups is 2, which does not divide the 3 channels"),
    (lambda n, x: n.add_instance_norm(x[0, 0, 0]), NetworkError, r"x has shape \(8,\), expected \(n, c, ...\)"),
    (lambda n, x: n.add_layer_norm(x, dims=5), NetworkError, "dims is 5; x has 4 dimensions"),
    (lambda n, x: n.add_reduce(x, "middle"), NetworkError, "unknown reduction 'middle'"),
    (lambda n, x: n.add_reduce(x, "sum", (1, -3)), NetworkError, "name each dimension once"),
    (lambda n, x: n.add_reduce(n.add_cast(x, "i32"), "mean"), NetworkError, "a mean is no whole number"),
    (lambda n, x: n.add_reduce(n.add_cast(x, "bool"), "sum"), NetworkError, "a sum of booleans is none; cast x first"),
    (lambda n, x: n.add_softmax(x, 4), NetworkError, "axis is 4; there are 4 dimensions"),
    (lambda n, x: n.add_softmax(n.add_cast(x, "i64")), NetworkError, "x is int64; cast it first"),
    (lambda n, x: n.add_permute(x, (0, 1, 2, 2)), NetworkError, "name each of the 4 dimensions once"),
    (lambda n, x: n.add_split(x, [1, 1], 1), NetworkError, "make up 3, the size of axis 1"),
    (lambda n, x: n.add_slice(x, 0, (1, 2)), NetworkError, "give as many of each"),
    (lambda n, x: n.add_slice(x, 3, 2, axes=2), NetworkError, "3:2 of axis 2 is empty"),
    (lambda n, x: x[::-1], NetworkError, "step is -1; it cannot be below 1"),
    (lambda n, x: x[5], NetworkError, "the index of dimension 0 is 5; there are 2 elements"),
    (lambda n, x: x[0, 0, 0, 0, 0], NetworkError, "5 indices, but x has 4 dimensions"),
    (lambda n, x: x[..., ...], NetworkError, "an index has one ... at most"),
    (lambda n, x: x[np.array([0, 1])], NetworkError, r"an index is array\(\[0, 1\]\); give numbers, slices"),
    (lambda n, x: n.add_expand(x[:, :1], (2, 0, 8, 8)), NetworkError, "sizes are positive"),
    (lambda n, x: n.add_cast(x, "u8") + 300, NetworkError, "300 is no uint8; cast the tensor to a wider type first"),
    (lambda n, x: x["a"], NetworkError, "an index is 'a'; give numbers, slices"),
    (lambda n, x: n.add_linear(x[0, 0, 0, 0], 1, weights=zeros(1, 1)), NetworkError, "x is a single number"),
    (lambda n, x: x[0, 0, 0, 0] @ x, NetworkError, "an operand is a single number"),
    (lambda n, x: n.add_matmul(x[0, 0, 0], x, transpose_a=True), NetworkError, "has no two dimensions to exchange"),
    # positions and sequences
    (lambda n, x: n.add_embedding(x, weights=zeros(3, 2)), NetworkError, "indices are float32, expected whole numbers"),
    (
        lambda n, x: n.add_embedding([1, 2], weights=zeros(3)),
        NetworkError,
        r"weights: shape \(3,\), expected \(count, width\)",
    ),
    (lambda n, x: n.add_topk(x, 4, 1), NetworkError, "k is 4, but axis 1 has 3 elements"),
    (lambda n, x: n.add_gather_elements(x, [0]), ShapeError, "x has rank 4, the index 1"),
    (
        lambda n, x: n.add_lstm(x, 3, weights={}),
        NetworkError,
        r"x has shape \(2, 3, 8, 8\), expected \(steps, batch, inputs\)",
    ),
    (
        lambda n, x: n.add_gru(x[0], 3, weights=[zeros(9, 8)]),
        NetworkError,
        "weights is a list; give a dict with the names wei",
    ),
    (
        lambda n, x: n.add_gru(x[0], 3, weights={}),
        NetworkError,
        "weights lack weight_ih_l0, weight_hh_l0; a layer like this o",
    ),
    (
        lambda n, x: n.add_gru(x[0], 3, weights={**gru(), "w": 1}),
        NetworkError,
        "weights have an unknown w; a layer like this",
    ),
    (lambda n, x: n.add_gru(x[0], 4, weights=gru()), ShapeError, r"weight_ih_l0: shape \(9, 8\), expected \(12, 8\)"),
    (
        lambda n, x: n.add_gru(x[0], 3, weights=gru(), layers=2),
        NetworkError,
        "weights lack weight_ih_l1, weight_hh_l1; a la",
    ),
    (
        lambda n, x: n.add_gru(x[0], 3, weights=gru(), h0=zeros(1, 3)),
        ShapeError,
        r"h0: shape \(1, 3\), expected \(1, 8, 3\)",
    ),
    (lambda n, x: n.add_rnn(x[0], 3, "lstm", weights={}), NetworkError, "unknown recurrent layer 'lstm'"),
    (lambda n, x: n.add_activation(x, "threshold", limit=1), NetworkError, "threshold needs value"),
    (lambda n, x: n.add_glu(x, 1), NetworkError, "axis 1 has 3 elements, which make no two halves"),
    (lambda n, x: n.add_attention(x, x, x[0]), ShapeError, "they must have as many dimensions, at least 2"),
    (lambda n, x: n.add_attention(x, x[..., :4], x), ShapeError, "the last sizes of q and k must agree"),
    (
        lambda n, x: n.add_attention(x, x[:, :2], x[:, :2]),
        ShapeError,
        "as many heads .third last., which divide those of q",
    ),
    (
        lambda n, x: n.add_attention(x, x, x, mask=zeros(2, 8)),
        ShapeError,
        r"mask: shape \(2, 8\) does not broadcast to",
    ),
    (
        lambda n, x: n.add_attention(x, x, x, mask=np.zeros((8, 8))),
        NetworkError,
        "mask is float64, expected bool or float3",
    ),
    (lambda n, x: n.add_attention(x, x, x, scale="a"), NetworkError, "scale is 'a'; give a number"),
    # padding and resizing
    (lambda n, x: n.add_resize(x, scale=float("inf")), NetworkError, "scale is inf; give one positive factor"),
    (
        lambda n, x: n.add_pad(x, [1, 1]),
        NetworkError,
        r"padding is \[1, 1\]; give a pair \(before, after\) for each of up to 4",
    ),
    (lambda n, x: n.add_pad(x, [(1, 1)], "mirror"), NetworkError, "unknown padding mode 'mirror'"),
    (
        lambda n, x: n.add_pad(x, [(1, 1)], "reflect", value=1.0),
        NetworkError,
        "value is 1.0; give a number, to mode 'const",
    ),
    (lambda n, x: n.add_pad(x, [(-4, -4)]), NetworkError, "which leaves nothing of x"),
    (lambda n, x: n.add_pad(x, [(8, 0)], "reflect"), ShapeError, "at most 7"),
    (lambda n, x: n.add_resize(x), NetworkError, "give either size or scale"),
    (lambda n, x: n.add_resize(x, 4, "lanczos"), NetworkError, "unknown resize mode 'lanczos'"),
    (lambda n, x: n.add_resize(x, 4, antialias=True), NetworkError, "antialias is for linear and cubic"),
    (lambda n, x: n.add_resize(x, 4, align_corners=True), NetworkError, "align_corners is for linear and cubic"),
    (
        lambda n, x: n.add_resize(x[0], 4, "cubic"),
        NetworkError,
        "cubic is for images, of 2 spatial dimensions; x has 1",
    ),
    (lambda n, x: n.add_resize(x, scale=(1, 2, 3)), NetworkError, "give one positive factor or 2, one a dimension"),
    (lambda n, x: n.add_resize(x, scale="twice"), NetworkError, "scale is 'twice'; give one positive factor"),
    (lambda n, x: n.add_pad(x, 1), NetworkError, "padding is 1; give a pair"),
    (lambda n, x: n.add_resize(x, scale=0.1), NetworkError, "which leaves nothing of x"),
    (lambda n, x: n.add_resize(n.add_cast(x, "i32"), 4, "linear"), NetworkError, "x is int32; cast it first"),
    # tensors
    (
        lambda n, x: n.add_activation(_OTHER, "relu"),
        NetworkError,
        "'theirs' belongs to the network 'other'; a layer reads",
    ),
    (lambda n, x: x + _OTHER, NetworkError, "'theirs' belongs to the network 'other'"),
    (lambda n, x: n.mark_output(_OTHER), NetworkError, "mark_output: 'theirs' belongs to the network 'other'"),
    (
        lambda n, x: n.add_activation(zeros(2), "relu"),
        NetworkError,
        "got a ndarray for a tensor; net.add_constant makes one",
    ),
    (
        lambda n, x: n.add_concat([x, n.add_cast(x, "f16")], 1),
        ShapeError,
        "'x' is float32, 'cast' float16; cast one of them",
    ),
    (lambda n, x: n.add_concat(x, 1), NetworkError, "got a Tensor for the tensors; give a list of them"),
    (lambda n, x: n.add_concat([], 1), NetworkError, "no tensors; give at least one"),
    # names
    (
        lambda n, x: n.add_input("x", (1,)),
        NetworkError,
        r"add_input: the name 'x' is taken by the input at test_network.py:\d+",
    ),
    (lambda n, x: n.add_identity(x, name="x"), NetworkError, "the name 'x' is taken by the input at"),
    (
        lambda n, x: n.add_identity(n.add_identity(x, name="y"), name="y"),
        NetworkError,
        "'y' is taken by the identity at test_refusals.py",
    ),
    (lambda n, x: n.mark_output(n.add_identity(x), "x"), NetworkError, "mark_output: the name 'x' is taken"),
    (lambda n, x: n.add_identity(x, name="a b"), NetworkError, "the name is 'a b'; give letters"),
    (lambda n, x: n.add_identity(x, name="3"), NetworkError, "the name is '3'; give letters"),
    (lambda n, x: n.add_input(None, (1,)), NetworkError, "the name is ''"),
    (lambda n, x: [n.mark_output(x), n.mark_output(x)], NetworkError, "'x' is an output already"),
]


@pytest.mark.parametrize(("act", "kind", "message"), REFUSALS, ids=[m[:40] for _, _, m in REFUSALS])
def test_what_cannot_be_is_refused_at_the_callers_line(
    act: Callable[[Network, Tensor], Any], kind: type[GraphError], message: str
) -> None:
    net, x = made()
    with pytest.raises(kind, match=message) as caught:
        act(net, x)
    assert str(caught.value).startswith("test_refusals.py:")
    assert "\n" not in str(caught.value)


def test_an_error_names_the_very_line() -> None:
    net, x = made()
    with pytest.raises(NetworkError) as caught:
        net.add_activation(x, "nonsense")
    assert str(caught.value).startswith(f"test_refusals.py:{caught.traceback[0].lineno + 1}: add_activation: unknown")


def test_a_refused_layer_leaves_nothing_behind() -> None:
    net, x = made()
    before = str(net)
    w = zeros(4, 3, 1, 1)
    with pytest.raises(ShapeError):
        net.add_conv(x, 4, 1, weights=w, bias=zeros(3))
    with pytest.raises(ShapeError):
        net.add_scale(x, scale=2.0, shift=zeros(7, 7))
    with pytest.raises(TypeError):
        net.add_activation()
    assert str(net) == before
    assert net.add_conv(x, 4, 1, weights=w, name="conv").name == "conv"


def test_a_network_without_output_is_refused() -> None:
    net, x = made()
    net.add_activation(x, "relu")
    for use in (lambda: net.graph, lambda: jitrt.compile(net, target="reference"), lambda: jitrt.explain(net)):
        with pytest.raises(NetworkError, match=r"the network 'made' has no output; mark one with net.mark_output"):
            use()


def test_a_network_takes_no_example_inputs() -> None:
    net, x = made()
    net.mark_output(net.add_activation(x, "relu"))
    with pytest.raises(OptionError, match="a Network knows its inputs' shapes; leave the example inputs out"):
        jitrt.compile(net, (zeros(2, 3, 8, 8),), target="reference")
