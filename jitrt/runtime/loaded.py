"""A plan on a device: what all execution contexts of an engine share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitrt.errors import DriverError, PlanError
from jitrt.plan.schema import Plan, PlanFile, runs_on
from jitrt.plan.verify import check_plan
from jitrt.runtime.arrays import Arrays, Signature, check_count, complaint
from jitrt.runtime.cuda_graph import LoadedKernel
from jitrt.runtime.dlpack import is_array
from jitrt.runtime.memory import Resources
from jitrt.runtime.numpy_arrays import NumpyArrays
from jitrt.runtime.other_arrays import OtherArrays
from jitrt.runtime.parameters import sizes
from jitrt.runtime.seam import Device, Driver
from jitrt.runtime.torch_arrays import TorchArrays

_BAD_IMAGE = {200, 209, 218, 300}  # invalid image, no binary for this GPU, invalid PTX, invalid source
_NO_ENTRY = 500


class LoadedPlan:
    """What all contexts of an engine share: the plan's kernels and constants on one device."""

    def __init__(self, file: PlanFile, driver: Driver):
        file = file.fitting(driver.device.arch)
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
        """How to handle inputs of this kind; without inputs they count as numpy's. Raises InputError if the first is
        no array."""
        first = inputs[0] if inputs else None
        key = (type(first), getattr(first, "is_cuda", None))
        arrays = self._arrays.get(key)
        if arrays is None:
            check_count(inputs, self.signature.inputs)
            arrays = self._kind_of(first)
            if not isinstance(arrays, OtherArrays):  # whose device its type does not tell
                self._arrays[key] = arrays
        return arrays

    def _kind_of(self, first: object) -> Arrays:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(first, torch.Tensor):
            return TorchArrays(self.signature, torch, on_host=not first.is_cuda)
        if not self.signature.inputs or isinstance(first, np.ndarray | np.generic):
            return NumpyArrays(self.signature)
        if is_array(first):
            return OtherArrays(self.signature, first)
        raise complaint(self.signature.inputs[0], f"a {type(first).__name__}")

    def close(self) -> None:
        self._resources.close()


def check_device(plan: Plan, device: Device) -> None:
    """Raise PlanError unless the plan's cubins run on the device: same major architecture, minor not below, and as much
    of everything as they count on."""
    if not runs_on(plan.arch, device.arch):
        raise PlanError(
            f"plan {plan.name!r} was built for sm_{plan.arch}, but GPU {device.index} ({device.name}) is "
            f"sm_{device.arch}; build it again on that machine"
        )
    for kernel in plan.kernels:
        if kernel.shared_bytes > device.shared_bytes:
            raise PlanError(
                f"plan {plan.name!r}: kernel {kernel.entry!r} wants {kernel.shared_bytes} bytes of shared memory, but "
                f"{device.name} gives a block {device.shared_bytes}; build the plan on this machine"
            )
    for launch in plan.launches:
        programs = math.prod(launch.grid)
        if launch.cooperative and programs > device.sms:
            raise PlanError(
                f"plan {plan.name!r}: kernel {plan.kernels[launch.kernel].entry!r} needs {programs} SMs at the same "
                f"time, but {device.name} has {device.sms}; build the plan on this machine"
            )


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
