"""A traced model with operators jitrt does not know: the rest runs compiled, and a report names and costs those.

The exported program is made free of in-place writes first (`run_decompositions` with no decompositions), so that it can
be cut anywhere. Maximal subgraphs of known operators become engines; everything else runs in PyTorch, one operator
after another, between them.
"""

from __future__ import annotations

import html
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.convert_frame import compile_lock
from torch.export import ExportedProgram
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from jitrt.errors import ImportFailure
from jitrt.frontend.torch.arrays import as_tensor
from jitrt.frontend.torch.importer import Importer, Weight, arguments_of
from jitrt.frontend.torch.locations import location
from jitrt.graph import Graph, Trait, Value
from jitrt.runtime.report import Table

Build = Callable[[Graph], Any]  # a graph to an engine


@dataclass(frozen=True)
class Stayed:
    """An operator that stayed in PyTorch: why, how often, where first, and the milliseconds of its `count` runs in one
    call of the model."""

    operator: str
    reason: str
    count: int
    location: str
    milliseconds: float


@dataclass(frozen=True)
class Report:
    """What of one traced graph runs in jitrt, and what stayed in PyTorch.

    `engines` is the number of subgraphs jitrt compiled, `nodes` the operators in them. Times are of one call after
    warm-up, every operator waited for, in milliseconds (medians of three); they are 0 where nothing stayed, as nothing
    was measured then.
    """

    name: str
    engines: int
    nodes: int
    stayed: tuple[Stayed, ...] = ()
    milliseconds: float = 0.0

    @property
    def share(self) -> float:
        """The part of a call's time, from 0 to 1, that what stayed in PyTorch takes."""
        spent = sum(stayed.milliseconds for stayed in self.stayed)
        return spent / self.milliseconds if self.milliseconds else 0.0

    @property
    def table(self) -> Table:
        """What stayed, the most expensive first."""
        total = self.milliseconds or 1.0
        rows = (
            (
                s.operator,
                s.reason,
                str(s.count),
                f"{s.milliseconds:.3f}",
                f"{100 * s.milliseconds / total:.1f}%",
                s.location,
            )
            for s in sorted(self.stayed, key=lambda s: -s.milliseconds)
        )
        return Table(("in PyTorch", "why", "times", "ms", "of the call", "first at"), tuple(rows))

    def _head(self) -> str:
        head = f"{self.name}: {self.nodes} operators in {self.engines} jitrt engine(s)"
        if not self.stayed:
            return f"{head}, nothing left to PyTorch"
        count = sum(stayed.count for stayed in self.stayed)
        return f"{head}, {count} in PyTorch, which take {100 * self.share:.1f}% of a call"

    def __repr__(self) -> str:
        return f"{self._head()}\n{self.table}" if self.stayed else self._head()

    def _repr_html_(self) -> str:
        table = self.table._repr_html_() if self.stayed else ""
        return f"<p>{html.escape(self._head())}</p>{table}"


@dataclass(frozen=True)
class Partitioned:
    """A program with engines in it."""

    module: fx.GraphModule
    bound: tuple[Any, ...]  # the weights, which come before the inputs
    report: Report

    def run(self, *inputs: torch.Tensor) -> Sequence[Any]:
        """The flat outputs, of the user's flat inputs."""
        with torch.no_grad():
            return self.module(*self.bound, *inputs)


def partition(program: ExportedProgram, build: Build, inputs: Sequence[torch.Tensor], name: str) -> Partitioned:
    """Compile what can be compiled of `program` with `build`, and measure what cannot on `inputs`.

    Raises ImportFailure if the program writes to its inputs or buffers.
    """
    with compile_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about its own pytrees
        program = program.run_decompositions({})
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        written = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        raise ImportFailure(f"the model changes {', '.join(written)} in place; work on a copy (x = x.clone())")
    survey = Importer(Graph(name))
    arguments = arguments_of(survey, program, [f"input_{i}" for i in range(len(inputs))])
    survey.run(program.graph_module, arguments)
    strangers = {found.node: found.operator for found in survey.unsupported}

    module = program.graph_module
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    weights = {node.name: x for node, x in zip(placeholders, arguments, strict=True) if isinstance(x, Weight)}
    partitioner = CapabilityBasedPartitioner(module, _Known(set(strangers)), allows_single_node_partition=True)
    groups = partitioner.propose_partitions()
    reasons = {node.name: reason for node, reason in strangers.items()}
    fused = partitioner.fuse_partitions(groups, prefix=_PREFIX)
    engines = nodes = 0
    for call in fused.graph.find_nodes(op="call_module"):
        if not call.target.startswith(_PREFIX):
            continue
        submodule = fused.get_submodule(call.target)
        assert isinstance(submodule, fx.GraphModule)
        made = _compile(submodule, call, weights, build, f"{name}_{engines}")
        if made is not None:
            fused.set_submodule(call.target, made)
            engines, nodes = engines + 1, nodes + len(list(operators(submodule.graph)))
    bound = tuple(x.tensor for x in arguments if isinstance(x, Weight))
    report = _measure(fused, (*bound, *inputs), reasons, Report(name, engines, nodes))
    return Partitioned(fused, bound, report)


