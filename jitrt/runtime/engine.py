"""The engine: a plan on a device, ready to be called from any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from jitrt.errors import NoGpuError, PlanError
from jitrt.plan.file import open_plan, write_plan
from jitrt.plan.schema import Plan, PlanFile
from jitrt.runtime.context import ExecutionContext
from jitrt.runtime.driver import cuda_driver
from jitrt.runtime.loaded import LoadedPlan, nester
from jitrt.runtime.report import Comparison, Inspection, Profile
from jitrt.runtime.seam import Driver

__all__ = ["Engine", "load", "nester"]


class Engine:
    """A plan that can be called. Immutable, and shared by threads: each thread and stream gets a context of its own.

    The plan goes to the GPU at the first use, so that an engine built for another machine can still be saved and
    inspected. `driver` replaces the CUDA driver (tests).

    >>> engine = Engine(read_plan("resnet50.plan"))     # doctest: +SKIP
    >>> y = engine(x)                                   # doctest: +SKIP
    """

    def __init__(self, file: PlanFile, device: int = 0, driver: Driver | None = None):
        self._file = file
        self._device = device
        self._driver = driver
        self._loaded: LoadedPlan | None = None
        self._loading = threading.Lock()
        self._local = threading.local()

    @property
    def plan(self) -> Plan:
        """The plan that runs; before it is on a GPU, the first that was built, if there are several."""
        return self._file.plan if self._loaded is None else self._loaded.plan

    @property
    def file(self) -> PlanFile:
        """The plan with its weights and cubins."""
        return self._file

    @property
    def loaded(self) -> LoadedPlan:
        """The plan on the device, brought there if it is not. Raises NoGpuError, PlanError or DriverError."""
        if self._loaded is None:
            with self._loading:
                if self._loaded is None:
                    self._loaded = LoadedPlan(self._file, self._driver or self._gpu())
        return self._loaded

    def _gpu(self) -> Driver:
        try:
            return cuda_driver(self._device)
        except NoGpuError as error:
            raise NoGpuError(
                f"{error}. Plan {self.plan.name!r} is built for {self._archs}: without such a GPU it can be "
                "saved and inspected, but not run"
            ) from error

    @property
    def _archs(self) -> str:
        return ", ".join(f"sm_{file.plan.arch}" for file in self._file.every)

    def __call__(self, *inputs: Any) -> Any:
        """Run on `inputs`, in the plan's order; the outputs in the inputs' kind, nested as the model nested them.

        GPU tensors of PyTorch are run on its current stream, without copy or synchronisation. Arrays on the host are
        copied there and back. Raises InputError for inputs that do not fit the plan.
        """
        loaded = self._loaded or self.loaded
        return loaded.nest(self.call(inputs))

    def call(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on `inputs`; the outputs in the plan's order, not nested."""
        loaded = self._loaded or self.loaded
        arrays = loaded.arrays_of(inputs)
        stream = arrays.stream()
        try:
            context = self._local.contexts[stream]
        except (AttributeError, KeyError):
            context = self._new_context(stream)
        return context.call(arrays, inputs)

    def _new_context(self, stream: int | None) -> ExecutionContext:
        if not hasattr(self._local, "contexts"):
            self._local.contexts = {}
        # No stream is given: the context follows the caller's, which is this one.
        context = self._local.contexts[stream] = ExecutionContext(self.loaded)
        return context

    def context(self, stream: int | None = None) -> ExecutionContext:
        """A context of its own, for a caller who wants to say which memory and stream is used."""
        return ExecutionContext(self, stream)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan. Raises PlanError if that fails; then `path` is as it was."""
        write_plan(path, self._file)

    def profile(self, *inputs: Any, repeats: int = 30) -> Profile:
        """How long each layer takes, and the whole: see `jitrt.runtime.profile`."""
        from jitrt.runtime.profile import profile

        return profile(self, inputs, repeats)

    def inspect(self) -> Inspection:
        """Layers, tactics, bindings and memory of the plan; needs no GPU."""
        return Inspection.of(self._file)

    def compare(self, reference: Callable[..., Any], *inputs: Any) -> Comparison:
        """How far the outputs are from those of `reference(*inputs)`, by relative norm, output by output."""
        from jitrt.runtime.report import leaves

        return Comparison.of(self.plan, self.call(inputs), leaves(reference(*inputs)))

    def close(self) -> None:
        """Free everything on the device. Contexts made with `context` are the caller's to close, before."""
        with self._loading:
            self._local = threading.local()
            if self._loaded is not None:
                self._loaded.close()
            self._loaded = None

    def __repr__(self) -> str:
        return f"Engine({self.plan.name!r}, {self._archs}, {len(self.plan.launches)} launches)"

    def _repr_html_(self) -> str:
        return self.inspect()._repr_html_()


def load(path: str | os.PathLike[str], device: int = 0, driver: Driver | None = None) -> Engine:
    """The engine of a plan file, on the GPU when this returns. Needs neither PyTorch nor Triton.

    The weights are checked on other threads while the GPU gets ready. Raises PlanError, NoGpuError or DriverError.

    >>> engine = load("resnet50.plan")                  # doctest: +SKIP
    """
    file, check = open_plan(path)
    engine = Engine(file, device, driver)
    try:
        _ = engine.loaded
        check()
    except PlanError as error:
        engine.close()
        raise PlanError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return engine
