"""Every elementwise op's Triton expression against its numpy formula."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.codegen.pointwise import EXPRESSIONS, TRITON_TYPES, literal, register_type
from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, TensorType, b8, bf16, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64
from jitrt.graph import ops as o
from jitrt.graph.op import OPS, Op, Trait
from jitrt.graph.ops.elementwise import Elementwise
from jitrt.kernels.base import Problem, Tactic
from jitrt.kernels.pointwise import Pointwise
from jitrt.testing import check_problem, compiles, make_problem, run_interpreted

ATTRIBUTES = {
    "bit_cast": [{"source": i32, "dtype": f32}],
    "cast": [{"dtype": b8}],
    "clamp": [{"low": -0.5, "high": 1.5}, {"low": float("-inf"), "high": 0.0}],
    "leaky_relu": [{"slope": 0.2}],
    "elu": [{"alpha": 0.7}],
    "gelu": [{"approximate": False}, {"approximate": True}],
}
ELEMENTWISE = [
    kind(**attributes)
    for name, kind in sorted(OPS.items())
    if issubclass(kind, Elementwise)
    for attributes in ATTRIBUTES.get(name, [{}])
]
COMPARISONS = (o.Equal, o.NotEqual, o.Less, o.LessEqual, o.Greater, o.GreaterEqual)
LOGICAL = (o.Where, o.LogicalAnd, o.LogicalOr, o.LogicalNot)
LOGIC = (o.BitwiseAnd, o.BitwiseOr, o.BitwiseXor)
BITS = (*LOGIC, o.ShiftLeft, o.ShiftRight, o.BitCast)
DIVISIONS = (o.FloorDiv, o.TruncDiv, o.Remainder, o.Fmod)
ARITHMETIC = (o.Add, o.Sub, o.Mul, o.Pow, o.Maximum, o.Minimum, o.Relu, o.Abs, o.Neg, o.Sign)
INTEGER = (*COMPARISONS, *LOGICAL, *ARITHMETIC, *BITS[:-1], *DIVISIONS)
INTEGERS = (i32, i64, i16, i8, u8, u16, u32, u64)
UNLIKE_IN_FLOAT32 = (o.Pow, *DIVISIONS)  # far from what float64 says of large operands


def apply(op: Op, dtypes: list[DType], size: int = 33) -> Problem:
    g = Graph()
    g.mark_output(g.add(op, *(g.add_input(f"x{i}", TensorType(d, (3, size))) for i, d in enumerate(dtypes))))
    return make_problem(g)


def operands(op: Elementwise, dtype: DType) -> list[DType]:
    return [b8, dtype, dtype] if isinstance(op, o.Where) else [dtype] * op.arity


def test_every_elementwise_op_has_an_expression() -> None:
    named, written = (
        {kind for kind in kinds if kind.__module__.startswith("jitrt.graph")}  # plugins bring their own
        for kinds in ([kind for kind in OPS.values() if kind.traits & Trait.ELEMENTWISE], EXPRESSIONS)
    )
    assert named == written


@pytest.mark.parametrize("op", ELEMENTWISE, ids=str)
def test_expression_agrees_with_numpy(op: Elementwise) -> None:
    dtype = i32 if isinstance(op, BITS) else f32
    check_problem(apply(op, operands(op, dtype)), Pointwise(), extremes=not isinstance(op, UNLIKE_IN_FLOAT32))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("op", [o.Silu(), o.Add(), o.Maximum(), o.Greater(), o.Where()], ids=str)
def test_16_bit_operands_are_computed_in_float32(op: Elementwise, dtype: DType) -> None:
    check_problem(apply(op, operands(op, dtype)), Pointwise())


@pytest.mark.parametrize("op", [op for op in ELEMENTWISE if isinstance(op, INTEGER)], ids=str)
def test_integers_are_exact(op: Elementwise) -> None:
    for dtype in INTEGERS:
        check_problem(apply(op, operands(op, dtype), 7), Pointwise(), seed=INTEGERS.index(dtype))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_wrap_around_in_the_middle_of_a_kernel(dtype: DType) -> None:
    """Also where a literal of another width comes in between."""
    g = Graph()
    x = g.add_input("x", TensorType(dtype, (3, 7)))
    large = g.add(o.Maximum(), g.add(o.Mul(), x, x), g.scalar(100, dtype))
    g.mark_output(g.add(o.FloorDiv(), g.add(o.Add(), large, g.add(o.Mul(), large, x)), g.scalar(3, dtype)))
    check_problem(make_problem(g), Pointwise())


@pytest.mark.parametrize(("source", "to"), [(f16, bf16), (bf16, i16), (u16, f16), (f32, u32), (i64, f64), (u8, i8)])
def test_bits_stay(source: DType, to: DType) -> None:
    check_problem(apply(o.BitCast(source, to), [source]), Pointwise())


@pytest.mark.parametrize("op", [kind() for kind in (*LOGICAL[1:], *LOGIC, o.Equal, o.NotEqual)], ids=str)
def test_booleans(op: Elementwise) -> None:
    check_problem(apply(op, [b8] * op.arity), Pointwise())


@pytest.mark.parametrize(
    ("source", "to"),
    [
        *[(f32, f16), (f32, bf16), (f16, f32), (bf16, f16), (f32, i32), (f16, i64), (i32, f16), (i64, i32), (b8, f32)],
        *[(f32, i8), (f64, u16), (i64, u8), (i8, u32), (u32, f32), (u64, f64), (b8, u64), (u16, b8)],
    ],
)
def test_casts_round_and_truncate(source: DType, to: DType) -> None:
    extremes = to.is_float  # what an infinity is as an integer is nobody's promise
    check_problem(apply(o.Cast(to), [source]), Pointwise(), extremes=extremes)


@pytest.mark.parametrize("to", [u8, u16, u32, u64, i8, i16], ids=str)
def test_negative_floats_wrap_around_in_small_and_unsigned_integers(to: DType) -> None:
    """As in numpy on x86, where a compiler's own conversion would saturate."""
    problem = apply(o.Cast(to), [f32], 4)
    tactic = Tactic.make(Pointwise(), Pointwise().candidates(problem, TARGETS[90])[0])
    x = np.array([-1, -2.7, 300, 3e4] * 3, np.float32).reshape(3, 4)
    got = run_interpreted(problem, tactic, [x])
    np.testing.assert_array_equal(got, x.astype(np.int64).astype(to.numpy))


