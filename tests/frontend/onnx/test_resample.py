"""Resizes and samples at computed places beyond ONNX's own suite: older versions, other types, kernels, refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from jitrt.errors import ImportFailure, UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from jitrt.graph.ops import Gather, Identity, Linear, Matmul, Resize
from tests.frontend.onnx.nodes import RNG, check, expected, floats, node, run

IMAGE = floats(2, 3, 6, 5)
NONE = np.zeros(0, np.float32)
UP, DOWN = np.array([1, 1, 2, 2.6], np.float32), np.array([1, 1, 0.6, 0.8], np.float32)
COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


def resized(scales: Any, x: Any = IMAGE, roi: Any = NONE, sizes: Any = None) -> list[Any]:
    return [x, roi, scales, *([] if sizes is None else [sizes])]


def kinds(arrays: list[Any], **how: Any) -> set[type]:
    constants = {f"x{i}": a for i, a in enumerate(arrays) if i and a is not None}
    return {type(n.op) for n in import_onnx(node("Resize", arrays, **how), constants=constants).graph.nodes}


@pytest.mark.parametrize("scales", [UP, DOWN], ids=["up", "down"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizes(mode: str, coordinates: str, scales: Any) -> None:
    how = {"mode": mode, "coordinate_transformation_mode": coordinates}
    check("Resize", resized(scales), known=(1, 2), rtol=1e-4, **how)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest_modes(rounding: str) -> None:
    for scales, coordinates in itertools.product((UP, DOWN), ("half_pixel", "asymmetric")):
        how = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
        check("Resize", resized(scales), known=(1, 2), rtol=0, **how)


CROP = np.array([0, 0, -0.2, 0.3, 1, 1, 1.1, 0.6], np.float32)
FORMS: list[tuple[list[Any], dict[str, Any]]] = [
    (resized(DOWN), {"mode": "linear", "antialias": 1}),
    (resized(DOWN), {"mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5}),
    (resized(UP), {"mode": "cubic", "exclude_outside": 1}),
    (resized(UP, roi=CROP), {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}),
    (
        resized(UP, roi=CROP),
        {"mode": "nearest", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0},
    ),
    (resized(np.array([2, 0.5], np.float32)), {"mode": "linear", "axes": [1, 3]}),
]


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(f"{k}={v}" for k, v in form[1].items()))
def test_what_the_graph_has_no_resize_for(form: tuple[list[Any], dict[str, Any]], kernels: bool) -> None:
    arrays, how = form
    check("Resize", arrays, known=(1, 2), rtol=1e-4, kernels=kernels, **how)
    assert Resize not in kinds(arrays, **how)


def test_what_the_graph_has_a_resize_for_is_one() -> None:
    twice = np.array([1, 1, 2, 2], np.float32)
    torch = {"coordinate_transformation_mode": "pytorch_half_pixel"}
    assert kinds(resized(twice), mode="nearest", coordinate_transformation_mode="asymmetric") == {Resize}
    assert kinds(resized(twice), mode="linear", **torch) == kinds(resized(DOWN), mode="cubic", **torch) == {Resize}
    assert kinds(resized(twice), mode="linear", coordinate_transformation_mode="align_corners") == {Resize}
    assert kinds(resized(twice), mode="cubic", cubic_coeff_a=-0.5) >= {Linear, Matmul}
    assert kinds(resized(np.array([2, 1, 1, 1], np.float32)), mode="nearest") >= {Gather}
    assert kinds(resized(np.ones(4, np.float32)), mode="cubic") == {Identity}


def test_axes_count_from_the_end_too() -> None:
    arrays = resized(np.array([2, 0.5], np.float32))
    wanted = run("Resize", arrays, known=(1, 2), mode="linear", axes=[1, 3])
    check("Resize", arrays, wanted=wanted, known=(1, 2), mode="linear", axes=[1, -1])


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_sizes(policy: str) -> None:
    arrays = resized(None, sizes=np.array([7, 9], np.int64))
    check("Resize", arrays, known=(1, 3), mode="linear", axes=[3, 2], keep_aspect_ratio_policy=policy, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64], ids=lambda d: d.__name__)
def test_types(dtype: Any) -> None:
    x = (RNG.random((1, 2, 4, 5)) * 200).astype(dtype)
    (wanted,) = run("Resize", resized(UP, x.astype(np.float32)), known=(1, 2), mode="linear")
    (got,) = run("Resize", resized(UP, x), known=(1, 2), mode="linear")
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(np.float64), np.trunc(wanted) if dtype == np.uint8 else wanted, 1e-3)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_float64_keeps_its_digits_in_kernels(mode: str) -> None:
    arrays = resized(UP, IMAGE.astype(np.float64))
    wanted = run("Resize", arrays, known=(1, 2), mode=mode)
    check("Resize", arrays, wanted=wanted, known=(1, 2), mode=mode, kernels=True, rtol=1e-12)


def test_older_versions() -> None:
    """Nearest is what lies before o / scale."""
    wanted = IMAGE[:, :, (np.arange(9) / 1.5).astype(int)][:, :, :, (np.arange(10) / 2).astype(int)]
    scales = np.array([1, 1, 1.5, 2], np.float32)
    for got in (
        run("Upsample", [IMAGE], opset=7, scales=scales.tolist()),
        run("Upsample", [IMAGE, scales], opset=9, known=(1,)),
        run("Resize", [IMAGE, scales], opset=10, known=(1,)),
    ):
        np.testing.assert_array_equal(got[0], wanted)
    (linear,) = run("Upsample", [IMAGE, scales], opset=9, known=(1,), mode="linear")
    modern = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    np.testing.assert_allclose(linear, expected("Resize", resized(scales), **modern)[0], 1e-4, 1e-5)


def test_before_version_11_the_nearest_of_fewer_pixels_is_the_next_one() -> None:
    """As in ONNX's own test of that version."""
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4)
    (y,) = run("Resize", [x, np.array([1, 1, 0.6, 0.6], np.float32)], opset=10, known=(1,))
    np.testing.assert_array_equal(y, [[[[1, 3]]]])


