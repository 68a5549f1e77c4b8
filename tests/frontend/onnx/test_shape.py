"""Shapes, movements, padding and constants, in the old forms and the new, against ONNX's reference."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from jitrt.errors import ImportFailure, UnsupportedOpError
from jitrt.frontend.onnx import NeedsInput
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import agree, load, ops, same

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
IMAGE = np.arange(2 * 8 * 4 * 6, dtype=np.float32).reshape(2, 8, 4, 6)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("y = Shape (x)", [2, 3, 4]),
        ("y = Shape <start = 1> (x)", [3, 4]),
        ("y = Shape <start = -2, end = -1> (x)", [3]),
        ("y = Shape <start = 2, end = 1> (x)", []),
        ("y = Size (x)", 24),
    ],
)
def test_shapes_are_constants(text: str, want: int | list[int]) -> None:
    graph = same(text, x=X)
    assert ops(graph) == ["identity"]
    assert interpret(graph, [X])[0].tolist() == want


def test_what_is_made_of_shapes_is_made_at_the_build() -> None:
    """A flattening as an exporter spells it."""
    text = """
        s = Shape (x) zero = Constant <value_ints = [0]> () first = Gather (s, zero)
        rest = Constant <value_ints = [-1]> () to = Concat <axis = 0> (first, rest) y = Reshape (x, to)
    """
    assert ops(same(text, x=X)) == ["reshape"]


@pytest.mark.parametrize(
    ("shape", "allowzero"), [((0, -1), 0), ((4, 0, 2), 0), ((-1,), 0), ((2, 3, 4), 0), ((6, 4), 1)], ids=str
)
def test_reshape(shape: tuple[int, ...], allowzero: int) -> None:
    same(f"y = Reshape <allowzero = {allowzero}> (x, s)", known="s", x=X, s=ints(*shape))


def test_reshape_of_nothing() -> None:
    same("y = Reshape <allowzero = 1> (x, s)", known="s", x=np.zeros((0, 3), np.float32), s=ints(3, 0, 7))


@pytest.mark.parametrize("axis", [0, 1, 3, -1])
def test_flatten(axis: int) -> None:
    same(f"y = Flatten <axis = {axis}> (x)", x=X)


@pytest.mark.parametrize("opset", [11, 13])
def test_axes_as_attribute_and_as_input(opset: int) -> None:
    x = X.reshape(1, 2, 3, 1, 4)
    for op, axes in (("Squeeze", (0, -2)), ("Unsqueeze", (-1, 2)), ("Squeeze", (3,))):
        if opset < 13:
            same(f"y = {op} <axes = {list(axes)}> (x)", opset=opset, x=x)
        else:
            same(f"y = {op} (x, a)", known="a", opset=opset, x=x, a=ints(*axes))
    same("y = Squeeze (x)", opset=opset, x=x)


@pytest.mark.parametrize("text", ["y = Transpose (x)", "y = Transpose <perm = [1, 2, 0]> (x)"])
@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint16, np.bool_])
def test_transpose(text: str, dtype: type) -> None:
    assert ops(same(text, x=X.astype(dtype))) == ["permute"]


def test_concat() -> None:
    same("y = Concat <axis = -2> (a, b, a)", a=X, b=X[:, :1])
    assert ops(same("y = Concat <axis = 1> (a, b)", a=X, b=X[:, :0])) == ["identity"]


@pytest.mark.parametrize(
    ("text", "opset"),
    [
        ("y, z = Split <axis = 2, split = [1, 3]> (x)", 11),
        ("y, z = Split <axis = -1> (x)", 11),
        ("y, z = Split <axis = 2> (x, s)", 13),
        ("y, z = Split <axis = 1, num_outputs = 2> (x)", 18),
    ],
)
def test_split(text: str, opset: int) -> None:
    given = {"s": ints(3, 1)} if "s)" in text else {}
    same(text, known=" ".join(given), opset=opset, outputs="y z", x=X, **given)


def test_a_slice_backwards_from_before_the_first_element_has_that_one() -> None:
    """Where Python has none; of no elements there is none."""
    numbers = {"s": ints(-9), "e": ints(-(2**63)), "a": ints(0), "t": ints(-2)}
    text = "y = Slice (x, s, e, a, t)"
    for x, wanted in ((X, X[:1]), (X[:0], X[:0])):
        agree(load(text, "s e a t", x=x, **numbers), [wanted], [x])


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((0, 1), (1, 3), None, None),
        ((-1, 99), (-99, -2), (2, 1), (-2, -1)),
        ((1,), (2**63 - 1,), (-1,), (2,)),
        ((-1,), (-(2**63),), (0,), (-1,)),
        ((1,), (1,), (1,), None),
        ((5,), (9,), (1,), (1,)),
    ],
    ids=str,
)
def test_slice(
    starts: tuple[int, ...], ends: tuple[int, ...], axes: tuple[int, ...] | None, steps: tuple[int, ...] | None
) -> None:
    parts = {"s": starts, "e": ends, "a": axes, "t": steps}
    given = {name: ints(*part) for name, part in parts.items() if part is not None}
    names = [name if name in given else '""' for name in "seat"]
    while names[-1] == '""':
        names.pop()
    same(f"y = Slice (x, {', '.join(names)})", known=" ".join(given), x=X, **given)
    if steps is None and len(ends) == 2:
        same(f"y = Slice <starts = {list(starts)}, ends = {list(ends)}> (x)", opset=9, x=X)


@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 1, 3, 4), (1,), (3, 1, 1)], ids=str)
def test_expand(shape: tuple[int, ...]) -> None:
    same("y = Expand (x, s)", known="s", x=X[:1], s=ints(*shape))


@pytest.mark.parametrize("repeats", [(1, 2, 3), (1, 1, 1), (0, 1, 2)], ids=str)
def test_tile(repeats: tuple[int, ...]) -> None:
    same("y = Tile (x, r)", known="r", x=X, r=ints(*repeats))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode: str) -> None:
    same(f'y = DepthToSpace <blocksize = 2, mode = "{mode}"> (x)', x=IMAGE)
    there = (
        f'd = SpaceToDepth <blocksize = 2, mode = "{mode}"> (x) y = DepthToSpace <blocksize = 2, mode = "{mode}"> (d)'
    )
    np.testing.assert_array_equal(interpret(load(there, x=IMAGE), [IMAGE])[0], IMAGE)
    if mode == "DCR":
        same("y = SpaceToDepth <blocksize = 2> (x)", x=IMAGE)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(0, 1, 2, 0, 0, 3), (0, 0, 0, 0, 0, 0), (0, 5, 0, 0, 0, 9)], ids=str)
def test_pad(mode: str, pads: tuple[int, ...]) -> None:
    """The last is further than the tensor reaches."""
    same(f'y = Pad <mode = "{mode}"> (x, p)', known="p", x=X, p=ints(*pads))


def test_pad_as_attributes_with_a_number_and_with_axes() -> None:
    same("y = Pad <pads = [0, 1, 0, 0, 0, 2], value = -3.5> (x)", opset=10, x=X)
    given = {"p": ints(1, 2, 0, 1), "v": np.array(7, np.int64), "a": ints(-1, 0)}
    same("y = Pad (x, p, v, a)", known="p v a", x=X.astype(np.int64), **given)


@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_negative_padding_cuts(mode: str) -> None:
    """ONNX's reference has none: numpy has none."""
    graph = load(f'y = Pad <mode = "{mode}"> (x, p)', known="p", x=X, p=ints(0, -1, 2, 0, 1, -1))
    want = np.pad(X[:, 1:, :3], ((0, 0), (0, 1), (2, 0)), mode=mode)  # type: ignore[call-overload]
    agree(graph, [want], [X])


