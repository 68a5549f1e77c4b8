from __future__ import annotations

from jitrt.graph.dtype import DType
from jitrt.plan.dtypes import ITEMSIZE, numpy_dtype


def test_agrees_with_the_graph():
    """Plan and runtime may not import the graph, so they have a table of their own."""
    assert set(ITEMSIZE) == {dtype.value for dtype in DType}
    for dtype in DType:
        assert numpy_dtype(dtype.value) == dtype.numpy
        assert ITEMSIZE[dtype.value] == dtype.itemsize
