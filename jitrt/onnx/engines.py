"""The engines of one session: one a set of shapes, built when a run first needs it."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.errors import JitrtWarning
from jitrt.frontend.onnx import Model, NeedsInput
from jitrt.frontend.onnx.signature import import_bound
from jitrt.onnx.values import OrtValue
from jitrt.request import Request

Feed = Mapping[str, np.ndarray | OrtValue]


@dataclass(frozen=True)
class Specialisation:
    """An engine for one set of shapes. `inputs` are the model's names of what it takes, `outputs` of what it returns,
    in order."""

    engine: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """The outputs by name. Two of them may be one of the plan's: it is the call that tells them apart."""
        result = self.engine(*arrays)
        return dict(zip(self.outputs, [result] if len(self.outputs) == 1 else result, strict=True))

    @property
    def places(self) -> dict[str, int]:
        """Which output of the plan each of the model's is."""
        structure = self.engine.plan.structure
        if structure is None:
            return {name: index for index, name in enumerate(self.outputs)}
        return {name: part["output"] for name, part in zip(self.outputs, structure, strict=True)}


class Engines:
    """The engines that were used last, at most `limit`. Threads may share it."""

    def __init__(self, model: Model, request: Request, limit: int):
        self._model = model
        self._request = request
        self._limit = limit
        self._lock = threading.RLock()
        self._entries: OrderedDict[Hashable, Specialisation] = OrderedDict()
        self._fixed: dict[str, bytes] = {}  # inputs whose numbers decide what is built, with those that came first
        self._warned = False

    @property
    def all(self) -> list[Any]:
        """The engines there are, the one used last at the end."""
        return [entry.engine for entry in self._entries.values()]

    def of(self, feed: Feed) -> Specialisation:
        """The engine for inputs of these shapes; raises what a build raises."""
        with self._lock:  # two threads with one new set of shapes build it once
            found = self._entries.get(self._key(feed))
            if found is None:
                found = self._build({name: _array(value) for name, value in feed.items()})
                self._keep(self._key(feed), found)  # the build may have found inputs whose numbers count
            self._entries.move_to_end(self._key(feed))
            return found

    def ahead(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Build for these shapes, so that the first run does not have to; unless what is built depends on numbers that
        come with it."""
        try:
            found = self._build(shapes)
        except NeedsInput:
            return
        self._keep(tuple((name, shape, b"") for name, shape in shapes.items()), found)

    def _build(self, given: Mapping[str, Any]) -> Specialisation:
        bound = import_bound(self._model, given, fallback=True)
        for name, array in bound.fixed.items():
            self._note(name, array.tobytes())
        imported = bound.imported
        engine = self._request.engine(imported.graph, fallback=True)
        return Specialisation(engine, imported.inputs, imported.outputs)

    def _note(self, name: str, numbers: bytes) -> None:
        """Remember that an input's numbers decide what is built; say so when they change for the first time."""
        if self._fixed.setdefault(name, numbers) != numbers and not self._warned:
            self._warned = True
            warnings.warn(
                f"what is built depends on the numbers in input {name!r}, and they change: each new value of it builds "
                f"an engine, of which the last {self._limit} are kept.",
                JitrtWarning,
                stacklevel=6,
            )

    def _keep(self, key: Hashable, found: Specialisation) -> None:
        self._entries[key] = found
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def _key(self, feed: Feed) -> Hashable:
        return tuple(
            (name, tuple(value.shape() if isinstance(value, OrtValue) else value.shape), self._numbers(name, value))
            for name, value in feed.items()
        )

    def _numbers(self, name: str, value: np.ndarray | OrtValue) -> bytes:
        """The elements of an input, if they decide what is built."""
        return _array(value).tobytes() if name in self._fixed else b""


def _array(value: np.ndarray | OrtValue) -> np.ndarray:
    return value.numpy() if isinstance(value, OrtValue) else value
