"""Where an engine's time goes.

Three graphs of the same launches are timed. The engine's own gives the time of a call. A chain, each launch after the
one before, gives the time without overlap. The chain with an event between launches tells them apart: every launch runs
once, in its place, with the caches as its neighbours leave them. An event between two kernels takes time too (about a
microsecond), so what the events add to the chain is taken off again, evenly; the layers then sum to the chain.

A floor is the least a layer must take: its bytes at the memory's data-sheet rate, or its FLOPs at the dense 16-bit rate
of the tensor cores (a tf32 layer cannot reach more than half of it).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jitrt.plan.schema import Layer
from jitrt.runtime.context import ExecutionContext
from jitrt.runtime.cuda_graph import LaunchGraph
from jitrt.runtime.memory import Resources
from jitrt.runtime.report import LayerTime, Profile
from jitrt.runtime.seam import Device, Driver, Handle

if TYPE_CHECKING:
    from jitrt.runtime.engine import Engine

_BACK_TO_BACK = 10
_WARM_UP = 3
_FLOPS_PER_CLOCK = {8: 2048, 9: 4096, 10: 8192}  # dense 16-bit, an SM, by major architecture


def profile(engine: Engine, inputs: Sequence[Any], repeats: int) -> Profile:
    """Time an engine on `inputs`, medians over `repeats`. Raises what calling the engine raises."""
    loaded = engine.loaded
    driver, plan = loaded.driver, loaded.plan
    context = ExecutionContext(loaded)
    arrays = loaded.arrays_of(inputs)
    context.call(arrays, inputs)
    with driver.active():
        resources = Resources(driver, context)
        stream = context.stream_of(arrays)
        addresses, _kept = arrays.take(inputs, stream)
        if arrays.on_host:
            bound = context.upload(addresses, stream)
        else:
            _outputs, targets = arrays.make()
            bound = addresses + targets
        events = [driver.create_event() for _ in range(len(plan.launches) + 1)]
        for event in events:
            resources.add(driver.destroy_event, event)
        clock = _Clock(driver, stream, events[0], events[-1], repeats)

        chain = LaunchGraph(driver, plan, loaded.kernels, context.addresses, chain=True)
        graph, enqueue = clock.time(lambda: context.launch(bound, stream))
        serial, _ = clock.time(lambda: chain.launch(bound, stream))
        chain.close()
        marked = LaunchGraph(driver, plan, loaded.kernels, context.addresses, chain=True, events=events)
        launches = _between(driver, marked, bound, stream, events, repeats)
        marked.close()
        resources.close()
    context.close()

    overhead = max(0.0, sum(launches) - serial) / max(1, len(launches))
    times = [0.0] * len(plan.layers)
    for launch, measured in zip(plan.launches, launches, strict=True):
        times[launch.layer] += max(0.0, measured - overhead)
    layers = tuple(LayerTime(layer, spent, floor(layer, driver.device)) for layer, spent in zip(plan.layers, times))
    return Profile(plan.name, driver.device.name, layers, graph, serial, enqueue)


def floor(layer: Layer, device: Device) -> float:
    """Microseconds below which no kernel can do the layer's work on the device."""
    rate = device.sms * device.clock * _FLOPS_PER_CLOCK.get(device.arch // 10, max(_FLOPS_PER_CLOCK.values()))
    return 1e6 * max(layer.bytes / device.bandwidth, layer.flops / rate)


class _Clock:
    """Times what is enqueued on a stream, with two events."""

    def __init__(self, driver: Driver, stream: int, start: Handle, end: Handle, repeats: int):
        self._driver = driver
        self._stream = stream
        self._start, self._end = start, end
        self._repeats = repeats

    def time(self, enqueue: Callable[[], None]) -> tuple[float, float]:
        """Median microseconds of one run on the device, back to back with others, and on the host to enqueue it."""
        for _ in range(_WARM_UP):
            enqueue()
        device, host = [], []
        for _ in range(self._repeats):
            self._driver.record(self._start, self._stream)
            begun = time.perf_counter()
            for _ in range(_BACK_TO_BACK):
                enqueue()
            host.append(1e6 * (time.perf_counter() - begun) / _BACK_TO_BACK)
            self._driver.record(self._end, self._stream)
            device.append(self._driver.elapsed(self._start, self._end) / _BACK_TO_BACK)
        return statistics.median(device), statistics.median(host)


def _between(
    driver: Driver, graph: LaunchGraph, bound: Sequence[int], stream: int, events: Sequence[Handle], repeats: int
) -> list[float]:
    """Median microseconds between each event and the next."""
    samples: list[list[float]] = [[] for _ in events[1:]]
    for run in range(_WARM_UP + repeats):
        graph.launch(bound, stream)
        driver.synchronize(stream)
        if run >= _WARM_UP:
            for sample, start, end in zip(samples, events, events[1:]):
                sample.append(driver.elapsed(start, end))
    return [statistics.median(sample) for sample in samples]
