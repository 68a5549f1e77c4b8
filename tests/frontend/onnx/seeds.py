"""Small models of every kind that jitrt's ONNX front end reads: what the fuzzer begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

DATA = "weights.bin"  # the file with external data, of 4096 bytes

_SEEDS: dict[str, Callable[[], onnx.ModelProto]] = {}


def seeds() -> dict[str, onnx.ModelProto]:
    """All seed models, by name."""
    return {name: build() for name, build in _SEEDS.items()}


def write_data(folder: Path) -> None:
    """Put the file with external data where the seeds that need it look for it."""
    (folder / DATA).write_bytes(np.random.default_rng(0).standard_normal(1024).astype(np.float32).tobytes())


def _text(name: str, text: str, opset: int = 17, functions: str = "", **weights: object) -> None:
    """A model in ONNX's own text form; arrays for `weights` become initialisers, those given as a shape random ones."""

    def build() -> onnx.ModelProto:
        opsets = f'["" : {opset}, "com.microsoft" : 1, "ai.onnx.ml" : 3, "local" : 1]'
        model = parser.parse_model(f"<ir_version: 8, opset_import: {opsets}>\n{text}\n{functions}")
        rng = np.random.default_rng(0)
        for key, value in weights.items():
            array = rng.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else np.asarray(value)
            model.graph.initializer.append(numpy_helper.from_array(array, key))
        return model

    _SEEDS[name] = build