def test_center_crop_pad() -> None:
    same("y = CenterCropPad (x, s)", known="s", x=X, s=ints(5, 2, 4))
    same("y = CenterCropPad <axes = [2, -2]> (x, s)", known="s", x=X, s=ints(7, 1))


@pytest.mark.parametrize(
    ("image", "block", "windows", "attributes"),
    [
        ((5, 5), (2, 3), 12, ""),
        ((5, 4), (2, 2), 15, "<strides = [2, 1], pads = [1, 0, 1, 2]>"),
        ((6, 6), (2, 2), 6, "<dilations = [2, 3], strides = [3, 1]>"),
        ((3, 4, 3), (2, 1, 3), 8, ""),
    ],
    ids=str,
)
def test_col_to_im(image: tuple[int, ...], block: tuple[int, ...], windows: int, attributes: str) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (2, 3 * math.prod(block), windows)).astype(np.float32)
    same(f"y = Col2Im {attributes} (x, i, b)", known="i b", x=x, i=ints(*image), b=ints(*block))


def test_numbers_known_at_the_build() -> None:
    matrix = np.zeros((3, 4), np.float32)
    same("y = EyeLike <k = -1> (x)", x=matrix)
    assert interpret(load("y = EyeLike <dtype = 16> (x)", x=matrix), [matrix])[0].dtype == ml_dtypes.bfloat16
    for numbers in ((10, 3, -3), (0.5, 3.1, 0.25), (3, 1, 1)):
        first, last, by = (np.array(number, np.asarray(numbers).dtype) for number in numbers)
        same("y = Range (s, l, d)", known="s l d", s=first, l=last, d=by)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 2])
