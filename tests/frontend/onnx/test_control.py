"""If, Loop, Scan, sequences and optionals: decided and unrolled at the build, against ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import NeedsInput
from jitrt.frontend.onnx.ops.control import LONGEST
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import agree, load, ops, same

X = np.arange(12, dtype=np.float32).reshape(3, 4)
V = np.array([1, -2, 3], np.float32)
BRANCHES = """
    y = If (c) <then_branch = yes () => (float[3, 4] t) { t = Neg (x) },
                else_branch = no () => (float[3, 4] e) { two = Constant <value_float = 2.0> () e = Mul (x, two) }>
"""
COUNTED = """
    y, all = Loop (n, "", x) <body = turn (int64 i, bool go, float[3] s) => (bool more, float[3] t, float[3] u) {
        more = Identity (go) f = Cast <to = 1> (i) t = Add (s, f) u = Mul (t, b) }>
"""
UNTIL = """
    y = Loop (n, c, x) <body = turn (int64 i, bool go, float[3] s) => (bool more, float[3] t) {
        t = Add (s, s) most = ReduceMax <keepdims = 0> (t) limit = Constant <value_float = 20.0> ()
        more = Less (most, limit) }>
"""
RUNNING = """
    y, all = Scan <num_scan_inputs = 1{}, body = turn (float[4] s, float[4] r) => (float[4] t, float[4] u) {{
        t = Add (s, r) u = Neg (t) }}> (x, z)
