"""Nested values taken apart and put together again."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from jitrt.errors import InputError
from jitrt.frontend.tree import Tree, flatten

Pair = namedtuple("Pair", "left right")


@dataclass
class Record:
    logits: Any
    hidden: Any = None


class Named(list[Any]):
    def __init__(self, name: str, values: list[Any]):
        super().__init__(values)
        self.name = name


def arrays(value: Any, root: str = "") -> Tree:
    return flatten(value, lambda x: isinstance(x, np.ndarray), root)


A, B, C = np.zeros(1), np.ones(2), np.ones(3)
VALUES = [
    A,
    (A, B),
    [A, (B, [C])],
    {"x": A, "y": {"z": B}},
    Pair(A, [B]),
    Record(A, Pair(B, C)),
    OrderedDict(b=A, a=B),
    defaultdict(list, {"x": [A]}),
    Named("made of a name", [A, B]),
    (A, None, 3, "same", True, 2.5),
    (),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_build_undoes_flatten(value: Any) -> None:
    tree = arrays(value)
    again = tree.build(tree.leaves)
    assert type(again) is type(value)
    assert repr(again) == repr(value)
    assert arrays(again).leaves == tree.leaves


def test_structure_is_json_with_outputs_as_leaves() -> None:
    tree = arrays({"pair": Pair(A, [B]), "record": Record(C), "n": 3})
    assert json.loads(json.dumps(tree.structure)) == {
        "pair": [{"output": 0}, [{"output": 1}]],
        "record": {"logits": {"output": 2}, "hidden": None},
        "n": 3,
    }


def test_paths_name_the_leaves() -> None:
    assert arrays({"x": A, "more": [B, {"mask": C}]}).paths == ("x", "more_0", "more_1_mask")
    assert arrays(A, "image").paths == ("image",)
    assert arrays((A, Pair(B, [C]))).paths == ("0", "1_left", "1_right_0")


def test_key_tells_structures_and_constants_apart_but_not_leaves() -> None:
    assert arrays((A, 1)).key == arrays((B, 1)).key
    different = [(A, 1), (A, 2), (A, True), (A, 1.0), [A, 1], (A, "1"), (A, None), Pair(A, 1), {"a": A, "b": 1}]
    assert len({arrays(value).key for value in different}) == len(different)


def test_a_value_without_a_hash_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="argument options_1 is a set"):
        arrays({"options": [A, {1, 2}]})
