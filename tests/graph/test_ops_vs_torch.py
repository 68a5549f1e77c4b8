"""Every op's numpy `eval` and `infer` against PyTorch, on odd shapes, 16-bit floats, infinities and NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jitrt.errors import ShapeError
from jitrt.frontend.torch.arrays import DTYPES, from_numpy, to_numpy
from jitrt.graph import DType, Graph, TensorType, interpret
from jitrt.graph import ops as g
from jitrt.graph.dtype import promote
from jitrt.graph.op import OPS, Op

# Relative to the largest element: sums are of up to a few hundred terms.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """An op, the torch function it must equal, and the shapes of its operands. `low` bounds operands from below."""

    op: Op
    torch: Callable[..., Any]
    shapes: Sequence[tuple[int, ...]]
    low: float | None = None
    dtypes: Sequence[torch.dtype] = FLOATS
    label: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.label or f"{self.op}-{list(map(list, self.shapes))}".replace(" ", "")


def operands(case: Case, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator) for shape in case.shapes]
    if case.low is not None:
        tensors = [t.abs() + case.low for t in tensors]
    return [t.to(dtype) for t in tensors]


def run(op: Op, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The op through a graph of one node: inferred types, evaluation, rounding to the declared dtype."""
    graph = Graph()
    values = [graph.add_input("x", TensorType(DTYPES[t.dtype], tuple(t.shape))) for t in tensors]
    node = graph.append(op, values)
    graph.mark_output(*node.outputs)
    return [from_numpy(a) for a in interpret(graph, [to_numpy(t) for t in tensors])]


def check(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    a, b = got.double(), expected.double()
    assert torch.equal(a.isnan(), b.isnan()), "NaN in other places"
    infinite = b.isinf()
    assert torch.equal(a[infinite], b[infinite]), "other infinities"
    finite = ~(infinite | b.isnan())
    if finite.any():
        scale = float(b[finite].abs().max()) or 1.0
        assert float((a - b)[finite].abs().max()) <= tolerance * scale


ODD = (3, 5, 7)
UNARY = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "softplus": F.softplus,
    "exp": torch.exp,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "atan": torch.atan,
}
POSITIVE = {"log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "reciprocal": torch.reciprocal}
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "floor_div": torch.floor_divide,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
}


def conv(stride: Any, padding: Any, dilation: Any, groups: int) -> Callable[..., torch.Tensor]:
    """torch's convolution in float32: the CPU's own 16-bit kernels accumulate in 16 bits."""
    kind = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(stride)]

    def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        flat = [p for pair in reversed(padding) for p in pair]
        padded = F.pad(x.float(), flat)
        return kind(padded, w.float(), None, stride, 0, dilation, groups).to(x.dtype)

    return call


Shape = tuple[int, ...]


def conv_case(x: Shape, w: Shape, stride: Any, padding: Any, dilation: Any, groups: int = 1) -> Case:
    op = g.Conv(stride, padding, dilation, groups)
    return Case(op, conv(stride, padding, dilation, groups), (x, w))


def conv_transpose_case(
    x: Shape, w: Shape, stride: Any, padding: Any, extra: Any, dilation: Any, groups: int = 1
) -> Case:
    """torch crops both sides alike: `padding` is one number a dimension."""
    op = g.ConvTranspose(stride, tuple((p, p) for p in padding), extra, dilation, groups)
    kind = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(stride)]

    def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return kind(x.float(), w.float(), None, stride, padding, extra, groups, dilation).to(x.dtype)

    return Case(op, call, (x, w))


