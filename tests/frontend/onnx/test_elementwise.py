"""Elementwise operators, activations, logic and casts against ONNX's own reference, in every type they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from jitrt.graph import DType, interpret
from jitrt.graph.ops import Clamp, Gelu, HardSigmoid, Silu
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import NEWEST
from tests.frontend.onnx.nodes import node

TRAINING = "ai.onnx.preview.training"
SPELLED = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8}
SPELLED |= {"tensor(uint64)": np.uint64, "tensor(uint32)": np.uint32, "tensor(uint16)": np.uint16}
SPELLED |= {"tensor(uint8)": np.uint8, "tensor(bool)": np.bool_, "tensor(bfloat16)": ml_dtypes.bfloat16}
SPELLED |= {"tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(float16)": np.float16}
TOLERANCE = {8: 1e-7, 4: 1e-5, 2: 1e-2}  # by bytes an element; ONNX's reference has constants in float32

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish"
)
UNARY += " Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh"
UNARY += " Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
BINARY = "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Or"
BINARY += " PRelu Pow Sub Xor"


def run(op: str, *arrays: Any, known: Sequence[int] = (), **options: Any) -> Any:
    """The results in numpy; the numbers in the operands `known` are part of the graph."""
    imported = import_onnx(node(op, arrays, **options), constants={f"x{i}": arrays[i] for i in known})
    given = [array for i, array in enumerate(arrays) if array is not None and i not in known]
    results = interpret(imported.graph, given)
    return results[0] if len(results) == 1 else results


def types_of(op: str) -> list[Any]:
    """The types that the newest version of an operator takes."""
    schema = onnx.defs.get_schema(op, NEWEST)
    return [SPELLED[t] for t in sorted(schema.inputs[0].types) if t in SPELLED]


def numbers(dtype: Any, shape: tuple[int, ...], seed: int, low: float = 0.05, high: float = 0.95) -> Any:
    rng = np.random.default_rng(seed)
    kind = DType.of(dtype)
    if kind == DType.b8:
        return rng.integers(0, 2, shape).astype(bool)
    if kind.is_float:
        return rng.uniform(low, high, shape).astype(dtype)
    sign = 1 if kind.is_unsigned else rng.choice([-1, 1], shape)
    return (sign * rng.integers(1, 9, shape)).astype(dtype)


def check(op: str, arrays: Sequence[Any], **attributes: Any) -> None:
    """Against ONNX's reference (which lacks bfloat16: it is given float32 then)."""
    dtype = arrays[0].dtype
    wide = [a.astype(np.float32) if a.dtype == ml_dtypes.bfloat16 else a for a in arrays]
    with np.errstate(all="ignore"):
        (want,) = ReferenceEvaluator(node(op, wide, **attributes)).run(
            None, {f"x{i}": array for i, array in enumerate(wide)}
        )
    got = run(op, *arrays, **attributes)
    assert got.dtype == (dtype if want.dtype == wide[0].dtype else want.dtype)
    assert got.shape == want.shape
    if DType.of(got.dtype).is_float:
        limit = TOLERANCE[got.dtype.itemsize]
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=limit, atol=limit)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("op", UNARY.split())
def test_unary(op: str) -> None:
    for dtype in types_of(op):
        check(op, [numbers(dtype, (3, 5), 0, *((1.0, 3.0) if op == "Acosh" else ()))])
        if op not in ("Acos", "Acosh", "Asin", "Atanh", "Log", "Sqrt") and DType.of(dtype).is_float:
            check(op, [numbers(dtype, (7,), 0, -4.0, 4.0)])


@pytest.mark.parametrize("op", BINARY.split())
def test_binary_operands_broadcast(op: str) -> None:
    for dtype in types_of(op):
        if op == "Pow" and not DType.of(dtype).is_float:
            continue  # numpy has no negative powers of integers
        shapes = ((3, 1, 5), (4, 1)) if op != "PRelu" else ((3, 4, 5), (4, 1))
        attributes = {"fmod": 1} if op == "Mod" and DType.of(dtype).is_float else {}
        check(op, [numbers(dtype, shape, i) for i, shape in enumerate(shapes)], **attributes)


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_operands(op: str, count: int) -> None:
    for dtype in types_of(op):
        check(op, [numbers(dtype, shape, i) for i, shape in enumerate([(2, 1, 3), (3,), (2, 1, 1)][:count])])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64], ids=str)
