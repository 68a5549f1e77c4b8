"""One candidate on the GPU: verified against a trial, and timed.

Verified: the output is poisoned and must come out equal to the reference; a second run over other poison must give the
same bits, so that nothing is left unwritten, read before it is written, or left to chance; guard zones, gaps between
rows and the zeros must be as before. Where a batch holds a few distinct items over and over, all of the first run's
output is looked at, which shows equal items many times, and of the others' a sample.

Timed: launches in one CUDA graph, chained as in a network, over rotated buffers; the median of several replays.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jitrt.codegen.compile import Binary
from jitrt.graph.op import Array
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Lowered, Operand, Result, Workspace
from jitrt.lowering import Place, plan_arguments
from jitrt.plan.schema import Pointer
from jitrt.runtime.memory import Addresses, Resources
from jitrt.runtime.parameters import Parameters
from jitrt.runtime.seam import Driver, Handle, KernelNode
from jitrt.tune.buffers import NAN_BYTE, Buffer, allocate, bytes_of, guard_damage, split_output
from jitrt.tune.session import Block, Session
from jitrt.tune.verify import Trial

SLOWER = 1.5  # times the best: not worth an exact timing
_SECOND_POISON = 0x5B  # a finite number in every format, unlike NAN_BYTE
_REPLAY = 300.0  # microseconds a replay should last
_WARM = 2_000.0  # microseconds of running before the clock counts
_REPLAYS = 9


@dataclass(frozen=True)
class Step:
    """One launch: a function with everything but its arguments settled."""

    function: Handle
    binary: Binary
    call: int
    scratch: int


@dataclass(frozen=True)
class Launch:
    """A kernel node with the parameters that it points at; `dependent` may start while its predecessor still runs."""

    node: KernelNode
    parameters: Parameters
    dependent: bool


class Bench:
    """One candidate on the GPU: its kernels, workspace, zeros and packed weights; closed after use."""

    def __init__(self, session: Session, lowered: Lowered, binaries: Sequence[Binary]):
        self._session, self._lowered = session, lowered
        self._driver, self._stream = session.driver, session.stream
        self._resources = Resources(session.driver, self)
        self._steps = [self._load(index, binary) for index, binary in enumerate(binaries)]
        sizes = [(max(16, n), 16) for n in (lowered.workspace_bytes, lowered.zeros_bytes)]
        self._workspace, self._zeros = allocate(self._resources, sizes)
        self._packed = self._pack()

    def close(self) -> None:
        self._resources.close()

    def verify(self, trial: Trial, block: Block) -> str | None:
        """None if two runs are right, equal and tidy; else what is wrong."""
        graph = self._graph([block])
        first, reason = self._run(graph, block, NAN_BYTE)
        reason = reason or trial.check(first)
        if reason is not None:
            return reason
        places = trial.sample(self._item_bytes)
        second, reason = self._run(graph, block, _SECOND_POISON, places)
        if reason is None and not _same_bits(first if places is None else first[places], second):
            return "gives other numbers at a second run: it races, or reads what it has not written"
        return reason

    def verify_once(self, trial: Trial, block: Block) -> str | None:
        """The same of one run of a candidate that has been verified on other numbers."""
        graph = self._graph([block])
        places = trial.sample(self._item_bytes)
        if places is not None:
            some, reason = self._run(graph, block, NAN_BYTE, places)
            if reason is None and trial.at(places).check(some) is None:
                return None
        whole, reason = self._run(graph, block, NAN_BYTE)
        return reason or trial.check(whole)

    def time(self, best: float | None) -> tuple[float, bool]:
        """(microseconds a launch, whether they are only a first estimate because it is clearly slower than `best`)."""
        blocks = self._session.blocks
        self._driver.fill(self._zeros.address, 0, self._zeros.nbytes, self._stream)
        guess = self._replay(self._graph(blocks), 2)[-1] / len(blocks)
        if best is not None and guess > 2 * SLOWER * best and guess > best + 20:
            return guess, True
        rounds = int(min(64, max(1, _REPLAY / max(guess, 0.1) / len(blocks))))
        launches = rounds * len(blocks)
        graph = self._graph(blocks * rounds)
        warm = self._replay(graph, max(1, min(20, int(_WARM / max(guess * launches, 1.0)))))
        estimate = min(warm) / launches
        if best is not None and estimate > SLOWER * best:
            return estimate, True
        return statistics.median(self._replay(graph, _REPLAYS)) / launches, False

    # -- preparing

    def _load(self, index: int, binary: Binary) -> Step:
        driver = self._driver
        module = driver.load_module(binary.cubin)
        self._resources.add(driver.unload_module, module)
        span = binary.cluster[0] * binary.cluster[1] * binary.cluster[2]
        function = driver.function(module, binary.entry, binary.shared_bytes, span)
        x, y, z = self._lowered.calls[index].grid
        return Step(function, binary, index, self._resources.alloc(x * y * z * span * binary.scratch_bytes))

    def _pack(self) -> list[dict[int, Buffer]]:
        """Weights as this candidate wants them, by operand, once for each of the session's blocks."""
        out: list[dict[int, Buffer]] = [{} for _ in self._session.blocks]
        for index, pack in self._lowered.pack.items():
            data = np.ascontiguousarray(pack(np.ascontiguousarray(self._session.trial.operands[index])))
            copies = allocate(self._resources, [(max(16, data.nbytes), 16)] * len(out))
            for buffer, packed in zip(copies, out, strict=True):
                buffer.fill(self._driver, NAN_BYTE, self._stream)
                buffer.upload(self._driver, data, self._stream)
                packed[index] = buffer
        return out

    def _graph(self, blocks: Sequence[Block]) -> TimedGraph:
        """A graph that runs the candidate once on each of `blocks`, one after another."""
        nodes = {id(block): [self._node(step, block) for step in self._steps] for block in blocks}
        return TimedGraph(self._driver, self._resources, [node for block in blocks for node in nodes[id(block)]])

    def _node(self, step: Step, block: Block) -> Launch:
        call, binary = self._lowered.calls[step.call], step.binary
        arguments = plan_arguments(call, lambda place: self._pointer(place, block))
        parameters = Parameters(arguments, 0, step.scratch, self._driver)
        parameters.bind(Addresses())
        x, y, z = (size * span for size, span in zip(call.grid, binary.cluster, strict=True))
        node = KernelNode(
            function=step.function,
            grid=(x, y, z),
            block=(32 * binary.num_warps, 1, 1),
            shared_bytes=binary.shared_bytes,
            arguments=parameters.address,
            cluster=binary.cluster,
            cooperative=call.cooperative,
        )
        return Launch(node, parameters, call.dependent)

    def _pointer(self, place: Place, block: Block) -> Pointer:
        # Addresses are absolute: the arena begins at 0.
        if isinstance(place, Operand):
            packed = self._packed[block.number]
            return Pointer("arena", packed.get(place.index, block.operands[place.index]).address)
        if isinstance(place, Result):
            return Pointer("arena", block.output.address)
        buffer = self._workspace if isinstance(place, Workspace) else self._zeros
        return Pointer("arena", buffer.address + place.offset)

    # -- running

    def _run(
        self, graph: TimedGraph, block: Block, poison: int, places: Array | None = None
    ) -> tuple[Array, str | None]:
        """(the output, None or what else was written) of one run over memory full of `poison`; with `places` these
        items of the output only."""
        driver, stream, zeros = self._driver, self._stream, self._zeros
        for buffer in (block.output, self._workspace, zeros):
            buffer.fill(driver, poison, stream)
        driver.fill(zeros.address, 0, zeros.nbytes, stream)
        graph.launch(stream)
        if places is None:
            type = self._session.problem.output.type
            output, reason = split_output(block.output.download(driver, stream), type, poison)
        else:
            output = self._download(block.output, places)
            reason = guard_damage(block.output.download_guards(driver, stream), poison, "the output")
        reason = reason or guard_damage(self._workspace.download_guards(driver, stream), poison, "its workspace")
        reason = reason or guard_damage(zeros.download_guards(driver, stream), poison, "its zeros")
        left = np.empty(zeros.nbytes, np.uint8)
        driver.download(left.ctypes.data, zeros.address, left.nbytes, stream)
        driver.synchronize(stream)
        return output, reason or ("does not leave its zeros zero" if left.any() else None)

    @property
    def _item_bytes(self) -> int:
        type = self._session.problem.output.type
        return bytes_of(_item(type)) if type.rank else 0

    def _download(self, output: Buffer, places: Array) -> Array:
        """Some items of an output, one after another."""
        type, item = self._session.problem.output.type, _item(self._session.problem.output.type)
        size = type.dtype.itemsize
        flat = np.empty((len(places), item.span), type.dtype.numpy)
        for row, place in zip(flat, places, strict=True):
            at = output.address + int(place) * type.strides[0] * size
            self._driver.download(row.ctypes.data, at, row.nbytes, self._stream)
        self._driver.synchronize(self._stream)
        steps = [flat.strides[0], *(step * size for step in item.strides)]
        return np.lib.stride_tricks.as_strided(flat, (len(places), *item.shape), steps)

    def _replay(self, graph: TimedGraph, times: int) -> list[float]:
        return [graph.time(self._stream) for _ in range(times)]


