from __future__ import annotations

import pytest

from jitrt.errors import OptionError
from jitrt.graph import parse
from jitrt.passes import PassContext
from jitrt.passes.eliminate_unused import eliminate_unused


def test_what_changes_nothing_goes(rewrites):
    outcome = rewrites(
        eliminate_unused,
        """
        graph g(%x: f32[2,3,1]) {
          %0 = dropout(%x) : f32[2,3,1]
          %1 = reshape(%0) <shape=(2, 3, 1)> : f32[2,3,1]
          %2 = permute(%1) <order=(0, 1, 2)> : f32[2,3,1]
          %3 = slice(%2) <start=(0, 0, 0), stop=(2, 3, 1), step=(1, 1, 1)> : f32[2,3,1]
          %4 = expand(%3) <shape=(2, 3, 1)> : f32[2,3,1]
          %5 = cast(%4) <dtype='f32'> : f32[2,3,1]
          %6 = pad(%5) <padding=((0, 0), (0, 0), (0, 0)), value=0.0> : f32[2,3,1]
          %7 = contiguous(%6) : f32[2,3,1]
          %8 = concat(%7) <axis=1> : f32[2,3,1]
          %9 = relu(%8) : f32[2,3,1]
          return %9
        }""",
        """
        graph g(%x: f32[2,3,1]) {
          %9 = relu(%x) : f32[2,3,1]
          return %9
        }""",
    )
    assert "dropout changes nothing: dropped" in outcome.done
    assert len(outcome.done) == 9


def test_an_op_that_only_looks_like_a_no_op_stays(rewrites):
    rewrites(
        eliminate_unused,
        """
        graph g(%x: f32[2,2]) {
          %0 = permute(%x) <order=(1, 0)> : f32[2,2]
          %1 = relu(%0) : f32[2,2]
          return %1
        }""",
    )


def test_dead_branches_go_and_inputs_stay(rewrites):
    outcome = rewrites(
        eliminate_unused,
        """
        graph g(%x: f32[2], %unused: f32[3]) {
          const %c: f32[2] = [1.0, 2.0]
          %0 = add(%x, %c) : f32[2]
          %1 = relu(%0) : f32[2]
          %2 = neg(%x) : f32[2]
          return %2
        }""",
        """
        graph g(%x: f32[2], %unused: f32[3]) {
          %2 = neg(%x) : f32[2]
          return %2
        }""",
    )
    assert outcome.done == ["add dropped: nothing reads its result", "relu dropped: nothing reads its result"]


def test_the_outputs_option_keeps_what_those_outputs_need(apply):
    text = """
        graph g(%x: f32[2]) {
          %a = neg(%x) : f32[2]
          %b = relu(%a) : f32[2]
          return %a, %b
        }"""
    assert [v.name for v in apply(eliminate_unused, text, outputs=["a"]).graph.outputs] == ["a"]
    assert len(apply(eliminate_unused, text, outputs=["a"]).graph.nodes) == 1
    assert len(apply(eliminate_unused, text, outputs=["b"]).graph.nodes) == 2


@pytest.mark.parametrize("outputs", [["nobody"], []])
def test_an_unknown_output_is_refused_with_the_names_there_are(outputs):
    graph = parse("graph g(%x: f32[2]) {\n%a = neg(%x) : f32[2]\nreturn %a\n}")
    with pytest.raises(OptionError, match="the outputs are a"):
        eliminate_unused(graph, PassContext(outputs=outputs))


def test_an_output_keeps_its_name_and_declared_layout(apply):
    outcome = apply(
        eliminate_unused,
        """
        graph g(%x: f32[2,3]) {
          %0 = relu(%x) : f32[2,3]
          %logits = dropout(%0) : f32[2,3]{1,2}
          return %logits
        }""",
    )
    (value,) = outcome.graph.outputs
    assert value.name == "logits"
    assert value.type.strides == (1, 2)
    assert len(outcome.graph.nodes) == 1


def test_an_output_that_shows_an_input_stays_and_says_why(rewrites):
    outcome = rewrites(
        eliminate_unused,
        """
        graph g(%x: f32[2,3]) {
          %y = dropout(%x) : f32[2,3]
          return %y
        }""",
    )
    assert outcome.refused == ["dropout changes nothing, but an output needs memory of its own"]
