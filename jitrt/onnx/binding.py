"""Inputs and outputs bound to memory ahead of a run: `onnxruntime.IOBinding`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jitrt.errors import FeedError
from jitrt.onnx.values import DeviceMemory, OrtValue, device_of, value_at
from jitrt.plan.dtypes import numpy_dtype
from jitrt.runtime.context import ExecutionContext
from jitrt.runtime.engine import Engine
from jitrt.runtime.seam import Driver

if TYPE_CHECKING:
    from jitrt.onnx.engines import Specialisation
    from jitrt.onnx.session import InferenceSession


class IOBinding:
    """What a session's next `run_with_iobinding` reads and writes, by name.

    On the GPU nothing is copied that lies there: bound device memory is what the kernels read and write. An array on
    the CPU is copied there when it is bound, one that an output is bound to is filled by the run.
    """

    def __init__(self, session: InferenceSession):
        self._session = session
        self._inputs: dict[str, OrtValue] = {}
        self._wanted: dict[str, OrtValue | str] = {}  # where an output goes: a value, or a device to make one on
        self._outputs: dict[str, OrtValue] = {}
        self._made: dict[str, DeviceMemory] = {}  # on the GPU for outputs without memory there, from run to run
        self._contexts: dict[int, tuple[Engine, ExecutionContext]] = {}

    # -- what is bound

    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        """Read an input from a numpy array. Raises FeedError for one the model does not have or that does not fit."""
        array = self._session.checked(name, arr_on_cpu)
        if self._session.on_gpu:
            self._inputs[name] = OrtValue.ortvalue_from_numpy(array, "cuda")
        else:
            self._inputs[name] = OrtValue(array)

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Read an input from dense row-major memory at an address, which the caller keeps alive."""
        self.bind_ortvalue_input(name, value_at(buffer_ptr, device_type, device_id, element_type, shape))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Read an input from a value."""
        self._session.check(name, ortvalue.shape(), ortvalue.held.dtype)
        self._inputs[name] = ortvalue

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Want an output: on a device, or, with a buffer, at an address. Raises FeedError for one the model does not
        have, OptionError for a device that does not exist here."""
        self._session.check_output(name)
        self._made.pop(name, None)
        if buffer_ptr is None:
            self._wanted[name] = device_of(device_type, device_id)
        elif element_type is None or shape is None:
            raise FeedError(f"output {name!r} is bound to an address; say its element_type and shape too")
        else:
            self._wanted[name] = value_at(buffer_ptr, device_type, device_id, element_type, shape)

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Write an output to a value."""
        self._session.check_output(name)
        self._wanted[name] = ortvalue

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._wanted.clear()
        self._outputs.clear()
        self._made.clear()

    # -- what came

    def get_outputs(self) -> list[OrtValue]:
        """The values that the last run wrote, in the order they were bound."""
        return [self._outputs[name] for name in self._wanted if name in self._outputs]

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        """The same as numpy arrays."""
        return [value.numpy() for value in self.get_outputs()]

    def synchronize_inputs(self) -> None:
        """Inputs are in place when binding returns: nothing to wait for."""

    def synchronize_outputs(self) -> None:
        """Outputs are in place when the run returns: nothing to wait for."""

    # -- the run

    def run(self) -> None:
        """Run the session on what is bound. Raises FeedError if an input is not, or no output is wanted."""
        if not self._wanted:
            raise FeedError(f"no output is bound; bind one of {', '.join(self._session.output_names)}")
        found = self._session.specialise(self._inputs)
        sources = [self._inputs[name] for name in found.inputs]
        if isinstance(found.engine, Engine):
            self._run_on_gpu(found, sources)
            return
        results = found.run([value.numpy() for value in sources])
        for name in self._wanted:
            self._keep(name, OrtValue(np.ascontiguousarray(results[name])))

    def _run_on_gpu(self, found: Specialisation, inputs: Sequence[OrtValue]) -> None:
        """Run with kernels on the memory itself. Outputs nobody wants are computed and dropped."""
        engine, places = found.engine, found.places
        driver = engine.loaded.driver
        context = self._context(engine)
        sources = [_on_device(value, driver) for value in inputs]
        names = {place: name for name, place in places.items()} | {places[name]: name for name in self._wanted}
        targets: list[DeviceMemory] = []  # by output of the plan, of which two of the model's may be one
        for place, binding in enumerate(engine.plan.outputs):
            name = names.get(place, binding.name)
            dtype, there = numpy_dtype(binding.dtype), self._wanted.get(name)
            held = there.held if isinstance(there, OrtValue) else None
            memory = held if isinstance(held, DeviceMemory) else self._made.get(name)
            taken = memory in sources and memory is not held  # what came out last time goes in now
            if memory is None or taken or memory.shape != binding.shape or memory.dtype != dtype:
                memory = self._made[name] = DeviceMemory(driver, binding.shape, dtype)
            targets.append(memory)
        context.run([m.address for m in sources], [m.address for m in targets], 0)
        with driver.active():
            driver.synchronize(0)
        for name in self._wanted:
            self._keep(name, OrtValue(targets[places[name]]))

    def _context(self, engine: Engine) -> ExecutionContext:
        if id(engine) not in self._contexts:  # the engine is kept too, so that its number stays its own
            self._contexts = {id(engine): (engine, engine.context())}
        return self._contexts[id(engine)][1]

    def _keep(self, name: str, made: OrtValue) -> None:
        """Hand an output over to where it is wanted."""
        there = self._wanted[name]
        if isinstance(there, OrtValue):
            if there.held is not made.held:
                if there.shape() != made.shape() or there.held.dtype != made.held.dtype:
                    raise FeedError(
                        f"output {name!r} is {made.data_type()} {made.shape()}; it is bound to {there.data_type()} "
                        f"{there.shape()}"
                    )
                there.update_inplace(made.numpy())
            self._outputs[name] = there
        elif there == made.device_name():
            self._outputs[name] = made
        elif there == "cpu":
            self._outputs[name] = OrtValue(made.numpy())
        else:
            self._outputs[name] = OrtValue.ortvalue_from_numpy(made.numpy(), there)


def _on_device(value: OrtValue, driver: Driver) -> DeviceMemory:
    """A value's elements on the GPU."""
    if isinstance(value.held, DeviceMemory):
        return value.held
    memory = DeviceMemory(driver, value.held.shape, value.held.dtype)
    memory.write(value.held)
    return memory
