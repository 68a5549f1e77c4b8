"""Running an engine: the device memory and the CUDA graph of one stream of calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jitrt.errors import InputError
from jitrt.plan.schema import Plan
from jitrt.plan.verify import extent_bytes
from jitrt.runtime.arrays import ALIGNMENT, Arrays
from jitrt.runtime.cuda_graph import LaunchGraph
from jitrt.runtime.memory import Resources, allocate_spaces

if TYPE_CHECKING:
    from jitrt.runtime.engine import Engine
    from jitrt.runtime.loaded import LoadedPlan


class ExecutionContext:
    """An arena, zeros and CUDA graph of its own for one engine; contexts of one engine share kernels and weights.

    Calls of one context follow one another. Contexts run side by side, each in one thread or stream; a context may be
    handed between threads. With `stream` (its handle as an integer) every call goes to that stream, and ordering the
    inputs before it is the caller's business; else to the stream the caller's library works on, or, for arrays on the
    host, to a stream of the context's own.

    >>> context = ExecutionContext(engine)          # doctest: +SKIP
    >>> y = context(x)                              # doctest: +SKIP
    """

    def __init__(self, engine: Engine | LoadedPlan, stream: int | None = None):
        self._loaded = loaded = engine.loaded
        self._driver = driver = loaded.driver
        self._stream = stream
        self._own_stream: int | None = None
        self._staging: list[int] = []
        self._lock = threading.Lock()
        with driver.active():
            self._resources = Resources(driver, self, keep=loaded)
            addresses = allocate_spaces(loaded.plan, self._resources, loaded.constants, stream=0)
            driver.synchronize(0)  # the zeros are there, whatever stream comes first
        self._graph = LaunchGraph(driver, loaded.plan, loaded.kernels, addresses)
        self._resources.add(self._graph.close)
        self.addresses = addresses

    @property
    def plan(self) -> Plan:
        return self._loaded.plan

    def __call__(self, *inputs: Any) -> Any:
        """Run on inputs of any kind an engine takes; the outputs as the model's caller nested them."""
        return self._loaded.nest(self.call(self._loaded.arrays_of(inputs), inputs))

    def call(self, arrays: Arrays, inputs: Sequence[Any]) -> list[Any]:
        """Run on inputs of a known kind; the outputs in the plan's order. Raises InputError."""
        with self._lock, self._driver.active():
            if self._stream is not None:
                with arrays.using(self._stream):
                    return self._call(arrays, inputs, self._stream)
            return self._call(arrays, inputs, self.stream_of(arrays))

    def _call(self, arrays: Arrays, inputs: Sequence[Any], stream: int) -> list[Any]:
        addresses, _kept = arrays.take(inputs, stream)
        outputs, targets = arrays.make()
        if arrays.on_host:
            self._call_host(addresses, targets, stream)
        else:
            self._graph.launch(addresses + targets, stream)
        if arrays.finish:
            self._driver.synchronize(stream)
            return arrays.give(outputs)
        return outputs

    def run(self, inputs: Sequence[int], outputs: Sequence[int], stream: int) -> None:
        """Enqueue one run on device memory at these addresses, laid out as the plan's bindings say. Copies nothing,
        waits for nothing. Raises InputError for a wrong number of addresses, one that is no multiple of 16, or an
        output that shares memory with an input or another output."""
        if len(inputs) != len(self.plan.inputs) or len(outputs) != len(self.plan.outputs):
            raise InputError(
                f"the engine has {len(self.plan.inputs)} input(s) and {len(self.plan.outputs)} output(s), "
                f"got {len(inputs)} and {len(outputs)} addresses"
            )
        check_addresses(self.plan, [*inputs, *outputs])
        with self._lock, self._driver.active():
            self._graph.launch([*inputs, *outputs], stream)

    def close(self) -> None:
        """Free the context's device memory, once the device is idle. It cannot run again."""
        with self._lock:
            self._resources.close()

    def launch(self, bound: list[int], stream: int) -> None:
        """Enqueue one run on device memory at these addresses, inputs then outputs. Neither locked nor checked."""
        self._graph.launch(bound, stream)

    def stream_of(self, arrays: Arrays) -> int:
        """The stream that a call with arrays of this kind goes to now."""
        stream = arrays.stream() if self._stream is None else self._stream
        if stream is not None:
            return stream
        if self._own_stream is None:
            self._own_stream = self._driver.create_stream()
            self._resources.add(self._driver.destroy_stream, self._own_stream)
        return self._own_stream

    def _call_host(self, sources: Sequence[int], targets: Sequence[int], stream: int) -> None:
        """Copy in, run, copy out, in stream order."""
        staged = self.upload(sources, stream)
        self._graph.launch(staged, stream)
        outputs = self.plan.outputs
        for source, target, binding in zip(staged[len(sources) :], targets, outputs, strict=True):
            self._driver.download(target, source, extent_bytes(binding), stream)

    def upload(self, sources: Sequence[int], stream: int) -> list[int]:
        """Copy inputs from the host into buffers that stay; the addresses of these and of such buffers for outputs."""
        if not self._staging:
            bindings = (*self.plan.inputs, *self.plan.outputs)
            self._staging = [self._resources.alloc(extent_bytes(binding)) for binding in bindings]
        for target, source, binding in zip(self._staging, sources, self.plan.inputs):
            self._driver.upload(target, source, extent_bytes(binding), stream)
        return self._staging


def check_addresses(plan: Plan, bound: Sequence[int]) -> None:
    """Raise InputError unless a plan can run on these addresses, of inputs, then outputs. Inputs may share memory."""
    bindings = (*plan.inputs, *plan.outputs)
    ends = [first + extent_bytes(binding) for first, binding in zip(bound, bindings, strict=True)]
    for index, (first, end) in enumerate(zip(bound, ends)):
        if first % ALIGNMENT:
            name = bindings[index].name
            raise InputError(f"{name!r} is at address {first:#x}; kernels rely on a multiple of {ALIGNMENT}")
        for other in range(index if index >= len(plan.inputs) else 0):
            if first < ends[other] and bound[other] < end:
                raise InputError(
                    f"output {bindings[index].name!r} shares memory with {bindings[other].name!r}, which is still read "
                    "or written while it is: give it memory of its own"
                )
