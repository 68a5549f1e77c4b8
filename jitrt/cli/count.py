"""The table of `jitrt explain --count`: layers before, kernels after, beside those of Table 1 of NVIDIA's post."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitrt.cli.terminal import table

if TYPE_CHECKING:
    from rich.table import Table

    from jitrt.explanation import Explanation

POST = {"vgg19": (43, 27), "inception_v3": (309, 113), "resnet152": (670, 159)}
"""Layers before and after of "TensorRT 3: Faster TensorFlow Inference and Volta Support" (NVIDIA, 2017), Table 1."""

RULE = (
    "A layer is an operator that computes something: views, dropout and identity are none, a bias belongs to its "
    "layer, nested concats are one."
)
MEASURED = (
    "Kernels and launches are those of a build that measures nothing: on a GPU, a fusion that is slower is not done, "
    "and jitrt inspect counts what a plan launches."
)


@dataclass(frozen=True)
class Count:
    """One model's numbers. `batch_norms` are those among its layers."""

    model: str
    layers: int
    batch_norms: int
    kernels: int
    launches: int

    @classmethod
    def of(cls, model: str, explanation: Explanation) -> Count:
        layers = explanation.layers
        kernels = explanation.kernels.total()
        return cls(model, layers.total(), layers["batch_norm"], kernels, explanation.launches)

    @property
    def difference(self) -> str | None:
        """What makes the post's number of layers another one; None if it has none, or the same."""
        post = POST.get(self.model, (self.layers, 0))[0]
        if post == self.layers + 1:
            return f"{self.model}: the post's {post} are {self.layers} and a softmax"
        if post == self.layers + self.batch_norms + 1:
            return (
                f"{self.model}: the post's {post} are {self.layers}, a softmax, and {self.batch_norms} scales, which "
                "Caffe writes apart from their batch norms"
            )
        return None if post == self.layers else f"{self.model}: the post counts {post} layers, by another rule"


def count_table(counts: Sequence[Count]) -> Table:
    """A row a model; the post's columns only if it has one of them."""
    header = ["Model", "Layers", "Kernels", "Launches"]
    known = any(count.model in POST for count in counts)
    rows = []
    for count in counts:
        row: list[object] = [count.model, count.layers, count.kernels, count.launches]
        rows.append([*row, *POST.get(count.model, ("-", "-"))] if known else row)
    header += ["Post: layers", "Post: after"] if known else []
    return table(None, header, rows, right=range(1, 6))


def notes(counts: Sequence[Count]) -> list[str]:
    """The rules, and where the post's numbers come from another."""
    return [RULE, MEASURED, *(count.difference for count in counts if count.difference is not None)]
