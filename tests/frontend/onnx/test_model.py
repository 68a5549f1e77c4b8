"""Broken models: each ends in one typed error that names what is wrong, in little time and memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser

from jitrt.errors import ImportFailure, JitrtError, ModelError, UnsupportedOpError
from jitrt.frontend.onnx import Limits, import_onnx, read_model
from jitrt.frontend.onnx import registry as onnx_registry
from jitrt.graph import Graph
from tests.frontend.onnx.fuzz import bounded_memory
from tests.frontend.onnx.seeds import seeds


def model(text: str, *initialisers: TensorProto, opset: int = 17) -> onnx.ModelProto:
    opsets = f'["" : {opset}, "local" : 1]'
    proto = parser.parse_model(f"<ir_version: 8, opset_import: {opsets}> {text}")
    proto.graph.initializer.extend(initialisers)
    return proto


def relu() -> onnx.ModelProto:
    return model("net (float[2,3] x) => (y) { y = Relu (x) }")


def added(tensor: TensorProto) -> onnx.ModelProto:
    """A model that adds the initialiser w."""
    tensor.name = "w"
    return model("net (float[2,3] x) => (y) { y = Add (x, w) }", tensor)


def refused(source: Any, match: str, kind: type[Exception] = ModelError, **options: Any) -> Exception:
    with pytest.raises(kind, match=match) as caught:
        import_onnx(source, **options)
    return caught.value


# -- files and bytes -------------------------------------------------------------------------------------------------


def test_a_model_from_everywhere_is_the_same(tmp_path: Path) -> None:
    proto = relu()
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    link = tmp_path / "link.onnx"
    link.symlink_to(path)  # the model itself may be behind a link: its caller named it
    sources = [path, str(path), link, path.read_bytes(), bytearray(path.read_bytes()), proto, read_model(proto)]
    sources.append(SimpleNamespace(model_proto=proto))  # torch.onnx.ONNXProgram has one
    texts = {import_onnx(source).graph.text() for source in sources}
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["branch", "functions", "quantized"])
def test_no_truncation_means_something_else(name: str) -> None:
    data = seeds()[name].SerializeToString()
    whole = _outcome(data)
    outcomes = [_outcome(data[:length]) for length in range(len(data))]
    assert set(outcomes) <= {"ModelError", "UnsupportedOpError", whole}
    assert outcomes.count("ModelError") > len(data) // 2


def _outcome(data: bytes) -> str:
    try:
        return import_onnx(data).graph.text()
    except JitrtError as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "no graph"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no ONNX model"),
        (b"{'a': 1}", "no ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_what_is_no_model(data: bytes, match: str) -> None:
    refused(data, match)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "No such file")
    refused(tmp_path, "not a regular file")
    refused("/dev/zero", "not a regular file")
    refused("a\0b", "cannot read")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "not a regular file")
    refused(3, "int is no model")
    (tmp_path / "m.onnx").write_bytes(relu().SerializeToString())
    with pytest.raises(ModelError, match="more than 10: keep its tensors in a file"):
        read_model(tmp_path / "m.onnx", Limits(file=10))


# -- versions --------------------------------------------------------------------------------------------------------


def test_versions() -> None:
    newest = onnx.defs.onnx_opset_version()
    proto = relu()
    proto.ir_version = onnx.IR_VERSION + 1
    refused(proto, f"IR version {onnx.IR_VERSION + 1}; the installed onnx")
    proto.ir_version = 0
    refused(proto, "IR version 0")
    assert import_onnx(model("net (float[2] x) => (y) { y = Relu (x) }", opset=newest)).outputs == ("y",)
    refused(
        model("net (float[2] x) => (y) { y = Relu (x) }", opset=newest + 1),
        f"opset {newest + 1}; the newest .* {newest}",
    )
    refused(model("net (float[2] x) => (y) { y = Relu (x) }", opset=0), "opset 0, which there is none of")
    proto = relu()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refused(proto, "opset 13 and 17 of the same operators")
    del proto.opset_import[:]
    refused(proto, r"node y \(Relu\): opset_import does not name")


# -- nesting ---------------------------------------------------------------------------------------------------------


def nested(depth: int) -> onnx.ModelProto:
    """If in If in If..., made in memory: a file cannot nest so deep."""
    proto = model("net (float[2] x, bool c) => (y) { y = Identity (x) }")
    graph = proto.graph
    for level in range(depth):
        node = graph.node.add(op_type="If", input=["c"], output=[f"p{level}"])
        for name in ("else_branch", "then_branch"):
            attribute = node.attribute.add(name=name, type=AttributeProto.GRAPH)
            attribute.g.output.add(name="x")
        graph = attribute.g
    return proto


def test_subgraphs_nested_too_deep() -> None:
    assert import_onnx(nested(20)).outputs == ("y",)
    refused(nested(Limits().depth + 1), "subgraphs nest deeper than 48")
    inner = b"\x2a\x00"
    for _ in range(300):  # a GraphProto with a node with an attribute with a GraphProto, in bytes
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            inner = tag + _varint(len(inner)) + inner
    refused(b"\x08\x08\x3a" + _varint(len(inner)) + inner, "no ONNX model.*Depth")


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def functions(*bodies: tuple[str, str]) -> onnx.ModelProto:
    """A model that calls f0 of these functions (name, body)."""
    text = "net (float[2] x) => (y) { y = local.f0 (x) }"
    for name, body in bodies:
        text += f'\n<domain: "local", opset_import: ["" : 17, "local" : 1]> {name} (x) => (y) {{ {body} }}'
    return model(text)


def test_functions_that_call_themselves() -> None:
    refused(functions(("f0", "y = local.f0 (x)")), "in a circle: f0 -> f0")
    circle = functions(("f0", "y = local.f1 (x)"), ("f1", "a = local.f2 (x) y = Relu (a)"), ("f2", "y = local.f0 (x)"))
    refused(circle, "in a circle: f0 -> f1 -> f2 -> f0")
    inside = """c = Constant <value = bool {1}> ()
        y = If (c) <then_branch = t () => (a) { a = local.f0 (x) }, else_branch = e () => (b) { b = Neg (x) }>"""
    refused(functions(("f0", inside)), "in a circle: f0 -> f0")


def test_a_function_in_place_of_an_operator_that_its_body_is_made_of() -> None:
    """No circle in the file: Softplus's body in the standard uses Exp, which the model defines through Softplus."""
    proto = model("net (float[2] x) => (y) { y = Exp (x) }")
    proto.functions.append(
        helper.make_function(
            "", "Exp", ["x"], ["y"], [helper.make_node("Selu", ["x"], ["y"])], [helper.make_opsetid("", 17)]
        )
    )
    imported = {key: value for key, value in onnx_registry.importers().items() if key != ("", "Selu")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_registry, "importers", lambda: imported)
        refused(proto, "nest deeper than 48", ImportFailure)


