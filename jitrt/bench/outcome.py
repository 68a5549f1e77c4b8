"""What `jitrt bench` found of one contestant on one model, and what jitrt's build found of its optimisations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jitrt.bench.measure import DeviceState, Timing
from jitrt.bench.memory import Memory

UNFIT = "does not apply: "  # begins the failure of a contestant that is not for this kind of model


@dataclass(frozen=True)
class Outcome:
    """One contestant on one model and batch.

    `repeat` is the second run's median minus the first's, in microseconds: a smaller difference than this is noise.
    `error` is ‖out − ref‖/‖ref‖ against float32 PyTorch. `failure` is set, and the rest is not, when it did not run.
    """

    model: str
    batch: int
    precision: str
    contestant: str
    build_seconds: float = 0.0
    error: float = 0.0
    timing: Timing | None = None
    repeat: float = 0.0
    state: DeviceState | None = None
    failure: str | None = None
    memory: Memory | None = None

    @property
    def microseconds(self) -> float | None:
        """A call back to back, median."""
        return self.timing.back_to_back.median if self.timing else None

    @property
    def spread(self) -> float:
        """Microseconds that two equal runs, or samples of one, are apart: less is noise."""
        return max(abs(self.repeat), self.timing.back_to_back.spread) if self.timing else 0.0

    @property
    def absence(self) -> str:
        """What stands in a table for one that did not run."""
        return "n/a" if (self.failure or "").startswith(UNFIT) else "failed"

    def excuse(self) -> str:
        """Why it did not run, as a sentence."""
        what, why = f"{self.contestant} failed on", self.failure or ""
        if why.startswith(UNFIT):
            what, why = f"{self.contestant} does not apply to", why.removeprefix(UNFIT)
        return f"{what} {self.model}, batch {self.batch}: `{why}`"

    def brief(self) -> str:
        """Who, and how long a call takes."""
        return f"{self.contestant} {self.absence if self.microseconds is None else f'{self.microseconds:,.1f} us'}"

    @property
    def throughput(self) -> float | None:
        """Samples a second back to back."""
        return self.timing.queries * self.batch if self.timing else None


@dataclass(frozen=True)
class Gains:
    """What the build of a model found when it left out one optimisation after the other: what `jitrt.refine.Gain` has,
    as a plan keeps it."""

    model: str
    batch: int
    found: tuple[Mapping[str, Any], ...]

    HEADINGS: ClassVar = ("Model", "Batch", "Optimisation", "With (us)", "Without (us)", "Gain", "")

    def rows(self) -> list[list[str]]:
        """A line an optimisation."""
        return [
            [
                *(self.model, str(self.batch), gain["name"]),
                *(f"{gain['with_it']:,.1f}", f"{gain['without']:,.1f}"),
                f"{gain['without'] / gain['with_it'] - 1:+.1%}",
                "kept" if gain["kept"] else "left out",
            ]
            for gain in self.found
        ]
