"""What an ONNX model takes and returns, and the import with what a caller gave for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jitrt.errors import JitrtWarning, OptionError
from jitrt.frontend.onnx import NeedsInput
from jitrt.frontend.onnx.signature import Port, Signature, import_bound, kind_of
from jitrt.graph import interpret


def value(name: str, dims: Any, element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, dims)


def model(nodes: list[onnx.NodeProto], inputs: Any, outputs: Any, weights: Any = ()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def added(dims: Any = ("batch", 3), other: Any = (3,)) -> onnx.ModelProto:
    """relu(x + bias), with an input named as no graph of ours names one, and a bias with a default."""
    nodes = [helper.make_node("Add", ["x:0", "bias"], ["s"]), helper.make_node("Relu", ["s"], ["y:0"])]
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [3], [1.0, 2.0, -9.0])
    return model(nodes, [value("x:0", dims), value("bias", other)], [value("y:0", dims)], [bias])


def reshaped() -> onnx.ModelProto:
    nodes = [helper.make_node("Reshape", ["x", "to size"], ["y"])]
    return model(nodes, [value("x", (2, 3)), value("to size", (1,), TensorProto.INT64)], [value("y", ("n",))])


def test_the_signature_of_a_model() -> None:
    signature = Signature.of(added(("batch", None)))
    assert signature.inputs == (Port("x:0", "tensor(float)", TensorProto.FLOAT, ("batch", None)),)
    assert [port.name for port in signature.defaulted] == ["bias"]
    assert [str(port) for port in signature.outputs] == ["y:0 [batch, ?]"]
    assert signature.dynamic == signature.inputs
    assert Signature.of(added((4, 3))).dynamic == ()
    assert Signature.of(added((4, 3))).inputs[0].shape == (4, 3)
    assert Signature.of(added(None)).inputs[0].dims is None


def test_kinds_are_written_as_onnx_runtime_does() -> None:
    inner = helper.make_tensor_type_proto(TensorProto.INT64, None)
    assert kind_of(helper.make_tensor_type_proto(TensorProto.BFLOAT16, None)) == "tensor(bfloat16)"
    assert kind_of(helper.make_sparse_tensor_type_proto(TensorProto.DOUBLE, None)) == "sparse_tensor(double)"
    assert kind_of(helper.make_sequence_type_proto(inner)) == "seq(tensor(int64))"
    assert kind_of(helper.make_optional_type_proto(inner)) == "optional(tensor(int64))"
    assert kind_of(helper.make_map_type_proto(TensorProto.STRING, inner)) == "map(string,tensor(int64))"
    assert kind_of(onnx.TypeProto()) == "unknown"


@pytest.mark.parametrize(
    "inputs",
    [
        {"x:0": np.ones((5, 3), np.float32)},
        {"x:0": (5, 3)},
        (np.ones((5, 3), np.float32),),
        np.ones((5, 3), np.float32),
        [[5, np.int64(3)]],
    ],
    ids=["dict", "dict of shapes", "tuple", "one array", "list of shapes"],
)
def test_what_can_be_given(inputs: Any) -> None:
    imported = import_bound(added(), inputs).imported
    assert (imported.inputs, imported.outputs) == (("x:0",), ("y:0",))
    assert imported.graph.inputs[0].type.shape == (5, 3)


def test_a_static_model_needs_nothing() -> None:
    bound = import_bound(added((2, 3)))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (y,) = interpret(bound.imported.graph, [x])
    np.testing.assert_array_equal(y, np.maximum(x + np.float32([1, 2, -9]), 0))
    assert not bound.fixed


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"leaves shapes open: x:0 \[batch, 3\]; .* as in inputs=\{'x:0': \(1, 3\)\}"),
        ({"x": (1, 3)}, r"no input 'x'; it takes x:0 \[batch, 3\]"),
        (((1, 3), (3,)), r"2 input\(s\) given, but the model takes x:0"),
        ((3,), "'x:0' is given as a int; give an array, or a shape such as"),
        (((1, 3, 1),), r"'x:0': it has 2 dimension\(s\), x:0 \[batch, 3\], not 3"),
        (((1, 4),), r"'x:0': dimension 1 of x:0 \[batch, 3\] is 3, not 4"),
        (np.ones((1, 3)), "'x:0' is float32 in the model, but the example is float64; convert it"),
    ],
)
def test_what_does_not_fit_is_refused(inputs: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        import_bound(added(), inputs)


def test_no_rank_at_all() -> None:
    with pytest.raises(OptionError, match=r"x:0 \[\.\.\.\]; .*\{'x:0': \(\.\.\.\)\}"):
        import_bound(added(None))
    assert import_bound(added(None), [(7, 3)]).imported.graph.outputs[0].type.shape == (7, 3)


def test_numbers_that_decide_what_is_built_come_from_the_example() -> None:
    x, shape = np.zeros((2, 3), np.float32), np.array([6])
    bound = import_bound(reshaped(), (x, shape))
    assert bound.imported.inputs == ("x",)
    np.testing.assert_array_equal(bound.fixed["to size"], [6])
    with pytest.warns(JitrtWarning, match=r"depends on the numbers in 'to size'.*it takes x\. Compile again"):
        bound.warn()
    assert bound.imported.graph.outputs[0].type.shape == (6,)
    for inputs in ((), (x, (1,))):  # a shape has no numbers in it
        with pytest.raises(NeedsInput, match="give the values of input to size at the build") as caught:
            import_bound(reshaped(), inputs)
        assert caught.value.names == ("to size",)
