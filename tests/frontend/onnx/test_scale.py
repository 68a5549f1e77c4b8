"""The time an import takes grows with the number of nodes, not with its square; and a large file is read at once.

Processor time, so that a busy machine does not matter; eight times the nodes may take twenty times as long, where the
square would be sixty-four.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from jitrt.frontend.onnx import NeedsInput, import_onnx

SMALL, LARGE, FACTOR = 2_500, 20_000, 20


def seconds(data: bytes | Path) -> float:
    """Processor time of an import, or of finding out what it needs."""
    begin = time.process_time()
    with suppress(NeedsInput):
        import_onnx(data)
    return time.process_time() - begin


def model(nodes: list[onnx.NodeProto], outputs: list[str], **more: object) -> bytes:
    infos = [helper.make_tensor_value_info(name, kind, dims) for name, kind, dims in _INPUTS]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "net", infos, results, more.pop("initializer", None))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more).SerializeToString()


_INPUTS = (("x", 1, [4]), ("c", 9, []), ("k", 7, [1]))
_node = helper.make_node


def chain(count: int) -> bytes:
    """Weights, arithmetic, and shapes that are folded away."""
    nodes, weights, x = [], [], "x"
    for i in range(count // 5):
        weights.append(numpy_helper.from_array(np.ones(4, np.float32), f"w{i}"))
        nodes += [_node("Add", [x, f"w{i}"], [f"a{i}"]), _node("Relu", [f"a{i}"], [f"r{i}"])]
        nodes += [_node("Shape", [f"r{i}"], [f"s{i}"]), _node("Reshape", [f"r{i}", f"s{i}"], [f"q{i}"])]
        nodes.append(_node("Mul", [f"q{i}", f"w{i}"], [x := f"m{i}"]))
    return model(nodes, [x], initializer=weights)


def outputs(count: int) -> bytes:
    """Every node's result is an output of the model."""
    names = [f"y{i}" for i in range(count)]
    return model([_node("Neg", ["x"], [name]) for name in names], names)


def branches(count: int) -> bytes:
    """Constants without names of their own, and subgraphs that see everything before them."""
    nodes, x = [], "x"
    for i in range(count // 6):
        inner = {
            f"{name}_branch": helper.make_graph(
                [_node("Neg", [x], [f"{name}{i}"])], "b", [], [onnx.ValueInfoProto(name=f"{name}{i}")]
            )
            for name in ("then", "else")
        }
        nodes += [_node("Constant", [], [f"c{i}"], value_float=1.0), _node("Add", [x, f"c{i}"], [f"a{i}"])]
        nodes += [_node("If", ["c"], [f"b{i}"], **inner), _node("Mul", [f"a{i}", f"b{i}"], [f"m{i}"])]
        x = f"m{i}"
    return model(nodes, [x])


def calls(count: int) -> bytes:
    """A function of the model's own, and one of the standard, inlined at every call."""
    body = [_node("Neg", ["x"], ["a"]), _node("Abs", ["a"], ["y"])]
    function = helper.make_function("local", "f", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    names = ["x", *(f"m{i}" for i in range(count // 3))]
    nodes = [_node("f", [a], [b], domain="local") for a, b in pairwise(names)]
    return model(nodes, names[-1:], functions=[function])


def needed(count: int) -> bytes:
    """Shapes that depend on an input through ever longer chains: refused, with that input's name."""
    nodes, k = [], "k"
    for i in range(count // 2):
        nodes += [_node("Add", [k, "k"], [f"k{i}"]), _node("Reshape", ["x", f"k{i}"], [f"r{i}"])]
        k = f"k{i}"
    return model(nodes, [k])


@pytest.mark.parametrize("build", [chain, outputs, branches, calls, needed])
def test_import_is_linear_in_nodes(build: Callable[[int], bytes]) -> None:
    small, large = build(SMALL), build(LARGE)
    seconds(build(100))  # importers are loaded, schemas read
    few = min(seconds(small) for _ in range(2))
    many = seconds(large)
    print(f"{build.__name__}: {SMALL} nodes {few:.3f} s, {LARGE} nodes {many:.3f} s, {many / few:.1f} times")
    assert many < FACTOR * max(few, 0.02)


def test_a_large_file_is_read_at_once(tmp_path: Path) -> None:
    """100 MB, inside the file and beside it: under two seconds."""
    weights = [numpy_helper.from_array(np.zeros((1250, 1000), np.float32), f"w{i}") for i in range(20)]
    graph = helper.make_graph(
        [_node("Concat", [tensor.name for tensor in weights], ["y"], axis=0)],
        "net",
        [],
        [onnx.ValueInfoProto(name="y")],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "inside.onnx")
    onnx.save(proto, tmp_path / "beside.onnx", save_as_external_data=True, location="weights.bin")
    for name in ("inside", "beside"):
        took = seconds(tmp_path / f"{name}.onnx")
        print(f"100 MB {name}: {took:.2f} s")
        assert took < 2