def test_triangles(upper: int, k: int | None) -> None:
    given = {} if k is None else {"k": np.array(k, np.int64)}
    same(f"y = Trilu <upper = {upper}> (x{', k' * len(given)})", known=" ".join(given), x=X.astype(np.int64), **given)


def test_they_run_as_kernels() -> None:
    """All in one plan: views that cost nothing, copies, pads by value and by elements, a mask."""
    text = """
        a = Transpose <perm = [0, 2, 1]> (x) b = Slice (a, s, e, t, d) c = Pad <mode = "edge"> (b, p)
        f = Trilu (c) g = Tile (f, r) y = Concat <axis = 1> (g, g) z = SpaceToDepth <blocksize = 2> (i)
    """
    given = {"s": ints(-1), "e": ints(-9), "t": ints(1), "d": ints(-1), "p": ints(0, 0, 1, 0, 2, 0), "r": ints(1, 2, 1)}
    image = np.arange(32, dtype=np.int32).reshape(1, 2, 4, 4)
    graph = same(text, known=" ".join(given), outputs="y z", x=X, i=image, **given)
    got = plan_interpreted(graph).run([X, image])
    for one, want in zip(got, interpret(graph, [X, image]), strict=True):
        np.testing.assert_array_equal(one, want)


REFUSED = [
    ("y = Reshape (x, a)", {"a": ints(5, -1)}, "shape [5, -1] does not fit"),
    ("y = Reshape (x, a)", {"a": ints(-1, -1)}, "shape [-1, -1] does not fit"),
    ("y = Reshape (x, a)", {"a": ints(2, 3, 4, 0)}, "takes over a dimension"),
    ("y = Squeeze (x, a)", {"a": ints(1)}, "are not all 1"),
    ("y = Unsqueeze (x, a)", {"a": ints(1, 1)}, "name one twice"),
    ("y = Unsqueeze (x, a)", {"a": ints(7)}, "axis 7 of a tensor of rank 4"),
    ("y, z = Split (x, a)", {"a": ints(2, 3)}, "split [2, 3] of"),
    ("y = Split <num_outputs = 0> (x)", {}, "a split into 0 parts"),
    ("y = Slice (x, a, b)", {"a": ints(0), "b": ints(1, 2)}, "1 starts, 2 ends"),
    ("y = Slice (x, a, a, a, a)", {"a": ints(0)}, "a slice of step 0"),
    ("y = Tile (x, a)", {"a": ints(2)}, "repeats [2] of"),
    ("y = DepthToSpace <blocksize = 2> (x)", {}, "blocks of 2 of"),
    ("y = Pad (x, a)", {"a": ints(1, 2)}, "2 paddings for 3 axes"),
    ("y = Pad (x, a)", {"a": ints(-3, 0, 0, 0, 0, 0)}, "padding -3 and 0 of a dimension of 2"),
    ('y = Pad <mode = "mirror"> (x, a)', {"a": ints(0, 0, 0, 0, 0, 1)}, "mode 'mirror'"),
    ("y = CenterCropPad (x, a)", {"a": ints(1)}, "1 sizes for 3 axes"),
    ("y = Col2Im (x, a, b)", {"a": ints(5, 5), "b": ints(2, 2)}, "is not an image of [5, 5]"),
    ("y = Col2Im (x, a, b)", {"a": ints(5, 5), "b": ints(2)}, "blocks of 1"),
    ("c = Cast <to = 9> (x) y = Col2Im (c, a, a)", {"a": ints(2, 2)}, "sums of booleans"),
    ("y = EyeLike (x)", {}, "which is no matrix"),
    ("y = Range (a, b, a)", {"a": np.array(0), "b": np.array(1)}, "a range of step 0"),
    ("s = Flatten <axis = 0> (x) t = Squeeze (s) y = Trilu (t)", {}, "a triangle of"),
]


@pytest.mark.parametrize(("text", "given", "reason"), REFUSED, ids=[case[2] for case in REFUSED])
def test_refusals_say_why(text: str, given: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(UnsupportedOpError) as refusal:
        load(text, known=" ".join(given), x=X, **given)
    assert reason in str(refusal.value)


def test_what_does_not_broadcast_or_is_too_large_is_no_model() -> None:
    with pytest.raises(ImportFailure, match="does not broadcast with"):
        load("y = Expand (x, s)", known="s", x=X, s=ints(5, 4))
    with pytest.raises(ImportFailure, match="takes too much memory"):
        load("y = Range (a, l, d)", known="a l d", a=np.array(0), l=np.array(2**40), d=np.array(1))


def test_a_shape_that_is_an_input_must_be_given() -> None:
    with pytest.raises(NeedsInput, match="the shape is computed at run time") as need:
        load("t = Neg (s) y = Reshape (x, t)", x=X, s=ints(-24))
    assert need.value.names == ("s",)