def test_division_of_integers_truncates(dtype: Any) -> None:
    a, b = np.array([7, -7, 7, -7], dtype), np.array([2, 2, -2, -2], dtype)
    np.testing.assert_array_equal(run("Div", a, b), [3, -3, -3, 3])
    np.testing.assert_array_equal(run("Mod", a, b), [1, 1, -1, -1])
    np.testing.assert_array_equal(run("Mod", a, b, fmod=1), [1, -1, 1, -1])


def test_powers_have_the_type_of_the_base() -> None:
    base = np.array([3, 5, 10, 2], np.int64)
    np.testing.assert_array_equal(run("Pow", base, np.array([3, 3, 15, 0.5], np.float32)), [27, 125, 10**15, 1])
    np.testing.assert_array_equal(run("Pow", base, np.array([39, 0, 1, -1], np.int32)), [3**39, 1, 10, 0])
    got = run("Pow", np.array([4, 9], np.float16), np.array([2, 3], np.int64))
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, [16, 729])


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64], ids=str)
def test_shifts(direction: str, dtype: Any) -> None:
    check("BitShift", [np.array([[200], [1]], dtype), np.array([0, 1, 7], dtype)], direction=direction)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Less", "Equal"])
def test_before_opset_7_an_attribute_aligns_the_operands(op: str) -> None:
    """axis=1: the second operand lies along dimensions 1 and 2 of the first."""
    a, b = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 1, 4), np.float32([[1], [2], [3]])
    want = run(op, a, b.reshape(3, 1, 1))
    np.testing.assert_array_equal(run(op, a, b, opset=6, broadcast=1, axis=1), want)
    np.testing.assert_array_equal(run(op, a, b, opset=6, broadcast=1, axis=-3), want)
    np.testing.assert_array_equal(run(op, a, b.reshape(3, 1, 1), opset=6, broadcast=1), want)
    with pytest.raises(UnsupportedOpError, match=r"axis=3: .* does not fit into"):
        run(op, a, b, opset=6, broadcast=1, axis=3)


def test_before_opset_7_slopes_belong_to_channels() -> None:
    x, slope = -np.ones((2, 3, 2), np.float32), np.float32([1, 2, 3])
    np.testing.assert_array_equal(run("PRelu", x, slope, opset=6), x * slope[:, None])
    np.testing.assert_array_equal(run("PRelu", x, slope[1:2], opset=6), 2 * x)


def test_infinities_of_either_sign() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
    for up, down in [(1, 1), (1, 0), (0, 1), (0, 0)]:
        check("IsInf", [x], detect_positive=up, detect_negative=down)


CLIPPED = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.int64, np.uint8, np.uint32]


