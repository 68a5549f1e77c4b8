from __future__ import annotations

import pytest

from jitrt.errors import OptionError
from jitrt.graph import parse
from jitrt.passes import PassContext
from jitrt.passes.eliminate_unused import eliminate_unused
from jitrt.passes.merge_views import merge_views


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


@pytest.mark.parametrize(
    "node",
    [
        "%0 = cast(%x) <dtype='f16'> : f16[2,3,4]",
        "%0 = reshape(%x) <shape=(6, 4)> : f32[6,4]",
        "%0 = permute(%x) <order=(1, 0, 2)> : f32[3,2,4]",
        "%0 = slice(%x) <start=(0, 0, 0), stop=(2, 3, 4), step=(1, 1, 2)> : f32[2,3,2]",
        "%0 = slice(%x) <start=(0, 1, 0), stop=(2, 3, 4), step=(1, 1, 1)> : f32[2,2,4]",
        "%0 = expand(%x) <shape=(1, 2, 3, 4)> : f32[1,2,3,4]",
        "%0 = pad(%x) <padding=((0, 0), (0, 0), (0, 1)), value=0.0> : f32[2,3,5]",
        "%0 = concat(%x, %x) <axis=0> : f32[4,3,4]",
    ],
    ids=lambda node: node.split("(")[0][5:],
)
def test_what_changes_something_stays(rewrites, node):
    type = node.rsplit(" : ", 1)[1]
    rewrites(eliminate_unused, f"graph g(%x: f32[2,3,4]) {{\n{node}\n%1 = neg(%0) : {type}\nreturn %1\n}}")


def test_casts_there_and_back_go_only_if_nothing_is_lost(rewrites):
    chain = """
        graph g(%x: f32[2]) {{
          %0 = cast(%x) <dtype='{middle}'> : {middle}[2]
          %1 = cast(%0) <dtype='f32'> : f32[2]
          %2 = neg(%1) : f32[2]
          return %2
        }}"""
    rewrites(merge_views, chain.format(middle="f64"), "graph g(%x: f32[2]) {\n%2 = neg(%x) : f32[2]\nreturn %2\n}")
    rewrites(merge_views, chain.format(middle="f16"), tolerance=1)


def test_an_auxiliary_head_goes_with_its_output_and_weights(rewrites):
    before = """
        graph g(%x: f32[1,2,4,4]) {
          const %w: f32[2,2,1,1] = [[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]]
          const %aux: f32[1,2,1,1] = [[[[1.0]], [[2.0]]]]
          %0 = relu(%x) : f32[1,2,4,4]
          %1 = conv(%0, %aux) ATTRIBUTES : f32[1,1,4,4]
          %2 = reduce_mean(%1) <axes=(2, 3), keepdims=False> : f32[1,1]
          %3 = conv(%0, %w) ATTRIBUTES : f32[1,2,4,4]
          %4 = dropout(%3) : f32[1,2,4,4]
          %5 = reduce_mean(%4) <axes=(2, 3), keepdims=False> : f32[1,2]
          return OUTPUTS
        }""".replace("ATTRIBUTES", "<stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, tf32=False>")
    after = [
        line for line in before.splitlines() if not any(name in line for name in ("%1 =", "%2 =", "%4 =", "%aux:"))
    ]
    kept = "\n".join(after).replace("(%4)", "(%3)").replace("OUTPUTS", "%5")
    outcome = rewrites(eliminate_unused, before.replace("OUTPUTS", "%5, %2"), kept, outputs=["5"])
    assert "reduce_mean dropped: nothing reads its result" in outcome.done


def test_an_auxiliary_head_whose_output_is_wanted_stays(apply):
    text = """
        graph g(%x: f32[2]) {
          %logits = neg(%x) : f32[2]
          %aux = relu(%x) : f32[2]
          return %logits, %aux
        }"""
    assert len(apply(eliminate_unused, text).graph.nodes) == 2
    assert len(apply(eliminate_unused, text, outputs=["logits", "aux"]).graph.nodes) == 2


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
