"""The engine: a plan on a device, ready to be called from any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitrt.errors import DriverError, PlanError
from jitrt.plan.file import open_plan, write_plan
from jitrt.plan.schema import Plan, PlanFile
from jitrt.plan.verify import check_plan
from jitrt.runtime.arrays import Arrays, OtherArrays, Signature, arrays_of, check_count
from jitrt.runtime.context import ExecutionContext
from jitrt.runtime.cuda_graph import LoadedKernel
from jitrt.runtime.driver import Device, Driver, cuda_driver
from jitrt.runtime.memory import Resources
from jitrt.runtime.parameters import sizes
from jitrt.runtime.report import Comparison, Inspection, Profile

_BAD_IMAGE = {200, 209, 218, 300}  # invalid image, no binary for this GPU, invalid PTX, invalid source
_NO_ENTRY = 500


class LoadedPlan:
    """What all contexts of an engine share: the plan's kernels and constants on one device."""

    def __init__(self, file: PlanFile, driver: Driver):
        check_plan(file)
        check_device(file.plan, driver.device)
        self.plan = file.plan
        self.driver = driver
        self.signature = Signature(file.plan.inputs, file.plan.outputs, driver)
        self.nest = nester(file.plan.structure, len(file.plan.outputs))
        self._arrays: dict[tuple[type, object], Arrays] = {}
        with driver.active():
            self._resources = Resources(driver, self)
            self.kernels = self._load_kernels(file)
            self._check_arguments()
            self.constants = self._upload(file)

    @property
    def loaded(self) -> LoadedPlan:
        """Itself: a context is made of an engine or of this, which does not keep the engine alive."""
        return self

    def _load_kernels(self, file: PlanFile) -> list[LoadedKernel]:
        modules: dict[str, Any] = {}
        loaded = []
        for kernel in self.plan.kernels:
            try:
                if kernel.image not in modules:
                    modules[kernel.image] = self.driver.load_module(file.images[kernel.image])
                    self._resources.add(self.driver.unload_module, modules[kernel.image])
                blocks = kernel.cluster[0] * kernel.cluster[1] * kernel.cluster[2]
                module = modules[kernel.image]
                function = self.driver.function(module, kernel.entry, kernel.shared_bytes, blocks)
            except DriverError as error:
                if error.code not in (*_BAD_IMAGE, _NO_ENTRY):
                    raise
                raise PlanError(
                    f"plan {self.plan.name!r}: this GPU's driver cannot load kernel {kernel.entry!r} "
                    f"({error}); update the driver or build the plan on this machine"
                ) from error
            loaded.append(LoadedKernel(kernel, function))
        return loaded

    def _check_arguments(self) -> None:
        """Raise PlanError unless every launch has what its kernel reads: the driver would read on regardless."""
        wanted = [self.driver.parameter_sizes(loaded.function) for loaded in self.kernels]
        for index, launch in enumerate(self.plan.launches):
            given = sizes(launch.arguments)
            if wanted[launch.kernel] not in (None, given):
                raise PlanError(
                    f"plan {self.plan.name!r}: launch {index} has parameters of {given} bytes, but kernel "
                    f"{self.plan.kernels[launch.kernel].entry!r} takes {wanted[launch.kernel]}; build the plan again"
                )

    def _upload(self, file: PlanFile) -> int:
        address = self._resources.alloc(self.plan.constants_bytes)
        if address:
            source = np.frombuffer(file.constants, np.uint8).__array_interface__["data"][0]
            self.driver.upload(address, source, self.plan.constants_bytes)
            self.driver.synchronize(0)
        return address

    def arrays_of(self, inputs: Sequence[Any]) -> Arrays:
        """How to handle inputs of this kind. Raises InputError if the first is no array."""
        first = inputs[0] if inputs else None
        key = (type(first), getattr(first, "is_cuda", None))
        arrays = self._arrays.get(key)
        if arrays is None:
            check_count(inputs, self.signature.inputs)
            arrays = arrays_of(first, self.signature)
            if not isinstance(arrays, OtherArrays):  # whose device its type does not tell
                self._arrays[key] = arrays
        return arrays

    def close(self) -> None:
        self._resources.close()


def check_device(plan: Plan, device: Device) -> None:
    """Raise PlanError unless the plan's cubins run on the device: same major architecture, minor not below."""
    if plan.arch // 10 != device.arch // 10 or plan.arch > device.arch:
        raise PlanError(
            f"plan {plan.name!r} was built for sm_{plan.arch}, but GPU {device.index} ({device.name}) is "
            f"sm_{device.arch}; build it again with target='sm_{device.arch}'"
        )
    for kernel in plan.kernels:
        if kernel.shared_bytes > device.shared_bytes:
            raise PlanError(
                f"plan {plan.name!r}: kernel {kernel.entry!r} wants {kernel.shared_bytes} bytes of shared memory, but "
                f"{device.name} gives a block {device.shared_bytes}; build the plan on this machine"
            )


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
        return self._file.plan

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
                    self._loaded = LoadedPlan(self._file, self._driver or cuda_driver(self._device))
        return self._loaded

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
        return f"Engine({self.plan.name!r}, sm_{self.plan.arch}, {len(self.plan.launches)} launches)"

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


def nester(structure: object, outputs: int) -> Callable[[list[Any]], Any]:
    """What puts outputs into a plan's structure: lists and dicts with {"output": i} leaves; other values stand as they
    are. Without a structure one output stands for itself and several are a tuple."""
    if structure is None:
        return (lambda values: values[0]) if outputs == 1 else tuple

    def nest(part: Any, values: list[Any]) -> Any:
        if isinstance(part, dict):
            if set(part) == {"output"} and isinstance(part["output"], int):
                return values[part["output"]]
            return {name: nest(child, values) for name, child in part.items()}
        if isinstance(part, list | tuple):
            return [nest(child, values) for child in part]
        return part

    if structure == {"output": 0}:
        return lambda values: values[0]
    return lambda values: nest(structure, values)