@pytest.mark.parametrize("known", [(), (1, 2)], ids=["computed", "known"])
@pytest.mark.parametrize("dtype", CLIPPED, ids=lambda d: np.dtype(d).name)
def test_clip(dtype: Any, known: tuple[int, ...]) -> None:
    x = np.arange(7).astype(dtype)
    low, high = np.array(2, dtype), np.array(4, dtype)
    np.testing.assert_array_equal(run("Clip", x, low, high, known=known), [2, 2, 2, 3, 4, 4, 4])
    np.testing.assert_array_equal(run("Clip", x, None, high, known=known[1:]), [0, 1, 2, 3, 4, 4, 4])
    np.testing.assert_array_equal(run("Clip", x, low, known=known[:1]), [2, 2, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(run("Clip", x, high, low, known=known), [2] * 7)  # the upper bound has the last word


def test_clip_between_attributes() -> None:
    x = np.array([-np.inf, -1, 0.5, 3, np.nan], np.float32)
    np.testing.assert_array_equal(run("Clip", x, opset=7, min=0.0, max=1.0), [0, 0, 0.5, 1, np.nan])
    np.testing.assert_array_equal(run("Clip", x, opset=7, max=1.0), [-np.inf, -1, 0.5, 1, np.nan])
    np.testing.assert_array_equal(run("Clip", x, opset=7), x)


@pytest.mark.parametrize(
    ("op", "attributes", "expected"),
    [
        ("Clip", {"opset": 7, "min": 0.0, "max": 6.0}, Clamp(0.0, 6.0)),
        ("Gelu", {"approximate": "tanh"}, Gelu(approximate=True)),
        ("HardSigmoid", {"alpha": 1 / 6}, HardSigmoid()),
        ("Swish", {}, Silu()),
    ],
)
def test_what_the_graph_has_an_op_for_is_one_node(op: str, attributes: Any, expected: Any) -> None:
    imported = import_onnx(node(op, [np.zeros(3, np.float32)], **attributes))
    assert [node.op for node in imported.graph.nodes] == [expected]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Celu", {"alpha": 0.7}),
        ("Elu", {"alpha": 0.7}),
        ("Gelu", {"approximate": "tanh"}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Selu", {"alpha": 1.5, "gamma": 1.2}),
        ("Shrink", {"bias": 0.3, "lambd": 0.9}),
        ("Swish", {"alpha": 1.7}),
        ("ThresholdedRelu", {"alpha": 0.4}),
    ],
)
def test_attributes(op: str, attributes: Any) -> None:
    check(op, [np.linspace(-3, 3, 13).astype(np.float32)], **attributes)


def test_casts_between_all_types() -> None:
    kinds = list(SPELLED.values())
    for source in kinds:
        x = np.array([0, 1, 3, 100]).astype(source)
        for to in kinds:
            got = run("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))
            assert got.dtype == to
            np.testing.assert_array_equal(got, x.astype(to))
    assert run("CastLike", np.float32([2.5, -2.5]), np.int8([0]), opset=19).tolist() == [2, -2]


def test_bits_in_another_type() -> None:
    def to(dtype: Any) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    assert run("BitCast", np.float32([1, -2]), to=to(np.uint32)).tolist() == [0x3F800000, 0xC0000000]
    assert run("BitCast", np.uint16([0x3F80]), to=to(ml_dtypes.bfloat16)).tolist() == [1.0]
    assert run("BitCast", np.array([True, False]), to=to(np.int8)).tolist() == [1, 0]
    assert run("BitCast", np.uint8([1, 0]), to=to(bool)).tolist() == [True, False]
    with pytest.raises(UnsupportedOpError, match="from f32 to u16, which has not as many bits"):
        run("BitCast", np.float32([1]), to=to(np.uint16))


@pytest.mark.parametrize(("opset", "mask"), [(7, np.float32), (10, np.bool_), (13, np.bool_), (NEWEST, np.bool_)])
def test_dropout_passes_its_operand_on(opset: int, mask: Any) -> None:
    x = np.float32([1, 2])
    y, kept = run("Dropout", x, opset=opset, outputs=2)
    assert (y.tolist(), kept.tolist(), kept.dtype) == ([1, 2], [1, 1], mask)
    if opset > 10:
        training, ratio = np.array(True), np.float32(0.5)
        assert run("Dropout", x, np.float32(0), training, known=(1, 2), opset=opset).tolist() == [1, 2]
        with pytest.raises(UnsupportedOpError, match="in training mode its result is random"):
            run("Dropout", x, ratio, training, known=(1, 2), opset=opset)


def test_dropout_before_opset_7_says_that_it_tests() -> None:
    assert run("Dropout", np.float32([1, 2]), opset=6, is_test=1).tolist() == [1, 2]
    with pytest.raises(UnsupportedOpError, match="without is_test it trains"):
        run("Dropout", np.float32([1, 2]), opset=6)


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("value", helper.make_tensor("t", TensorProto.UINT16, [2], [7, 8]), np.uint16([7, 8])),
        ("value_float", 1.5, np.float32(1.5)),
        ("value_floats", [1.5, 2], np.float32([1.5, 2])),
        ("value_int", 3, np.int64(3)),
        ("value_ints", [3, 4], np.int64([3, 4])),
    ],
)
def test_constants(attribute: str, value: Any, expected: Any) -> None:
    got = run("Constant", **{attribute: value})
    assert (got.dtype, got.tolist()) == (expected.dtype, expected.tolist())


def test_a_sparse_constant() -> None:
    values, indices = (helper.make_tensor("t", kind, [2], [2, 5]) for kind in (TensorProto.FLOAT, TensorProto.INT64))
    got = run("Constant", sparse_value=helper.make_sparse_tensor(values, indices, [2, 3]))
    assert got.tolist() == [[0, 0, 2], [0, 0, 5]]


def test_constants_of_a_shape() -> None:
    shape = np.int64([2, 3])
    assert run("ConstantOfShape", shape, known=(0,)).tolist() == [[0.0] * 3] * 2
    got = run("ConstantOfShape", shape, known=(0,), value=helper.make_tensor("t", TensorProto.UINT32, [1], [7]))
    assert (got.dtype, got.tolist()) == (np.uint32, [[7] * 3] * 2)