def test_functions_that_are_a_billion_nodes() -> None:
    """Thirty functions, each calling the next twice."""
    bodies = [(f"f{i}", f"a = local.f{i + 1} (x) y = local.f{i + 1} (a)") for i in range(30)]
    refused(functions(*bodies, ("f30", "y = Relu (x)")), "is more than 250000 nodes with those it calls")
    bodies = [(f"f{i}", f"y = local.f{i + 1} (x)") for i in range(1000)]
    refused(functions(*bodies, ("f1000", "y = Relu (x)")), "nest deeper than 48")
    twelve = [(f"f{i}", f"a = local.f{i + 1} (x) y = local.f{i + 1} (a)") for i in range(10)]
    assert len(import_onnx(functions(*twelve, ("f10", "y = Relu (x)"))).graph.nodes) == 1024


def test_the_same_function_twice() -> None:
    refused(functions(("f0", "y = Relu (x)"), ("f0", "y = Neg (x)")), "two functions 'f0'")


@pytest.mark.parametrize(
    "body",
    ["(bool g, float[2] o) { o = Relu (s) }", "(bool g, float[2] o) { o = Identity (s) }", "(bool g, float[2] s) {}"],
)
def test_a_loop_that_never_ends(body: str) -> None:
    text = f"""net (float[2] x) => (y) {{
        n = Constant <value = int64 {{4611686018427387904}}> ()
        c = Constant <value = bool {{1}}> ()
        y = Loop (n, c, x) <body = b (int64 i, bool g, float[2] s) => {body}> }}"""
    refused(read_model(model(text), Limits(nodes=2000)), r"Loop|o \(", (ImportFailure, UnsupportedOpError))  # type: ignore[arg-type]
    proto = model(text.replace("4611686018427387904", "50"))
    proto.graph.node[2].attribute[0].g.initializer.extend(helper.make_tensor(f"i{i}", 1, [], [1]) for i in range(100))
    refused(read_model(proto, Limits(nodes=4000)), "over 4000 nodes", ImportFailure)


