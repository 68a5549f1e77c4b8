"""The engine of a graph that was cut: engines of its parts, and what runs on the host between them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jitrt.errors import TargetError
from jitrt.graph import Graph, Node, interpret
from jitrt.graph.op import Array
from jitrt.hybrid.cut import Part
from jitrt.hybrid.prepare import Prepared
from jitrt.hybrid.steps import REFERENCE, Step
from jitrt.plan.schema import Constant, Kernel, Launch, Layer, Plan
from jitrt.reference import Stopwatch, binding_of, layer_of, taken, way_back
from jitrt.runtime import Engine
from jitrt.runtime.loaded import nester
from jitrt.runtime.report import Comparison, Inspection, LayerTime, Profile, leaves

Placed = tuple[Part, Engine | None]  # a part, and its engine if it has one


class HybridEngine:
    """Engines and steps on the host, one after another, behind the surface of an `Engine`.

    `steps` says what runs on the host and why. It takes and returns what an `Engine` does; values go through the host
    between the parts. Of an input without elements, and an output, nothing but the shape is looked at.
    """

    def __init__(self, whole: Prepared, parts: Sequence[Placed], steps: Sequence[Step], structure: object):
        self.steps = tuple(steps)
        self.parts = tuple(parts)
        self._source, self._graph, self._wanted = whole.source, whole.graph, whole.outputs
        self._nest = nester(structure, len(whole.outputs))
        self.plan = _plan(whole, self.parts, structure)

    def __call__(self, *inputs: Any) -> Any:
        """Run on `inputs`, in the plan's order; the outputs in the inputs' kind, nested as the model nested them.

        Raises InputError for inputs that do not fit, NoGpuError without a GPU for the parts that need one.
        """
        return self._nest(self.call(inputs))

    def call(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on `inputs`; the outputs in the plan's order, not nested."""
        back = way_back(inputs[0] if inputs else None)
        return [back(np.array(output)) for output in self._run(self._take(inputs))]

    def _take(self, inputs: Sequence[Any]) -> list[Array]:
        return taken(inputs, self.plan.inputs, self._source.inputs)

    def _run(
        self, arrays: Sequence[Array], observe: Callable[[Placed, list[Array]], None] | None = None
    ) -> list[Array]:
        """The outputs on arrays that fit. `observe` sees every part with its inputs, before it runs."""
        there = {value.name: array for value, array in zip(self._source.inputs, arrays, strict=True)}
        there |= {value.name: value.data for value in self._graph.constants.values() if value.data is not None}
        for placed in self.parts:
            part, engine = placed
            given = [there[value.name] for value in part.graph.inputs]
            if observe is not None:
                observe(placed, given)
            results = interpret(part.graph, given) if engine is None else engine(*given)
            there |= {value.name: result for value, result in zip(part.graph.outputs, results, strict=True)}
        empty = {v.name: np.empty(v.type.shape, v.type.dtype.numpy) for v in self._wanted if v.type.numel == 0}
        return [there[v.name] if v.type.numel else empty[v.name] for v in self._wanted]

    def save(self, path: object) -> None:
        """Raises TargetError: a plan holds kernels, and steps on the host are none."""
        told = ", ".join(sorted({step.operator for step in self.steps})) or "what has no elements"
        raise TargetError(
            f"an engine with steps on the host ({told}) cannot be saved: a plan runs on the GPU alone; strict=True "
            "says at the build what would have to change"
        )

    def profile(self, *inputs: Any, repeats: int = 30) -> Profile:
        """How long each layer takes, steps on the host among them; `graph` is a whole call by the host's clock, with
        the copies between the parts."""
        arrays = self._take(inputs)
        layers: list[LayerTime] = []
        enqueue = 0.0
        devices: list[str] = []

        def cost(placed: Placed, given: list[Array]) -> None:
            nonlocal enqueue
            part, engine = placed
            if engine is None:
                layers.extend(_time_on_host(part.graph, given, repeats))
                return
            measured = engine.profile(*given, repeats=repeats)
            layers.extend(measured.layers)
            devices.append(measured.device)
            enqueue += measured.enqueue

        self._run(arrays, cost)
        spans = []
        for _ in range(repeats):
            started = time.perf_counter()
            self._run(arrays)
            spans.append(1e6 * (time.perf_counter() - started))
        where = " and ".join([*dict.fromkeys(devices), "the host"])
        serial = sum(layer.microseconds for layer in layers)
        return Profile(self.plan.name, where, tuple(layers), statistics.median(spans), serial, enqueue)

    def inspect(self) -> Inspection:
        """Layers, tactics, bindings and memory of all parts; needs no GPU."""
        files = [engine.file for _, engine in self.parts if engine is not None]
        return _HybridInspection(
            self.plan, sum(len(f.constants) for f in files), sum(sum(map(len, f.images.values())) for f in files)
        )

    def compare(self, reference: Callable[..., Any], *inputs: Any) -> Comparison:
        """How far the outputs are from those of `reference(*inputs)`, by relative norm, output by output."""
        return Comparison.of(self.plan, self.call(inputs), leaves(reference(*inputs)))

    def close(self) -> None:
        """Free what the parts have on the device."""
        for _, engine in self.parts:
            if engine is not None:
                engine.close()

    def __repr__(self) -> str:
        count = sum(engine is not None for _, engine in self.parts)
        return f"HybridEngine({self.plan.name!r}, {count} engine(s), {len(self.steps)} step(s) on the host)"

    def _repr_html_(self) -> str:
        return self.inspect()._repr_html_()