@pytest.mark.parametrize("kernels", [False, True])
def test_the_pixels_for_nn_leave_alone_what_keeps_its_size(kernels: bool) -> None:
    """Above all the images of a batch, half a pixel from each other."""
    x, none = floats(2, 2, 1, 5), np.zeros(0, np.float32)
    arrays = [x, none, none, np.array([2, 2, 1, 10])]
    how: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "tf_half_pixel_for_nn", "opset": 11}
    (y,) = run("Resize", arrays, known=(1, 2, 3), kernels=kernels, **how)
    places = np.minimum((np.arange(10) + 0.5) / 2, 4)
    before = places.astype(int)
    after, part = np.minimum(before + 1, 4), (places - before).astype(np.float32)
    np.testing.assert_allclose(y, x[..., before] * (1 - part) + x[..., after] * part, 1e-4, 1e-5)


def test_of_one_pixel_pytorch_takes_the_first() -> None:
    arrays = resized(None, IMAGE, sizes=np.array([2, 3, 1, 1]))
    (y,) = run("Resize", arrays, known=(1, 3), mode="cubic", coordinate_transformation_mode="pytorch_half_pixel")
    np.testing.assert_allclose(y, IMAGE[:, :, :1, :1], 1e-6)


@pytest.mark.parametrize("kernels", [False, True])
def test_bytes_do_not_wrap_where_a_cubic_goes_beyond_them(kernels: bool) -> None:
    x = np.array([0, 0, 255, 255], np.uint8).reshape(1, 1, 1, 4)
    (y,) = run("Resize", resized(np.array([1, 1, 1, 2], np.float32), x), known=(1, 2), mode="cubic", kernels=kernels)
    np.testing.assert_array_equal(y.ravel(), [0, 0, 0, 57, 197, 255, 255, 255])


# -- places ------------------------------------------------------------------------------------------------------------