# -- tensors ---------------------------------------------------------------------------------------------------------

ROW = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"data_type": 1, "dims": [2, 3], "raw_data": bytes(24), "float_data": [0] * 6}, "float_data and in raw_data"),
        ({"data_type": 1, "dims": [2, 3], "float_data": [0] * 6, "int32_data": [1]}, "float_data and in int32_data"),
        ({"data_type": 1, "dims": [2, 3], "raw_data": bytes(20)}, r"float\[2, 3\] is 24 bytes, it has 20"),
        ({"data_type": 1, "dims": [2, 3], "float_data": [0] * 7}, "needs 6 values, it has 7"),
        ({"data_type": 1, "dims": [2, 3]}, "needs 6 values, it has 0"),
        ({"data_type": 1, "dims": [2, 3], "int64_data": [0] * 6}, "float is kept in float_data, it has int64_data"),
        ({"data_type": 1, "dims": [-2, -3], "float_data": [0] * 6}, "negative dimension"),
        ({"data_type": 1, "dims": [1 << 40, 1 << 40], "float_data": [0]}, "more elements than can be counted"),
        ({"data_type": 1, "dims": [1 << 40], "raw_data": bytes(8)}, "it has 8"),
        ({"data_type": 1, "dims": [1] * 65, "float_data": [0]}, "65 dimensions"),
        ({"data_type": 0, "dims": [], "float_data": [0]}, "unknown element type 0"),
        ({"data_type": 999, "dims": [], "float_data": [0]}, "unknown element type 999"),
        ({"data_type": 8, "dims": [1], "raw_data": b"a"}, "strings cannot be kept as raw bytes"),
        ({"data_type": 8, "dims": [2], "string_data": [b"a"]}, "needs 2 values, it has 1"),
        ({"data_type": 22, "dims": [3], "raw_data": b"a"}, r"int4\[3\] is 2 bytes, it has 1"),
        ({"data_type": 14, "dims": [2], "float_data": [0, 0]}, "complex64.* needs 4 values"),
        ({"data_type": 1, "dims": [1], "segment": {"begin": 0, "end": 1}, "raw_data": bytes(4)}, "in segments"),
        ({"data_type": 1, "dims": [1], "data_location": 1, "raw_data": bytes(4)}, "raw_data and in external_data"),
    ],
)
def test_tensors_that_contradict_themselves(fields: dict[str, Any], match: str) -> None:
    refused(added(TensorProto(**fields)), f"tensor 'w'.*{match}")


def test_element_types_that_jitrt_lacks_are_listed_with_the_operators() -> None:
    text = helper.make_tensor("w", TensorProto.STRING, [1], [b"a"])
    error = refused(added(text), "initialiser: jitrt has no element type string", UnsupportedOpError)
    assert isinstance(error, UnsupportedOpError)
    refused(added(helper.make_tensor("w", TensorProto.INT4, [2], [1, 2])), "no element type int4", UnsupportedOpError)


def test_every_field_of_numbers_is_read() -> None:
    proto = seeds()["typed_fields"]
    reader = read_model(proto)
    for tensor in proto.graph.initializer:
        array = reader.read(tensor)
        assert array.shape == (2, 1) and array.astype(np.float64).ravel().tolist() == [1, 0]
        raw = numpy_helper.from_array(array)
        assert np.array_equal(reader.read(raw), array) and reader.read(raw).dtype == array.dtype
    booleans = TensorProto(data_type=9, dims=[3], raw_data=b"\x00\x02\xff")
    assert reader.read(booleans).view(np.uint8).tolist() == [0, 1, 1]


def sparse(dims: list[int], indices: np.ndarray, values: np.ndarray = ROW[0, :2]) -> onnx.ModelProto:
    proto = model("net (float[2,3] x) => (y) { y = Relu (x) }")
    tensor = helper.make_sparse_tensor(numpy_helper.from_array(values, "w"), numpy_helper.from_array(indices), dims)
    proto.graph.sparse_initializer.append(tensor)
    return proto


