"""What of a model cannot be imported, collected while it is walked, so that one error names all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.errors import ImportFailure, UnsupportedOpError
from jitrt.frontend.onnx.node import Known
from jitrt.frontend.onnx.registry import Unsupported
from jitrt.graph import Value


class Lost:
    """What stands for the result of a node that could not be imported."""


LOST = Lost()


class NeedsInput(ImportFailure):
    """What is built depends on the numbers in inputs of the model, such as a shape; `names` are those inputs."""

    def __init__(self, names: Sequence[str], text: str):
        super().__init__(text)
        self.names = tuple(names)


@dataclass
class Missing:
    """An operator (or initialiser) that cannot be imported: how often, where first, and why."""

    name: str
    count: int
    where: str
    reason: str


class Failures:
    """`missing` is what cannot be imported; `needed` the inputs whose numbers are needed, and by what; `inputs` the
    model's names of the graph's inputs."""

    def __init__(self) -> None:
        self.missing: dict[tuple[str, str], Missing] = {}
        self.needed: dict[str, str] = {}
        self.inputs: dict[str, str] = {}
        self._traced: set[Value] = set()  # values whose inputs are in `needed`

    def add(self, name: str, reason: str, where: str) -> None:
        """Count what cannot be imported."""
        self.missing.setdefault((name, reason), Missing(name, 0, where, reason)).count += 1

    def trace(self, refusal: Unsupported, loc: str) -> None:
        """If a node was refused for want of a tensor's numbers, put the graph inputs it depends on into `needed`."""
        waiting = [refusal.value] if isinstance(refusal, Known) else []
        while waiting:
            current = waiting.pop()
            if current in self._traced:
                continue
            self._traced.add(current)
            if current.producer is not None:
                waiting.extend(current.producer.inputs)
            elif not current.is_constant:
                self.needed.setdefault(self.inputs.get(current.name, current.name), f"node {loc}: {refusal}")

    def check(self) -> None:
        """Raise NeedsInput or UnsupportedOpError, if there are any."""
        if not self.missing:
            return
        if self.needed:
            names = list(self.needed)
            raise NeedsInput(
                names, f"{self.needed[names[0]]}: give the values of input {', '.join(names)} at the build"
            )
        raise UnsupportedOpError("ONNX", [(f"{m.name}: {m.reason}", m.count, m.where) for m in self.missing.values()])
