from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from jitrt.errors import OptionError
from jitrt.frontend.outputs import select_outputs
from jitrt.frontend.tree import flatten
from jitrt.graph import parse

_GRAPH = parse("""
    graph g(%x: f32[2]) {
      %a = neg(%x) : f32[2]
      %b = relu(%a) : f32[2]
      %c = tanh(%b) : f32[2]
      %inner = exp(%b) : f32[2]
      %d = sigmoid(%inner) : f32[2]
      return %a, %b, %c, %d
    }""")


class Pair(NamedTuple):
    left: Any
    right: Any


class Leaf:
    """Stands for a tensor."""

    def __repr__(self) -> str:  # without its address: names of tests are the same in every process
        return "Leaf()"


def select(result: Any, *names: str) -> tuple[tuple[str, ...], Any]:
    """`result` nests the graph's four outputs, in order."""
    return select_outputs(_GRAPH, names, flatten(result, lambda x: isinstance(x, Leaf)))


L = Leaf()
DICT = {"logits": L, "aux": [L, L], "loss": None, "state": {"h": L}}


@pytest.mark.parametrize(
    ("result", "names", "values", "structure"),
    [
        (DICT, ["logits"], ("a",), {"logits": {"output": 0}}),
        (DICT, ["state_h", "logits"], ("a", "d"), {"logits": {"output": 0}, "state": {"h": {"output": 1}}}),
        (DICT, ["aux"], ("b", "c"), {"aux": [{"output": 0}, {"output": 1}]}),
        (DICT, ["aux_1"], ("c",), {"aux": [{"output": 0}]}),
        (
            DICT,
            ["aux", "aux_1", "logits"],
            ("a", "b", "c"),
            {"logits": {"output": 0}, "aux": [{"output": 1}, {"output": 2}]},
        ),
        ((L, L, L, L), ["2"], ("c",), [{"output": 0}]),
        ((L, L, L, L), ["3", "0"], ("a", "d"), [{"output": 0}, {"output": 1}]),
        ((Pair(L, L), L, L), ["0_right"], ("b",), [[{"output": 0}]]),
        ((Pair(L, L), L, L), ["0_1", "2"], ("b", "d"), [[{"output": 0}], {"output": 1}]),
    ],
    ids=str,
)
def test_results_keep_their_places(result: Any, names: list[str], values: tuple[str, ...], structure: Any) -> None:
    assert select(result, *names) == (values, structure)


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["inner"], ("inner",)),
        (["inner", "b", "logits"], ("inner", "b", "a")),
        (["c", "aux", "x"], ("c", "b", "c", "x")),
    ],
    ids=str,
)
def test_values_of_the_graph_stand_side_by_side_as_named(names: list[str], values: tuple[str, ...]) -> None:
    assert select(DICT, *names) == (values, None)


def test_a_graph_of_its_own_has_values_alone() -> None:
    assert select_outputs(_GRAPH, ["d", "a"], None) == (("d", "a"), None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["logit"],
            r"outputs: there is no 'logit' \(did you mean 'logits'\?\); the outputs are logits, aux, aux_0, aux_1, st",
        ),
        (["logits", "iner"], r"there is no 'iner' \(did you mean 'inner'\?\)"),
        (["zzzzzz"], "there is no 'zzzzzz'; the outputs are logits"),
        ([], "outputs is empty; name at least one of a, b, c, d"),
        (["loss"], "there is no 'loss'"),
    ],
    ids=str,
)
def test_an_unknown_output_is_refused_with_the_names_there_are(names: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        select(DICT, *names)


def test_an_unknown_value_of_a_graph_is_refused_with_its_outputs() -> None:
    with pytest.raises(OptionError, match="there is no 'zzzzzz'; the outputs are a, b, c, d"):
        select_outputs(_GRAPH, ["zzzzzz"], None)
