"""Every convolution of a model alone: jitrt's tuned kernel against cuDNN's fused one.

The model is optimised without the optional fusions, so that a region is one convolution with its epilogue. cuDNN gets
the same through `torch.cudnn_convolution_relu` or `cudnn_convolution_add_relu`: channels_last, bias, residual and relu
inside. Where it could not do that in one kernel it is favoured: its relu stands for any activation or none, and of a
grouped convolution PyTorch's own is timed alone, without bias and activation.

Each side is a CUDA graph of launches one after another over several sets of buffers in turns, the same for both,
enough to overflow the L2 cache twice where 16 are. As in any plan, a launch of jitrt's may begin while the one before
it ends. Both graphs are timed in turns, twice; the better of two medians counts, and the larger difference of two equal
runs stands behind ±. Sums count a layer as often as the model has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from jitrt.api import import_model
from jitrt.bench.contest import Say, caught, settings
from jitrt.bench.convolutions import Layer, layers_of
from jitrt.bench.measure import Call, CudaTimer, Inputs, Timer, measure, relative_error
from jitrt.bench.peers import graphed
from jitrt.bench.roofline import Rates
from jitrt.bench.subject import Subject, check_request, inputs_of, random_input, source_of
from jitrt.compiler import optimize_graph, resolve
from jitrt.frontend.torch import arrays
from jitrt.graph.graph import Graph
from jitrt.graph.ops import Region
from jitrt.kernels.base import Problem
from jitrt.passes.pipeline import rule_names
from jitrt.passes.report import Report as Decisions
from jitrt.plan.schema import PlanFile
from jitrt.planner import Optimized, Options, plan_of
from jitrt.progress import TuningProgress
from jitrt.runtime.context import ExecutionContext
from jitrt.runtime.engine import Engine
from jitrt.tune.contest import repeated
from jitrt.tune.operands import draw
from jitrt.tune.tuner import Tuner

if TYPE_CHECKING:
    from jitrt.codegen.target import Target
    from jitrt.tune.select import Choice

_MOST_SETS = 16
_LAUNCHES = 32  # in a graph, at least


# -- what was found --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerTimes:
    """One convolution: microseconds a launch of jitrt's kernel and of cuDNN's, how far two equal runs were apart, and
    the least it takes (jitrt/bench/roofline.py). `error` is between the two, None where cuDNN's computes another
    activation."""

    text: str
    epilogue: str
    count: int
    ours: float
    theirs: float
    spread: float
    floor: float
    tactic: str
    error: float | None


@dataclass(frozen=True)
class Convolutions:
    """The layer benchmark of one model and batch."""

    model: str
    batch: int
    precision: str
    layers: tuple[LayerTimes, ...]
    left_out: tuple[str, ...] = ()

    def sums(self) -> tuple[float, float, float]:
        """Microseconds of jitrt, of cuDNN and of the floors, each layer as often as it occurs."""
        columns = ([x.ours for x in self.layers], [x.theirs for x in self.layers], [x.floor for x in self.layers])
        ours, theirs, floor = (sum(x.count * t for x, t in zip(self.layers, times)) for times in columns)
        return ours, theirs, floor

    def title(self) -> str:
        ours, theirs, floor = self.sums()
        count = sum(layer.count for layer in self.layers)
        return (
            f"{self.model}, batch {self.batch}, {self.precision}: {count} convolutions, each alone on rotated buffers, "
            f"sum to {ours:,.0f} us by jitrt, {theirs:,.0f} us by cuDNN, {floor:,.0f} us at the floor"
        )

    def headings(self) -> Sequence[str]:
        return (
            *("Convolution", "Epilogue", "Times", "jitrt (us)", "cuDNN (us)", "±", "Floor (us)"),
            *("cuDNN / jitrt", "Difference", "Tactic"),
        )

    def rows(self) -> list[list[str]]:
        """A row a distinct layer, those that take longest in all first, and the sums."""
        ordered = sorted(self.layers, key=lambda layer: -layer.count * layer.ours)
        ours, theirs, floor = self.sums()
        count = str(sum(layer.count for layer in ordered))
        ratio = f"{theirs / ours:.2f}x" if ours else "-"
        total = ["sum", "", count, f"{ours:,.1f}", f"{theirs:,.1f}", "", f"{floor:,.1f}", ratio, "", ""]
        return [*(_row(layer) for layer in ordered), total]

    def notes(self) -> tuple[str, ...]:
        return tuple(f"left out: {text}" for text in self.left_out)


def _row(layer: LayerTimes) -> list[str]:
    return [
        layer.text,
        layer.epilogue,
        str(layer.count),
        f"{layer.ours:,.2f}",
        f"{layer.theirs:,.2f}",
        f"{layer.spread:,.2f}",
        f"{layer.floor:,.2f}",
        f"{layer.theirs / layer.ours:.2f}x",
        f"{layer.error:.1e}" if layer.error is not None else "-",
        layer.tactic,
    ]


# -- timing ----------------------------------------------------------------------------------------------------------


def bench_layers(
    subject: Subject,
    batch: int,
    precision: str,
    *,
    tune: str = "60s",
    seconds: float = 0.1,
    device: str = "cuda",
    timer: Timer | None = None,
    say: Say = lambda line: None,
) -> Convolutions:
    """Time every convolution of a model on the GPU here; `seconds` is for one run of one side of one layer. A layer
    that fails is left out, with its error. Raises OptionError, and what a build raises."""
    check_request([batch], precision)
    inputs = inputs_of(subject, batch, precision, device)
    graph, _ = import_model(source_of(subject.model, precision, inputs), inputs)
    options = Options(precision=precision, tune=tune, parallel=False, without=tuple(rule_names()))
    target, index, _ = resolve(None)
    layers, reasons = layers_of(optimize_graph(graph, options, target=target).graph)
    say(f"{subject.name}, batch {batch}, {precision}: {len(layers)} distinct convolutions")
    with TuningProgress() as shown, Tuner(target, index, mode=tune, progress=shown) as tuner:
        choices = tuner.select([layer.problem for layer in layers]) if layers else []
    rates, found, failures = Rates.of(target.arch, precision), [], dict[str, str]()
    with torch.no_grad(), settings(precision):
        for layer, choice in zip(layers, choices, strict=True):
            with caught(failures, layer.text):
                contest = _Contest(layer, choice, target, options, device, timer or CudaTimer(), seconds)
                found.append(contest.run(rates))
                say(f"  {layer.text}: {found[-1].ours:.1f} us, cuDNN {found[-1].theirs:.1f}")
    left_out = [f"{count} x {reason}" for reason, count in reasons.items()]
    left_out += [f"{text}: {failure}" for text, failure in failures.items()]
    return Convolutions(subject.name, batch, precision, tuple(found), tuple(left_out))


@dataclass(frozen=True)
class _Contest:
    """One layer, jitrt's kernel and cuDNN's in turns."""

    layer: Layer
    choice: Choice
    target: Target
    options: Options
    device: str
    timer: Timer
    seconds: float

    def run(self, rates: Rates) -> LayerTimes:
        layer = self.layer
        sets = sets_for(layer.bytes, self.target.l2)
        times = math.ceil(_LAUNCHES / sets)
        weights = [weights_of(layer.problem, number) for number in range(sets)]
        file = copies(layer.problem, weights, self.choice, self.target, self.options)
        inputs = tuple(random_input(binding, self.device) for binding in file.plan.inputs)
        operands = _operands(layer, weights, inputs, self.device)
        ours, output = our_graph(replace(file, plan=repeated(file.plan, times)), inputs)
        theirs = their_graph(layer, operands, times)
        medians: list[list[float]] = [[], []]
        for _ in range(2):
            for call, found in zip((ours, theirs), medians, strict=True):
                timing = measure(call, (), self.timer, seconds=self.seconds)
                found.append(timing.back_to_back.median / (sets * times))
        return LayerTimes(
            text=layer.text,
            epilogue=layer.epilogue,
            count=layer.count,
            ours=min(medians[0]),
            theirs=min(medians[1]),
            spread=max(max(found) - min(found) for found in medians),
            floor=rates.floor(layer.bytes, layer.flops),
            tactic=str(self.choice.tactic),
            error=relative_error(output, library(layer, operands[0])) if layer.exact else None,
        )


def sets_for(nbytes: int, l2: int) -> int:
    """Sets of buffers to rotate among: enough to overflow the L2 cache twice, 2 at least and 16 at most."""
    return min(_MOST_SETS, max(2, math.ceil(2 * l2 / max(1, nbytes))))


def weights_of(problem: Problem, seed: int) -> list[np.ndarray[Any, Any] | None]:
    """Random weights for a problem's operands, scaled to results of the size of the input; None for the others."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray[Any, Any] | None] = []
    for value, is_weight in zip(problem.body.inputs, problem.weights, strict=True):
        fan_in = math.prod(value.type.shape[1:]) if value.type.rank == 4 else 1
        found.append(draw(value.type.logical(), rng, scale=1 / math.sqrt(fan_in)) if is_weight else None)
    return found


