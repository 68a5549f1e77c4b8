"""Rules of fusion from outside: what they match, refuse and replace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import planted_plugins  # noqa: F401 (declares the plugins)
import pytest

import jitrt
from jitrt.compiler import Options, optimize_graph
from jitrt.errors import KernelError, OptionError, PassError, PluginError
from jitrt.graph import Graph, TensorType, f16, f32, interpret
from jitrt.graph.ops import Add, Conv, Mul, Relu, Sigmoid
from jitrt.passes.apply_rules import registered
from jitrt.passes.base import PassContext, Proposal, Verdict
from jitrt.passes.pipeline import optimize
from jitrt.testing import check_rule, plan_interpreted

X = TensorType(f32, (3, 8))


def swish_add_rule(**options: Any) -> Any:
    given: dict[str, Any] = {
        "pattern": lambda g, x, y: g.add(g.mul(x, g.sigmoid(x)), y),
        "check": lambda x, y: None if x.type == y.type else "the operands broadcast",
        "rewrite": lambda g, x, y: g.op("planted::swish_add", x, y),
        **options,
    }
    return jitrt.fusion_rule("swish_add", **given)


def swish_add(*, flipped: bool = False, shape: Sequence[int] = (3, 8), read_twice: bool = False) -> Graph:
    graph = Graph("model")
    x, y = graph.add_input("x", X), graph.add_input("y", TensorType(f32, tuple(shape)))
    gate = graph.add(Sigmoid(), x)
    product = graph.add(Mul(), gate, x) if flipped else graph.add(Mul(), x, gate)
    total = graph.add(Add(), y, product) if flipped else graph.add(Add(), product, y)
    graph.mark_output(graph.add(Relu(), total), *([product] if read_twice else []))
    return graph


@pytest.mark.parametrize("flipped", [False, True])
def test_what_fits_is_replaced_fused_and_reported(flipped: bool) -> None:
    rule, graph, context = swish_add_rule(), swish_add(flipped=flipped), PassContext()
    after = optimize(graph, context)
    assert [node.op.name for region in after.nodes for node in region.op.body.nodes] == ["planted::swish_add", "relu"]  # type: ignore[attr-defined]
    (decision,) = context.report.of("swish_add")
    assert decision.applied
    assert decision.text in ("sigmoid + mul + add replaced", "mul + sigmoid + add replaced")
    arrays = [np.random.default_rng(i).standard_normal((3, 8)).astype(np.float32) for i in range(2)]
    np.testing.assert_allclose(interpret(after, arrays)[0], interpret(graph, arrays)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        plan_interpreted(graph).run(arrays)[0], interpret(graph, arrays)[0], rtol=1e-5, atol=1e-6
    )
    assert [node.op.name for node in check_rule(rule, graph).nodes] == ["planted::swish_add", "relu"]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (swish_add(shape=(1, 8)), "not replaced: the operands broadcast"),
        (swish_add(read_twice=True), "not replaced: the result of mul is read elsewhere too"),
    ],
)
def test_what_is_refused_stays_and_says_why(graph: Graph, reason: str) -> None:
    rule, context = swish_add_rule(), PassContext()
    after = optimize(graph, context)
    assert "planted::swish_add" not in str(after)
    assert [d.text for d in context.report.of("swish_add")] == [reason]
    with pytest.raises(KernelError, match=reason):
        check_rule(rule, graph)


def test_a_rule_can_be_left_out_by_name() -> None:
    swish_add_rule()
    assert "planted::swish_add" not in str(optimize(swish_add(), PassContext(without=["swish_add"])))
    with pytest.raises(OptionError, match="swish_ad"):
        optimize(swish_add(), PassContext(without=["swish_ad"]))


def test_a_judged_rule_is_applied_where_the_judge_is_for_it() -> None:
    seen: list[Proposal] = []

    def judge(proposals: Sequence[Proposal], gain: float) -> list[Verdict]:
        seen.extend(proposals)
        return [Verdict(gain, "1.0 us instead of 2.0")] * len(proposals)

    swish_add_rule(judged=True)
    for gain in (1.0, 0.0):
        found = optimize_graph(swish_add(), Options(), judge=lambda p, gain=gain: judge(p, gain))  # type: ignore[misc]
        assert ("planted::swish_add" in str(found.graph)) == (gain > 0)
        (decision,) = found.report.of("swish_add")
        assert "1.0 us instead of 2.0" in decision.text
        assert decision.applied == (gain > 0)
    before, after = seen[0].before, seen[0].after
    assert [node.op.name for node in (*before.nodes, *after.nodes)] == ["region", "region"]
    assert ("swish_add" in str(before), "swish_add" in str(after)) == (False, True)
    # Without a judge that measures, fewer kernels win.
    (decision,) = optimize_graph(swish_add(), Options()).report.of("swish_add")
    assert decision.text == "not done: sigmoid + mul + add replaced: 1 kernels become 1 (not measured)"


def test_attributes_numbers_and_repeated_variables_must_be_equal() -> None:
    jitrt.fusion_rule(
        "doubled",
        pattern=lambda g, x, w: g.mul(g.conv(x, w, stride=(1, 1)), 2.0),
        rewrite=lambda g, match, x, w: g.add(*[g.conv(x, w, **vars(match.node("conv").op))] * 2),
    )
    jitrt.fusion_rule("twice", pattern=lambda g, x: g.add(x, x), rewrite=lambda g, x: g.mul(x, 2.0))
    for stride, number, wanted in (((1, 1), 2.0, 1), ((2, 2), 2.0, 0), ((1, 1), 3.0, 0)):
        graph = Graph("model")
        x, w = graph.add_input("x", TensorType(f32, (1, 2, 6, 6))), graph.add_input("w", TensorType(f32, (3, 2, 3, 3)))
        product = graph.add(Conv(stride, ((1, 1), (1, 1)), (1, 1)), x, w)
        graph.mark_output(graph.add(Mul(), product, graph.scalar(number, f32)))
        context = PassContext()
        optimize(graph, context)
        assert len(context.report.of("doubled", applied=True)) == wanted
        # What one rule makes the next one sees.
        assert len(context.report.of("twice", applied=True)) == wanted
    graph = Graph("sum")
    graph.mark_output(graph.add(Add(), *(graph.add_input(name, X) for name in "xy")))
    context = PassContext()
    optimize(graph, context)
    assert not context.report.of("twice")


def test_overlapping_places_are_replaced_one_at_a_time_last_first() -> None:
    jitrt.fusion_rule("pairs", pattern=lambda g, x: g.relu(g.relu(x)), rewrite=lambda g, x: g.relu(x))
    graph = Graph("chain")
    value = graph.add_input("x", X)
    for _ in range(3):
        value = graph.add(Relu(), value)
    graph.mark_output(value)
    context = PassContext()
    after = optimize(graph, context)
    assert len(context.report.of("pairs", applied=True)) == 1
    assert str(after).count("= relu(") == 2
    assert after.outputs[0].name == graph.outputs[0].name


@pytest.mark.parametrize(
    ("rewrite", "complaint"),
    [
        (lambda g, x: g.cast(x, dtype=f16), r"rewrite makes f16\[3,8\] of f32\[3,8\]"),
        (lambda g, x: 3, "returns a int, not a value"),
        (lambda g, x: g.add(1, 2), "needs a value of the graph among its operands"),
        (lambda g, x: x.nothing, "rewrite: raises AttributeError: .*nothing"),
        (lambda g, x: g.op("no::such", x), "there is no op 'no::such'"),
        (lambda g, x: x, "would be one of its inputs"),
    ],
)
def test_a_rewrite_that_cannot_be_is_an_error_that_names_the_rule(rewrite: Any, complaint: str) -> None:
    jitrt.fusion_rule("test_rule", pattern=lambda g, x: g.relu(x), rewrite=rewrite)
    graph = Graph("model")
    graph.mark_output(graph.add(Relu(), graph.add_input("x", X)))
    with pytest.raises(PassError, match=f"rule test_rule: .*{complaint}"):
        optimize(graph)


@pytest.mark.parametrize("answer", [True, False, 3])
def test_a_check_that_answers_neither_none_nor_a_reason_is_an_error(answer: Any) -> None:
    jitrt.fusion_rule(
        "test_rule", pattern=lambda g, x: g.relu(x), check=lambda x: answer, rewrite=lambda g, x: g.relu(x)
    )
    graph = Graph("model")
    graph.mark_output(graph.add(Relu(), graph.add_input("x", X)))
    with pytest.raises(PassError, match=f"rule test_rule: check returns {answer}; return None where the rule may be"):
        optimize(graph)


@pytest.mark.parametrize(
    ("functions", "complaint"),
    [
        ({"rewrite": lambda g, z: z}, "rule test_rule: rewrite takes z, but is offered x, g, match"),
        ({"rewrite": "tanh"}, "rule test_rule: rewrite is 'tanh'; give a function"),
        ({"check": lambda g, x: None}, "rule test_rule: check takes g, but is offered x, match"),
    ],
)
def test_functions_that_cannot_be_called_are_refused_at_once(functions: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PluginError, match=complaint):
        jitrt.fusion_rule("test_rule", pattern=lambda g, x: g.relu(x), **{"rewrite": lambda x: x, **functions})
    assert "test_rule" not in {rule.name for rule in registered()}


def test_a_rule_that_changes_the_meaning_is_caught_by_its_check() -> None:
    rule = jitrt.fusion_rule("test_rule", pattern=lambda g, x: g.sigmoid(x), rewrite=lambda g, x: g.tanh(x))
    with pytest.raises(KernelError, match=r"rule test_rule changes what %.* means: wrong numbers .*first at \["):
        check_rule(rule, swish_add())
    rule = jitrt.fusion_rule("test_rule", pattern=lambda g, x: g.tanh(x), rewrite=lambda g, x: x)
    with pytest.raises(KernelError, match="nothing fits its pattern"):
        check_rule(rule, swish_add())


@pytest.mark.parametrize(
    ("name", "pattern", "complaint"),
    [
        ("fuse_vertical", lambda g, x: g.relu(x), "the name of a pass"),
        ("test_rule", lambda g, x: x, "returns what an op of it makes"),
        ("test_rule", lambda g, x: g.relux(x), "there is no op 'relux'"),
        ("test_rule", lambda g, x: g.clamp(x, least=1), "clamp has no attribute least"),
    ],
)
def test_a_pattern_that_is_none_is_refused(name: str, pattern: Any, complaint: str) -> None:
    with pytest.raises(PluginError, match=complaint):
        jitrt.fusion_rule(name, pattern=pattern, rewrite=lambda g, x: x)
