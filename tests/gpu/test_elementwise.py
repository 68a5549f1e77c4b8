"""Every elementwise op of integers, and every cast, on the GPU: where no interpreter can tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton")

import jitrt
from jitrt.graph import DType, Graph, TensorType, b8, f32, i64, interpret
from jitrt.graph import ops as o
from tests.codegen.test_pointwise import ELEMENTWISE, INTEGER, INTEGERS

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))


def of_integers() -> tuple[Graph, list[np.ndarray]]:
    """For every type of integers the sum of what all ops make of two tensors."""
    graph, rng, arrays = Graph("integers"), np.random.default_rng(0), []
    for dtype in INTEGERS:
        limits = np.iinfo(dtype.numpy)
        for name, low, high in (("x", limits.min, limits.max), ("y", 0 if dtype.is_unsigned else -9, 9)):
            graph.add_input(f"{name}.{dtype.value}", TensorType(dtype, (7, 33)))
            arrays.append(rng.integers(low, high, (7, 33), dtype.numpy, endpoint=True))
    graph.add_input("c", TensorType(b8, (7, 33)))
    arrays.append(rng.integers(0, 2, (7, 33)).astype(bool))
    for x, y in zip(graph.inputs[:-1:2], graph.inputs[1::2], strict=True):
        total = graph.scalar(0, i64)
        for op in ELEMENTWISE:
            if isinstance(op, INTEGER):
                operands = [graph.inputs[-1], x, y] if isinstance(op, o.Where) else [x, y][: op.arity]
                total = graph.add(o.Add(), graph.add(o.Cast(i64), graph.add(op, *operands)), total)
        graph.mark_output(total)
    return graph, arrays


def of_casts() -> tuple[Graph, list[np.ndarray]]:
    """Floats, negative ones and fractions among them, in every type; bits there and back."""
    graph = Graph("casts")
    x = graph.add_input("x", TensorType(f32, (7, 33)))
    for dtype in set(DType) - {f32}:
        graph.mark_output(graph.add(o.Cast(dtype), x))
    graph.mark_output(graph.add(o.BitCast(f32, DType.u32), x))
    return graph, [np.random.default_rng(0).uniform(-300, 300, (7, 33)).astype(np.float32)]


@pytest.mark.parametrize("made", [of_integers, of_casts])
def test_every_element_is_exact(made) -> None:
    graph, arrays = made()
    engine = jitrt.compile(graph, tune="heuristic")
    wanted = interpret(graph, arrays)
    for value, got, want in zip(graph.outputs, engine(*arrays), wanted, strict=True):
        assert got.dtype == want.dtype, value
        np.testing.assert_array_equal(got, want, err_msg=str(value.type))