class _HybridInspection(Inspection):
    def _head(self) -> list[str]:
        first, *rest = super()._head()
        count = sum(layer.kind == "host" for layer in self.plan.layers)
        return [f"{first}, {count} of them on the host", *rest]


def _time_on_host(graph: Graph, given: Sequence[Array], repeats: int) -> list[LayerTime]:
    samples: list[list[float]] = [[] for _ in graph.nodes]
    for _ in range(repeats):
        marks = [time.perf_counter()]
        interpret(graph, given, observe=Stopwatch(marks))
        for sample, start, end in zip(samples, marks, marks[1:]):
            sample.append(1e6 * (end - start))
    return [
        LayerTime(_host_layer(node), statistics.median(sample), 0.0)
        for node, sample in zip(graph.nodes, samples, strict=True)
    ]


def _host_layer(node: Node) -> Layer:
    title = getattr(node.op, "title", node.op.name)
    tactic = "onnx.reference" if node.op.name == REFERENCE else "numpy"
    return replace(layer_of(node), kind="host", text=title, tactic=tactic)


def _plan(whole: Prepared, parts: Sequence[Placed], structure: object) -> Plan:
    """All parts as one plan, to be read, not to be run: its launches are those of several engines."""
    kernels: list[Kernel] = []
    launches: list[Launch] = []
    layers: list[Layer] = []
    constants: list[Constant] = []
    arena = zeros = weights = arch = 0
    for part, engine in parts:
        if engine is None:
            layers += [_host_layer(node) for node in part.graph.nodes]
            continue
        plan = engine.file.plan
        launches += [
            replace(
                launch,
                kernel=launch.kernel + len(kernels),
                layer=launch.layer + len(layers),
                after=tuple(index + len(launches) for index in launch.after),
            )
            for launch in plan.launches
        ]
        kernels += plan.kernels
        layers += plan.layers
        constants += plan.constants
        arena, zeros, weights = arena + plan.arena_bytes, zeros + plan.zeros_bytes, weights + plan.constants_bytes
        arch = plan.arch
    return Plan(
        name=whole.graph.name,
        arch=arch,
        inputs=tuple(binding_of(value.name, value.type) for value in whole.source.inputs),
        outputs=tuple(binding_of(value.name, value.type) for value in whole.outputs),
        kernels=tuple(kernels),
        launches=tuple(launches),
        layers=tuple(layers),
        constants=tuple(constants),
        arena_bytes=arena,
        zeros_bytes=zeros,
        constants_bytes=weights,
        structure=structure,
    )