@pytest.mark.parametrize("mixed", [(f32, f16), (i32, f32), (f16, bf16), (b8, f32)], ids=str)
def test_operands_of_two_types_are_promoted(mixed: tuple[DType, DType]) -> None:
    check_problem(apply(o.Mul(), list(mixed)), Pointwise())


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0, -1.0, 2.5, 4.0])
def test_powers_with_a_constant_exponent(exponent: float) -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (3, 33)))
    g.mark_output(g.add(o.Pow(), x, g.scalar(exponent, f32)))
    check_problem(make_problem(g), Pointwise())


@pytest.mark.parametrize("op", [o.Pow(), *(kind() for kind in DIVISIONS)], ids=str)
def test_a_number_on_the_left(op: Elementwise) -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (3, 33)))
    g.mark_output(g.add(op, g.scalar(2.5, f32), x))
    check_problem(make_problem(g), Pointwise(), extremes=False)
    compiles(make_problem(g), Pointwise(), targets=(90,))


@pytest.mark.parametrize("op", [o.Maximum(), o.Add(), o.Clamp(0.1, 0.3)], ids=str)
def test_float64_literals_keep_all_their_digits(op: Elementwise) -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f64, (3, 4)))
    g.mark_output(g.add(op, *[x, g.scalar(0.1, f64)][: op.arity]))
    problem = make_problem(g)
    tactic = Tactic.make(Pointwise(), Pointwise().candidates(problem, TARGETS[90])[0])
    assert run_interpreted(problem, tactic, [np.zeros((3, 4))])[0, 0] == 0.1