@pytest.mark.parametrize(
    ("op", "states", "attributes"),
    [
        ("Adagrad", 1, {"norm_coefficient": 0.1, "epsilon": 1e-3, "decay_factor": 0.1}),
        ("Adam", 2, {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.99, "norm_coefficient_post": 0.2}),
        ("Momentum", 1, {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.8, "mode": "nesterov"}),
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_steps_of_two_tensors(op: str, states: int, attributes: Any, count: int) -> None:
    """Each goes its own way, as if it was alone."""
    groups = [[np.float32([i + 1, 2]), np.float32([[3], [i + 2]])] for i in range(2 + states)]
    head = [np.float32(0.1), np.int64(count)]
    together = run(
        op,
        *head,
        *(tensor for group in groups for tensor in group),
        domain=TRAINING,
        outputs=2 * (1 + states),
        **attributes,
    )
    for i in range(2):
        alone = [*head, *(group[i] for group in groups)]
        single = run(op, *alone, domain=TRAINING, outputs=1 + states, **attributes)
        names = {f"x{i}": array for i, array in enumerate(alone)}
        want = ReferenceEvaluator(node(op, alone, domain=TRAINING, outputs=1 + states, **attributes)).run(None, names)
        for got, one, expected in zip(together[i::2], single, want, strict=True):
            np.testing.assert_array_equal(got, one)
            np.testing.assert_allclose(got, expected, rtol=1e-5)


ONE = np.float32([1])


@pytest.mark.parametrize(
    ("op", "arrays", "options", "reason"),
    [
        ("BitShift", [np.uint8([1]), np.uint8([1])], {"direction": "UP"}, "direction 'UP', expected 'LEFT' or 'RIGHT'"),
        ("Gelu", [ONE], {"approximate": "erf"}, "approximate='erf'"),
        ("Cast", [ONE], {"to": TensorProto.STRING}, "jitrt has no element type string"),
        ("Cast", [ONE], {"to": TensorProto.FLOAT8E5M2}, "jitrt has no element type float8e5m2"),
        ("Constant", [], {"value_string": "a"}, "strings"),
        ("Constant", [], {}, "it has no value"),
        (
            "Constant",
            [],
            {"value": helper.make_tensor("t", TensorProto.FLOAT8E5M2, [1], [1])},
            "elements of type float8",
        ),
        ("RandomNormal", [], {"shape": [2]}, "its result is random"),
        ("Bernoulli", [ONE], {}, "its result is random"),
        (
            "Momentum",
            [ONE, np.int64(0), ONE, ONE, ONE],
            {"domain": TRAINING, "outputs": 2, "mode": "fast", "alpha": 0.9, "beta": 0.9, "norm_coefficient": 0.0},
            "mode 'fast'",
        ),
    ],
)
def test_refusals(op: str, arrays: Any, options: Any, reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        run(op, *arrays, **options)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.int8], ids=str)
def test_kernels_of_integers(dtype: Any) -> None:
    """A model of several operators as a plan: every kernel in the interpreter."""
    nodes = [
        helper.make_node("Div", ["a", "b"], ["quotient"]),
        helper.make_node("Mod", ["a", "b"], ["rest"]),
        helper.make_node("Pow", ["a", "b"], ["power"]),
        helper.make_node("BitwiseNot", ["rest"], ["inverse"]),
        helper.make_node("Max", ["quotient", "power", "inverse"], ["top"]),
        helper.make_node("Cast", ["top"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["wide"], ["root"]),
        helper.make_node("CastLike", ["root", "a"], ["y"]),
        helper.make_node("Greater", ["a", "y"], ["z"]),
    ]
    a, b = np.arange(1, 13, dtype=dtype).reshape(3, 4), np.arange(1, 4, dtype=dtype).reshape(3, 1)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in [("a", a), ("b", b)]
    ]
    graph = helper.make_graph(nodes, "test", inputs, [onnx.ValueInfoProto(name=name) for name in ("y", "z", "top")])
    one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", NEWEST)])
    want = ReferenceEvaluator(one).run(None, {"a": a, "b": b})
    got = plan_interpreted(import_onnx(one).graph).run([a, b])
    for array, expected in zip(got, want, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