def in_float32(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *tensors: function(*(t.float() for t in tensors)).to(tensors[0].dtype)


IMAGE = (2, 3, 4, 5)
RESIZES = [
    ("nearest", "nearest", False),
    ("nearest_exact", "nearest-exact", False),
    ("linear", "bilinear", False),
    ("linear", "bilinear", True),
    ("cubic", "bicubic", False),
    ("cubic", "bicubic", True),
]


def interpolated(size: Shape, mode: str, corners: bool) -> Callable[..., torch.Tensor]:
    smooth = {"align_corners": corners} if mode in ("bilinear", "bicubic") else {}
    return in_float32(lambda x: F.interpolate(x, size=size, mode=mode, **smooth))


CASES = [
    *(Case(OPS[name](), function, [ODD]) for name, function in UNARY.items()),
    *(Case(OPS[name](), function, [ODD], low=0.1) for name, function in POSITIVE.items()),
    *(Case(OPS[name](), function, [ODD, (5, 1)]) for name, function in BINARY.items()),
    Case(g.Pow(), torch.pow, [ODD, (1, 7)], low=0.1),
    Case(g.Clamp(-0.5, 0.7), lambda x: torch.clamp(x, -0.5, 0.7), [ODD]),
    Case(g.LeakyRelu(0.2), lambda x: F.leaky_relu(x, 0.2), [ODD]),
    Case(g.Elu(1.3), lambda x: F.elu(x, 1.3), [ODD]),
    Case(g.Gelu(), F.gelu, [ODD]),
    Case(g.Gelu(approximate=True), lambda x: F.gelu(x, approximate="tanh"), [ODD]),
    Case(
        g.ExactConv((2, 1), ((1, 1), (0, 2)), (1, 2)),
        conv((2, 1), ((1, 1), (0, 2)), (1, 2), 1),
        ((2, 3, 7, 8), (4, 3, 3, 2)),
    ),
    conv_case((2, 3, 9, 7), (5, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    conv_case((1, 4, 9, 7), (6, 2, 3, 2), (2, 1), ((0, 1), (2, 0)), (1, 2), 2),
    conv_case((2, 5, 8, 8), (5, 1, 5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1), 5),
    conv_case((1, 3, 7, 7), (4, 3, 7, 7), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    conv_case((0, 3, 7, 7), (4, 3, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    conv_case((2, 3, 11), (4, 3, 3), (2,), ((1, 1),), (2,)),
    conv_case((1, 2, 5, 6, 4), (3, 2, 2, 3, 1), (1, 2, 1), ((1, 0), (1, 1), (0, 0)), (1, 1, 1)),
    conv_transpose_case((2, 3, 5, 4), (3, 5, 4, 4), (2, 2), (1, 1), (0, 0), (1, 1)),
    conv_transpose_case((2, 4, 5, 4), (4, 3, 3, 2), (2, 3), (1, 0), (1, 2), (2, 1), 2),
    conv_transpose_case((1, 6, 3, 3), (6, 1, 3, 3), (1, 1), (2, 0), (0, 0), (1, 1), 6),
    conv_transpose_case((0, 3, 3, 3), (3, 2, 2, 2), (2, 2), (0, 0), (0, 0), (1, 1)),
    conv_transpose_case((2, 3, 7), (3, 4, 3), (2,), (1,), (1,), (1,)),
    conv_transpose_case((1, 2, 2, 3, 2), (2, 3, 2, 3, 1), (1, 2, 3), (0, 1, 0), (0, 1, 2), (1, 1, 1)),
    Case(g.Linear(), in_float32(F.linear), [(3, 5, 7), (4, 7)]),
    Case(g.Linear(), in_float32(F.linear), [(7,), (4, 7)]),
    Case(g.Matmul(), in_float32(torch.matmul), [(3, 1, 5, 7), (2, 7, 4)]),
    Case(g.Matmul(), in_float32(torch.matmul), [(5, 7), (7, 1)]),
    Case(g.LayerNorm(1, 1e-6), in_float32(lambda x, w, b: F.layer_norm(x, (7,), w, b, 1e-6)), [ODD, (7,), (7,)]),
    Case(g.LayerNorm(2), in_float32(lambda x, w, b: F.layer_norm(x, (5, 7), w, b)), [ODD, (5, 7), (5, 7)]),
    Case(g.RmsNorm(2, 1e-3), in_float32(lambda x, w: F.rms_norm(x, (5, 7), w, 1e-3)), [ODD, (5, 7)]),
    Case(g.GroupNorm(3), in_float32(lambda x, w, b: F.group_norm(x, 3, w, b)), [(2, 6, 5, 3), (6,), (6,)]),
    Case(
        g.BatchNorm(1e-3),
        in_float32(lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, False, 0.1, 1e-3)),
        [(2, 3, 5, 7), (3,), (3,), (3,), (3,)],
        low=0.1,
    ),
    Case(g.BatchNorm(), in_float32(lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b)), [(4, 3)] + [(3,)] * 4, low=0.1),
    Case(g.ReduceSum((0, 2)), lambda x: x.sum((0, 2)), [ODD]),
    Case(g.ReduceSum((1,), True), lambda x: x.sum(1, keepdim=True), [ODD]),
    Case(g.ReduceMean((1, 2), True), lambda x: x.mean((1, 2), keepdim=True), [ODD]),
    Case(g.ReduceMax((0, 1)), lambda x: x.amax((0, 1)), [ODD]),
    Case(g.ReduceMin((2,)), lambda x: x.amin(2), [ODD]),
    Case(g.ReduceProd((1, 2), True), in_float32(lambda x: x.prod(1, keepdim=True).prod(2, keepdim=True)), [ODD]),
    Case(g.ArgMax(1), lambda x: x.argmax(1), [ODD]),
    Case(g.ArgMin(2, True), lambda x: x.argmin(2, keepdim=True), [ODD]),
    Case(g.TopK(1, 3), lambda x: x.topk(3, 1)[1], [ODD], dtypes=[torch.float32]),
    Case(g.TopK(2, 7, False), lambda x: x.argsort(dim=2, stable=True), [ODD]),
    Case(g.CumSum(1), in_float32(lambda x: x.cumsum(1)), [ODD]),
    Case(g.CumProd(2), in_float32(lambda x: x.cumprod(2)), [ODD]),
    Case(g.Softmax(1), lambda x: torch.softmax(x, 1), [ODD]),
    Case(g.LogSoftmax(2), lambda x: torch.log_softmax(x, 2), [ODD]),
    Case(g.Reshape((7, 15)), lambda x: x.reshape(7, 15), [ODD]),
    Case(g.Permute((2, 0, 1)), lambda x: x.permute(2, 0, 1), [ODD]),
    Case(g.Expand((2, 3, 5, 7)), lambda x: x.expand(2, 3, 5, 7), [(3, 1, 7)]),
    Case(g.Slice((1, 0, 2), (3, 5, 7), (1, 2, 3)), lambda x: x[1:3, 0:5:2, 2:7:3], [ODD]),
    Case(g.Slice((3, 0, 0), (3, 5, 7), (1, 1, 1)), lambda x: x[3:3], [ODD], label="empty slice"),
    Case(g.Concat(1), lambda *x: torch.cat(x, 1), [(2, 3, 4), (2, 1, 4), (2, 0, 4)]),
    Case(g.Pad(((1, 0), (0, 2)), 0.5), lambda x: F.pad(x, (0, 2, 1, 0), value=0.5), [(3, 5)]),
    *(
        Case(
            g.Extend(((0, 0), (0, 0), (2, 1), (0, 3)), mode), lambda x, m=mode: F.pad(x, (0, 3, 2, 1), mode=m), [IMAGE]
        )
        for mode in ("reflect", "replicate", "circular")
    ),
    Case(g.Roll((0, 2, 4, 1)), lambda x: x.roll((0, 2, 4, 1), (0, 1, 2, 3)), [IMAGE]),
    *(
        Case(g.Resize(size, ours, corners), interpolated(size, mode, corners), [IMAGE])
        for ours, mode, corners in RESIZES
        for size in ((8, 10), (7, 3), (1, 9))
    ),
    *(Case(OPS[name](), lambda x: x, [ODD]) for name in ("identity", "dropout", "contiguous")),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_op_equals_torch(case: Case, dtype: torch.dtype) -> None:
    tensors = operands(case, dtype)
    (got,) = run(case.op, tensors)
    check(got, case.torch(*tensors), TOLERANCE[dtype])


SPATIAL = [(1, 2, 7, 9), (2, 3, 8, 8), (1, 1, 5, 12)]
WINDOWS = [  # kernel, stride, padding
    ((3, 3), (2, 2), (1, 1)),
    ((2, 2), (2, 2), (0, 0)),
    ((3, 2), (1, 3), (0, 1)),
    ((2, 3), (3, 2), (1, 0)),
    ((5, 5), (4, 3), (2, 2)),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("ceil_mode", [False, True], ids=["floor", "ceil"])
@pytest.mark.parametrize("shape", SPATIAL, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pooling_equals_torch(window: Any, shape: tuple[int, ...], ceil_mode: bool, dtype: torch.dtype) -> None:
    kernel, stride, padding = window
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    (got,) = run(g.MaxPool(kernel, stride, padding, ceil_mode), [x])
    check(got, F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode), 0)
    for include in (True, False):
        (got,) = run(g.AvgPool(kernel, stride, padding, ceil_mode, include), [x])
        expected = F.avg_pool2d(x.float(), kernel, stride, padding, ceil_mode, include).to(dtype)
        check(got, expected, TOLERANCE[dtype])


def test_dilated_max_pool() -> None:
    x = torch.randn(2, 3, 9, 11)
    for ceil_mode in (False, True):
        (got,) = run(g.MaxPool((3, 2), (2, 2), (1, 1), ceil_mode, (2, 3)), [x])
        check(got, F.max_pool2d(x, (3, 2), (2, 2), (1, 1), (2, 3), ceil_mode), 0)


def test_pooling_in_one_and_three_dimensions() -> None:
    x = torch.randn(2, 3, 11)
    check(run(g.MaxPool((3,), (2,), (1,), False, (1,)), [x])[0], F.max_pool1d(x, 3, 2, 1), 0)
    check(run(g.AvgPool((3,), (2,), (1,), True), [x])[0], F.avg_pool1d(x, 3, 2, 1, True), 2e-6)
    x = torch.randn(2, 3, 5, 6, 7)
    window = ((2, 3, 2), (2, 2, 1), (1, 1, 0))
    check(run(g.MaxPool(*window, True, (1, 1, 1)), [x])[0], F.max_pool3d(x, *window, 1, True), 0)
    check(run(g.AvgPool(*window), [x])[0], F.avg_pool3d(x, *window), 2e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 7), (9, 5), (11, 13)], ids=str)
def test_adaptive_pooling_equals_torch(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 9, 7)
    check(run(g.AdaptiveAvgPool(size), [x])[0], F.adaptive_avg_pool2d(x, size), 2e-6)
    check(run(g.AdaptiveMaxPool(size), [x])[0], F.adaptive_max_pool2d(x, size), 0)


SPECIAL = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 1e-30, -3.0, 2.5, 88.0, -104.0, 6.0])


@pytest.mark.parametrize("name", sorted({*UNARY, *POSITIVE}))
def test_special_values_of_unary_ops(name: str) -> None:
    function = {**UNARY, **POSITIVE}[name]
    (got,) = run(OPS[name](), [SPECIAL])
    expected = function(SPECIAL)
    if name == "sign":
        expected[0] = float("nan")  # PyTorch says 0; here NaN in is NaN out, without exception
    check(got, expected, 2e-5)
    if name in ("relu", "hard_swish", "silu"):  # large values must not hide that small ones are right
        check(got[3:8], expected[3:8], 2e-6)


@pytest.mark.parametrize("name", sorted(BINARY))
def test_special_values_of_binary_ops(name: str) -> None:
    a, b = SPECIAL[:, None], SPECIAL[None, :]
    (got,) = run(OPS[name](), [a, b])
    check(got, BINARY[name](a, b), 2e-5)


SPECIAL_CASES = [
    (g.Clamp(-1.0, 2.0), lambda x: torch.clamp(x, -1.0, 2.0)),
    (g.LeakyRelu(0.1), lambda x: F.leaky_relu(x, 0.1)),
    (g.Elu(), F.elu),
    (g.Gelu(), F.gelu),
    (g.Softmax(0), lambda x: torch.softmax(x, 0)),
    (g.Softmax(0), lambda x: torch.softmax(x[1:], 0)),
    (g.LogSoftmax(0), lambda x: torch.log_softmax(x, 0)),
    (g.ReduceMax((0,)), lambda x: x.amax(0)),
    (g.ReduceMin((0,)), lambda x: x.amin(0)),
    (g.ReduceSum((0,)), lambda x: x.sum(0)),
]


@pytest.mark.parametrize(("op", "function"), SPECIAL_CASES, ids=lambda x: str(x) if isinstance(x, Op) else "")
def test_special_values_of_other_ops(op: Op, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = SPECIAL if function(SPECIAL).shape in ((), SPECIAL.shape) else SPECIAL[1:]
    # In float64: PyTorch's float32 gelu of infinity is NaN on the CPU.
    check(run(op, [x])[0], function(SPECIAL.double()).float(), 2e-5)


def test_nan_under_a_pooling_window_wins() -> None:
    x = torch.randn(1, 2, 6, 6)
    x[0, 1, 2, 3] = float("nan")
    check(run(g.MaxPool((3, 3), (2, 2), (1, 1)), [x])[0], F.max_pool2d(x, 3, 2, 1), 0)
    check(run(g.AvgPool((3, 3), (2, 2), (1, 1)), [x])[0], F.avg_pool2d(x, 3, 2, 1), 2e-6)
    check(run(g.AdaptiveMaxPool((2, 2)), [x])[0], F.adaptive_max_pool2d(x, 2), 0)


@pytest.mark.parametrize(("op", "function"), [(g.FloorDiv(), torch.floor_divide), (g.Remainder(), torch.remainder)])
def test_division_of_integers(op: Op, function: Callable[..., torch.Tensor]) -> None:
    a, b = torch.arange(-9, 10), torch.tensor([-4, -1, 3])[:, None]
    check(run(op, [a, b])[0], function(a, b), 0)
    check(run(op, [a, torch.zeros_like(a)])[0], torch.zeros_like(a), 0)  # where PyTorch raises


def test_padding_of_max_pool_never_wins() -> None:
    x = torch.full((1, 1, 3, 3), float("-inf"))
    check(run(g.MaxPool((3, 3), (2, 2), (1, 1)), [x])[0], F.max_pool2d(x, 3, 2, 1), 0)
    x = -torch.ones(1, 1, 3, 3)
    assert torch.equal(run(g.MaxPool((3, 3), (2, 2), (1, 1)), [x])[0], -torch.ones(1, 1, 2, 2))


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
KEPT = ("add", "sub", "mul", "maximum", "minimum", "equal", "less", "greater_equal")


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("a_dtype", [*INTEGERS, *FLOATS, torch.float64], ids=lambda d: str(d).removeprefix("torch."))
def test_promotion_of_two_tensors(name: str, a_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(0, 20, (3, 5), generator=generator).to(a_dtype)
    for b_dtype in (*INTEGERS, *FLOATS, torch.float64):
        b = torch.randint(0, 20, (5,), generator=generator).to(b_dtype)
        expected = BINARY[name](a, b)
        if {a_dtype, b_dtype} & {torch.float16, torch.bfloat16} and expected.dtype in TOLERANCE:
            check(run(OPS[name](), [a, b])[0], expected, TOLERANCE[expected.dtype])
        else:
            check(run(OPS[name](), [a, b])[0], expected, 0)


CASTS = (*FLOATS, torch.float64, *INTEGERS, torch.uint16, torch.uint32, torch.uint64, torch.bool)


@pytest.mark.parametrize("target", CASTS, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("source", CASTS, ids=lambda d: str(d).removeprefix("torch."))
def test_cast_equals_torch(source: torch.dtype, target: torch.dtype) -> None:
    x = torch.tensor([0.0, 0.5, 1.0, 2.9, 100.7, 3.14159]).to(source)
    check(run(g.Cast(DTYPES[target]), [x])[0], x.to(target), 0)


def test_logic_and_where() -> None:
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    check(run(g.LogicalAnd(), [a, b])[0], a & b, 0)
    check(run(g.LogicalOr(), [a, b])[0], a | b, 0)
    check(run(g.LogicalNot(), [a])[0], ~a, 0)
    x, y = torch.randn(3, 4), torch.randn(3, 1, dtype=torch.float64)
    check(run(g.Where(), [a, x, y])[0], torch.where(a, x, y), 0)
    for op, function in (
        (g.BitwiseAnd(), torch.bitwise_and),
        (g.BitwiseOr(), torch.bitwise_or),
        (g.BitwiseXor(), torch.bitwise_xor),
    ):
        for x, y in ((a, b), (torch.arange(-3, 5), torch.tensor(6))):
            check(run(op, [x, y])[0], function(x, y), 0)
        with pytest.raises(ShapeError, match="expected integers or booleans"):
            run(op, [torch.zeros(2), torch.zeros(2)])
    with pytest.raises(ShapeError, match="condition"):
        run(g.Where(), [x, x, x])


UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


@pytest.mark.parametrize("dtype", [*INTEGERS, *UNSIGNED], ids=lambda d: str(d).removeprefix("torch."))
def test_integer_division_powers_and_shifts(dtype: torch.dtype) -> None:
    a, b = torch.arange(1, 7).to(dtype), torch.tensor([[2], [3]]).to(dtype)
    wide = a.long(), b.long()
    check(run(g.TruncDiv(), [a, b])[0], torch.div(*wide, rounding_mode="trunc").to(dtype), 0)
    check(run(g.ShiftLeft(), [a, b])[0], torch.bitwise_left_shift(*wide).to(dtype), 0)
    check(run(g.ShiftRight(), [a, b])[0], torch.bitwise_right_shift(*wide).to(dtype), 0)
    check(run(g.Pow(), [a, b])[0], torch.pow(*wide).to(dtype), 0)


def test_signed_integer_division_powers_and_shifts() -> None:
    a, b = torch.arange(-7, 8), torch.tensor([[-3], [2], [0]])
    want = torch.where(b == 0, 0, torch.div(a, torch.where(b == 0, 1, b), rounding_mode="trunc"))
    check(run(g.TruncDiv(), [a, b])[0], want, 0)
    check(run(g.ShiftRight(), [a, b[1]])[0], torch.bitwise_right_shift(a, b[1]), 0)
    ones, odd = torch.tensor([1, -1, 2]), torch.tensor([[-1], [-2], [3]])
    check(run(g.Pow(), [ones, odd])[0], torch.tensor([[1, -1, 0], [1, 1, 0], [1, -1, 8]]), 0)
    check(run(g.TruncDiv(), [a.double(), b[:2].double()])[0], torch.div(a, b[:2].double(), rounding_mode="trunc"), 0)


def test_bits_in_another_type() -> None:
    for source, target in [(torch.float32, torch.int32), (torch.int16, torch.bfloat16), (torch.float16, torch.uint16)]:
        x = torch.tensor([1, 2, 300]).to(source)
        check(run(g.BitCast(DTYPES[source], DTYPES[target]), [x])[0], x.view(target), 0)
    for op, x, text in [
        (g.BitCast(DType.f32, DType.i32), torch.zeros(2).double(), "of f64, expected f32"),
        (g.BitCast(DType.f32, DType.i64), torch.zeros(2), "f32 has not the bits of i64"),
        (g.BitCast(DType.b8, DType.u8), torch.zeros(2).bool(), "use cast"),
    ]:
        with pytest.raises(ShapeError, match=text):
            run(op, [x])


def test_two_integers_are_promoted_to_what_holds_both() -> None:
    assert promote(DType.u8, DType.u32) == DType.u32
    assert promote(DType.u32, DType.i32) == DType.i64
    assert promote(DType.u16, DType.i8) == DType.i32
    assert promote(DType.u64, DType.i8) == DType.f64
    assert promote(DType.b8, DType.u64) == DType.u64
    assert promote(DType.u64, DType.f16) == DType.f16


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: str(d).removeprefix("torch."))
def test_integers_in_unary_ops_and_pooling(dtype: torch.dtype) -> None:
    x = torch.randint(0, 100, (1, 2, 6, 6), generator=torch.Generator().manual_seed(2)).to(dtype)
    check(run(g.Relu(), [x])[0], torch.relu(x), 0)
    check(run(g.Clamp(3.0, 50.0), [x])[0], torch.clamp(x, 3, 50), 0)
    check(run(g.MaxPool((2, 2), (2, 2), (0, 0)), [x])[0], F.max_pool2d(x, 2), 0)
    check(run(g.ReduceMax((2, 3)), [x])[0], x.amax((2, 3)), 0)


COVERED_ELSEWHERE = {"cast", "where", "logical_and", "logical_or", "logical_not", "max_pool", "avg_pool"}
COVERED_ELSEWHERE |= {"gather", "scatter"}  # test_index.py, test_scatter.py
COVERED_ELSEWHERE |= {"recurrence"}  # ../frontend/torch/test_rnn.py
COVERED_ELSEWHERE |= {"bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right", "bit_cast", "trunc_div"}
COVERED_ELSEWHERE |= {"adaptive_avg_pool", "adaptive_max_pool", "region"}  # the last: tests/graph/test_ops.py


def test_every_op_is_compared() -> None:
    missing = {name for name, kind in OPS.items() if kind.__module__.startswith("jitrt.graph.ops")}
    assert missing - {case.op.name for case in CASES} == COVERED_ELSEWHERE


BAD = [
    (g.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), [(1, 3, 5, 5), (4, 2, 3, 3)]),  # channels
    (g.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), [(1, 3, 2, 2), (4, 3, 3, 3)]),  # filter larger than the input
    (g.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), [(1, 3, 2, 2), (4, 3, 0, 1)]),  # no taps
    (g.Conv((1,), ((0, 0),), (1,)), [(1, 3, 5, 5), (4, 3, 3, 3)]),  # attributes of another rank
    (g.ConvTranspose((1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1)), [(1, 3, 5, 5), (4, 2, 3, 3)]),  # channels
    (g.ConvTranspose((1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1), 2), [(1, 3, 5, 5), (3, 2, 3, 3)]),  # groups
    (g.ConvTranspose((2, 2), ((0, 0), (0, 0)), (2, 0), (1, 1)), [(1, 3, 5, 5), (3, 2, 3, 3)]),  # output padding
    (g.ConvTranspose((1, 1), ((3, 3), (0, 0)), (0, 0), (1, 1)), [(1, 3, 2, 2), (3, 2, 3, 3)]),  # all is cut off
    (g.ConvTranspose((1, 1), ((-1, 0), (0, 0)), (0, 0), (1, 1)), [(1, 3, 2, 2), (3, 2, 3, 3)]),  # negative padding
    (g.ConvTranspose((1,), ((0, 0),), (0,), (1,)), [(1, 3, 5, 5), (3, 4, 3, 3)]),  # attributes of another rank
    (g.Linear(), [(2, 3), (4, 5)]),
    (g.Matmul(), [(2, 3), (4, 5)]),
    (g.Matmul(), [(2, 4, 3), (3, 3, 5)]),
    (g.Matmul(), [(3,), (3, 5)]),
    (g.Add(), [(2, 3), (4,)]),
    (g.BatchNorm(), [(2, 3), (3,), (3,), (3,), (2,)]),
    (g.LayerNorm(1), [(2, 3), (2,), (3,)]),
    (g.RmsNorm(1), [(2, 3), (2,)]),
    (g.RmsNorm(3), [(2, 3), (3,)]),
    (g.GroupNorm(2), [(2, 3), (3,), (3,)]),
    (g.MaxPool((3, 3), (1, 1), (2, 2)), [(1, 1, 5, 5)]),  # padding beyond half the window
    (g.AvgPool((7, 7), (1, 1), (0, 0)), [(1, 1, 5, 5)]),  # window larger than the input
    (g.AdaptiveAvgPool((1,)), [(1, 1, 5, 5)]),
    (g.ReduceSum((3,)), [(2, 3)]),
    (g.ReduceSum((0, 0)), [(2, 3)]),
    (g.ArgMax(2), [(2, 3)]),
    (g.ArgMin(1), [(2, 0)]),
    (g.TopK(1, 4), [(2, 3)]),
    (g.CumSum(2), [(2, 3)]),
    (g.Softmax(2), [(2, 3)]),
    (g.Reshape((4,)), [(2, 3)]),
    (g.Permute((0, 0)), [(2, 3)]),
    (g.Expand((4, 3)), [(2, 3)]),
    (g.Slice((0,), (4,), (1,)), [(3,)]),
    (g.Slice((0,), (3,), (0,)), [(3,)]),
    (g.Concat(1), [(2, 3), (3, 3)]),
    (g.Pad(((-1, 0),)), [(3,)]),
    (g.Extend(((0, 0), (0, 1)), "mirror"), [(3, 4)]),
    (g.Extend(((0, 1),), "reflect"), [(3, 4)]),
    (g.Extend(((0, 3), (0, 0)), "reflect"), [(3, 4)]),
    (g.Extend(((0, 4), (0, 0)), "circular"), [(3, 4)]),
    (g.Extend(((-1, 0), (0, 0)), "replicate"), [(3, 4)]),
    (g.Roll((1,)), [(3, 4)]),
    (g.Roll((4, 0)), [(3, 4)]),
    (g.Resize((4, 4), "area"), [(1, 1, 3, 3)]),
    (g.Resize((4,), "nearest"), [(1, 1, 3, 3)]),
    (g.Resize((4, 4), "nearest", False, (0.5,)), [(1, 1, 3, 3)]),
    (g.Resize((4, 4), "linear"), [(1, 1, 0, 3)]),
]


@pytest.mark.parametrize(("op", "shapes"), BAD, ids=lambda x: str(x).replace(" ", ""))
def test_operands_that_do_not_fit_are_refused(op: Op, shapes: Sequence[tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError, match=op.name):
        run(op, [torch.zeros(shape) for shape in shapes])


def test_integers_are_not_interpolated() -> None:
    x = torch.arange(6).reshape(1, 1, 6)
    check(run(g.Resize((3,), "nearest"), [x])[0], x[..., ::2], 0)
    with pytest.raises(ShapeError, match="linear of i64: cast it first"):
        run(g.Resize((3,), "linear"), [x])


def test_exact_interpretation_keeps_float64() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DTYPES[torch.float16], (4,)))
    graph.mark_output(graph.add(g.Reciprocal(), x))
    values = np.array([3, 7, 11, 13], np.float16)
    assert np.array_equal(interpret(graph, [values], exact=True)[0], 1 / values.astype(np.float64))
    assert np.array_equal(interpret(graph, [values])[0], (1 / values.astype(np.float32)).astype(np.float16))
