"""What the runtime and the tuner ask of a GPU: the seam that `driver.py` fills with CUDA and `fake_driver.py` without.

Addresses and streams are integers (a stream may so be PyTorch's), every other handle is opaque. A method needs the
context to be current: call it inside `with driver.active()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

Handle = Any
"""What a driver gave out: a module, function, event, graph, node or executable graph. Only it looks inside."""

LOST = {4, 700, 702, 710, 714, 715, 716, 717, 718, 719}
"""Error codes after which the context is gone, and with it everything that was allocated in it."""


@dataclass(frozen=True)
class Device:
    """A GPU as the driver describes it.

    `arch` is the compute capability as one number (90); `memory_bytes` all of its memory, `l2_bytes` its L2;
    `shared_bytes` what a block may use; `bandwidth` bytes/s and `clock` Hz by its data sheet.
    """

    index: int
    name: str
    arch: int
    sms: int
    memory_bytes: int
    l2_bytes: int
    shared_bytes: int
    bandwidth: float
    clock: float
    driver_version: int


@dataclass(frozen=True)
class FunctionAttributes:
    """What a kernel uses: registers and bytes of local memory a thread, bytes of static shared memory a block."""

    registers: int
    local_bytes: int
    shared_bytes: int
    max_threads: int


@dataclass(frozen=True)
class KernelNode:
    """One launch as a graph node: `grid` and `block` in blocks and threads; `arguments` the address of an array of
    pointers to the parameters, which is read when the node is added and when it is patched, and not kept. With
    `cooperative` all blocks run at the same time, or adding or instantiating fails."""

    function: Handle
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: int
    cluster: tuple[int, int, int] = (1, 1, 1)
    cooperative: bool = False


class Driver(Protocol):
    """One GPU. Every method raises DriverError if the driver refuses."""

    @property
    def device(self) -> Device: ...

    def active(self) -> AbstractContextManager[None]:
        """Makes the context current in this thread, and on leaving what was current before."""

    def idle(self) -> None:
        """Wait for all work of the context."""

    # memory
    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the device."""

    def alloc(self, nbytes: int) -> int:
        """Address of fresh device memory, 256-byte aligned."""

    def free(self, address: int) -> None: ...

    def upload(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        """Copy from the host, in stream order; `source` may be reused on return unless it is page-locked."""

    def download(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        """Copy to the host, in stream order; done after `synchronize(stream)`."""

    def copy(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        """Copy within the device."""

    def fill(self, target: int, value: int, nbytes: int, stream: int = 0) -> None:
        """Set every byte to `value`."""

    # kernels
    def load_module(self, image: bytes) -> Handle: ...

    def unload_module(self, module: Handle) -> None: ...

    def function(self, module: Handle, entry: str, shared_bytes: int = 0, cluster_blocks: int = 1) -> Handle:
        """An entry point, allowed that much dynamic shared memory and clusters of that size."""

    def function_attributes(self, function: Handle) -> FunctionAttributes: ...

    def parameter_sizes(self, function: Handle) -> tuple[int, ...] | None:
        """Bytes of every parameter, as the cubin declares them; None if the driver cannot tell."""

    def encode_tensor_map(
        self,
        address: int,
        dtype: str,
        shape: Sequence[int],
        strides: Sequence[int],
        box: Sequence[int],
        swizzle: int,
        steps: Sequence[int] = (),
    ) -> bytes:
        """The 128 bytes of a tiled CUtensorMap; arguments as in `plan.schema.TensorMap`."""

    # streams and events
    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None: ...

    def create_event(self, *, timing: bool = True) -> Handle: ...

    def destroy_event(self, event: Handle) -> None: ...

    def record(self, event: Handle, stream: int) -> None: ...

    def wait(self, stream: int, event: Handle) -> None:
        """Work put into `stream` from now on waits for `event`."""

    def elapsed(self, start: Handle, end: Handle) -> float:
        """Microseconds between two recorded events; waits for `end`."""

    # graphs
    def create_graph(self) -> Handle: ...

    def destroy_graph(self, graph: Handle) -> None: ...

    def add_kernel(self, graph: Handle, node: KernelNode, after: Sequence[Handle], *, programmatic: bool) -> Handle:
        """A kernel node that waits for `after`; with `programmatic` only until those let it start early."""

    def add_event(self, graph: Handle, event: Handle, after: Sequence[Handle]) -> Handle:
        """A node that records `event`."""

    def instantiate(self, graph: Handle) -> Handle: ...

    def destroy_executable(self, executable: Handle) -> None: ...

    def prepare_patch(self, node: KernelNode) -> Handle:
        """What `patch` needs to read this node's arguments again, made once because patching is on the fast path."""

    def patch(self, executable: Handle, graph_node: Handle, prepared: Handle) -> None:
        """Give a node of an executable graph the arguments its KernelNode holds now, from the next launch on."""

    def launch(self, executable: Handle, stream: int) -> None: ...