@pytest.mark.parametrize(
    ("dims", "indices", "match"),
    [
        ([1 << 20, 1 << 20], [0, 1], "takes too much memory"),
        ([1 << 40, 1 << 40], [0, 1], "more elements than can be counted"),
        ([2, 3], [0, 6], "an index outside"),
        ([2, 3], [-1, 0], "an index outside"),
        ([2, 3], [[0, 0], [0, 3]], "an index outside"),
        ([2, 3], [0, 1, 2], r"indices of shape \[3\] for 2 values"),
        ([2, 3], [[[0, 1]]], "indices of shape"),
        ([-2, 3], [0, 1], "negative dimension"),
    ],
)
def test_sparse_tensors(dims: list[int], indices: list[Any], match: str) -> None:
    with bounded_memory(1 << 28):
        refused(sparse(dims, np.array(indices)), match, ImportFailure)


def test_sparse_tensors_have_one_budget() -> None:
    proto = sparse([1 << 12, 1 << 12], np.array([0, 1]))
    for index in range(40):
        copy = proto.graph.sparse_initializer.add()
        copy.CopyFrom(proto.graph.sparse_initializer[0])
        copy.values.name = f"w{index}"
    with pytest.raises(ImportFailure, match="take over 1073741824 bytes"):
        import_onnx(proto)


# -- sizes that a few bytes ask for ----------------------------------------------------------------------------------

HUGE = 1 << 33


@pytest.mark.parametrize(
    "body",
    [
        "y = ConstantOfShape (n)",
        "y = Expand (x, n)",
        "y = Tile (x, n)",
        "y = Range (zero, huge, one)",
        "y = OneHot (zero, huge, pair)",
        "a = Expand (x, square) y = EyeLike (a)",
        "a = Expand (x, square) y = Trilu (a)",
        "a = Expand (x, square) y = Attention (a, a, a)",
        "y = Resize <mode = \"linear\"> (image, , , sizes)",
        "y = Resize <mode = \"nearest\"> (image, , , sizes)",
        "y = Pad <mode = \"reflect\"> (x, n)",
        "y = Pad (x, n)",
        "y = SplitToSequence (big, one)",
        "a = ConstantOfShape (n) y = ReduceSum (a)",
        "a = Expand (x, n) y = Slice (a, one1, one1, one1, minus)",
        "a = Expand (x, n) y = Hardmax (a)",
        "y = HannWindow (huge)",
        "y = AffineGrid (theta, sizes)",
        "y = CenterCropPad (x, n)",
        "a = Expand (x, n) y = ReverseSequence <time_axis = 0, batch_axis = 1> (a, one1)",
    ],
)  # fmt: skip
def test_size_bombs(body: str) -> None:
    """Each is a graph of nodes that nobody has computed, or refused; neither takes memory."""
    numbers = {
        "n": [HUGE, 1], "zero": 0, "huge": HUGE, "one": 1, "one1": [1], "minus": [-1], "square": [1 << 20, 1 << 20],
        "sizes": [1, 1, 1 << 20, 1 << 20],
    }  # fmt: skip
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    for name, dims in (("pair", [2]), ("image", [1, 1, 2, 2]), ("theta", [1, 2, 3])):
        tensors.append(numpy_helper.from_array(np.ones(dims, np.float32), name))
    proto = model(f"net (float[1,1] x, float[{HUGE}] big) => (y) {{ {body} }}", *tensors, opset=23)
    with bounded_memory(1 << 28):
        error, graph = None, Graph()
        try:
            graph = import_onnx(proto).graph
        except (ImportFailure, UnsupportedOpError) as refusal:
            error = refusal
    assert not isinstance(error and error.__cause__, MemoryError), error
    assert sum(value.data.nbytes for value in graph.constants.values() if value.data is not None) < 1 << 20


def test_results_that_no_machine_holds() -> None:
    proto = model(f"net (float[{1 << 30}] x, float[{1 << 30},1] z) => (y) {{ y = Add (x, z) }}")
    refused(proto, r"node y \(Add\): a result of .* is more than 1099511627776 bytes", ImportFailure)
    refused(model(f"net (float[{1 << 40},{1 << 40}] x) => (y) {{ y = Relu (x) }}"), "input 'x'.*more elements")


