"""Every layer of a Network against PyTorch: the same graph text through torch's importer, and the same numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jitrt
from jitrt import Network
from jitrt.frontend.layers import activation, arithmetic
from jitrt.frontend.torch import import_torch

torch.manual_seed(0)
IMAGE, ROWS, LINE, CUBE = (2, 4, 6, 5), (2, 5, 6), (2, 4, 9), (1, 2, 4, 5, 3)


def w(*shape: int) -> torch.Tensor:
    return torch.randn(shape) / 4


W: dict[str, torch.Tensor] = {
    "2d": w(6, 4, 3, 3), "1d": w(6, 4, 3), "3d": w(6, 2, 3, 3, 2), "grouped": w(8, 2, 3, 3), "up": w(4, 6, 3, 3),
    "up grouped": w(4, 3, 2, 2), "up 1d": w(4, 6, 3), "b6": w(6), "b8": w(8), "c": w(4), "d": w(4),
    "pos": w(4).abs() + 1, "l": w(7, 6), "b7": w(7), "last": w(6), "last2": w(5, 6), "table": w(11, 3),
    "image": w(2, 4, 6, 5),
}  # fmt: skip
LSTM = nn.LSTM(6, 3, 2, bidirectional=True, batch_first=True).eval()
PROJECTED = nn.LSTM(6, 5, proj_size=2, bias=False).eval()
GRU = nn.GRU(6, 3, 2, bidirectional=True).eval()
RNN = nn.RNN(6, 3, nonlinearity="relu").eval()
INDEX = np.array([[0, 3, 1], [2, 2, 0]])
ELEMENTS = torch.tensor([[[1, 0], [2, 2]], [[0, 1], [1, 0]]])
W["mask"] = w(6, 6)
W["c3"] = W["c"].reshape(4, 1, 1)
H0, C0 = w(4, 2, 3), w(4, 2, 3)

Case = tuple[Callable[..., Any], Callable[..., Any], tuple[int, ...]]
BOTH: dict[str, Case] = {
    "conv": (
        lambda n, x: n.add_conv(x, 6, 3, weights=W["2d"], bias=W["b6"], stride=2, padding=(1, 0), dilation=(1, 2)),
        lambda x: F.conv2d(x, W["2d"], W["b6"], 2, (1, 0), (1, 2)),
        IMAGE,
    ),
    "conv 1d": (
        lambda n, x: n.add_conv(x, 6, 3, weights=W["1d"], padding="same"),
        lambda x: F.conv1d(x, W["1d"], padding="same"),
        LINE,
    ),
    "conv 3d": (
        lambda n, x: n.add_conv(x, 6, (3, 3, 2), weights=W["3d"], bias=W["b6"], padding=1),
        lambda x: F.conv3d(x, W["3d"], W["b6"], padding=1),
        CUBE,
    ),
    "conv grouped": (
        lambda n, x: n.add_conv(x, 8, 3, weights=W["grouped"], bias=W["b8"], groups=2),
        lambda x: F.conv2d(x, W["grouped"], W["b8"], groups=2),
        IMAGE,
    ),
    "conv_transpose": (
        lambda n, x: n.add_conv_transpose(
            x, 6, 3, weights=W["up"], bias=W["b6"], stride=2, padding=1, output_padding=(1, 0), dilation=(1, 2)
        ),
        lambda x: F.conv_transpose2d(x, W["up"], W["b6"], 2, 1, (1, 0), 1, (1, 2)),
        IMAGE,
    ),
    "conv_transpose grouped": (
        lambda n, x: n.add_conv_transpose(x, 6, 2, weights=W["up grouped"], groups=2),
        lambda x: F.conv_transpose2d(x, W["up grouped"], groups=2),
        IMAGE,
    ),
    "conv_transpose 1d": (
        lambda n, x: n.add_conv_transpose(x, 6, 3, weights=W["up 1d"], stride=3),
        lambda x: F.conv_transpose1d(x, W["up 1d"], stride=3),
        LINE,
    ),
    "linear": (
        lambda n, x: n.add_linear(x, 7, weights=W["l"], bias=W["b7"]),
        lambda x: F.linear(x, W["l"], W["b7"]),
        ROWS,
    ),
    "matmul": (lambda n, x: n.add_matmul(x, x, transpose_b=True), lambda x: x @ x.transpose(-2, -1), ROWS),
    "matmul vector": (lambda n, x: n.add_matmul(x, W["last"]), lambda x: x @ W["last"], ROWS),
    "attention": (
        lambda n, x: n.add_attention(x, x * 2, x, causal=True),
        lambda x: F.scaled_dot_product_attention(x, x * 2, x, is_causal=True),
        ROWS,
    ),
    "attention with a mask": (
        lambda n, x: n.add_attention(x, x[:, :2], x[:, :2], mask=W["mask"], scale=0.5),
        lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], W["mask"], scale=0.5, enable_gqa=True),
        IMAGE,
    ),
    "elu": (lambda n, x: n.add_activation(x, "elu", alpha=0.5), lambda x: F.elu(x, 0.5), ROWS),
    "celu": (lambda n, x: n.add_activation(x, "celu", alpha=2), lambda x: F.celu(x, 2.0), ROWS),
    "gelu": (lambda n, x: n.add_activation(x, "gelu"), F.gelu, ROWS),
    "hard_swish": (lambda n, x: n.add_activation(x, "hard_swish"), F.hardswish, ROWS),
    "hardshrink": (lambda n, x: n.add_activation(x, "hardshrink", threshold=0.3), lambda x: F.hardshrink(x, 0.3), ROWS),
    "leaky_relu": (lambda n, x: n.add_activation(x, "leaky_relu", slope=0.2), lambda x: F.leaky_relu(x, 0.2), ROWS),
    "log_sigmoid": (lambda n, x: n.add_activation(x, "log_sigmoid"), F.logsigmoid, ROWS),
    "mish": (lambda n, x: n.add_activation(x, "mish"), F.mish, ROWS),
    "prelu": (lambda n, x: n.add_prelu(x, W["c"]), lambda x: F.prelu(x, W["c"]), IMAGE),
    "threshold": (
        lambda n, x: n.add_activation(x, "threshold", limit=0.5, value=2),
        lambda x: F.threshold(x, 0.5, 2.0),
        ROWS,
    ),
    "glu": (lambda n, x: n.add_glu(x), F.glu, ROWS),
    "relu6": (lambda n, x: n.add_activation(x, "relu6"), F.relu6, ROWS),
    "clamp": (lambda n, x: n.add_activation(x, "clamp", low=-1, high=1), lambda x: x.clamp(-1.0, 1.0), ROWS),
    "selu": (lambda n, x: n.add_activation(x, "selu"), F.selu, ROWS),
    "softplus": (lambda n, x: n.add_activation(x, "softplus", beta=2), lambda x: F.softplus(x, 2.0), ROWS),
    "softsign": (lambda n, x: n.add_activation(x, "softsign"), F.softsign, ROWS),
    "add": (lambda n, x: n.add_elementwise("add", x, 2), lambda x: x + 2, ROWS),
    "reversed sub": (lambda n, x: 1 - x, lambda x: 1 - x, ROWS),
    "broadcast": (lambda n, x: x * W["last"] / W["last2"], lambda x: x * W["last"] / W["last2"], ROWS),
    "max": (lambda n, x: n.add_elementwise("max", x, x * 2), lambda x: torch.maximum(x, x * 2), ROWS),
    "comparison": (
        lambda n, x: n.add_elementwise("where", n.add_elementwise("less", x, 0), x, x * x),
        lambda x: torch.where(x < 0, x, x * x),
        ROWS,
    ),
    "logic": (
        lambda n, x: n.add_elementwise("and", n.add_elementwise("less", x, 1), n.add_elementwise("greater", x, 0)),
        lambda x: (x < 1) & (x > 0),
        ROWS,
    ),
    "exp": (lambda n, x: n.add_elementwise("exp", x), torch.exp, ROWS),
    "asinh": (lambda n, x: n.add_elementwise("asinh", x), torch.asinh, ROWS),
    "hypot": (lambda n, x: n.add_elementwise("hypot", x, x + 1), lambda x: torch.hypot(x, x + 1), ROWS),
    "cast": (lambda n, x: n.add_cast(x, "int32") * 2, lambda x: x.to(torch.int32) * 2, ROWS),
    "whole and fraction": (lambda n, x: n.add_cast(x, "int64") * 0.5, lambda x: x.to(torch.int64) * 0.5, ROWS),
    "scale": (
        lambda n, x: n.add_scale(x, scale=W["c"], shift=0.5),
        lambda x: x * W["c3"] + 0.5,
        IMAGE,
    ),
    "scale power": (
        lambda n, x: n.add_scale(x, scale=W["image"], power=2.0),
        lambda x: (x * W["image"]) ** torch.tensor(2.0),
        IMAGE,
    ),
    "max_pool": (
        lambda n, x: n.add_pool(x, "max", 2, stride=(2, 1), padding=1, dilation=(1, 2), ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, (2, 1), 1, (1, 2), ceil_mode=True),
        IMAGE,
    ),
    "average pool": (
        lambda n, x: n.add_pool(x, "average", (3, 2), padding=(1, 0), count_include_pad=False),
        lambda x: F.avg_pool2d(x, (3, 2), padding=(1, 0), count_include_pad=False),
        IMAGE,
    ),
    "max_pool 1d": (lambda n, x: n.add_pool(x, "max", 3), lambda x: F.max_pool1d(x, 3), LINE),
    "lp_pool": (
        lambda n, x: n.add_pool(x, "lp", (3, 2), power=3, ceil_mode=True),
        lambda x: F.lp_pool2d(x, 3.0, (3, 2), ceil_mode=True),
        IMAGE,
    ),
    "lp_pool 1d": (
        lambda n, x: n.add_pool(x, "lp", 3, stride=2),
        lambda x: F.lp_pool1d(x, 2.0, 3, 2),
        LINE,
    ),
    "lrn": (lambda n, x: n.add_lrn(x, 3), lambda x: F.local_response_norm(x, 3), IMAGE),
    "lrn of a line": (
        lambda n, x: n.add_lrn(x, 4, alpha=0.5, beta=0.5, k=2),
        lambda x: F.local_response_norm(x, 4, 0.5, 0.5, 2.0),
        LINE,
    ),
    "lrn of a volume": (lambda n, x: n.add_lrn(x, 2), lambda x: F.local_response_norm(x, 2), CUBE),
    "adaptive": (
        lambda n, x: n.add_adaptive_pool(x, "average", (3, 1)),
        lambda x: F.adaptive_avg_pool2d(x, (3, 1)),
        IMAGE,
    ),
    "adaptive max": (lambda n, x: n.add_adaptive_pool(x, "max", 2), lambda x: F.adaptive_max_pool2d(x, 2), IMAGE),
    "batch_norm": (
        lambda n, x: n.add_batch_norm(x, mean=W["c"], var=W["pos"], bias=W["d"]),
        lambda x: F.batch_norm(x, W["c"], W["pos"], None, W["d"]),
        IMAGE,
    ),
    "layer_norm": (
        lambda n, x: n.add_layer_norm(x, weights=W["last2"], dims=2, eps=1e-3),
        lambda x: F.layer_norm(x, (5, 6), W["last2"], eps=1e-3),
        ROWS,
    ),
    "rms_norm": (lambda n, x: n.add_rms_norm(x, weights=W["last"]), lambda x: F.rms_norm(x, (6,), W["last"]), ROWS),
    "group_norm": (
        lambda n, x: n.add_group_norm(x, 2, weights=W["c"], bias=W["d"]),
        lambda x: F.group_norm(x, 2, W["c"], W["d"]),
        IMAGE,
    ),
    "instance_norm": (
        lambda n, x: n.add_instance_norm(x, weights=W["c"], bias=W["d"]),
        lambda x: F.instance_norm(x, weight=W["c"], bias=W["d"]),
        IMAGE,
    ),
    "sum": (lambda n, x: n.add_reduce(x, "sum", (0, -1), keepdims=True), lambda x: x.sum((0, -1), keepdim=True), ROWS),
    "mean of all": (lambda n, x: n.add_reduce(x, "mean"), torch.mean, ROWS),
    "softmax": (lambda n, x: n.add_softmax(x, 1), lambda x: x.softmax(1), ROWS),
    "log_softmax": (lambda n, x: n.add_log_softmax(x), lambda x: x.log_softmax(-1), ROWS),
    "reshape": (lambda n, x: n.add_reshape(x, (3, -1)), lambda x: x.reshape(3, -1), ROWS),
    "flatten": (lambda n, x: n.add_flatten(x), lambda x: x.flatten(1), IMAGE),
    "permute": (lambda n, x: n.add_permute(x, (1, -1, 0)), lambda x: x.permute(1, -1, 0), ROWS),
    "transpose": (lambda n, x: n.add_transpose(x), lambda x: x.mT, ROWS),
    "expand": (lambda n, x: n.add_expand(x, (3, 2, 5, 6)), lambda x: x.expand(3, 2, 5, 6), ROWS),
    "slice": (
        lambda n, x: n.add_slice(x, (1, -4), (9, -1), (2, 1), axes=(1, -1)),
        lambda x: x[:, 1:9:2, -4:-1],
        ROWS,
    ),
    "index": (lambda n, x: x[1, ..., None, :3], lambda x: x[1, ..., None, :3], ROWS),
    "split": (lambda n, x: n.add_split(x, [1, 4], 1), lambda x: x.split([1, 4], 1), ROWS),
    "concat": (lambda n, x: n.add_concat([x, x * 2], -1), lambda x: torch.cat([x, x * 2], -1), ROWS),
    "stack": (lambda n, x: n.add_stack([x, x * 2], 1), lambda x: torch.stack([x, x * 2], 1), ROWS),
    "dropout": (lambda n, x: n.add_dropout(x) * 2, lambda x: F.dropout(x, 0.5, False) * 2, ROWS),
    "pad": (
        lambda n, x: n.add_pad(x, [(1, 2), (-1, 3)], value=0.5),
        lambda x: F.pad(x, (-1, 3, 1, 2), value=0.5),
        ROWS,
    ),
    "pad by mirror": (lambda n, x: n.add_pad(x, [(1, 2)], "reflect"), lambda x: F.pad(x, (1, 2), "reflect"), ROWS),
    "pad by border": (
        lambda n, x: n.add_pad(x, [(1, 0), (2, 1)], "replicate"),
        lambda x: F.pad(x, (2, 1, 1, 0), "replicate"),
        IMAGE,
    ),
    "resize": (lambda n, x: n.add_resize(x, (9, 4)), lambda x: F.interpolate(x, (9, 4)), IMAGE),
    "resize by a factor": (
        lambda n, x: n.add_resize(x, scale=1.7, mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        IMAGE,
    ),
    "bicubic": (
        lambda n, x: n.add_resize(x, 7, "bicubic", align_corners=True),
        lambda x: F.interpolate(x, (7, 7), mode="bicubic", align_corners=True),
        IMAGE,
    ),
    "antialiased": (
        lambda n, x: n.add_resize(x, 3, "bicubic", antialias=True),
        lambda x: F.interpolate(x, (3, 3), mode="bicubic", antialias=True),
        IMAGE,
    ),
    "softplus up to a threshold": (
        lambda n, x: n.add_activation(x, "softplus", beta=2, threshold=0.5),
        lambda x: F.softplus(x, 2.0, 0.5),
        ROWS,
    ),
    "lstm": (
        lambda n, x: n.add_lstm(
            x, 3, weights=LSTM.state_dict(), layers=2, bidirectional=True, batch_first=True, h0=H0, c0=C0, cell=True
        ),
        lambda x: (lambda y, states: (y, *states))(*LSTM(x, (H0, C0))),
        ROWS,
    ),
    "projected lstm": (
        lambda n, x: n.add_lstm(x, 5, weights=PROJECTED.state_dict(), projection=2),
        lambda x: (lambda y, states: (y, states[0]))(*PROJECTED(x)),
        ROWS,
    ),
    "gru": (
        lambda n, x: n.add_gru(x, 3, weights=GRU.state_dict(), layers=2, bidirectional=True),
        lambda x: GRU(x),
        ROWS,
    ),
    "rnn": (lambda n, x: n.add_rnn(x, 3, "relu", weights=RNN.state_dict()), lambda x: RNN(x), ROWS),
    "gather": (lambda n, x: n.add_gather(x, INDEX[0], 1), lambda x: x.index_select(1, torch.tensor(INDEX[0])), ROWS),
    "gather_elements": (
        lambda n, x: n.add_gather_elements(x[:, :2], ELEMENTS, -1),
        lambda x: x.gather(-1, ELEMENTS),
        ROWS,
    ),
    "topk": (lambda n, x: n.add_topk(x, 2, 1, largest=False), lambda x: x.topk(2, 1, largest=False), ROWS),
    "argmax": (lambda n, x: n.add_argmax(x, 1, keepdims=True), lambda x: x.argmax(1, True), ROWS),
    "argmin": (lambda n, x: n.add_argmin(x), lambda x: x.argmin(-1), ROWS),
    "cumsum": (lambda n, x: n.add_cumsum(x, 1), lambda x: x.cumsum(1), ROWS),
    "cumprod": (lambda n, x: n.add_cumprod(x), lambda x: x.cumprod(-1), ROWS),
}
OTHER_TEXT = {"index", "lrn of a volume"}  # PyTorch takes more reshapes, one an entry of the index


@pytest.mark.parametrize("case", BOTH)
def test_a_layer_is_what_it_is_in_torch(case: str) -> None:
    build, function, shape = BOTH[case]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    net = Network()
    made = build(net, net.add_input("x", shape))
    for tensor in made if isinstance(made, tuple) else (made,):
        net.mark_output(tensor)
    through_torch = import_torch(function, (x,)).graph
    if case not in OTHER_TEXT:
        assert net.graph.text(names=False, locations=False) == through_torch.text(names=False, locations=False)
    results = jitrt.compile(net, target="reference")(x.numpy())
    with torch.no_grad():
        expected = function(x)
    several = isinstance(expected, tuple)
    for got, wanted in zip(results if several else (results,), expected if several else (expected,), strict=True):
        assert str(got.dtype) == str(wanted.dtype).removeprefix("torch.")
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_embedding() -> None:
    net = Network()
    net.mark_output(net.add_embedding(net.add_input("tokens", (2, 3), "int64"), weights=W["table"]))
    tokens = torch.tensor([[0, 10, 3], [3, 1, 7]])
    through_torch = import_torch(lambda i: F.embedding(i, W["table"]), (tokens,)).graph
    assert net.graph.text(names=False, locations=False) == through_torch.text(names=False, locations=False)
    np.testing.assert_array_equal(jitrt.compile(net, target="reference")(tokens.numpy()), W["table"][tokens].numpy())


def test_every_function_that_front_ends_share_is_a_layer() -> None:
    """Those of tensors alone, or of one tensor and numbers; others have methods of their own, or are helpers."""
    net = Network()
    x = net.add_input("x", (2, 3))
    for module, add in ((activation, net.add_activation), (arithmetic, net.add_elementwise)):
        for name, function in vars(module).items():
            if not inspect.isfunction(function) or function.__module__ != module.__name__ or name.startswith("_"):
                continue
            _, *parameters = inspect.signature(function).parameters.values()
            values = [p for p in parameters if p.annotation == "Value"]
            numbers = {p.name: 1 for p in parameters if p.annotation == "float" and p.default is p.empty}
            if name == "prelu" or not values or any(p.annotation not in ("Value", "float") for p in parameters):
                continue
            made = add(x, name, **numbers) if module is activation else add(name, *[x] * len(values))
            assert made.shape == (2, 3), name


def test_every_layer_is_here() -> None:
    elsewhere = {"add_constant", "add_identity", "add_index", "add_plugin"}  # test_network.py, test_plugin.py
    source = Path(__file__).read_text()
    untested = {name for name in dir(Network) if name.startswith("add_") and f".{name}(" not in source}
    assert untested == elsewhere