def copies(
    problem: Problem,
    weights: Sequence[Sequence[np.ndarray[Any, Any] | None]],
    choice: Choice,
    target: Target,
    options: Options,
) -> PlanFile:
    """A plan that runs the problem once on each set of weights, one after another, on inputs of each one's own."""
    graph = Graph("layer")
    for number, given in enumerate(weights):
        operands = [
            graph.add_input(f"x{number}_{index}", value.type)
            if data is None
            else graph.add_constant(data, f"w{number}_{index}", value.type)
            for index, (value, data) in enumerate(zip(problem.body.inputs, given, strict=True))
        ]
        graph.mark_output(graph.append(Region(problem.body), operands, types=[problem.output.type]).output)
    optimized = Optimized(graph, graph, Decisions())
    return plan_of(optimized, [choice] * len(weights), target, replace(options, parallel=False))


def our_graph(file: PlanFile, inputs: Inputs) -> tuple[Call, torch.Tensor]:
    """A call that launches the plan on these very buffers, which must live on, and the buffer of its first output."""
    device = inputs[0].device
    outputs = [random_input(binding, str(device)) for binding in file.plan.outputs]
    context = ExecutionContext(Engine(file))
    addresses = [x.data_ptr() for x in inputs], [y.data_ptr() for y in outputs]

    def call() -> list[torch.Tensor]:  # returns, hence keeps, what it writes
        context.run(*addresses, torch.cuda.current_stream().cuda_stream)
        return outputs

    return call, outputs[0]


Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


