from __future__ import annotations

import pytest

from jitrt.errors import GraphError, OptionError, PassError
from jitrt.graph import Graph, parse
from jitrt.passes import PIPELINE, Pass, PassContext, one_anchor, optimize

_TEXT = """
    graph g(%x: f32[2,3]) {
      const %w: f32[2,3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
      %0 = dropout(%x) : f32[2,3]
      %1 = linear(%0, %w) <tf32=False> : f32[2,2] @ 'model.py:4'
      %y = relu(%1) : f32[2,2]
      return %y
    }"""


def test_the_stages_come_in_order():
    stages = [step.stage for step in PIPELINE]
    assert list(dict.fromkeys(stages)) == ["normalize", "specialize", "fuse", "finalize"]
    assert stages == sorted(stages, key=["normalize", "specialize", "fuse", "finalize"].index)


def test_the_original_is_left_alone_and_the_copy_is_all_regions():
    graph = parse(_TEXT)
    before = str(graph)
    context = PassContext()
    optimised = optimize(graph, context)
    assert str(graph) == before
    assert [node.op.name for node in optimised.nodes] == ["region"]
    assert {d.pass_name for d in context.report} == {"eliminate_unused", "fuse_vertical"}


def _breaks(graph: Graph, context: PassContext) -> None:
    graph.nodes[-1].inputs[0].uses.clear()


def _crashes(graph: Graph, context: PassContext) -> None:
    raise KeyError("oops")


@pytest.mark.parametrize("broken", [_breaks, _crashes])
def test_a_failing_pass_is_named_with_those_that_ran(broken):
    passes = (*PIPELINE[:2], Pass("fuse", broken), *PIPELINE[2:])
    with pytest.raises(PassError) as caught:
        optimize(parse(_TEXT), passes=passes)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"pass {broken.__name__} (fuse) failed: ")
    assert lines[1] == "passes that ran before: eliminate_unused, fold_constants"


def test_a_graph_that_arrives_broken_is_no_fault_of_a_pass():
    graph = parse(
        _TEXT.replace("f32[2,2] @", "f32[2,9] @").replace("%y = relu(%1) : f32[2,2]", "%y = relu(%1) : f32[2,9]")
    )
    with pytest.raises(GraphError, match=r"%1 = linear declares f32\[2,9\]") as caught:
        optimize(graph)
    assert not isinstance(caught.value, PassError)


def test_a_bad_option_is_the_callers_error():
    with pytest.raises(OptionError, match="no value is named"):
        optimize(parse(_TEXT), PassContext(outputs=["nobody"]))


def test_one_anchor_takes_anything_with_at_most_one():
    body = optimize(parse(_TEXT)).nodes[0].op.body
    assert one_anchor(body) is None
    two = parse(
        "graph g(%x: f32[2,2]) {\n%0 = softmax(%x) <axis=0> : f32[2,2]\n"
        "%1 = softmax(%0) <axis=1> : f32[2,2]\nreturn %1\n}"
    )
    assert one_anchor(two) == "softmax and softmax cannot share a kernel"