_PREFIX = "jitrt_"
_TIMED_RUNS = 3


class _Known(OperatorSupportBase):
    def __init__(self, unknown: set[fx.Node]):
        self._unknown = unknown

    def is_node_supported(self, submodules: Any, node: fx.Node) -> bool:
        return node.op == "call_function" and node not in self._unknown


def operators(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes that stand for an operator of PyTorch."""
    return (node for node in graph.nodes if node.op == "call_function" and "getitem" not in str(node.target))


class _EngineModule(nn.Module):
    """An engine in the place of the subgraph it was built from."""

    def __init__(self, engine: Any, inputs: Sequence[int], examples: Sequence[torch.Tensor], single: bool):
        super().__init__()
        self._engine = engine
        self._inputs = tuple(inputs)
        self._examples = [(example.stride(), example.device) for example in examples]
        self._single = single

    def forward(self, *args: torch.Tensor) -> Any:
        outputs = self._engine(*(args[i].detach() for i in self._inputs))
        # PyTorch's operators come next: a view among them may count on the strides it was traced with.
        tensors = outputs if self._inputs else map(as_tensor, outputs)  # numpy's, where no input says otherwise
        laid_out = [_as_traced(x, *traced) for x, traced in zip(tensors, self._examples, strict=True)]
        return laid_out[0] if self._single else tuple(laid_out)


def _as_traced(tensor: torch.Tensor, strides: tuple[int, ...], device: torch.device) -> torch.Tensor:
    if tensor.stride() == strides and tensor.device == device:
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=device).copy_(tensor)


def _compile(
    module: fx.GraphModule, call: fx.Node, weights: dict[str, Weight], build: Build, name: str
) -> _EngineModule | None:
    """The engine of one subgraph; None if there is nothing in it to compute."""
    graph = Graph(name)
    importer = Importer(graph)
    placeholders = module.graph.find_nodes(op="placeholder")
    arguments: list[Value | Weight] = []
    for placeholder, outer in zip(placeholders, call.args, strict=True):
        assert isinstance(outer, fx.Node)
        weight = weights.get(outer.name)
        arguments.append(weight or importer.input(placeholder.name, outer.meta["val"]))
    result = module.graph.output_node().args[0]
    single = isinstance(result, fx.Node)
    module.graph.output_node().args = ((result,) if single else result,)
    importer.outputs(importer.run(module, arguments))
    module.graph.output_node().args = (result,)
    if all(node.has(Trait.VIEW) for node in graph.nodes):
        return None
    inputs = [i for i, argument in enumerate(arguments) if isinstance(argument, Value)]
    examples = [node.meta["val"] for node in ([result] if single else result)]  # type: ignore[union-attr]
    return _EngineModule(build(graph), inputs, examples, single)


def _measure(module: fx.GraphModule, args: Sequence[Any], reasons: dict[str, str], report: Report) -> Report:
    """The report with what stayed in PyTorch, timed."""
    runs = [_Timed(module) for _ in range(1 + _TIMED_RUNS)]
    with torch.no_grad():
        for run in runs:
            run.run(*args)
    # The first run warms up.
    spent = {name: statistics.median(run.spent[name] for run in runs[1:]) for name in runs[0].spent}
    groups: dict[tuple[str, str], list[fx.Node]] = {}
    for node in _left(module):
        operator, _, variant = reasons.get(node.name, "").partition(" ")
        reason = variant or ("no importer" if operator else "nothing to compute")
        groups.setdefault((str(node.target), reason), []).append(node)
    stayed = tuple(
        Stayed(operator, reason, len(nodes), location(nodes[0]), sum(spent.get(node.name, 0.0) for node in nodes))
        for (operator, reason), nodes in groups.items()
    )
    return Report(report.name, report.engines, report.nodes, stayed, sum(spent.values()))


def _left(module: fx.GraphModule) -> Iterator[fx.Node]:
    """The operators that run in PyTorch."""
    yield from operators(module.graph)
    for _, submodule in module.named_children():
        if isinstance(submodule, fx.GraphModule):
            yield from operators(submodule.graph)


class _Timed(fx.Interpreter):
    """Runs a graph and notes the milliseconds each node took, waiting for the GPU after each."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.spent: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        started = time.perf_counter()
        result = super().run_node(n)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if n.op in ("call_function", "call_module"):
            self.spent[n.name] = 1e3 * (time.perf_counter() - started)
        return result
