"""Models of one node, and what they give: here, in ONNX's own reference, and through kernels in the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from jitrt.frontend.onnx import import_onnx
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import NEWEST

Arrays = Sequence[np.ndarray[Any, Any] | None]
RNG = np.random.default_rng(7)


def floats(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(dtype)


def node(
    op: str,
    arrays: Arrays,
    *,
    outputs: int = 1,
    opset: int = NEWEST,
    domain: str = "",
    version: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node, of `version` of a domain that is not the standard's; None is an operand left out."""
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    results = [f"y{i}" for i in range(outputs)]
    inputs = [
        helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for i, array in enumerate(arrays)
        if array is not None
    ]
    made = helper.make_node(op, names, results, domain=domain, **attributes)
    graph = helper.make_graph([made], op, inputs, [onnx.ValueInfoProto(name=name) for name in results])
    versions = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, version)] if domain else [])]
    return helper.make_model(graph, opset_imports=versions)


def run(op: str, arrays: Arrays, *, known: Sequence[int] = (), kernels: bool = False, **options: Any) -> list[Any]:
    """The results in numpy, or of kernels in the interpreter; operands `known` are part of the graph."""
    constants = {f"x{i}": arrays[i] for i in known}
    graph = import_onnx(node(op, arrays, **options), constants=constants).graph
    given = [array for i, array in enumerate(arrays) if array is not None and i not in known]
    return list(plan_interpreted(graph).run(given) if kernels else interpret(graph, given))


def expected(op: str, arrays: Arrays, **options: Any) -> list[Any]:
    """The results of ONNX's reference."""
    model = node(op, arrays, **options)
    feed = {f"x{i}": array for i, array in enumerate(arrays) if array is not None}
    return list(ReferenceEvaluator(model).run(None, feed))


def check(op: str, arrays: Arrays, *, wanted: Any = None, rtol: float = 1e-5, **options: Any) -> None:
    """That the results are the reference's, or `wanted`, in type, shape and number."""
    asked = {name: value for name, value in options.items() if name not in ("known", "kernels")}
    wanted = expected(op, arrays, **asked) if wanted is None else wanted
    got = run(op, arrays, **options)
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        theirs = np.asarray(theirs, np.float64)
        # Sums that come near 0 are as far off as their terms are.
        atol = max(1e-6, 0.1 * rtol * float(np.max(np.abs(theirs), initial=0, where=np.isfinite(theirs))))
        np.testing.assert_allclose(ours.astype(np.float64), theirs, rtol, atol, equal_nan=True)
