"""Whole plans against each other: which of two ways to run a part of a network, or all of it, is faster.

What a single tactic costs alone does not tell: branches run side by side, and a launch after a launch hides part of its
start. So the plans are run as they would be, several times over in one CUDA graph, in turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np

from jitrt.plan.dtypes import numpy_dtype
from jitrt.plan.schema import Binding, Launch, Plan, PlanFile
from jitrt.plan.verify import extent_bytes
from jitrt.runtime.context import ExecutionContext
from jitrt.runtime.driver import cuda_driver
from jitrt.runtime.loaded import LoadedPlan
from jitrt.runtime.memory import Resources
from jitrt.runtime.seam import Driver
from jitrt.tune.worker import time_limit

_COPIES = 8  # runs of a plan in one CUDA graph, at most
_ROUNDS = 7  # turns of each plan
_LAUNCHES = 4  # graphs a turn, at most
_TURN = 6000.0  # microseconds: long plans need fewer runs
_PATIENCE = 60.0  # seconds for one contest
_RANDOM = 1 << 20  # distinct random elements of an input; more would only take time to draw


def time_plans(index: int, files: Sequence[PlanFile]) -> list[float]:
    """In the GPU worker: median microseconds of one run of each plan, on random inputs. The plans take their inputs of
    the same names from the same memory."""
    return contest(cuda_driver(index), files)


def contest(driver: Driver, files: Sequence[PlanFile]) -> list[float]:
    """The same on a given driver."""
    with ExitStack() as stack:
        stack.enter_context(driver.active())
        resources = stack.enter_context(closing(Resources(driver, driver)))
        stack.enter_context(time_limit(_PATIENCE))
        inputs: dict[str, int] = {}
        runs = []
        copies, launches = _runs(files)
        for file in files:
            loaded = stack.enter_context(closing(LoadedPlan(_repeated(file, copies), driver)))
            context = stack.enter_context(closing(ExecutionContext(loaded)))
            for binding in file.plan.inputs:
                if binding.name not in inputs:
                    inputs[binding.name] = _random(driver, resources, binding)
            outputs = [resources.alloc(extent_bytes(binding)) for binding in file.plan.outputs]
            runs.append((context, [*(inputs[binding.name] for binding in file.plan.inputs), *outputs]))
        stream = driver.create_stream()
        resources.add(driver.destroy_stream, stream)
        events = driver.create_event(), driver.create_event()
        for event in events:
            resources.add(driver.destroy_event, event)
        samples: list[list[float]] = [[] for _ in runs]
        for turn in range(1 + _ROUNDS):
            for (context, bound), sample in zip(runs, samples, strict=True):
                context.launch(bound, stream)
                driver.record(events[0], stream)
                for _ in range(launches):
                    context.launch(bound, stream)
                driver.record(events[1], stream)
                driver.synchronize(stream)
                if turn:
                    sample.append(driver.elapsed(*events) / (launches * copies))
        return [statistics.median(sample) for sample in samples]


def _runs(files: Sequence[PlanFile]) -> tuple[int, int]:
    """(copies of each plan in a CUDA graph, graphs a turn): the same for all, so that no plan has an advantage."""
    longest = max(sum(layer.microseconds for layer in file.plan.layers) for file in files)
    wanted = _TURN / longest if longest else _COPIES * _LAUNCHES
    copies = max(1, min(_COPIES, int(wanted)))
    return copies, max(1, min(_LAUNCHES, int(wanted / copies)))


def _repeated(file: PlanFile, copies: int) -> PlanFile:
    return replace(file, plan=repeated(file.plan, copies))


def repeated(plan: Plan, times: int) -> Plan:
    """The plan run `times` times over: what began a run waits for what ended the one before."""
    size = len(plan.launches)
    waited_for = {earlier for launch in plan.launches for earlier in launch.after}
    last = [number for number in range(size) if number not in waited_for]
    launches: list[Launch] = []
    for start in range(0, times * size, max(1, size)):
        for launch in plan.launches:
            after = tuple(start + earlier for earlier in launch.after)
            if not after and start:
                after = tuple(start - size + number for number in last)
            launches.append(replace(launch, after=after, dependent=launch.dependent and len(after) == 1))
    return replace(plan, launches=tuple(launches))


def _random(driver: Driver, resources: Resources, binding: Binding) -> int:
    """Device memory with random numbers for an input."""
    dtype = numpy_dtype(binding.dtype)
    nbytes = extent_bytes(binding)
    rng = np.random.default_rng(0)
    count = max(1, min(_RANDOM, nbytes // dtype.itemsize))
    drawn = rng.standard_normal(count, np.float32) if dtype.kind in "fV" else rng.integers(0, 2, count)
    data = drawn.astype(dtype)
    address, done = resources.alloc(nbytes), min(nbytes, data.nbytes)
    driver.upload(address, data.ctypes.data, done)
    while done < nbytes:  # the rest repeats it
        more = min(done, nbytes - done)
        driver.copy(address + done, address, more)
        done += more
    driver.synchronize(0)
    return address