def test_what_is_folded_has_a_budget() -> None:
    """A chain of sums of constants, each small enough to be computed at import, is not computed for ever."""
    data = numpy_helper.from_array(np.ones(1 << 16, np.float32), "c0")
    body = " ".join(f"c{i + 1} = Add (c{i}, c{i})" for i in range(600))
    graph = import_onnx(model(f"net (float[1] x) => (y) {{ {body} y = Add (x, c600) }}", data)).graph
    assert 300 < len(graph.nodes) < 400
    few = "net (float[2,3] x) => (y) { a = Add (c, c) y = Add (a, x) }"
    assert len(import_onnx(model(few, numpy_helper.from_array(ROW, "c"))).graph.nodes) == 1


# -- names -----------------------------------------------------------------------------------------------------------


def changed(text: str, change: Callable[[onnx.GraphProto], object]) -> onnx.ModelProto:
    proto = model(text)
    change(proto.graph)
    return proto


TWO = "net (float[2,3] x) => (y) { a = Relu (x) y = Neg (a) }"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: g.node.append(g.node[0]), r"node a \(Relu\) computes 'a', a name that is already taken"),
        (lambda g: g.node[1].output.append("x"), "already taken|2 outputs"),
        (lambda g: g.input.append(g.input[0]), "two 'x', each an input"),
        (lambda g: g.initializer.extend([helper.make_tensor("w", 1, [], [1])] * 2), "two 'w', each an initialiser"),
        (lambda g: g.initializer.append(helper.make_tensor("", 1, [], [1])), "initialiser of graph 'net' has no name"),
        (lambda g: g.node[1].input.__setitem__(0, "gone"), r"node y \(Neg\) reads 'gone', which nothing"),
        (lambda g: g.node[0].input.__setitem__(0, "y"), r"node a \(Relu\) reads 'y', which is only computed later"),
        (lambda g: g.node[0].input.__setitem__(0, "a"), r"node a \(Relu\) reads 'a', which is only computed later"),
        (lambda g: g.output.add(name="gone"), "'gone', an output of graph 'net', is computed by nothing"),
        (lambda g: g.ClearField("output"), "no outputs"),
        (lambda g: setattr(g.node[0], "op_type", ""), "has no operator"),
        (lambda g: g.node[0].input.append("x"), r"node a \(Relu\): it has 2 inputs; the operator has 1"),
        (lambda g: g.node[0].ClearField("input"), r"node a \(Relu\): it has 0 inputs; the operator has 1"),
        (lambda g: g.node[0].output.append("b"), r"node a \(Relu\): it has 2 outputs; the operator has 1"),
    ],
)
def test_names(change: Callable[[onnx.GraphProto], object], match: str) -> None:
    refused(changed(TWO, change), match)


def test_names_that_are_no_text() -> None:
    data = model("net (float[2] xyxy) => (y) { abab = Relu (xyxy) y = Neg (abab) }").SerializeToString()
    refused(data.replace(b"xyxy", b"\xff\xfe\xff\xfe"), "no text")
    refused(data.replace(b"abab", b"\xff\xfe\xff\xfe"), "no text")
    refused(data.replace(b"Relu", b"\xff\xfe\xff\xfe"), "no text")


# -- attributes ------------------------------------------------------------------------------------------------------


def attribute(**fields: Any) -> onnx.ModelProto:
    """A Transpose with one attribute."""
    proto = model("net (float[2,3] x) => (y) { y = Transpose (x) }")
    proto.graph.node[0].attribute.add(**fields)
    return proto


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"name": "perm", "type": AttributeProto.INT, "i": 1}, "attribute 'perm' is int, expected ints"),
        ({"name": "perm", "type": AttributeProto.STRING, "s": b"1"}, "attribute 'perm' is string, expected ints"),
        ({"name": "perm", "ints": [1, 0]}, "no type that ONNX knows"),
        ({"name": "", "type": AttributeProto.INTS}, "no name"),
        ({"name": "perm", "type": AttributeProto.INTS, "ints": [1, 0], "f": 1.0}, "is ints, but has values in f, ints"),
        ({"name": "perm", "type": AttributeProto.TENSOR}, "is tensor, but there is none in it"),
        (
            {"name": "perm", "type": AttributeProto.INTS, "ref_attr_name": "p"},
            "takes its value from 'p', but it is in no",
        ),
    ],
)
def test_attributes(fields: dict[str, Any], match: str) -> None:
    refused(attribute(**fields), rf"node y \(Transpose\).*{match}")


