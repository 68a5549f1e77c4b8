"""The reference engine: the optimised graph, run in numpy, behind the same surface as a real engine."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.errors import GradientError, InputError, TargetError
from jitrt.graph import Graph, Node, TensorType, Value, interpret
from jitrt.graph.op import Array
from jitrt.graph.ops import Region
from jitrt.plan.schema import Binding, Layer, Plan
from jitrt.runtime.arrays import check_count, check_type
from jitrt.runtime.loaded import nester
from jitrt.runtime.report import Comparison, Inspection, LayerTime, Profile, leaves


class ReferenceEngine:
    """A graph that can be called: every region is evaluated by its ops' own numpy formulas, on the CPU.

    Takes and returns what an `Engine` does: torch tensors (of any device), numpy arrays, anything with DLPack. It is no
    plan: there is nothing to save.
    """

    def __init__(self, graph: Graph, structure: object = None):
        self.graph = graph
        self._nest = nester(structure, len(graph.outputs))
        self.plan = Plan(
            name=graph.name,
            arch=0,
            inputs=tuple(binding_of(value.name, value.type) for value in graph.inputs),
            outputs=tuple(binding_of(value.name, value.type) for value in graph.outputs),
            kernels=(),
            launches=(),
            layers=tuple(layer_of(node) for node in graph.nodes),
            constants=(),
            arena_bytes=0,
            zeros_bytes=0,
            constants_bytes=sum(value.type.nbytes for value in graph.constants.values()),
            structure=structure,
        )

    def __call__(self, *inputs: Any) -> Any:
        """Run on `inputs`, in the graph's order; the outputs in the inputs' kind, nested as the model nested them.

        Raises InputError for inputs that do not fit, GradientError for one that requires a gradient while those are
        enabled.
        """
        return self._nest(self.call(inputs))

    def call(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on `inputs`; the outputs in the graph's order, not nested."""
        back = way_back(inputs[0] if inputs else None)
        # Copies: an output may be a view of an input, of a constant or of another output.
        return [back(np.array(output)) for output in interpret(self.graph, self._take(inputs))]

    def _take(self, inputs: Sequence[Any]) -> list[Array]:
        return taken(inputs, self.plan.inputs, self.graph.inputs)

    def save(self, path: object) -> None:
        """Raises TargetError: a reference engine holds no kernels that could be saved."""
        raise TargetError(
            "a reference engine has no kernels to save; compile for an architecture, such as target='sm_90', for a plan"
        )

    def profile(self, *inputs: Any, repeats: int = 3) -> Profile:
        """How long each layer takes in numpy, medians over `repeats`. It says nothing of any GPU: no floors."""
        arrays = self._take(inputs)
        samples: list[list[float]] = [[] for _ in self.graph.nodes]
        totals = []
        for _ in range(repeats):
            marks = [time.perf_counter()]
            interpret(self.graph, arrays, observe=Stopwatch(marks))
            totals.append(1e6 * (marks[-1] - marks[0]))
            for sample, start, end in zip(samples, marks, marks[1:]):
                sample.append(1e6 * (end - start))
        times = [statistics.median(sample) for sample in samples]
        layers = tuple(LayerTime(layer, spent, 0.0) for layer, spent in zip(self.plan.layers, times, strict=True))
        return Profile(self.plan.name, "the CPU, in numpy", layers, statistics.median(totals), sum(times), 0.0)

    def inspect(self) -> Inspection:
        """The graph's layers, bindings and weights."""
        return _ReferenceInspection(self.plan, self.plan.constants_bytes, 0)

    def compare(self, reference: Callable[..., Any], *inputs: Any) -> Comparison:
        """How far the outputs are from those of `reference(*inputs)`, by relative norm, output by output."""
        return Comparison.of(self.plan, self.call(inputs), leaves(reference(*inputs)))

    def close(self) -> None:
        """Nothing to free."""

    def __repr__(self) -> str:
        return f"ReferenceEngine({self.plan.name!r}, {len(self.plan.layers)} layers in numpy)"

    def _repr_html_(self) -> str:
        return self.inspect()._repr_html_()


@dataclass(frozen=True)
class Stopwatch:
    """Notes the time after each node."""

    marks: list[float]

    def __call__(self, node: Node, outputs: tuple[Array, ...]) -> None:
        self.marks.append(time.perf_counter())


class _ReferenceInspection(Inspection):
    def _head(self) -> list[str]:
        _, *rest = super()._head()
        return [f"{self.plan.name}: reference target (numpy), {len(self.plan.layers)} layers", *rest]


def binding_of(name: str, type: TensorType) -> Binding:
    return Binding(name, type.dtype.value, type.shape, type.strides)


def layer_of(node: Node) -> Layer:
    nodes = node.op.body.nodes if isinstance(node.op, Region) else [node]
    types = [v.type for v in node.inputs], [v.type for v in node.outputs]
    return Layer(
        name=node.outputs[0].name,
        kind=node.op.name,
        text=" + ".join(getattr(inner.op, "title", inner.op.name) for inner in nodes),
        location=node.loc,
        tactic="numpy",
        microseconds=0.0,
        bytes=sum(_bytes(value) for value in (*node.inputs, *node.outputs)),
        flops=node.op.flops(*types),
    )


def _bytes(value: Value) -> int:
    return math.prod(value.type.shape) * value.type.dtype.itemsize


def taken(inputs: Sequence[Any], bindings: Sequence[Binding], values: Sequence[Value]) -> list[Array]:
    """Inputs as arrays, once they fit what the plan and the graph say of them. Raises InputError, GradientError."""
    check_count(inputs, bindings)
    arrays = [on_host(value, binding) for value, binding in zip(inputs, bindings, strict=True)]
    for array, binding, value in zip(arrays, bindings, values, strict=True):
        check_type(binding, array.shape, array.dtype.name, array.dtype == value.type.dtype.numpy)
    return arrays


def on_host(value: Any, binding: Binding) -> Array:
    """An input of any kind as a numpy array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from jitrt.frontend.torch.arrays import to_numpy

        if value.requires_grad and torch.is_grad_enabled():
            raise GradientError(
                f"input {binding.name!r} requires a gradient, but jitrt compiles for inference only; "
                "call the engine under torch.no_grad(), or detach() the input"
            )
        if value.device.type == "meta":
            raise InputError(f"input {binding.name!r} is on meta, where tensors have no values; make it on the CPU")
        return to_numpy(value)
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    raise InputError(
        f"input {binding.name!r}: expected {binding.dtype} {binding.shape}, got a {type(value).__name__}; "
        "pass a torch tensor, a numpy array, or anything with DLPack"
    )


def way_back(first: Any) -> Callable[[Array], Any]:
    """What turns a numpy array into the kind of the first input."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(first, torch.Tensor):
        from jitrt.frontend.torch.arrays import from_numpy

        return lambda array: from_numpy(array, first.device)
    if first is None or isinstance(first, np.ndarray | np.generic):
        return lambda array: array
    namespace = first.__array_namespace__() if hasattr(first, "__array_namespace__") else None
    namespace = namespace or sys.modules[type(first).__module__.partition(".")[0]]
    return getattr(namespace, "from_dlpack", lambda array: array)
