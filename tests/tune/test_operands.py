"""What operands a candidate is verified and timed on."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import DType, Graph, TensorType, f32, i8, i64
from jitrt.graph.ops import Add, Gather
from jitrt.testing import make_problem
from jitrt.tune.operands import draw_operands


@pytest.mark.parametrize(("dtype", "least", "most"), [(i64, -900, 900), (i8, -128, 127)], ids=str)
def test_positions_are_all_over_what_is_gathered_from(dtype: DType, least: int, most: int) -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (1000, 4)))
    index, more = (g.add_input(name, TensorType(dtype, (5000, 1))) for name in ("index", "more"))
    g.mark_output(g.add(Gather(0), x, g.add(Add(), index, more)))
    problem = make_problem(g)
    for array in draw_operands(problem.body, problem, np.random.default_rng(0), False)[1:]:
        assert array.dtype == dtype.numpy
        assert array.min() <= least
        assert array.max() >= most
        assert -1000 <= array.min() <= array.max() < 1000
