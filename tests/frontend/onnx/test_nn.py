"""Convolutions, pools, normalisations and recurrent layers beyond ONNX's own suite: older versions, computed filters,
other types, refusals, and what is composed of several kernels through those kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from jitrt.graph import interpret
from jitrt.graph.ops import AvgPool, Conv, ExactConv, GroupNorm, LayerNorm, MaxPool, Pad, Recurrence, Where
from jitrt.graph.text import parse
from tests.frontend.onnx.nodes import RNG, check, floats, node, run

IMAGE = floats(2, 4, 7, 6)


def ops_of(model: Any, **options: Any) -> list[Any]:
    return [type(n.op) for n in import_onnx(model, **options).graph.nodes]


# -- convolutions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2)])
def test_conv(auto_pad: str, stride: int, dilation: int) -> None:
    how = {"pads": [1, 2, 0, 1]} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    arrays = [IMAGE, floats(6, 2, 3, 2), floats(6)]
    strides, dilations = [stride, 1], [1, dilation]
    check("Conv", arrays, group=2, strides=strides, dilations=dilations, known=(1, 2), **how)


@pytest.mark.parametrize("kernels", [False, True])
def test_grouped_filters_that_are_computed_are_convolutions_of_their_own(kernels: bool) -> None:
    arrays = [IMAGE, floats(6, 2, 3, 3), floats(6)]
    check("Conv", arrays, group=2, kernels=kernels, rtol=1e-4)
    assert ops_of(node("Conv", arrays, group=2)).count(Conv) == 2
    assert ops_of(node("Conv", [IMAGE, floats(4, 1, 3, 3)], group=4)) == [Conv]  # depthwise kernels take any
    turned = [IMAGE, floats(4, 3, 2, 3), floats(6)]
    wanted = run("ConvTranspose", turned, group=2, strides=[2, 1], known=(1,))
    check("ConvTranspose", turned, wanted=wanted, group=2, strides=[2, 1], rtol=1e-4, kernels=kernels)


@pytest.mark.parametrize(
    "how",
    [
        {"output_shape": [15, 13], "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"pads": [1, 0, 0, 2], "output_padding": [1, 0], "strides": [2, 1], "dilations": [2, 1]},
    ],
    ids=str,
)
def test_conv_transpose(how: dict[str, Any]) -> None:
    check("ConvTranspose", [IMAGE, floats(4, 3, 3, 3), floats(3)], **how)


@pytest.mark.parametrize("kernels", [False, True])
def test_a_float64_convolution_is_a_product(kernels: bool) -> None:
    arrays = [floats(2, 4, 6, dtype=np.float64), floats(6, 2, 3, dtype=np.float64), floats(6, dtype=np.float64)]
    check("Conv", arrays, group=2, pads=[1, 0], strides=[2], dilations=[2], rtol=1e-12, kernels=kernels)


def _integers(channels: int, taps: int) -> list[Any]:
    x = RNG.integers(0, 256, (1, channels, taps, taps), np.uint8)
    w = RNG.integers(-128, 128, (2, channels, taps, taps), np.int8)
    return [x, w, np.array(100, np.uint8), np.array([3, -5], np.int8)]


def _whole(arrays: list[Any]) -> Any:
    x, w, x_zero, w_zero = (array.astype(np.int64) for array in arrays)
    total = ((x - x_zero)[:, None] * (w - w_zero.reshape(-1, 1, 1, 1))[None]).sum((2, 3, 4))
    return total[..., None, None].astype(np.int32)


@pytest.mark.parametrize("known", [(), (1, 3)], ids=["computed", "constant"])
@pytest.mark.parametrize(("channels", "taps", "count"), [(2, 3, 1), (300, 1, 2), (2, 17, 0)])
def test_integer_convolutions_are_exact(channels: int, taps: int, count: int, known: tuple[int, ...]) -> None:
    """Of more channels than one sum of float32 can hold there are several; of more taps, an integer product."""
    arrays = _integers(channels, taps)
    check("ConvInteger", arrays, wanted=[_whole(arrays)], rtol=0, known=known)
    model = node("ConvInteger", arrays)
    found = ops_of(model, constants={f"x{i}": arrays[i] for i in known}).count(ExactConv)
    assert found == (count if not known else min(1, found))


def test_an_exact_convolution_stays_float32() -> None:
    arrays = _integers(3, 5)
    graph = import_onnx(node("ConvInteger", arrays), constants={"x1": arrays[1]}).graph
    from jitrt.compiler import Options, optimize_for_reference

    narrow = optimize_for_reference(graph, Options("fp16")).graph
    assert interpret(narrow, [arrays[0], *arrays[2:]])[0].tolist() == _whole(arrays).tolist()
    assert parse(str(graph), {v.digest: v.data for v in graph.constants.values()}) == graph


@pytest.mark.parametrize("kernels", [False, True])
def test_quantised_convolution(kernels: bool) -> None:
    x, w, x_zero, w_zero = _integers(3, 5)
    arrays = [x, np.float32(0.02), x_zero, w, floats(2) ** 2, w_zero, np.float32(3.1), np.array(7, np.uint8)]
    arrays = [np.asarray(a) for a in arrays] + [np.array([900, -20], np.int32)]
    scaled = (_whole([x, w, x_zero, w_zero])[:, :, 0, 0] + arrays[8]) * (0.02 * arrays[4] / 3.1)
    wanted = np.clip(np.round(scaled) + 7, 0, 255).astype(np.uint8)[..., None, None]
    check("QLinearConv", arrays, wanted=[wanted], rtol=0, known=(3, 4, 5), kernels=kernels)


# -- pools -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("how", [{}, {"pads": [1, 0, 1, 0]}, {"pads": [0, 1, 1, 1]}, {"pads": [2, 2, 2, 2]}], ids=str)
def test_pools(op: str, how: dict[str, Any], ceil: int) -> None:
    include = {"count_include_pad": 1} if op == "AveragePool" and not ceil else {}
    check(op, [IMAGE], kernel_shape=[3, 3], strides=[2, 3], ceil_mode=ceil, **how, **include)


@pytest.mark.parametrize("op", [MaxPool, AvgPool])
def test_padding_of_one_side_needs_no_kernel_of_its_own(op: Any) -> None:
    how = {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    name = "MaxPool" if op is MaxPool else "AveragePool"
    image = floats(1, 2, 8, 8)
    assert ops_of(node(name, [image], **how)) == [op]
    check(name, [image], **how)
    assert Pad in ops_of(node("AveragePool", [image], count_include_pad=1, **how))


@pytest.mark.parametrize(("order", "dtype"), [(0, np.float32), (1, np.float32), (0, np.float64)])
@pytest.mark.parametrize("kernels", [False, True])
def test_positions_of_maxima(order: int, dtype: Any, kernels: bool) -> None:
    """The first of equals, in an image of few numbers and with padding on one side."""
    x = RNG.integers(0, 3, (2, 2, 5, 6)).astype(dtype)
    how = {"kernel_shape": [3, 2], "strides": [2, 2], "dilations": [1, 2], "pads": [1, 0, 0, 1]}
    check("MaxPool", [x], outputs=2, storage_order=order, kernels=kernels, **how)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_pools_of_integers_run_in_kernels(dtype: Any) -> None:
    x = RNG.integers(-128 if dtype == np.int8 else 0, 127, (1, 2, 5, 5)).astype(dtype)
    check("MaxPool", [x], kernel_shape=[2, 2], pads=[1, 1, 0, 0], rtol=0, kernels=True, wanted=run(
        "MaxPool", [x.astype(np.float32)], kernel_shape=[2, 2], pads=[1, 1, 0, 0]
    )[0].astype(dtype)[None])  # fmt: skip


@pytest.mark.parametrize("include", [0, 1])
def test_dilated_means_in_kernels(include: int) -> None:
    how = {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1], "count_include_pad": include}
    (wanted,) = run("AveragePool", [IMAGE], **how)
    check("AveragePool", [IMAGE], wanted=[wanted], kernels=True, **how)
    inside = np.pad(np.ones_like(IMAGE), [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=include)
    total = np.pad(IMAGE, [(0, 0), (0, 0), (1, 1), (1, 1)])
    taps = [
        (slice(None), slice(None), slice(2 * i, 2 * i + 5), slice(3 * j, 3 * j + 5)) for i in range(3) for j in (0, 1)
    ]
    np.testing.assert_allclose(wanted, sum(total[t] for t in taps) / sum(inside[t] for t in taps), 1e-5, 1e-6)


def test_unpooling_puts_maxima_back() -> None:
    x, how = IMAGE[:, :, :6], {"kernel_shape": [2, 2], "strides": [2, 2]}
    y, positions = run("MaxPool", [x], outputs=2, **how)
    (back,) = run("MaxUnpool", [y, positions], **how)
    assert back.shape == x.shape and np.count_nonzero(back) == y.size
    assert ((back == x) | (back == 0)).all()
    (larger,) = run("MaxUnpool", [y, positions, np.array(IMAGE.shape)], known=(2,), **how)
    assert larger.shape == IMAGE.shape and (larger[:, :, :6] == back).all() and not larger[:, :, 6:].any()


@pytest.mark.parametrize("power", [1, 2, 3])
def test_lp_pools(power: int) -> None:
    (y,) = run("LpPool", [IMAGE], kernel_shape=[2, 3], pads=[1, 0, 0, 1], p=power)
    padded = np.pad(np.abs(IMAGE) ** power, [(0, 0), (0, 0), (1, 0), (0, 1)])
    window = np.lib.stride_tricks.sliding_window_view(padded, (2, 3), (2, 3)).sum((-1, -2))
    np.testing.assert_allclose(y, window ** (1 / power), 1e-4)
    (whole,) = run("GlobalLpPool", [IMAGE], p=power)
    np.testing.assert_allclose(whole[..., 0, 0], (np.abs(IMAGE) ** power).sum((2, 3)) ** (1 / power), 1e-4)


# -- normalisations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "arrays", "how"),
    [
        ("LayerNormalization", [floats(3, 4, 5), floats(4, 5), floats(4, 5)], {"axis": 1}),
        ("LayerNormalization", [floats(3, 4, 5), floats(5), floats(1)], {}),
        ("RMSNormalization", [floats(3, 4, 5), floats(4, 5)], {"axis": -2}),
        ("RMSNormalization", [floats(3, 4, 5), floats(1)], {}),
        ("GroupNormalization", [IMAGE, floats(4), floats(4)], {"num_groups": 2}),
        ("InstanceNormalization", [IMAGE, floats(4), floats(4)], {}),
        ("BatchNormalization", [IMAGE, floats(4), floats(4), floats(4), floats(4) ** 2], {"epsilon": 1e-3}),
        ("MeanVarianceNormalization", [IMAGE], {"axes": [1, 2]}),
        ("LpNormalization", [IMAGE * (IMAGE > 1.5)], {"axis": 3, "p": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms(op: str, arrays: list[Any], how: dict[str, Any], dtype: Any) -> None:
    typed = [array.astype(dtype) for array in arrays]
    x, wanted = typed[0], None
    if op == "LpNormalization":  # whose reference forgets the absolute value
        size = np.abs(x).sum(3, keepdims=True)
        wanted = [np.divide(x, size, out=np.zeros_like(x), where=size > 0)]
    if op == "MeanVarianceNormalization":  # whose reference has constants of float32
        wanted = [(x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)]
    check(op, typed, wanted=wanted, rtol=2e-4 if dtype == np.float32 else 1e-6, **how)


@pytest.mark.parametrize("op", ["LayerNormalization", "GroupNormalization"])
def test_float64_norms_have_kernels(op: str) -> None:
    x = floats(2, 4, 6, dtype=np.float64)
    how: dict[str, Any] = {"axis": 1} if op == "LayerNormalization" else {"num_groups": 2}
    shape = (4, 6) if op == "LayerNormalization" else (4,)
    arrays = [x, floats(*shape, dtype=np.float64), floats(*shape, dtype=np.float64)]
    check(op, arrays, wanted=run(op, arrays, **how), rtol=1e-10, kernels=True, **how)


def test_norms_are_one_op_where_there_is_one() -> None:
    arrays = [floats(3, 4, 5), floats(5)]
    assert LayerNorm in ops_of(node("LayerNormalization", arrays))
    assert ops_of(node("GroupNormalization", [IMAGE, floats(2), floats(2)], num_groups=2, opset=18))[-1] is GroupNorm


def test_half_precision_keeps_its_statistics_in_float32() -> None:
    x = floats(3, 8).astype(np.float16)
    y, mean, inverse = run("LayerNormalization", [x, np.ones(8, np.float16)], outputs=3)
    assert (y.dtype, mean.dtype, inverse.dtype, mean.shape) == (np.float16, np.float32, np.float32, (3, 1))
    np.testing.assert_allclose(mean[:, 0], x.astype(np.float32).mean(1), 1e-5, 1e-6)


def test_double_precision_gives_its_statistics_in_float32() -> None:
    x = floats(3, 8).astype(np.float64)
    results = run("LayerNormalization", [x, np.ones(8)], outputs=3)
    assert [a.dtype for a in results] == [np.float64, np.float32, np.float32]
    np.testing.assert_allclose(results[1][:, 0], x.mean(1), 1e-5, 1e-6)


def test_an_even_window_of_channels_has_its_odd_one_behind() -> None:
    (y,) = run("LRN", [IMAGE], size=2, alpha=0.5, beta=1.0, bias=2.0)
    squares = np.square(IMAGE)
    total = squares + np.concatenate([squares[:, 1:], 0 * squares[:, :1]], 1)
    np.testing.assert_allclose(y, IMAGE / (2 + 0.25 * total), 1e-5)


@pytest.mark.parametrize("opset", [7, 9, 14])
def test_batch_norms_of_every_version(opset: int) -> None:
    scale, bias, mean, var = (floats(4) for _ in range(4))
    (y,) = run("BatchNormalization", [IMAGE, scale, bias, mean, var**2], opset=opset, epsilon=0.1)
    column = (slice(None), None, None)
    wanted = scale[column] * (IMAGE - mean[column]) / np.sqrt(var[column] ** 2 + 0.1) + bias[column]
    np.testing.assert_allclose(y, wanted, 1e-4, 1e-5)


# -- recurrent layers --------------------------------------------------------------------------------------------------

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(op: str, directions: int = 1, steps: int = 3, batch: int = 2, dtype: Any = np.float32) -> list[Any]:
    """x, w, r, bias, no lengths, h0 (and c0)."""
    rows = GATES[op] * 4
    shapes = [(steps, batch, 3), (directions, rows, 3), (directions, rows, 4), (directions, 2 * rows)]
    states = [floats(directions, batch, 4, dtype=dtype) for _ in range(2 if op == "LSTM" else 1)]
    return [*(floats(*shape, dtype=dtype) for shape in shapes), None, *states]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_recurrent_layers(op: str, direction: str) -> None:
    """In one kernel, and written out: a clip that clips nothing makes the difference."""
    arrays = recurrent(op, 2 if direction == "bidirectional" else 1)
    how: dict[str, Any] = {"hidden_size": 4, "direction": direction, "outputs": 3 if op == "LSTM" else 2}
    if op == "GRU":
        how["linear_before_reset"] = 1
    known = (1, 2, 3)
    check(op, arrays, known=known, **how)
    check(op, arrays, clip=1e4, **how)
    assert Recurrence in ops_of(node(op, arrays, **how), constants={f"x{i}": arrays[i] for i in known})
    assert Recurrence not in ops_of(node(op, arrays, clip=1e4, **how))


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_written_out_layers_run_in_kernels(op: str) -> None:
    dtype = np.float32 if op == "GRU" else np.float64
    arrays = recurrent(op, 1, 2, dtype=dtype)
    check(op, arrays, hidden_size=4, outputs=2, kernels=True, rtol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "outputs"), [("LSTM", 3), ("LSTM", 2), ("GRU", 2)])
def test_sequences_of_different_lengths(op: str, outputs: int, direction: str) -> None:
    """Each result is that of the sequence alone; behind its end there is 0."""
    x, w, r, bias, _, *states = recurrent(op, 2 if direction == "bidirectional" else 1, 4, 3)
    lengths = np.array([2, 4, 1], np.int32)
    how: dict[str, Any] = {"hidden_size": 4, "direction": direction, "outputs": outputs, "linear_before_reset": 1}
    if op == "LSTM":
        del how["linear_before_reset"]
    y, *ends = run(op, [x, w, r, bias, lengths, *states], **how)
    for b, length in enumerate(lengths):
        own = [x[:length, b : b + 1], w, r, bias, None, *(state[:, b : b + 1] for state in states)]
        alone = run(op, own, **how)
        for ours, wanted in zip((y[:length, :, b : b + 1], *(s[:, b : b + 1] for s in ends)), alone, strict=True):
            np.testing.assert_allclose(ours, wanted, 1e-5, 1e-6)
        assert not y[length:, :, b].any()
    (_, first, *_) = run(op, [x, w, r, bias, np.array([0, 1, 1], np.int32), *states], **how)
    np.testing.assert_array_equal(first[:, 0], states[0][:, 0])  # of no steps the state stays


def test_sequences_of_one_length_are_the_plain_layer() -> None:
    arrays = recurrent("LSTM", steps=4)
    arrays[4] = np.array([4, 4], np.int32)
    found = ops_of(node("LSTM", arrays, outputs=3), constants={"x4": arrays[4]})
    assert Recurrence in found and Where not in found


def test_activations_take_their_alphas_in_order() -> None:
    x, w, r, *_ = recurrent("RNN", 2, 1)
    how = {"activations": ["Relu", "Affine"], "activation_alpha": [0.5], "activation_beta": [2.0]}
    y, _ = run("RNN", [x, w, r], hidden_size=4, direction="bidirectional", outputs=2, **how)
    total = np.einsum("tbi,dhi->tdbh", x, w)
    np.testing.assert_allclose(y, np.stack([np.maximum(total[:, 0], 0), total[:, 1] * 0.5 + 2], 1), 1e-5, 1e-5)


FUNCTIONS: dict[str, Any] = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Relu": lambda x: np.maximum(x, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.01 * x),
    "Elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "ThresholdedRelu": lambda x: np.where(x > 1, x, 0),
    "Affine": lambda x: x,
    "ScaledTanh": np.tanh,
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations(name: str) -> None:
    x, w, r, *_ = recurrent("RNN", 1, 1)
    (y,) = run("RNN", [x, w, r], hidden_size=4, activations=[name])
    np.testing.assert_allclose(y[:, 0], FUNCTIONS[name](x @ w[0].T), 1e-5, 1e-6)


def test_a_coupled_forget_gate_is_what_the_input_gate_leaves() -> None:
    x, w, r, _, _, h0, c0 = recurrent("LSTM", 1, 1)
    _, _, c = run("LSTM", [x, w, r, None, None, h0, c0], hidden_size=4, input_forget=1, outputs=3)
    i, _, _, new = np.split(x[0] @ w[0].T + h0[0] @ r[0].T, 4, 1)
    i = FUNCTIONS["Sigmoid"](i)
    np.testing.assert_allclose(c[0], (1 - i) * c0[0] + i * np.tanh(new), 1e-5, 1e-6)


def test_a_clip_bounds_what_activations_see() -> None:
    x, w, r, *_ = recurrent("RNN", 1, 1)
    (y,) = run("RNN", [x * 9, w, r], hidden_size=4, clip=0.25)
    np.testing.assert_allclose(y[:, 0], np.tanh(np.clip(9 * x @ w[0].T, -0.25, 0.25)), 1e-5, 1e-6)


# -- refusals ----------------------------------------------------------------------------------------------------------

W = floats(4, 4, 3, 3)


@pytest.mark.parametrize(
    ("op", "arrays", "how", "reason"),
    [
        ("Conv", [IMAGE, W], {"group": 3}, "3 groups"),
        ("Conv", [IMAGE, W], {"kernel_shape": [2, 3]}, "kernel_shape"),
        ("Conv", [IMAGE, W], {"auto_pad": "SAME"}, "auto_pad"),
        ("Conv", [IMAGE, W], {"strides": [1]}, "strides"),
        ("Conv", [IMAGE, W], {"strides": [0, 1]}, "strides"),
        ("Conv", [IMAGE, W], {"pads": [-1, 0, 0, 0]}, "pads"),
        ("Conv", [IMAGE, floats(4, 4, 9, 9)], {}, "windows of"),
        ("ConvTranspose", [IMAGE, floats(4, 3, 3)], {}, "filters"),
        ("MaxPool", [IMAGE], {"kernel_shape": [2]}, "windows"),
        ("MaxPool", [IMAGE], {"kernel_shape": [1, 1], "pads": [1, 0, 0, 0], "outputs": 2}, "outside the image"),
        ("BatchNormalization", [IMAGE, *[floats(4)] * 4], {"opset": 9, "outputs": 5}, "evaluation mode"),
        ("BatchNormalization", [IMAGE, *[floats(4)] * 4], {"opset": 7, "spatial": 0}, "spatial=0"),
        ("GroupNormalization", [IMAGE, floats(3), floats(3)], {"opset": 18, "num_groups": 3}, "3 groups"),
        ("LayerNormalization", [IMAGE, floats(6)], {"axis": 4}, "axis 4"),
        ("LayerNormalization", [floats(2, 3), floats(4, 2, 3)], {}, "parameters that make"),
        ("LpNormalization", [IMAGE], {"p": 3}, "p is 3"),
        ("LSTM", recurrent("LSTM"), {"direction": "bidirectional"}, "direction 'bidirectional'"),
        ("LSTM", recurrent("LSTM"), {"activations": ["Tanh"]}, "1 activations"),
        ("LSTM", recurrent("LSTM"), {"activations": ["Tanh", "Tanh", "Gelu"]}, "'gelu'"),
        ("GRU", recurrent("GRU", 1, 300), {}, "300 steps"),
        ("MaxUnpool", [IMAGE, np.zeros(IMAGE.shape, np.int64)], {"kernel_shape": [2]}, "kernel_shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(op: str, arrays: list[Any], how: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        import_onnx(node(op, arrays, **how))