class TimedGraph:
    """Kernels one after another in a CUDA graph, between two events."""

    def __init__(self, driver: Driver, resources: Resources, launches: Sequence[Launch]):
        self._driver = driver
        self._start, self._end = driver.create_event(), driver.create_event()
        for event in (self._start, self._end):
            resources.add(driver.destroy_event, event)
        graph = driver.create_graph()
        resources.add(driver.destroy_graph, graph)
        last = driver.add_event(graph, self._start, [])
        for position, launch in enumerate(launches):
            # An early start is between two kernels, not after an event, and not after one that fills the GPU.
            early = launch.dependent and position > 0 and not launches[position - 1].node.cooperative
            last = driver.add_kernel(graph, launch.node, [last], programmatic=early)
        driver.add_event(graph, self._end, [last])
        self._executable = driver.instantiate(graph)
        resources.add(driver.destroy_executable, self._executable)

    def launch(self, stream: int) -> None:
        self._driver.launch(self._executable, stream)

    def time(self, stream: int) -> float:
        """Microseconds of one replay."""
        self.launch(stream)
        self._driver.synchronize(stream)  # an event inside a graph counts as recorded only once the graph has run
        return self._driver.elapsed(self._start, self._end)


def _item(type: TensorType) -> TensorType:
    return TensorType(type.dtype, type.shape[1:], Layout(type.strides[1:]))


def _same_bits(a: Array, b: Array) -> bool:
    bits = f"u{a.dtype.itemsize}"
    return bool(np.array_equal(a.view(bits), b.view(bits)))