def test_attributes_twice_or_missing() -> None:
    proto = attribute(name="perm", type=AttributeProto.INTS, ints=[1, 0])
    proto.graph.node[0].attribute.append(proto.graph.node[0].attribute[0])
    refused(proto, "attribute 'perm' twice")
    refused(
        model("net (float[2,3] x) => (y) { y = Cast (x) }"),
        r"node y \(Cast\): attribute 'to' is missing",
    )


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("y = Transpose <perm = [0, 5]> (x)", r"node y \(Transpose\)"),
        ("y = Transpose <perm = [0]> (x)", r"node y \(Transpose\)"),
        ("y = Concat <axis = 9> (x, x)", "axis 9"),
        ("y = Flatten <axis = 9> (x)", "axis 9"),
        ("y = GatherElements <axis = -9> (x, x)", "axis -9"),
        ("y = Cast <to = 999> (x)", "number 999"),
        ("y = MatMul (x, x)", r"node y \(MatMul\)"),
        ("y = Conv (x, x)", "Conv"),
        ("y = Einsum <equation = \"(((\"> (x)", r"node y \(Einsum\)|Einsum"),
        ("a = Constant <value_ints = [5, 7]> () y = Reshape (x, a)", r"node y \(Reshape\)"),
        ("a = Constant <value_ints = [9]> () y = Gather (x, a)", "Gather"),
        ("a = Constant <value_ints = [9]> () y = Unsqueeze (x, a)", "Unsqueeze"),
        ("y = Add (, x)", r"node y \(Add\): it leaves out input 0, 'A'"),
    ],
)  # fmt: skip
def test_what_only_an_importer_can_see(body: str, match: str) -> None:
    refused(model(f"net (float[2,3] x) => (y) {{ {body} }}"), match, (ImportFailure, UnsupportedOpError))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [TypeError("t"), KeyError("k"), AssertionError("a"), ZeroDivisionError(), MemoryError()]
)
def test_what_an_importer_stumbles_over_names_the_node(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def stumble(n: object, x: object) -> None:
        raise error

    monkeypatch.setitem(onnx_registry.importers(), ("", "Relu"), {1: stumble})
    caught = refused(relu(), rf"node y \(Relu\): {type(error).__name__}", ImportFailure)
    assert caught.__cause__ is error  # which --debug shows


def test_an_output_of_another_type_than_its_nodes_compute() -> None:
    proto = model("net (float[2] x) => (int64[2] y) { y = Relu (x) }")
    refused(proto, "output 'y' is declared int64, but its nodes compute float", ImportFailure)


# -- what is given for inputs ----------------------------------------------------------------------------------------


def test_what_is_given_for_inputs() -> None:
    proto = model("net (float[n,3] x) => (y) { y = Relu (x) }")
    assert import_onnx(proto, shapes={"x": (5, 3)}).graph.inputs[0].type.shape == (5, 3)
    refused(proto, "dynamic dims n", ImportFailure)
    refused(proto, "no input 'z'; its inputs: x", ImportFailure, shapes={"z": (1,)})
    refused(proto, "no input 'z'", ImportFailure, constants={"z": np.ones(1)})
    refused(proto, r"\[\?, 3\] in the model, \[5, 4\] does not fit", ImportFailure, shapes={"x": (5, 4)})
    refused(proto, "does not fit", ImportFailure, shapes={"x": (3,)})
    refused(proto, "negative dimension", ImportFailure, shapes={"x": (-1, 3)})
    refused(proto, "is not float64 in the model", ImportFailure, constants={"x": np.ones((5, 3))})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1  # as some exporters write a dynamic dimension
    assert import_onnx(proto, shapes={"x": (5, 3)}).graph.inputs[0].type.shape == (5, 3)
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    refused(proto, "input 'x' is sequence; jitrt's engines take tensors", ImportFailure)
