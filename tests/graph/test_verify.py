"""Each test breaks one invariant by hand; the verifier must say which."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from jitrt.errors import GraphError
from jitrt.graph import Graph, Layout, TensorType, f16, f32, parse, verify
from jitrt.graph.ops import Region

_TEXT = """
    graph g(%x: f32[2,3]{3,1}) {
      const %w: f32[3] = [1.0, 2.0, 3.0]
      %a = mul(%x, %w) : f32[2,3]{3,1} @ 'model.py:3'
      %b = reshape(%a) <shape=(6,)> : f32[6]{1+0@%a}
      %c = relu(%b) : f32[6]{1}
      return %c
    }"""


def _value(graph: Graph, name: str):
    return next(v for v in graph.values() if v.name == name)


def _retype(name: str, **changes) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        value = _value(graph, name)
        value.type = TensorType(
            changes.get("dtype", value.type.dtype),
            changes.get("shape", value.type.shape),
            changes.get("layout", value.type.layout),
        )

    return change


def _two_names(graph: Graph) -> None:
    _value(graph, "c").name = "a"


def _wrong_order(graph: Graph) -> None:
    graph.nodes.reverse()


def _lost_use(graph: Graph) -> None:
    _value(graph, "a").uses.clear()


def _extra_use(graph: Graph) -> None:
    _value(graph, "w").uses.append((graph.nodes[1], 0))


def _wrong_producer(graph: Graph) -> None:
    _value(graph, "b").producer = graph.nodes[0]


def _too_many_outputs(graph: Graph) -> None:
    graph.nodes[2].outputs.append(_value(graph, "a"))


def _foreign_output(graph: Graph) -> None:
    graph.outputs = [parse(_TEXT).outputs[0]]


def _constant_of_other_dtype(graph: Graph) -> None:
    _value(graph, "w").data = np.ones(3, np.float16)


def _view_of_a_view(graph: Graph) -> None:
    _retype("c", layout=Layout((1,), 0, "b"))(graph)
    graph.outputs = [_value(graph, "x")]


def test_a_good_graph():
    verify(parse(_TEXT))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_two_names, "the name %a is defined twice"),
        (_wrong_order, "%c = relu reads %b before it is defined"),
        (_lost_use, "the use list of %a is not exact"),
        (_extra_use, "the use list of %w is not exact"),
        (_wrong_producer, "%b does not name node 1 as its producer"),
        (_too_many_outputs, "has 2 outputs, its op infers 1"),
        (_foreign_output, "output %c is not defined in the graph"),
        (_constant_of_other_dtype, "constant %w is declared f32[3] but holds float16[3]"),
        (_retype("c", shape=(5,)), "%c = relu declares f32[5]"),
        (_retype("c", layout=Layout((1, 1))), "%c has rank 1 but strides (1, 1)"),
        (_retype("x", layout=Layout((1,))), "%x has rank 2 but strides (1,)"),
        (_retype("w", shape=(1,)), "constant %w is declared f32[1]"),
        (_retype("x", shape=(2, 4), layout=None), "%a = mul (model.py:3): mul: shapes [[2, 4], [3]] do not broadcast"),
        (_retype("b", layout=Layout((1,), 0, "nobody")), "%b lies in the storage of %nobody, which does not exist"),
        (_retype("b", layout=Layout((1,), 1, "a")), "reaches outside the storage of %a"),
        (_retype("b", layout=Layout((2,), 0, "a")), "reaches outside the storage of %a"),
        (_retype("c", layout=Layout((1,), 0, "a")), "output %c lies in the storage of %a"),
        (_view_of_a_view, "%c lies in the storage of %b, which has none of its own"),
    ],
)
def test_a_broken_graph(damage, message):
    graph = parse(_TEXT)
    damage(graph)
    with pytest.raises(GraphError) as caught:
        verify(graph)
    assert message in str(caught.value)


def test_a_storage_holds_one_dtype():
    graph = parse(
        "graph g(%x: f32[2]{1}) {\n%a = relu(%x) : f32[2]{1}\n"
        "%b = cast(%x) <dtype='f16'> : f16[2]{1+0@%a}\nreturn %a\n}"
    )
    with pytest.raises(GraphError, match="%b is f16, the storage of %a f32"):
        verify(graph)


def test_bodies_are_verified_too():
    body = parse("graph region(%i0: f32[2]) {\n%0 = relu(%i0) : f32[2]\nreturn %0\n}")
    graph = Graph("g")
    graph.mark_output(graph.add(Region(body), graph.add_input("x", TensorType(f32, (2,)))))
    verify(graph)
    body.inputs[0].uses.clear()
    with pytest.raises(GraphError, match="the use list of %i0"):
        verify(graph)


def test_a_regions_operands_fit_its_body():
    body = parse("graph region(%i0: f32[2]) {\n%0 = relu(%i0) : f32[2]\nreturn %0\n}")
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (2,)))
    graph.mark_output(graph.add(Region(body), x))
    x.type = TensorType(f16, (2,))
    with pytest.raises(GraphError, match=r"operand is f16\[2\]"):
        verify(graph)