def _seed(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    _SEEDS[build.__name__.removeprefix("_")] = build
    return build


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


_text(
    "conv",
    """net (float[1,3,8,8] x) => (float[1,5] y) {
        a = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3], strides = [2, 2]> (x, w, b)
        c = BatchNormalization <epsilon = 0.001> (a, s, b, m, v)
        d = Relu (c)
        e = MaxPool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (d)
        f = GlobalAveragePool (e)
        g = Flatten (f)
        y = Gemm <transB = 1, alpha = 0.5> (g, q)
    }""",
    w=(4, 3, 3, 3), b=(4,), s=(4,), m=(4,), v=np.ones(4, np.float32), q=(5, 4),
)  # fmt: skip
_text(
    "conv_transpose",
    """net (float[1,2,5,5] x) => (y, z) {
        a = ConvTranspose <strides = [2, 2], output_padding = [1, 1], group = 2> (x, w)
        y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        z = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (y, i)
    }""",
    w=(2, 3, 3, 3),
)
_text(
    "lstm",
    """net (float[3,1,4] x) => (y, h, c) {
        y, h, c = LSTM <hidden_size = 3, direction = "bidirectional", activations = ["Sigmoid", "Tanh", "Tanh",
            "Sigmoid", "Tanh", "Tanh"]> (x, w, r, b, , h0)
    }""",
    w=(2, 12, 4), r=(2, 12, 3), b=(2, 24), h0=(2, 1, 3),
)  # fmt: skip
_text(
    "gru",
    """net (float[3,1,4] x) => (y, z) {
        y, h = GRU <hidden_size = 3, linear_before_reset = 1> (x, w, r)
        z = RNN <hidden_size = 3> (x, w1, r1)
    }""",
    w=(1, 9, 4), r=(1, 9, 3), w1=(1, 3, 4), r1=(1, 3, 3),
)  # fmt: skip
_text(
    "branch",
    """net (float[2,3] x) => (y) {
        c = Constant <value = bool {1}> ()
        y = If (c) <
            then_branch = t () => (float[2,3] p) { one = Constant <value_float = 1.0> ()
                p = Add (x, one) },
            else_branch = e () => (float[2,3] q) { q = Neg (x) }>
    }""",
)
_text(
    "branch_dynamic",
    """net (float[2,3] x, bool c) => (y) {
        y = If (c) <then_branch = t () => (float[2,3] p) { p = Exp (x) }, else_branch = e () => (float[2,3] q)
            { q = If (c) <then_branch = t () => (float[2,3] p) { p = Sin (x) },
                else_branch = e () => (float[2,3] q2) { q2 = Neg (x) }> }>
    }""",
)
_text(
    "loop",
    """net (float[2,3] x) => (y, scan) {
        n = Constant <value = int64 {4}> ()
        c = Constant <value = bool {1}> ()
        y, scan = Loop (n, c, x) <body = body (int64 i, bool go, float[2,3] state) => (bool keep, float[2,3] next,
            float[2,3] out) { keep = Identity (go)
                next = Mul (state, x)
                out = Sqrt (next) }>
    }""",
)
_text(
    "scan",
    """net (float[4,3] x) => (y, all) {
        zero = Constant <value_floats = [0.0, 0.0, 0.0]> ()
        y, all = Scan <num_scan_inputs = 1, body = body (float[3] s, float[3] e) => (float[3] t, float[3] o)
            { t = Add (s, e)
              o = Tanh (t) }> (zero, x)
    }""",
)
_text(
    "functions",
    """net (float[2,3] x) => (y) { a = local.twice (x)
        y = local.scaled <k = 3.0> (a) }""",
    functions="""
    <domain: "local", opset_import: ["" : 17, "local" : 1]> twice (x) => (y) { a = local.scaled (x)
        y = Add (a, x) }
    <domain: "local", opset_import: ["" : 17]> scaled <k: float = 2.0> (x) => (y)
        { c = Constant <value_float : float = @k> ()
          y = Mul (x, c) }""",
)
_text(
    "quantized",
    """net (float[1,4,6,6] x) => (y, z) {
        q = QuantizeLinear (x, s, zp)
        c = QLinearConv (q, s, zp, w, ws, wz, s, zp)
        y = DequantizeLinear <axis = 1> (c, s, zp)
        d, e, f = DynamicQuantizeLinear (x)
        g = DequantizeLinear (d, e, f)
        z = QuantizeLinear (g, s)
    }""",
    s=np.float32(0.1), zp=np.uint8(3), w=np.ones((2, 4, 3, 3), np.uint8), ws=np.float32(0.2), wz=np.uint8(1),
)  # fmt: skip
_text(
    "integer_matmul",
    """net (uint8[2,4] a, int8[4,3] b) => (y, z) {
        y = MatMulInteger (a, b, za, zb)
        z = QLinearMatMul (a, s, za, b, s, zb, s, za)
    }""",
    za=np.uint8(2), zb=np.int8(1), s=np.float32(0.5),
)  # fmt: skip
_text(
    "attention",
    """net (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (y, r) {
        y = Attention <is_causal = 1, scale = 0.3> (q, k, v)
        r = RotaryEmbedding (y, cos, sin)
    }""",
    opset=23, cos=(1, 4, 4), sin=(1, 4, 4),
)  # fmt: skip
_text(
    "attention_by_hand",
    """net (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (y) {
        t = Transpose <perm = [0, 1, 3, 2]> (k)
        s = MatMul (q, t)
        e = Div (s, d)
        p = Softmax <axis = -1> (e)
        y = MatMul (p, v)
    }""",
    d=np.float32(2.8),
)
_text(
    "norms",
    """net (float[2,6,4] x) => (a, c, e, f) {
        a, m, i = LayerNormalization <axis = -1> (x, s, b)
        c = Gelu <approximate = "tanh"> (a)
        e = GroupNormalization <num_groups = 2> (x, s2, s2)
        g = InstanceNormalization (x, s6, s6)
        h = LpNormalization <axis = 1, p = 1> (g)
        f = MeanVarianceNormalization <axes = [0, 2]> (h)
    }""",
    opset=20, s=(4,), b=(4,), s2=(2,), s6=(6,),
)  # fmt: skip
_text(
    "shapes",
    """net (float[2,3,4] x) => (y, z) {
        s = Shape (x)
        a = Gather (s, zero)
        u = Unsqueeze (a, axes)
        c = Concat <axis = 0> (u, minus)
        y = Reshape (x, c)
        n = Size (x)
        r = Range (z0, n, one)
        f = ConstantOfShape <value = float {1.5}> (c2)
        g = Expand (f, big)
        t = Tile (g, reps)
        h = Squeeze (t, axes)
        z = Cast <to = 10> (h)
    }""",
    zero=np.int64(0), axes=i64(0), minus=i64(-1), z0=np.int64(0), one=np.int64(1), c2=i64(1, 3), big=i64(1, 2, 3),
    reps=i64(1, 2, 1),
)  # fmt: skip
_text(
    "shape_input",
    """net (float[2,6] x, int64[2] s, int64[1] k) => (y, v) { y = Reshape (x, s)
        v, i = TopK <axis = 1, largest = 0> (x, k) }""",
)
_text(
    "old_forms",
    """net (float[2,3,8] x) => (y, z, w, v) {
        y = Slice <starts = [0, 1], ends = [2, 9], axes = [1, 2]> (x)
        p = Pad <pads = [0, 0, 1, 0, 0, 2], mode = "constant", value = 1.0> (x)
        u = Unsqueeze <axes = [0]> (x)
        s = Squeeze <axes = [0]> (u)
        z, t = TopK <k = 2, axis = -1> (p)
        a, b = Split <axis = 2, split = [3, 5]> (x)
        w = Upsample <scales = [1.0, 1.0, 2.0]> (a)
        v = ReduceSum <axes = [1], keepdims = 0> (b)
    }""",
    opset=7,
)
_text(
    "resize",
    """net (float[1,2,4,4] x) => (y, z) {
        y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , scales)
        z = Resize <mode = "cubic", cubic_coeff_a = -0.5> (x, , , sizes)
    }""",
    scales=np.array([1, 1, 2, 1.5], np.float32), sizes=i64(1, 2, 6, 3),
)  # fmt: skip
_text(
    "sampling",
    """net (float[1,2,6,6] x, float[1,3,3,2] g, float[2,4] rois) => (y, z) {
        y = GridSample <mode = "bilinear"> (x, g)
        z = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, rois, at)
    }""",
    at=i64(0, 0),
)
_text(
    "sequences",
    """net (float[4,3] x) => (y, e) {
        s = SplitToSequence <axis = 0> (x, two)
        t = SequenceInsert (s, x)
        f = SequenceAt (t, zero)
        u = SequenceConstruct (f, x)
        y = ConcatFromSequence <axis = 0> (u)
        o = Optional (y)
        has = OptionalHasElement (o)
        e = OptionalGetElement (o)
    }""",
    two=np.int64(2), zero=np.int64(0),
)  # fmt: skip
_text(
    "reductions",
    """net (float[2,3,4] x) => (a, b, c, e, f) {
        a = ReduceLogSumExp <keepdims = 0> (x, axes)
        b = ReduceL2 <noop_with_empty_axes = 1> (x)
        c = ArgMax <axis = 1, select_last_index = 1> (x)
        d = CumSum <reverse = 1> (x, one)
        e = Hardmax (d)
        f = LogSoftmax <axis = 1> (x)
    }""",
    opset=18, axes=i64(1), one=np.int64(1),
)  # fmt: skip
_text(
    "products",
    """net (float[2,3,4] x, float[4,5] w) => (y, z, d) {
        y = Einsum <equation = "bij,jk->bik"> (x, w)
        z = MatMul (x, w)
        q = Einsum <equation = "...ij,...kj->...ik"> (x, x)
        d = Det (q)
    }""",
)
_text(
    "indexing",
    """net (float[4,5] x, int64[2,2] i, float[2,2] u) => (a, b, c, e, f, h) {
        a = Gather <axis = 1> (x, i)
        b = GatherElements <axis = 1> (x, i)
        c = GatherND (x, i)
        e = ScatterElements <axis = 1, reduction = "add"> (x, i, u)
        f = OneHot (i, depth, values)
        g = Trilu (x)
        h = Slice (g, start, stop, axes, step)
    }""",
    opset=18, depth=np.int64(6), values=np.array([0, 1], np.float32), start=i64(-1), stop=i64(-9), axes=i64(1),
    step=i64(-2),
)  # fmt: skip
_text(
    "selecting",
    """net (float[1,4,4] boxes, float[1,2,4] scores) => (n, k, u) {
        n = NonMaxSuppression <center_point_box = 1> (boxes, scores, most, at, at)
        k = NonZero (scores)
        u, p, q, r = Unique <axis = 1> (boxes)
    }""",
    most=i64(2), at=np.array([0.5], np.float32),
)  # fmt: skip
_text(
    "losses",
    """net (float[2,3] x, int64[2] t) => (l, m, y) {
        l, p = SoftmaxCrossEntropyLoss <reduction = "sum", ignore_index = -1> (x, t, w)
        m = NegativeLogLikelihoodLoss (p, t)
        y, mask = Dropout (x, ratio)
    }""",
    w=(3,), ratio=np.float32(0.3),
)  # fmt: skip
_text(
    "signal",
    """net (float[1,16,1] x) => (y, z, w) {
        y = DFT <onesided = 1> (x, , one)
        w = HannWindow (size)
        z = STFT (x, step, w)
    }""",
    opset=20, one=np.int64(1), size=np.int64(8), step=np.int64(4),
)  # fmt: skip
_text(
    "microsoft",
    """net (float[1,3,8] x) => (y, f, g) {
        y, m, i, s = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (x, x, w, b)
        f = com.microsoft.FusedMatMul <alpha = 2.0> (y, q)
        g = com.microsoft.BiasGelu (f, b)
    }""",
    w=(8,), b=(8,), q=(8, 8),
)  # fmt: skip
_text(
    "classic_learning",
    """net (float[2,3] x) => (y, z) {
        s = ai.onnx.ml.Scaler <offset = [0.1, 0.2, 0.3], scale = [1.0, 2.0, 3.0]> (x)
        y = ai.onnx.ml.LinearRegressor <coefficients = [0.1, 0.2, 0.3], intercepts = [0.5], targets = 1> (s)
        z = ai.onnx.ml.Normalizer <norm = "L2"> (y)
    }""",
)
_text(
    "strings",
    """net (float[2] x) => (y, z) {
        c = Constant <value_strings = ["a", "b"]> ()
        u = StringNormalizer <case_change_action = "UPPER"> (c)
        z = Identity (u)
        y = Relu (x)
    }""",
)
_text(
    "elementwise",
    """net (float[2,3] x, int32[3] i, bool[2,1] b) => (y, z, w, v) {
        a = PRelu (x, slope)
        d = Clip (a, low)
        e = Where (b, d, x)
        y = Mod <fmod = 1> (e, x)
        f = BitShift <direction = "LEFT"> (k, k)
        g = Cast <to = 1> (i)
        z = Pow (g, x)
        w = Max (x, a, d)
        h = IsNaN (w)
        v = And (h, b)
    }""",
    slope=(3,), low=np.float32(-1), k=np.array([1, 2], np.uint8),
)  # fmt: skip


@_seed
def _external() -> onnx.ModelProto:
    """Weights in a file beside the model."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[2,8] x) => (y) { y = Gemm (x, w, b) }'
    )
    for name, dims, offset in (("w", (8, 4), 64), ("b", (4,), 256)):
        tensor = model.graph.initializer.add(name=name, dims=dims, data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        size = 4 * int(np.prod(dims))
        for key, value in (("location", DATA), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
    return model


@_seed
def _sparse() -> onnx.ModelProto:
    """A sparse initialiser and a sparse Constant."""
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "w")
    flat = helper.make_sparse_tensor(values, numpy_helper.from_array(i64(0, 11)), [3, 4])
    plain = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([3.0], np.float32)), numpy_helper.from_array(np.array([[1, 2]])), [2, 4]
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=plain),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, 1, dims) for name, dims in (("x", [2, 3]), ("y", [2, 4])))
    graph = helper.make_graph(nodes, "net", [x], [y], sparse_initializer=[flat])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@_seed
def _typed_fields() -> onnx.ModelProto:
    """An initialiser of every element type that jitrt has, in the field of its own and not in raw bytes."""
    kinds = onnx.TensorProto
    plain = (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16, kinds.INT64, kinds.INT32, kinds.INT16)
    small = (kinds.INT8, kinds.UINT8, kinds.UINT16, kinds.UINT32, kinds.UINT64, kinds.BOOL)
    return _casts(*plain, *small)


@_seed
def _packed() -> onnx.ModelProto:
    """Element types smaller than a byte, and 8-bit floats."""
    return _casts(onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT8E4M3FN)


def _casts(*kinds: int) -> onnx.ModelProto:
    tensors = [helper.make_tensor(f"c{kind}", kind, [2, 1], [1, 0]) for kind in kinds]
    nodes = [helper.make_node("Cast", [tensor.name], [f"y{tensor.name}"], to=1) for tensor in tensors]
    outputs = [helper.make_tensor_value_info(f"y{tensor.name}", 1, [2, 1]) for tensor in tensors]
    graph = helper.make_graph(nodes, "net", [], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
