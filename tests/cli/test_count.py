"""The table of layers and kernels, and what the post counts otherwise."""

from __future__ import annotations

import pytest
from rich.console import Console

from jitrt.cli.count import MEASURED, POST, RULE, Count, count_table, notes

OURS = (Count("vgg19", 43, 0, 24, 24), Count("inception_v3", 308, 94, 89, 89), Count("resnet152", 514, 155, 157, 157))


def cells(*counts: Count) -> list[list[str]]:
    out = Console(width=100, no_color=True)
    with out.capture() as captured:
        out.print(count_table(counts))
    rows = [row for row in captured.get().splitlines() if row[0] in "│┃"]
    return [[cell.strip() for cell in row.strip("│┃").replace("┃", "│").split("│")] for row in rows]


def test_the_posts_numbers_stand_beside_ours() -> None:
    assert cells(*OURS) == [
        ["Model", "Layers", "Kernels", "Launches", "Post: layers", "Post: after"],
        ["vgg19", "43", "24", "24", "43", "27"],
        ["inception_v3", "308", "89", "89", "309", "113"],
        ["resnet152", "514", "157", "157", "670", "159"],
    ]
    assert cells(OURS[0], Count("squeezenet1_1", 66, 0, 30, 30))[-1][-2:] == ["-", "-"]
    assert cells(Count("squeezenet1_1", 66, 0, 30, 30))[0] == ["Model", "Layers", "Kernels", "Launches"]


def test_every_difference_is_told() -> None:
    assert notes(OURS) == [
        RULE,
        MEASURED,
        "inception_v3: the post's 309 are 308 and a softmax",
        "resnet152: the post's 670 are 514, a softmax, and 155 scales, which Caffe writes apart from their batch norms",
    ]


@pytest.mark.parametrize("model", POST)
def test_a_difference_that_no_rule_explains_is_told_too(model: str) -> None:
    (*_, told) = notes([Count(model, 5, 2, 5, 5)])
    assert told == f"{model}: the post counts {POST[model][0]} layers, by another rule"
