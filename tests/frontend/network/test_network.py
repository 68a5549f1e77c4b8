"""The frame of a Network: names, lines, handles, outputs, rewiring."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import jitrt
from jitrt import Network
from jitrt.errors import NetworkError, ShapeError
from jitrt.frontend.network import Tensor
from jitrt.graph import DType, bf16, f16, f32, i64, verify


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def made() -> tuple[Network, Tensor]:
    net = Network("made")
    return net, net.add_input("x", (2, 3, 8, 8))


# -- handles -----------------------------------------------------------------------------------------------------------


def test_a_tensor_knows_its_shape_dtype_and_name() -> None:
    net, x = made()
    y = net.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), stride=2)
    assert (x.shape, x.dtype, x.name, x.rank) == ((2, 3, 8, 8), f32, "x", 4)
    assert (y.shape, y.dtype, y.name) == ((2, 4, 3, 3), f32, "conv")
    assert repr(y) == "Tensor(%conv: f32[2,4,3,3])"
    assert repr(net) == "Network('made', inputs [x: f32[2,3,8,8]], 1 nodes, 0 outputs)"
    assert "%conv = conv(%x, %conv.weights)" in str(net)
    assert net.inputs == (x,)
    assert x != y
    assert len({x, y, net.inputs[0]}) == 2


def test_operators_are_layers() -> None:
    net, x = made()
    row = np.arange(8, dtype=np.float32)
    results = [-x, x + 1, 1 + x, x - row, row - x, x * x, 2 * x, x / 2, 1 / x, x**2, x @ x, x[0], x[..., None, 1:5:2]]
    for result in results:
        net.mark_output(result)
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = [-data, data + 1, 1 + data, data - row, row - data, data * data, 2 * data, data / 2, 1 / data, data**2]
    expected += [data @ data, data[0], data[..., None, 1:5:2]]
    for got, wanted in zip(jitrt.compile(net, target="reference")(data), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_indexing_is_numpys() -> None:
    net = Network()
    x = net.add_input("x", (4, 5, 6))
    data = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    indices: list[Any] = [
        2,
        -1,
        (1, 2, 3),
        (slice(None), -2),
        (slice(1, 9, 2), Ellipsis, slice(-3, None)),
        (None, 0),
        ...,
    ]
    for index in indices:
        result = x[index]
        assert result.shape == data[index].shape, index
        net.mark_output(net.add_identity(result))
    for index, got in zip(indices, jitrt.compile(net, target="reference")(data), strict=True):
        np.testing.assert_array_equal(got, data[index])


def test_a_tensor_is_no_list() -> None:
    _, x = made()
    with pytest.raises(TypeError, match=r"net\.add_split takes it apart"):
        list(x)  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", ["f16", "float16", np.float16, np.dtype("float16"), torch.float16, f16], ids=str)
def test_dtypes_may_be_written_in_many_ways(dtype: Any) -> None:
    assert Network().add_input("x", (1,), dtype).dtype == f16


def test_dtypes_of_other_libraries() -> None:
    net = Network()
    assert net.add_input("a", (1,), torch.bfloat16).dtype == net.add_input("b", (1,), ml_dtypes.bfloat16).dtype == bf16
    assert net.add_input("c", (1,), bool).dtype == DType.b8


def test_weights_may_come_from_anywhere_and_are_copied() -> None:
    array = np.ones((2, 3), np.float32)
    half = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    net = Network()
    constants = [
        net.add_constant(w) for w in (array, half, [[1, 1, 1]] * 2, [[1.0] * 3] * 2, np.float32(1), _Foreign(array))
    ]
    array[:] = 7
    assert [c.dtype for c in constants] == [f32, bf16, i64, f32, f32, f32]
    for constant in constants:
        assert constant.value.data is not None
        assert (constant.value.data == 1).all()


class _Foreign:
    """A tensor of a library that only has DLPack."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_a_tensor_may_be_a_weight() -> None:
    net, x = made()
    w = net.add_constant(np.ones((3, 8), np.float32), name="shared")
    net.mark_output(net.add_linear(net.add_linear(x, 3, weights=w), 8, weights=net.add_transpose(w)))
    assert list(net.graph.constants) == ["shared"]
    with pytest.raises(ShapeError, match=r"weights: shape \(3, 8\), expected \(2, 8\)"):
        net.add_linear(x, 2, weights=w)


# -- names and lines ---------------------------------------------------------------------------------------------------


def test_layers_have_names_by_kind_or_as_given() -> None:
    net, x = made()
    y = net.add_activation(x, "relu")
    assert [net.add_activation(y, "relu").name, net.add_pool(y, "max", 2).name] == ["relu_1", "max_pool"]
    z = net.add_conv(y, 4, 1, weights=zeros(4, 3, 1, 1), bias=zeros(4), name="stem")
    assert z.name == "stem"
    assert {"stem.weights", "stem.bias"} == set(net.builder.graph.constants)
    assert [part.name for part in net.add_split(z, [1, 3], 1, name="halves")] == ["halves.0", "halves.1"]
    assert net.add_reshape(z, z.shape).name == "stem"  # nothing was done
    assert net.add_reshape(z, z.shape, name="same").name == "same"  # but somebody wants to call it so
    assert (z + 1).name == "add"
    assert net.add_identity(z, name="c").name == "c"  # what the constant 1 was called