def test_a_function_of_numbers_alone() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (3, 4)))
    number = g.add(o.Round(), g.add(o.Sub(), g.scalar(4.0, f32), g.scalar(1.4, f32)))
    g.mark_output(g.add(o.Add(), x, number))
    check_problem(make_problem(g), Pointwise())
    compiles(make_problem(g), Pointwise(), targets=(90,))


@pytest.mark.parametrize("op", [o.Round(), o.Log1p(), o.Expm1(), o.Atan(), *(kind() for kind in DIVISIONS)], ids=str)
def test_float64_is_computed_in_float64(op: Elementwise) -> None:
    check_problem(apply(op, [f64] * op.arity), Pointwise(), extremes=False)


def test_divisions_are_exact_where_the_quotient_is_whole() -> None:
    """6 / 3 is 2, not just less; and whether 0.1 goes a whole time more into 1e6 the rounded quotient does not say."""
    a = np.array([7, 6, -6, 7, -7, 5.5, -5.5, 1e6, 3, -3, 0, -0.3], np.float32)
    b = np.array([0.7, 3, 3, -0.7, 0.7, 5.5, 5.5, 0.1, np.inf, np.inf, 3, 0.1], np.float32)
    for op in (o.FloorDiv(), o.Remainder(), o.Fmod()):
        problem = apply(op, [f32, f32], 4)
        tactic = Tactic.make(Pointwise(), Pointwise().candidates(problem, TARGETS[90])[0])
        got = run_interpreted(problem, tactic, [a.reshape(3, 4), b.reshape(3, 4)])
        np.testing.assert_array_equal(got.ravel(), op.formula(a, b), err_msg=op.name)


def test_gelu_of_every_float16() -> None:
    """Where the result is rounded anyway, erf is not needed."""
    numbers = np.arange(65536, dtype=np.uint16).view(np.float16)
    x = numbers[numbers > -np.inf].reshape(3, -1)  # no NaN either
    problem = apply(o.Gelu(), [f16], x.shape[1])
    tactic = Tactic.make(Pointwise(), Pointwise().candidates(problem, TARGETS[90])[0])
    got = run_interpreted(problem, tactic, [x]).astype(float)
    exact = np.where(x < np.inf, o.Gelu().formula(np.where(x < np.inf, x, 0).astype(float)), np.inf)
    assert got[x == np.inf] == exact[x == np.inf]
    finite = x < np.inf
    off = np.abs(got[finite] - exact[finite]) / np.maximum(np.abs(exact[finite]) * 2.0**-12, 2.0**-24)
    assert off.max() < 0.25 + 2  # half of float16's own step is one or two of these units


@pytest.mark.parametrize("dtype", list(DType), ids=str)
def test_every_dtype_has_a_pointer_and_a_register_type(dtype: DType) -> None:
    assert TRITON_TYPES[dtype]
    assert register_type(dtype).startswith("tl.")


@pytest.mark.parametrize("dtype", [f32, f16, i32, i8, u16, u64], ids=str)
def test_every_expression_compiles(dtype: DType) -> None:
    """All ops in one kernel: the interpreter lets pass what the compiler's types do not."""
    g = Graph()
    inputs = [g.add_input(f"x{i}", TensorType(dtype, (3, 33))) for i in range(2)]
    condition = g.add_input("c", TensorType(b8, (3, 33)))
    total = g.add(o.Cast(f32), inputs[0])
    for op in ELEMENTWISE:
        if isinstance(op, o.BitCast) or (isinstance(op, BITS) and dtype.is_float):
            continue
        if dtype.is_float or isinstance(op, INTEGER):
            operands = [condition, *inputs] if isinstance(op, o.Where) else inputs[: op.arity]
            total = g.add(o.Add(), total, g.add(o.Cast(f32), g.add(op, *operands)))
    g.mark_output(total)
    stack = 32 if dtype.is_float else 0  # sine and cosine reduce large arguments in an array on the stack
    compiles(make_problem(g), Pointwise(), targets=(90,), spills=stack)


def test_literals_read_back() -> None:
    assert [literal(x) for x in (1.5, 2, float("-inf"))] == ["1.5", "2", 'float("-inf")']
    assert literal(float("nan")) == 'float("nan")'