def their_graph(layer: Layer, sets: Sequence[Operands], times: int) -> Call:
    """The same launches by cuDNN in a CUDA graph."""

    def forward() -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        for _ in range(times):
            outputs = [library(layer, operands) for operands in sets]
        return outputs

    return graphed(forward, ())


def library(layer: Layer, operands: Operands) -> torch.Tensor:
    """cuDNN's fused call; off the GPU what it means."""
    x, weight, bias, residual = operands
    conv = layer.conv
    geometry: tuple[Any, ...] = (conv.stride, [before for before, _ in conv.padding], conv.dilation, conv.groups)
    if conv.groups > 1:
        return F.conv2d(x, weight, None, *geometry)
    if x.is_cuda:
        if residual is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *geometry)
    y = F.conv2d(x, weight, bias, *geometry)
    return F.relu(y if residual is None else y + residual)


def _operands(layer: Layer, weights: Sequence[Sequence[Any]], inputs: Inputs, device: str) -> list[Operands]:
    """Each set's (x, weight, bias, residual) for cuDNN, dense and channels_last; the inputs are those of the plan."""
    waiting = iter(inputs)
    sets: list[Operands] = []
    for given in weights:
        tensors = [next(waiting) if data is None else arrays.from_numpy(data, device) for data in given]
        x, weight = (_channels_last(tensors[index]) for index in (layer.x, layer.weight))
        zeros = x.new_zeros(weight.shape[0])
        bias = zeros if layer.bias is None else tensors[layer.bias].reshape(-1)
        sets.append((x, weight, bias, None if layer.residual is None else _channels_last(tensors[layer.residual])))
    return sets


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
