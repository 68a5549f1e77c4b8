"""A problem on the GPU: its random operands in several blocks of guarded buffers, and the trials they belong to."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from jitrt.graph.op import Array
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Problem
from jitrt.runtime.memory import Resources
from jitrt.runtime.seam import Driver
from jitrt.tune.buffers import NAN_BYTE, Buffer, allocate, bytes_of, footprint, physical, sets_for
from jitrt.tune.verify import Trial, make_trial

_COPIES = 4096  # on the device for one operand; a batch of more, small items is put together on the host


@dataclass(frozen=True)
class Block:
    """One set of a problem's buffers: an operand each, and the output. Candidates keep packed weights by `number`."""

    number: int
    operands: tuple[Buffer, ...]
    output: Buffer


class Session:
    """A problem's operands on the GPU, and its trials: `trial`, and `special` for later, where somebody makes them."""

    def __init__(
        self,
        driver: Driver,
        problem: Problem,
        stream: int,
        trial: Trial | None = None,
        special: Future[Trial] | None = None,
    ):
        self.driver, self.problem, self.stream = driver, problem, stream
        self._coming = special
        self._resources = Resources(driver, self)
        self.trial = trial or make_trial(problem)
        self._special: tuple[Trial, Block] | None = None
        values = (*problem.body.inputs, problem.output)
        self._sizes = [(max(16, bytes_of(v.type)), a) for v, a in zip(values, problem.alignment, strict=True)]
        set_bytes = footprint(self._sizes)
        count = sets_for(set_bytes, driver.device.l2_bytes, driver.memory_info()[0])
        self.nbytes = set_bytes * (count + 1)
        self.blocks = [self._block(self.trial)]
        self.blocks += [self._copy(self.blocks[0], number) for number in range(1, count)]
        driver.synchronize(stream)

    def special(self) -> tuple[Trial, Block]:
        """The trial with large numbers and NaN, made at its first use."""
        if self._special is None:
            trial = self._coming.result() if self._coming else make_trial(self.problem, special=True, like=self.trial)
            self._special = trial, self._block(trial)
        return self._special

    def close(self) -> None:
        self._resources.close()

    def _block(self, trial: Trial) -> Block:
        *operands, output = allocate(self._resources, self._sizes)
        for index, (value, buffer, data) in enumerate(
            zip(self.problem.body.inputs, operands, trial.operands, strict=True)
        ):
            buffer.fill(self.driver, NAN_BYTE, self.stream)
            repeats = index in trial.batched and value.type.strides[0] != 0
            if repeats and len(data) < value.type.shape[0] <= _COPIES:
                self._spread(data, trial, value.type, buffer)
            else:
                full = data[trial.items] if repeats else data
                flat = physical(full, TensorType(value.type.dtype, full.shape, Layout(value.type.strides)))
                buffer.upload(self.driver, flat, self.stream)
        return Block(0, tuple(operands), output)

    def _spread(self, data: Array, trial: Trial, type: TensorType, buffer: Buffer) -> None:
        """Copy distinct items to all places of the batch that hold them."""
        assert trial.items is not None
        flat = physical(data, TensorType(type.dtype, data.shape, Layout(type.strides)))
        driver, pitch = self.driver, type.strides[0] * type.dtype.itemsize
        size = bytes_of(TensorType(type.dtype, type.shape[1:], Layout(type.strides[1:])))
        distinct = driver.alloc(flat.nbytes)
        driver.upload(distinct, flat.ctypes.data, flat.nbytes, self.stream)
        for place, item in enumerate(trial.items):
            driver.copy(buffer.address + place * pitch, distinct + int(item) * pitch, size, self.stream)
        driver.synchronize(self.stream)
        driver.free(distinct)

    def _copy(self, block: Block, number: int) -> Block:
        *operands, output = allocate(self._resources, self._sizes)
        for source, target in zip(block.operands, operands, strict=True):
            self.driver.copy(target.start, source.start, source.whole, self.stream)
        return Block(number, tuple(operands), output)
