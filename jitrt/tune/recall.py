"""The timing cache as one tuning run sees it: if the cache fails, the run says so and goes on without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jitrt.codegen.target import Target
from jitrt.errors import CacheError
from jitrt.kernels.base import Problem, Tactic, Template
from jitrt.runtime.seam import Device
from jitrt.tune.keys import device_text, source_of, toolchain
from jitrt.tune.timing_cache import Record, Setting, TimingCache


class Recall:
    """What is known, and will be, of tactics on one device. `note` is told whatever is wrong with the cache."""

    def __init__(
        self,
        device: Device,
        target: Target,
        templates: Mapping[str, Template],
        note: Callable[[str], None],
        folder: Path | None = None,
    ):
        sources = {name: source_of(template) for name, template in templates.items()}
        self._setting = Setting(device_text(device), toolchain(target), sources)
        self._note = note
        self._cache: TimingCache | None = None
        try:
            self._cache = TimingCache(folder)
        except CacheError as error:
            self._lose(error)
        self._pass_on()

    def records(self, problem: Problem) -> dict[Tactic, Record]:
        """What is known of a problem's tactics; nothing without a cache."""
        if self._cache is None:
            return {}
        try:
            return self._cache.records(problem, self._setting)
        except CacheError as error:
            self._lose(error)
            return {}
        finally:
            self._pass_on()

    def why(self, problem: Problem) -> str:
        """One line on why the cache has, or has not, an answer for a problem."""
        if self._cache is None:
            return "no timing cache"
        try:
            return self._cache.why(problem, self._setting)
        except CacheError as error:
            self._lose(error)
            return "no timing cache"
        finally:
            self._pass_on()

    def put(self, problem: Problem, tactic: Tactic, record: Record) -> None:
        """Remember what came of a tactic."""
        if self._cache is None:
            return
        try:
            self._cache.put(problem, self._setting, tactic, record)
        except CacheError as error:
            self._lose(error)
        finally:
            self._pass_on()

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def _lose(self, error: CacheError) -> None:
        self.close()
        self._cache = None
        self._note(f"{error} (this build goes on without it)")

    def _pass_on(self) -> None:
        if self._cache is not None:
            while self._cache.messages:
                self._note(self._cache.messages.pop(0))