GRID = RNG.uniform(-1.4, 1.4, (2, 3, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grids(mode: str, padding: str, corners: int) -> None:
    check("GridSample", [IMAGE, GRID], mode=mode, padding_mode=padding, align_corners=corners, rtol=1e-3)


def test_grids_in_kernels() -> None:
    how = {"mode": "linear", "padding_mode": "reflection"}
    check("GridSample", [IMAGE, GRID], kernels=True, rtol=1e-3, **how)
    space, grid = floats(1, 2, 3, 4, 3), RNG.uniform(-1.2, 1.2, (1, 2, 2, 3, 3)).astype(np.float32)
    check("GridSample", [space, grid], kernels=True, rtol=1e-3, mode="linear")
    (wanted,) = run("GridSample", [IMAGE, GRID], opset=16, mode="bicubic")
    check("GridSample", [IMAGE, GRID], wanted=[wanted], mode="cubic")


def test_zeros_outside_hide_what_is_not_a_number() -> None:
    x = np.full((1, 1, 2, 2), np.nan, np.float32)
    (y,) = run("GridSample", [x, np.full((1, 1, 1, 2), 5, np.float32)])
    assert y.item() == 0


def test_affine_grids() -> None:
    check("AffineGrid", [floats(2, 2, 3), np.array([2, 3, 4, 5])], known=(1,), align_corners=1)
    check("AffineGrid", [floats(1, 3, 4), np.array([1, 1, 2, 3, 4])], known=(1,), rtol=1e-4)


REGIONS = np.array([[0.5, 0.2, 4, 5], [-3, -2, 2, 3], [3, 3, 3.2, 3.1]], np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("kind", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("kernels", [False, True])
def test_regions(mode: str, kind: str, kernels: bool) -> None:
    arrays = [IMAGE, REGIONS, np.array([1, 0, 1], np.int64)]
    how = {"output_height": 2, "output_width": 3, "sampling_ratio": 2, "spatial_scale": 0.9}
    check("RoiAlign", arrays, mode=mode, coordinate_transformation_mode=kind, kernels=kernels, rtol=1e-3, **how)


@pytest.mark.parametrize("kernels", [False, True])
def test_deformable_convolutions(kernels: bool) -> None:
    x, w, bias = floats(1, 4, 5, 6), floats(4, 2, 2, 3), floats(4)
    offset, mask = floats(1, 2 * 6 * 2, 5, 3), floats(1, 2 * 6, 5, 3)
    how = {"group": 2, "offset_group": 2, "pads": [1, 0, 0, 2], "strides": [1, 2]}
    check("DeformConv", [x, w, offset, bias, mask], kernels=kernels, rtol=1e-3, **how)


# -- refusals ----------------------------------------------------------------------------------------------------------

OFFSET = floats(1, 8, 4, 4)


@pytest.mark.parametrize(
    ("op", "arrays", "how", "reason"),
    [
        ("Resize", resized(UP), {"mode": "lanczos"}, "mode 'lanczos'"),
        ("Resize", resized(UP), {"nearest_mode": "odd"}, "nearest_mode 'odd'"),
        ("Resize", resized(UP), {"coordinate_transformation_mode": "middle"}, "'middle'"),
        ("Resize", resized(UP), {"axes": [2]}, "4 sizes or scales for 1 axes"),
        ("Resize", resized(-UP), {}, "dimension 0"),
        ("Resize", [IMAGE], {}, "neither scales nor sizes"),
        ("Resize", [IMAGE, None, UP], {"coordinate_transformation_mode": "tf_crop_and_resize"}, "without a roi"),
        ("Resize", [IMAGE, UP[:2]], {"opset": 10}, "2 scales"),
        ("Resize", resized(None, sizes=np.array([1, 1, 9, 9])), {"keep_aspect_ratio_policy": "most"}, "'most'"),
        ("GridSample", [IMAGE, GRID], {"padding_mode": "wrap"}, "padding_mode 'wrap'"),
        ("GridSample", [IMAGE, GRID[..., :1]], {}, "grid f32"),
        ("AffineGrid", [floats(2, 2, 2), np.array([2, 3, 4, 5])], {}, "theta f32"),
        ("RoiAlign", [IMAGE, REGIONS, np.zeros(3, np.int64)], {}, "sampling_ratio 0"),
        ("RoiAlign", [IMAGE, REGIONS, np.zeros(3, np.int64)], {"sampling_ratio": 1, "mode": "min"}, "mode 'min'"),
        ("DeformConv", [floats(1, 2, 5), floats(2, 2, 2), OFFSET[0]], {}, "two spatial dimensions"),
        ("DeformConv", [floats(1, 2, 5, 5), floats(2, 2, 2, 2), OFFSET], {"group": 2}, "2 groups"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(op: str, arrays: list[Any], how: dict[str, Any], reason: str) -> None:
    constants = {f"x{i}": a for i, a in enumerate(arrays) if op != "GridSample" and i and a is not None}
    with pytest.raises(UnsupportedOpError, match=reason):
        import_onnx(node(op, arrays, **how), constants=constants)


def test_a_tiny_model_cannot_ask_for_a_huge_table() -> None:
    arrays = resized(None, sizes=np.array([1, 1, 2**40, 2]))
    with pytest.raises(ImportFailure, match="too much memory"):
        import_onnx(node("Resize", arrays), constants={"x1": NONE, "x3": arrays[3]})
