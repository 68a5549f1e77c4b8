"""Memory on the device, told apart by contestant: all of them live in one process, so what is measured are increments.

In use is what a contestant needs while it runs, over what there was before it was prepared:

- the most that PyTorch's allocator had given out at one time during a call: weights, activations, outputs, workspaces
  of cuBLAS and cuDNN (which PyTorch takes from its allocator). Blocks that the allocator keeps for later do not count.
- private pools of CUDA graphs in full: nothing else can use them as long as the graph is there.
- what is not of the allocator: of jitrt weights, arena, zeros, scratch and code by its plan, of ONNX Runtime all that
  the driver lent, as what its arena has in use cannot be told from outside.

The inputs and the reference are nobody's, and so are cuDNN's, cuBLAS's and PyTorch's own kernels: the driver loads them
for whoever is first to call them, and they stay. Nor do the driver's copies of CUDA graphs count.

Lent is how much less of the GPU was free afterwards, when everything left over from the preparation had been given
back: with that code, and with the blocks that the allocator keeps.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from jitrt.bench.measure import Call, Inputs
from jitrt.bench.onnx_model import BoundSession
from jitrt.hybrid import HybridEngine
from jitrt.runtime import Engine

CAPTION = (
    "Memory in use is what the contestant adds while it runs: weights, activations, outputs, workspaces and CUDA "
    "graphs' pools, not blocks that an allocator only keeps; of jitrt the code of its kernels too, of ONNX Runtime all "
    "it was lent. Inputs, and kernels that libraries load once for all, are nobody's. Lent is how much less of the GPU "
    "was free: with what allocators keep, and with such kernels, which count for the first to call them."
)


@dataclass(frozen=True)
class Memory:
    """Bytes of one contestant: in use while it runs, and lent by the driver for it."""

    in_use: int
    lent: int

    def cells(self) -> tuple[str, str]:
        """Both in MiB."""
        return f"{self.in_use / 2**20:,.1f}", f"{self.lent / 2**20:,.1f}"


@dataclass(frozen=True)
class Reading:
    """Bytes: `allocated` by PyTorch now, `peak` the most since the gauge was restarted, `pooled` in private pools of
    CUDA graphs beyond what is allocated there, `free` on the device."""

    allocated: int
    peak: int
    pooled: int
    free: int


class Gauge(Protocol):
    """What tells how full a device is."""

    def settle(self) -> None:
        """Give back what nobody needs now: garbage, workspaces that are shared, cached blocks."""
        ...

    def restart(self) -> None:
        """Forget the peak."""
        ...

    def read(self) -> Reading:
        """Once all enqueued work is done."""
        ...


class CudaGauge:
    """PyTorch's allocator and the driver, of the current GPU. What other processes take there meanwhile is seen as lent
    too."""

    def settle(self) -> None:
        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> Reading:
        torch.cuda.synchronize()
        free, _ = torch.cuda.mem_get_info()
        pooled = pooled_bytes(torch.cuda.memory_snapshot())
        return Reading(torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated(), pooled, free)


def pooled_bytes(segments: list[dict[str, Any]]) -> int:
    """What private pools hold beyond what is allocated there, of the allocator's segments."""
    private = (segment for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))
    return sum(segment["total_size"] - segment["allocated_size"] for segment in private)


@dataclass(frozen=True)
class Meter:
    """What was there before a contestant."""

    gauge: Gauge
    before: Reading

    @classmethod
    def start(cls, gauge: Gauge) -> Meter:
        gauge.settle()
        return cls(gauge, gauge.read())

    def read(self, call: Call, inputs: Inputs) -> Memory:
        """Of a contestant that has run, and is run once more."""
        self.gauge.settle()
        self.gauge.restart()
        call(*inputs)
        now = self.gauge.read()
        lent = self.before.free - now.free
        if isinstance(call, BoundSession):
            return Memory(lent, lent)
        in_torch = now.peak + now.pooled - self.before.allocated - self.before.pooled
        return Memory(in_torch + beside_torch(call), lent)


def beside_torch(call: Call) -> int:
    """Bytes of the device that a contestant holds outside of PyTorch's allocator: nobody but jitrt."""
    return sum(call.inspect().memory.values()) if isinstance(call, Engine | HybridEngine) else 0