"""


@pytest.mark.parametrize("condition", [True, False])
def test_a_known_condition_takes_its_branch(condition: bool) -> None:
    graph = same(BRANCHES, known="c", x=X, c=np.array(condition))
    assert ops(graph) == (["neg"] if condition else ["mul"])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_an_unknown_condition_computes_both(shape: tuple[int, ...]) -> None:
    for condition in (True, False):
        graph = same(BRANCHES, x=X, c=np.full(shape, condition))
    assert ops(graph)[-1] == "where" and graph.nodes[-1].loc == "y (If)"
    (got,) = plan_interpreted(graph).run([X, np.full(shape, False)])
    np.testing.assert_array_equal(got, 2 * X)


def test_branches_of_different_shapes_need_the_condition() -> None:
    text = "y = If (c) <then_branch = a () => (float[3, 4] t) { t = Neg (x) }, else_branch = b () => (float[3] e) {"
    text += " zero = Constant <value_ints = [0]> () e = ReduceSum <keepdims = 0> (x, zero) }>"
    with pytest.raises(NeedsInput, match="two whose results have different shapes") as need:
        load(text, x=X, c=np.array(True))
    assert need.value.names == ("c",)
    with pytest.raises(UnsupportedOpError, match="a condition of"):
        load(text, x=X, c=np.array([True, False]))


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_counted_loop(turns: int) -> None:
    graph = load(COUNTED, known="n", outputs="y all", x=V, b=V, n=np.array(turns))
    steps = [V + sum(range(turn + 1)) for turn in range(turns)]
    collected = np.array([step * V for step in steps], np.float32).reshape(turns, 3)
    agree(graph, [steps[-1] if steps else V, collected], [V, V])
    assert ops(graph).count("add") == max(0, turns)


@pytest.mark.parametrize("start", [[1, 2, 3], [30, 0, 0]])
@pytest.mark.parametrize("go", [True, False])
def test_a_loop_that_may_stop_early(start: list[int], go: bool) -> None:
    """Known numbers stop it at the build; others choose what is kept of all its turns."""
    x = np.array(start, np.float32)
    given: dict[str, Any] = {"n": np.array(5), "c": np.array(go)}
    stopped = same(UNTIL, known="n c x", x=x, **given)
    assert ops(stopped) == ["identity"]
    graph = same(UNTIL, known="n", x=x, **given)
    assert ops(graph).count("where") == 5
    (got,) = plan_interpreted(graph).run([x, given["c"]])
    np.testing.assert_array_equal(got, interpret(stopped, [])[0])


@pytest.mark.parametrize("how", ["", ", scan_input_directions = [1], scan_output_directions = [1]"])
def test_scan(how: str) -> None:
    graph = load(RUNNING.format(how), outputs="y all", x=V[0] * X[0], z=X)
    rows = X[::-1] if how else X
    sums = X[0] + np.cumsum(rows, 0)
    agree(graph, [sums[-1], -sums[::-1] if how else -sums], [X[0], X])
    if not how:
        same(RUNNING.format(""), outputs="y all", x=X[0], z=X)


def test_scan_along_other_axes_and_over_a_batch() -> None:
    text = RUNNING.replace("float[4]", "float[3]").format(", scan_input_axes = [1], scan_output_axes = [-1]")
    sums = np.cumsum(X, 1)
    agree(load(text, outputs="y all", x=0 * V, z=X), [sums[:, -1], -sums], [0 * V, X])
    old = RUNNING.format("").replace("(x, z)", '("", x, z)')
    z = np.stack([X, -X])
    sums = np.cumsum(z, 1)
    agree(load(old, opset=8, outputs="y all", x=0 * z[:, 0], z=z), [sums[:, -1], -sums], [0 * z[:, 0], z])


def test_loops_in_loops_see_what_is_around_them() -> None:
    text = """
        y = Loop (n, "", x) <body = outer (int64 i, bool go, float[3] s) => (bool more, float[3] t) {
            more = Identity (go) inner = Add (i, n)
            t = Loop (inner, "", s) <body = turn (int64 j, bool on, float[3] a) => (bool also, float[3] b) {
                also = Identity (on) k = Add (i, j) f = Cast <to = 1> (k) g = Add (f, x) b = Add (a, g) }> }>
    """
    want = V.copy()
    for i in range(2):
        for j in range(i + 2):
            want = want + (i + j + V)
    agree(load(text, known="n", x=V, n=np.array(2)), [want], [V])


SEQUENCES = {
    "at": "s = SequenceConstruct (a, b, c) m = Constant <value_int = -1> () y = SequenceAt (s, m)",
    "insert": "s = SequenceConstruct (a, b) o = Constant <value_int = 1> () t = SequenceInsert (s, c, o)"
    " y = ConcatFromSequence <axis = 0> (t)",
    "append": "e = SequenceEmpty () s = SequenceInsert (e, a) t = SequenceInsert (s, c)"
    " y = ConcatFromSequence <axis = -1, new_axis = 1> (t)",
    "erase": "s = SequenceConstruct (a, b, c) o = Constant <value_int = 0> () t = SequenceErase (s, o)"
    " u = SequenceErase (t) y = ConcatFromSequence <axis = 0> (u)",
    "length": "s = SequenceConstruct (a, b, c) y = SequenceLength (s)",
    "split": "s = SplitToSequence <axis = 1> (a) o = Constant <value_int = 2> () y = SequenceAt (s, o)",
    "single": "s = SplitToSequence <axis = 1, keepdims = 0> (a) o = Constant <value_int = 2> () y = SequenceAt (s, o)",
    "chunks": "n = Constant <value_int = 3> () s = SplitToSequence <axis = 1> (a, n) o = Constant <value_int = 1> ()"
    " y = SequenceAt (s, o)",
    "lengths": "n = Constant <value_ints = [1, 3]> () s = SplitToSequence <axis = 1> (a, n)"
    " o = Constant <value_int = 1> () y = SequenceAt (s, o)",
    "map": "s = SequenceConstruct (a, b) t = SequenceMap <body = each (float[3, 4] i, float[3, 4] j) =>"
    " (float[3, 4] k) { k = Sub (i, j) }> (s, c) y = ConcatFromSequence <axis = 0> (t)",
    "zip": "s = SequenceConstruct (a, b) t = SequenceMap <body = each (float[3, 4] i, float[3, 4] j) =>"
    " (float[3, 4] k) { k = Sub (i, j) }> (s, s) y = ConcatFromSequence <axis = 0> (t)",
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences(name: str) -> None:
    same(SEQUENCES[name], a=X, b=-X, c=2 * X)


def test_a_loop_may_carry_a_sequence() -> None:
    text = """
        e = SequenceEmpty () all = Loop (n, "", e) <body = turn (int64 i, bool go, seq(float[3]) s)
            => (bool more, seq(float[3]) t) { more = Identity (go) f = Cast <to = 1> (i) v = Add (x, f)
            t = SequenceInsert (s, v) }>
        y = ConcatFromSequence <axis = 0> (all)
    """
    agree(load(text, known="n", x=V, n=np.array(3)), [np.concatenate([V, V + 1, V + 2])], [V])


def test_optionals() -> None:
    text = "o = Optional (a) g = OptionalGetElement (o) h = OptionalHasElement (o) f = Cast <to = 1> (h) y = Add (g, f)"
    agree(load(text, a=X), [X + 1], [X])
    assert interpret(load('y = OptionalHasElement ("")', a=X), [X])[0].tolist() is False


FOR_EVER = 'y = Loop ("", "", x) <body = turn (int64 i, bool go, float[3] s) => (bool m, float[3] t) {'
FOR_EVER += " m = Identity (go) t = Identity (s) }>"
AT = "s = SequenceConstruct (x, x) o = Constant <value_int = {}> () {}"
REFUSED = [
    (FOR_EVER, f"more than {LONGEST} iterations"),
    (FOR_EVER.replace("int64 i, ", ""), "a body of 2 inputs and 2 outputs for 1 carried values"),
    (RUNNING.format(", scan_input_axes = [3]").replace("x, z", "x, x"), "axis 3 of a tensor of rank 1"),
    (RUNNING.format("").replace("(x, z)", "(x)"), "a body of 2 inputs"),
    (AT.format(2, "y = SequenceAt (s, o)"), "position 2 of a sequence of 2"),
    (AT.format(-3, "y = SequenceErase (s, o)"), "position -1 of a sequence of 2"),
    (AT.format(3, "y = SequenceInsert (s, x, o)"), "position 3 of a sequence of 2"),
    ("e = SequenceEmpty () y = ConcatFromSequence <axis = 0> (e)", "a concat of an empty sequence"),
    ("o = Constant <value_int = 0> () s = SplitToSequence (x, o) y = SequenceAt (s, o)", "pieces of 0 elements"),
    ("o = Constant <value_ints = [9]> () s = SplitToSequence (x, o) y = SequenceAt (s, o)", "split [9] of"),
    ("o = Optional <type = float[3]> () y = OptionalGetElement (o)", "of an optional that has none"),
    (
        "s = SequenceConstruct (x) r = SequenceConstruct (x, x) y = SequenceMap <body = b (float[3] i, float[3] j) =>"
        " (float[3] k) { k = Add (i, j) }> (s, r)",
        "sequences of different lengths",
    ),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[case[1] for case in REFUSED])
def test_refusals_say_why(text: str, reason: str) -> None:
    with pytest.raises(UnsupportedOpError) as refusal:
        load(text, x=V)
    assert reason in str(refusal.value)


def test_how_often_a_loop_runs_must_be_known() -> None:
    for text, names in ((COUNTED, ("n",)), (UNTIL.replace("Loop (n", 'Loop (""'), ("c",))):
        with pytest.raises(NeedsInput, match="how often a loop runs is computed at run time") as need:
            load(text, x=V, b=V, n=np.array(3), c=np.array(True))
        assert need.value.names == names


def test_what_grows_cannot_stop_early() -> None:
    text = UNTIL.replace("t = Add (s, s)", "t = Concat <axis = 0> (s, s)")
    with pytest.raises(NeedsInput, match="values of changing shapes"):
        load(text, known="n", x=V, n=np.array(2), c=np.array(True))


def test_lengths_of_an_old_scan_and_of_nothing() -> None:
    with pytest.raises(UnsupportedOpError, match="sequences of different lengths"):
        load(RUNNING.format("").replace("(x, z)", "(n, x, z)"), opset=8, x=X[:, 0], z=X, n=np.array([1, 1, 1]))
    text = COUNTED.replace("float[3] u)", "float[k] u)")
    with pytest.raises(UnsupportedOpError, match="does not say what shape 'u' has"):
        load(text, known="n", outputs="y all", x=V, b=V, n=np.array(0))


def test_what_a_body_cannot_do_is_told() -> None:
    """Through the loop and the branch around it."""
    text = "y = Loop (n, c, x) <body = turn (int64 i, bool go, float[3] s) => (bool more, float[3] t) {"
    text += " more = Identity (go) t = If (c) <then_branch = a () => (float[3] d) { d = Sneeze (s) },"
    text += " else_branch = b () => (float[3] e) { e = Neg (s) }> }>"
    with pytest.raises(UnsupportedOpError) as refusal:
        load(text, known="n", x=V, n=np.array(3), c=np.array(True))
    assert "Sneeze" in str(refusal.value)
