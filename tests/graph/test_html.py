from __future__ import annotations

import numpy as np

from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Add, Clamp, Slice, Tanh
from jitrt.passes import optimize


def _graph() -> Graph:
    graph = Graph("<script>")
    x = graph.add_input("x", TensorType(f32, (2,)))
    y = graph.add(Add(), x, graph.add_constant(np.ones(2, np.float32), "w&b"), loc="<b>model.py</b>:3")
    graph.mark_output(graph.add(Clamp(0.0), graph.add(Tanh(), y)))
    return graph


def test_one_row_a_node_and_everything_escaped():
    text = _graph()._repr_html_()
    assert text.count("<tr>") == 1 + 3
    assert "<script>" not in text
    assert "&lt;b&gt;model.py&lt;/b&gt;:3" in text
    assert "#w&amp;b" in text
    assert "3 nodes, 1 constant of 0.0 kB" in text


def test_attributes_that_say_something_are_shown():
    text = _graph()._repr_html_()
    assert "low=0.0" in text
    assert "high" not in text


def test_long_attributes_are_cut_but_kept_in_the_tooltip():
    graph = Graph("g")
    shape = (10,) * 12
    x = graph.add_input("x", TensorType(f32, shape))
    graph.mark_output(graph.add(Slice((0,) * 12, shape, (1,) * 12), x))
    text = graph._repr_html_()
    assert "…" in text
    assert "step=(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)'" in text


def test_a_regions_body_is_folded_away_under_its_ops():
    text = optimize(_graph())._repr_html_()
    assert "<details><summary>add + tanh + clamp</summary>" in text
    assert text.count("<table>") == 2