def test_every_node_has_the_callers_line() -> None:
    net, x = made()
    y = net.add_linear(x, 2, weights=zeros(2, 8), bias=zeros(2))
    line = sys._getframe().f_lineno
    net.mark_output(y + 1)
    locations = [node.loc for node in net.graph.nodes]
    assert locations == [f"test_network.py:{line - 1}"] * 2 + [f"test_network.py:{line + 1}"]


def test_an_output_may_have_a_name_of_its_own() -> None:
    net, x = made()
    y = net.add_activation(x, "relu")
    net.mark_output(y, "positive")
    net.mark_output(x, "untouched")
    net.mark_output(net.add_constant([1.0]), "one")
    assert [t.name for t in net.outputs] == ["positive", "untouched", "one"]
    engine = jitrt.compile(net, target="reference")
    assert [b.name for b in engine.plan.outputs] == ["positive", "untouched", "one"]
    data = np.linspace(-1, 1, 2 * 3 * 64, dtype=np.float32).reshape(2, 3, 8, 8)
    for got, wanted in zip(engine(data), (np.maximum(data, 0), data, [1.0]), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_graph_is_a_copy_without_what_nobody_reads() -> None:
    net, x = made()
    net.add_constant(zeros(5), name="unread")
    net.mark_output(net.add_activation(x, "relu"))
    graph = net.graph
    verify(graph)
    assert not graph.constants
    graph.nodes.clear()
    assert len(net.graph.nodes) == 1


def test_a_network_explains_itself() -> None:
    net, x = made()
    y = net.add_conv(x, 4, 3, weights=zeros(4, 3, 3, 3), bias=zeros(4))
    net.mark_output(net.add_activation(net.add_dropout(y), "relu"))
    explanation = jitrt.explain(net)
    assert explanation.layers == {"conv": 1, "relu": 1}
    assert explanation.kernels.total() == 1


def test_a_network_needs_neither_torch_nor_triton() -> None:
    code = (
        "import jitrt, sys, numpy as np; net = jitrt.Network(); x = net.add_input('x', (1, 2));"
        "net.mark_output(net.add_activation(x, 'relu')); engine = jitrt.compile(net, target='reference');"
        "print(engine(np.ones((1, 2), 'f')), [m for m in ('torch', 'triton', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[1. 1.]] []"


def test_results_of_a_layer_that_are_one_value_are_outputs_of_their_own() -> None:
    """Of a recurrence of one step the final state is the state of that step."""
    net = Network()
    weights = {"weight_ih_l0": zeros(9, 4) + 0.1, "weight_hh_l0": zeros(9, 3)}
    for result in net.add_gru(net.add_input("x", (1, 2, 4)), 3, weights=weights):
        net.mark_output(result)
    assert [output.name for output in net.outputs] == ["gru.0", "gru.1"]
    steps, last = jitrt.compile(net, target="reference")(zeros(1, 2, 4) + 1)
    assert steps.any()
    np.testing.assert_array_equal(steps, last)


# -- rewiring ----------------------------------------------------------------------------------------------------------


def test_a_layer_may_be_put_in_between_later() -> None:
    net, x = made()
    y = net.add_activation(x, "relu")
    net.mark_output(y * 2)
    net.replace(y, net.add_activation(x, "sigmoid"))
    assert [node.op.name for node in net.graph.nodes] == ["relu", "sigmoid", "mul"]
    data = zeros(2, 3, 8, 8)
    np.testing.assert_array_equal(jitrt.compile(net, target="reference")(data), data + 1)


def test_a_cycle_is_refused_in_every_way_to_make_one() -> None:
    net, x = made()
    y = net.add_activation(x, "relu", name="y")
    z = net.add_activation(y, "tanh", name="z")
    net.mark_output(z)
    part = x[0]
    before = str(net)
    with pytest.raises(
        NetworkError, match=r"replace: a cycle: 'z' is computed from 'z', which reads 'y' and would read 'z'"
    ):
        net.replace(y, z)  # tanh would read itself
    with pytest.raises(NetworkError, match="a cycle: 'z' is computed from 'y', which reads 'x'"):
        net.replace(x, z)  # relu would read what is made of it
    with pytest.raises(NetworkError, match="belongs to the network"):
        net.replace(x, Network("other").add_input("theirs", (2, 3, 8, 8)))
    with pytest.raises(ShapeError, match=r"'x' is f32\[2,3,8,8\], '.*' is f32\[3,8,8\]; they must agree"):
        net.replace(x, part)
    assert str(net) == before
    verify(net.graph)
