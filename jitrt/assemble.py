"""Put a plan together: every region's chosen launches, the memory plan and the weights, with all addresses settled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from jitrt.codegen.compile import Binary
from jitrt.errors import GraphError
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Array
from jitrt.graph.ops import Region
from jitrt.graph.text import to_text
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Argument, Lowered, Operand, Problem, Result, Tactic, Workspace, Zeros, anchor_of
from jitrt.lowering import plan_arguments
from jitrt.passes.hazards import Footprint, Hazards
from jitrt.passes.plan_memory import MemoryPlan, root_of
from jitrt.plan.schema import Binding, Constant, Kernel, Launch, Layer, Plan, PlanFile, Pointer

_ALIGN = 256
_SOURCES = {
    "measured": "measurement",
    "cache": "the timing cache",
    "table": "the shipped table",
    "heuristic": "the cost model",
    "": "",
}


@dataclass(frozen=True)
class Step:
    """One region of the optimised graph with what was chosen for it."""

    node: Node
    problem: Problem
    tactic: Tactic
    lowered: Lowered
    binaries: tuple[Binary, ...]
    microseconds: float
    source: str = ""


@dataclass
class _Blob:
    """A byte buffer that grows by aligned, de-duplicated pieces."""

    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, data: bytes) -> tuple[int, bool]:
        """(offset, whether the piece is new)."""
        digest = hashlib.sha256(data).hexdigest()
        if digest in self.seen:
            return self.seen[digest], False
        offset = self.size
        padding = -len(data) % _ALIGN
        self.pieces += [data, bytes(padding)]
        self.size += len(data) + padding
        self.seen[digest] = offset
        return offset, True


class Assembler:
    """Builds one plan; `assemble` is the way in."""

    def __init__(self, graph: Graph, steps: Sequence[Step], memory: MemoryPlan):
        self.graph = graph
        self.steps = steps
        self.memory = memory
        self.blob = _Blob()
        self.constants: dict[int, Constant] = {}
        self.kernels: list[Kernel] = []
        self.images: dict[str, bytes] = {}
        self.outputs = list(dict.fromkeys(graph.outputs))
        self.zeros_bytes = 0
        self._kernel_index: dict[tuple[str, str], int] = {}

    def run(self, *, parallel: bool) -> tuple[tuple[Launch, ...], tuple[Layer, ...]]:
        """All launches and layers in schedule order."""
        launches: list[Launch] = []
        layers: list[Layer] = []
        hazards = Hazards()
        for step in self.steps:
            zeros = self.zeros_bytes
            self.zeros_bytes += -(-step.lowered.zeros_bytes // _ALIGN) * _ALIGN
            for call, binary in zip(step.lowered.calls, step.binaries, strict=True):
                arguments = plan_arguments(call, partial(self._pointer, step, zeros))
                after = self._after(step, len(launches), hazards, parallel)
                grid = (call.grid[0], call.grid[1], call.grid[2])
                # A cooperative launch has all SMs to itself until it ends.
                dependent = call.dependent and len(after) == 1 and not launches[after[0]].cooperative
                launch = Launch(
                    self._kernel(binary), grid, tuple(arguments), after, len(layers), dependent, call.cooperative
                )
                launches.append(launch)
            layers.append(_layer(step))
        return tuple(launches), tuple(layers)

    def _after(self, step: Step, index: int, hazards: Hazards, parallel: bool) -> tuple[int, ...]:
        if not parallel:
            return (index - 1,) if index else ()
        reads = [self._footprint(v) for v in step.node.inputs if not v.is_constant]
        writes = [self._footprint(step.node.output)]
        if step.lowered.workspace_bytes:
            start = self.memory.workspace[step.node.output.name]
            writes.append(Footprint.block(("arena", 0), start, step.lowered.workspace_bytes))
        return hazards.add(reads, writes)

    def _footprint(self, value: Value) -> Footprint:
        pointer = self._value_pointer(value)
        return Footprint.of((pointer.space, pointer.index), pointer.offset, value.type)

    def _kernel(self, binary: Binary) -> int:
        digest = hashlib.sha256(binary.cubin).hexdigest()[:16]
        key = (digest, binary.entry)
        if key not in self._kernel_index:
            image = f"cubin.{digest}"
            self.images[image] = binary.cubin
            self._kernel_index[key] = len(self.kernels)
            self.kernels.append(
                Kernel(
                    entry=binary.entry,
                    image=image,
                    shared_bytes=binary.shared_bytes,
                    num_warps=binary.num_warps,
                    cluster=binary.cluster,
                    scratch_bytes=binary.scratch_bytes,
                    registers=binary.registers,
                    spills=binary.spills,
                )
            )
        return self._kernel_index[key]

    def _pointer(self, step: Step, zeros: int, argument: Argument) -> Pointer:
        if isinstance(argument, Workspace):
            return Pointer("arena", self.memory.workspace[step.node.output.name] + argument.offset)
        if isinstance(argument, Zeros):
            return Pointer("zeros", zeros + argument.offset)
        if isinstance(argument, Result):
            return self._value_pointer(step.node.output)
        assert isinstance(argument, Operand)
        value = step.node.inputs[argument.index]
        if not value.is_constant:
            return self._value_pointer(value)
        assert value.data is not None
        pack = step.lowered.pack.get(argument.index)
        data = np.ascontiguousarray(pack(value.data)) if pack else physical(value.data, value.type)
        offset, new = self.blob.add(data.tobytes())
        if new:
            self.constants[offset] = Constant(value.name, value.type.dtype.value, value.type.shape, offset, data.nbytes)
        return Pointer("constants", offset)

    def _value_pointer(self, value: Value) -> Pointer:
        root = root_of(self.graph, value)
        offset = value.type.offset * value.type.dtype.itemsize
        if root in self.graph.inputs:
            return Pointer("input", offset, self.graph.inputs.index(root))
        if root in self.outputs:
            return Pointer("output", offset, self.outputs.index(root))
        if root.is_constant:
            raise GraphError(f"%{value.name} is a view of the constant %{root.name}: it should have been folded")
        return Pointer("arena", self.memory.offsets[root.name] + offset)


def physical(data: Array, type: TensorType) -> Array:
    """The flat array that holds `data` in the layout of `type`; gaps are zero."""
    flat = np.zeros(max(1, type.span), data.dtype)
    strides = [s * data.dtype.itemsize for s in type.strides]
    np.lib.stride_tricks.as_strided(flat, data.shape, strides)[...] = data
    return flat


def _layer(step: Step) -> Layer:
    anchor = anchor_of(step.problem.body)
    node = step.node
    kind = anchor.op.name if anchor else "pointwise"
    assert isinstance(node.op, Region)
    return Layer(
        name=node.output.name,
        kind=kind,
        text="+".join(n.op.name for n in node.op.body.nodes),
        location=node.loc,
        tactic=str(step.tactic),
        microseconds=step.microseconds,
        bytes=step.problem.moved_bytes,
        flops=node.op.flops([v.type for v in node.inputs], [v.type for v in node.outputs]),
        source=_SOURCES[step.source],
    )


def assemble(
    graph: Graph,
    steps: Sequence[Step],
    memory: MemoryPlan,
    *,
    arch: int,
    structure: object,
    notes: Mapping[str, object],
    parallel: bool = False,
) -> PlanFile:
    """The plan of an optimised graph. `steps` are its regions in schedule order. With `parallel`, launches wait only
    for those they depend on; otherwise each waits for the one before it."""
    assembler = Assembler(graph, steps, memory)
    launches, layers = assembler.run(parallel=parallel)
    plan = Plan(
        name=graph.name,
        arch=arch,
        inputs=tuple(_binding(v) for v in graph.inputs),
        outputs=tuple(_binding(v) for v in assembler.outputs),
        kernels=tuple(assembler.kernels),
        launches=launches,
        layers=layers,
        constants=tuple(assembler.constants[o] for o in sorted(assembler.constants)),
        arena_bytes=memory.arena_bytes,
        zeros_bytes=assembler.zeros_bytes,
        constants_bytes=assembler.blob.size,
        structure=_structure(structure, [assembler.outputs.index(v) for v in graph.outputs]),
        notes={**notes, "graph": to_text(graph)},
    )
    return PlanFile(plan, b"".join(assembler.blob.pieces), assembler.images)


def _binding(value: Value) -> Binding:
    return Binding(value.name, value.type.dtype.value, value.type.shape, value.type.strides)


def _structure(structure: object, unique: Sequence[int]) -> object:
    """The output structure in terms of distinct bindings, `unique[i]` for output i: two outputs may be one value."""
    if structure is None and len(unique) == len(set(unique)):
        return None
    return _renumber([{"output": i} for i in range(len(unique))] if structure is None else structure, unique)


def _renumber(structure: object, unique: Sequence[int]) -> object:
    if isinstance(structure, dict):
        if set(structure) == {"output"} and isinstance(structure["output"], int):
            return {"output": unique[structure["output"]]}
        return {key: _renumber(part, unique) for key, part in structure.items()}
    if isinstance(structure, list):
        return [_renumber(part, unique) for part in structure]
    return structure
