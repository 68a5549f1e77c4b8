"""A GPU in pure Python, for tests: memory is numpy, kernels are functions, and what a GPU might forgive is an error.

It runs work at once, in the order it is enqueued; independent nodes of a graph run last first, so that a missing edge
shows. It reads kernel parameters from the packed bytes, as the hardware does, by the types a kernel declares.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jitrt.errors import DriverError
from jitrt.plan.dtypes import ITEMSIZE, numpy_dtype
from jitrt.runtime.seam import Device, FunctionAttributes, Handle, KernelNode

H200 = Device(0, "Fake H200", 90, 132, 141 << 30, 60 << 20, 227 << 10, 4.8e12, 1.98e9, 13_000)

_BASE, _GAP = 0x7F00_0000_0000, 1 << 20  # allocations lie far apart, so that running out of one hits nothing
_EVENT_COST = 0.5  # microseconds that recording an event inside a graph takes
_FORMATS = {"ptr": "<Q", "i32": "<i", "i64": "<q", "f32": "<f"}


@dataclass(frozen=True)
class FakeKernel:
    """`run(driver, grid, *parameters)` in place of a kernel. `parameters` are "ptr", "i32", "i64", "f32" or "map" (a
    CUtensorMap, given as TensorMapView), hidden ones left out. A run takes `microseconds` on the fake clock."""

    parameters: tuple[str, ...]
    run: Callable[..., None]
    microseconds: float = 1.0


@dataclass(frozen=True)
class TensorMapView:
    """What a fake CUtensorMap says, and where the parameter lay."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    parameter: int
    steps: tuple[int, ...] = ()


@dataclass
class _Node:
    after: list[_Node]
    kernel: FakeKernel | None = None
    node: KernelNode | None = None
    values: list[Any] = field(default_factory=list)
    event: _Event | None = None
    programmatic: bool = False


@dataclass
class _Event:
    at: float | None = None
    alive: bool = True


@dataclass
class _Function:
    kernel: FakeKernel
    module: int
    shared_bytes: int


class FakeDriver:
    """`Driver` without a GPU. `kernels` are what modules contain, by entry point, whatever their image says.

    `calls` counts every call by name, `launches` lists (stream, names of the kernels in the order they ran).
    """

    def __init__(self, kernels: Mapping[str, FakeKernel], device: Device = H200):
        self.device = device
        self.calls: Counter[str] = Counter()
        self.launches: list[tuple[int, list[str]]] = []
        self.scratch: list[tuple[int, int]] = []  # the hidden parameters of every kernel that ran
        self._kernels = dict(kernels)
        self._names = {id(kernel): name for name, kernel in self._kernels.items()}
        self._memory: dict[int, np.ndarray] = {}
        self._numbers = itertools.count(1)
        self._next = _BASE
        self._modules: set[int] = set()
        self._streams: set[int] = set()
        self._events: list[_Event] = []
        self._graphs: dict[int, list[_Node]] = {}
        self._executables: dict[int, list[_Node]] = {}
        self._maps: dict[int, TensorMapView] = {}
        self._now = 0.0
        self._lock = threading.RLock()
        self._local = threading.local()

    # -- what a test asks

    def leaks(self) -> dict[str, int]:
        """How many of each kind of resource have not been given back; empty if none."""
        counts = {
            "memory": len(self._memory),
            "modules": len(self._modules),
            "streams": len(self._streams),
            "events": sum(event.alive for event in self._events),
            "graphs": len(self._graphs),
            "executables": len(self._executables),
        }
        return {name: count for name, count in counts.items() if count}

    def array(self, address: int, shape: Sequence[int], dtype: str, strides: Sequence[int] | None = None) -> np.ndarray:
        """Device memory as an array; `strides` in elements. DriverError 700 if it is not all inside one allocation."""
        kind = numpy_dtype(dtype)
        steps = None if strides is None else [step * kind.itemsize for step in strides]
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if strides else int(np.prod(shape, dtype=int))
        memory, offset = self._find(address, extent * kind.itemsize, "kernel")
        return np.ndarray(tuple(shape), kind, memory.data, offset, steps)

    def edges(self, executable: Handle) -> list[tuple[int, int, bool]]:
        """(from, to, programmatic) of an executable graph's nodes, numbered as they were added."""
        nodes = self._executables[executable]
        number = {id(node): i for i, node in enumerate(nodes)}
        return [(number[id(a)], i, node.programmatic) for i, node in enumerate(nodes) for a in node.after]

    @property
    def executables(self) -> list[Handle]:
        return list(self._executables)

    # -- the context

    @contextmanager
    def _activate(self) -> Any:
        depth = getattr(self._local, "depth", 0)
        self._local.depth = depth + 1
        try:
            yield
        finally:
            self._local.depth = depth

    def active(self) -> AbstractContextManager[None]:
        return self._activate()

    def _enter(self, call: str) -> None:
        if not getattr(self._local, "depth", 0):
            raise DriverError(call, 201, "no context is current in this thread")
        self.calls[call] += 1

    def idle(self) -> None:
        self._enter("idle")

    # -- memory

    def memory_info(self) -> tuple[int, int]:
        used = sum(memory.nbytes for memory in self._memory.values())
        return self.device.memory_bytes - used, self.device.memory_bytes

    def alloc(self, nbytes: int) -> int:
        self._enter("alloc")
        with self._lock:
            if nbytes < 1:
                raise DriverError("alloc", 1, f"{nbytes} bytes")
            if nbytes > self.memory_info()[0]:
                raise DriverError("alloc", 2, "out of memory")
            address = self._next
            self._next += -(-nbytes // 256) * 256 + _GAP
            # Not zeroed: what is read before it is written must show.
            self._memory[address] = np.full(nbytes, 0xA5, np.uint8)
            return address

    def free(self, address: int) -> None:
        self._enter("free")
        with self._lock:
            if address not in self._memory:
                raise DriverError("free", 1, f"{address:#x} is not allocated")
            del self._memory[address]

    def _find(self, address: int, nbytes: int, call: str) -> tuple[np.ndarray, int]:
        with self._lock:
            for base, memory in self._memory.items():
                if base <= address and address + nbytes <= base + memory.nbytes:
                    return memory, address - base
        raise DriverError(call, 700, f"{nbytes} bytes at {address:#x} are not inside one allocation")

    def _view(self, address: int, nbytes: int, call: str) -> np.ndarray:
        memory, offset = self._find(address, nbytes, call)
        return memory[offset : offset + nbytes]

    def _on(self, stream: int, call: str) -> None:
        if stream and stream not in self._streams:
            raise DriverError(call, 400, f"there is no stream {stream}")

    def upload(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self._enter("upload")
        self._on(stream, "upload")
        self._view(target, nbytes, "upload")[:] = np.frombuffer(ctypes.string_at(source, nbytes), np.uint8)

    def download(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self._enter("download")
        self._on(stream, "download")
        data = self._view(source, nbytes, "download").tobytes()
        ctypes.memmove(target, data, nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self._enter("copy")
        self._on(stream, "copy")
        self._view(target, nbytes, "copy")[:] = self._view(source, nbytes, "copy").copy()

    def fill(self, target: int, value: int, nbytes: int, stream: int = 0) -> None:
        self._enter("fill")
        self._on(stream, "fill")
        self._view(target, nbytes, "fill")[:] = value

    # -- kernels

    def load_module(self, image: bytes) -> Handle:
        self._enter("load_module")
        if not image:
            raise DriverError("load_module", 200, "the image is invalid")
        module = next(self._numbers)
        self._modules.add(module)
        return module

    def unload_module(self, module: Handle) -> None:
        self._enter("unload_module")
        with self._lock:
            if module not in self._modules:
                raise DriverError("unload_module", 400, f"there is no module {module}")
            for nodes in self._executables.values():
                if any(node.node and node.node.function.module == module for node in nodes):
                    raise DriverError("unload_module", 1, "an executable graph still uses the module")
            self._modules.remove(module)

    def function(self, module: Handle, entry: str, shared_bytes: int = 0, cluster_blocks: int = 1) -> Handle:
        self._enter("function")
        if module not in self._modules:
            raise DriverError("function", 400, f"there is no module {module}")
        if entry not in self._kernels:
            raise DriverError("function", 500, f"there is no function {entry!r}")
        if shared_bytes > self.device.shared_bytes:
            raise DriverError("function", 1, f"{shared_bytes} bytes of shared memory")
        return _Function(self._kernels[entry], module, shared_bytes)

    def function_attributes(self, function: Handle) -> FunctionAttributes:
        return FunctionAttributes(registers=32, local_bytes=0, shared_bytes=0, max_threads=1024)

    def parameter_sizes(self, function: Handle) -> tuple[int, ...] | None:
        sizes = {"map": 128, **{kind: struct.calcsize(form) for kind, form in _FORMATS.items()}}
        return tuple(sizes[kind] for kind in (*function.kernel.parameters, "ptr", "ptr"))

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
        self._enter("encode_tensor_map")
        if address % 16 or any(step % 16 for step in strides):
            raise DriverError("encode_tensor_map", 1, "address and strides must be multiples of 16 bytes")
        last = sum((n - 1) * step for n, step in zip(shape, (*strides, ITEMSIZE[dtype])))
        self._find(address, last + ITEMSIZE[dtype], "encode_tensor_map")
        number = next(self._numbers)
        view = TensorMapView(address, dtype, tuple(shape), tuple(strides), tuple(box), swizzle, 0, tuple(steps))
        self._maps[number] = view
        return struct.pack("<Q", number).ljust(128, b"\0")

    # -- streams and events

    def create_stream(self) -> int:
        self._enter("create_stream")
        stream = 0x5000 + next(self._numbers)
        self._streams.add(stream)
        return stream

    def adopt_stream(self, stream: int) -> None:
        """Have a stream that another library made."""
        self._streams.add(stream)

    def destroy_stream(self, stream: int) -> None:
        self._enter("destroy_stream")
        self._on(stream, "destroy_stream")
        self._streams.remove(stream)

    def synchronize(self, stream: int) -> None:
        self._enter("synchronize")
        self._on(stream, "synchronize")

    def create_event(self, *, timing: bool = True) -> Handle:
        self._enter("create_event")
        event = _Event()
        self._events.append(event)
        return event

    def destroy_event(self, event: Handle) -> None:
        self._enter("destroy_event")
        if not event.alive:
            raise DriverError("destroy_event", 400, "the event is gone")
        event.alive = False

    def record(self, event: Handle, stream: int) -> None:
        self._enter("record")
        self._on(stream, "record")
        event.at = self._now

    def wait(self, stream: int, event: Handle) -> None:
        self._enter("wait")
        self._on(stream, "wait")

    def elapsed(self, start: Handle, end: Handle) -> float:
        self._enter("elapsed")
        if start.at is None or end.at is None:
            raise DriverError("elapsed", 400, "an event was never recorded")
        return float(end.at - start.at)

    # -- graphs

    def create_graph(self) -> Handle:
        self._enter("create_graph")
        graph = next(self._numbers)
        self._graphs[graph] = []
        return graph

    def destroy_graph(self, graph: Handle) -> None:
        self._enter("destroy_graph")
        if self._graphs.pop(graph, None) is None:
            raise DriverError("destroy_graph", 400, f"there is no graph {graph}")

    def add_kernel(self, graph: Handle, node: KernelNode, after: Sequence[Handle], *, programmatic: bool) -> Handle:
        self._enter("add_kernel")
        if any(size % span for size, span in zip(node.grid, node.cluster)):
            raise DriverError("add_kernel", 1, f"a grid of {node.grid} blocks has no whole clusters of {node.cluster}")
        if node.function.module not in self._modules or node.shared_bytes > node.function.shared_bytes:
            raise DriverError("add_kernel", 1, "the function is unloaded, or was not allowed that much shared memory")
        kernel = node.function.kernel
        added = _Node(list(after), kernel, node, self._read(kernel, node.arguments), programmatic=programmatic)
        self._graphs[graph].append(added)
        return added

    def add_event(self, graph: Handle, event: Handle, after: Sequence[Handle]) -> Handle:
        self._enter("add_event")
        added = _Node(list(after), event=event)
        self._graphs[graph].append(added)
        return added

    def instantiate(self, graph: Handle) -> Handle:
        self._enter("instantiate")
        executable = next(self._numbers)
        self._executables[executable] = list(self._graphs[graph])
        return executable

    def destroy_executable(self, executable: Handle) -> None:
        self._enter("destroy_executable")
        if self._executables.pop(executable, None) is None:
            raise DriverError("destroy_executable", 400, f"there is no executable graph {executable}")

    def prepare_patch(self, node: KernelNode) -> Handle:
        return node

    def patch(self, executable: Handle, graph_node: Handle, prepared: Handle) -> None:
        self._enter("patch")
        if graph_node not in self._executables.get(executable, []):
            raise DriverError("patch", 1, "the node is not in this executable graph")
        graph_node.values = self._read(graph_node.kernel, prepared.arguments)

    def launch(self, executable: Handle, stream: int) -> None:
        self._enter("launch")
        self._on(stream, "launch")
        if executable not in self._executables:
            raise DriverError("launch", 400, f"there is no executable graph {executable}")
        names: list[str] = []
        for node in _last_first(self._executables[executable]):
            if node.event is not None:
                self._now += _EVENT_COST
                node.event.at = self._now
                continue
            assert node.kernel is not None and node.node is not None
            *values, scratch, profile_scratch = node.values
            self.scratch.append((scratch, profile_scratch))
            node.kernel.run(self, node.node.grid, *values)
            self._now += node.kernel.microseconds
            names.append(self._names[id(node.kernel)])
        self.launches.append((stream, names))

    def _read(self, kernel: FakeKernel, arguments: int) -> list[Any]:
        """Values of all parameters, the two hidden ones included."""
        kinds = (*kernel.parameters, "ptr", "ptr")
        addresses = (ctypes.c_void_p * len(kinds)).from_address(arguments)
        return [self._read_one(kind, int(address or 0)) for kind, address in zip(kinds, addresses)]

    def _read_one(self, kind: str, address: int) -> Any:
        if kind == "map":
            if address % 64:
                raise DriverError("add_kernel", 1, "a CUtensorMap must be 64-byte aligned")
            (number,) = struct.unpack("<Q", ctypes.string_at(address, 8))
            return replace(self._maps[number], parameter=address)
        size = struct.calcsize(_FORMATS[kind])
        if address % size:
            raise DriverError("add_kernel", 1, f"a parameter of {size} bytes at {address:#x}")
        return struct.unpack(_FORMATS[kind], ctypes.string_at(address, size))[0]


def _last_first(nodes: list[_Node]) -> list[_Node]:
    """An order that keeps every edge and otherwise runs the node first that was added last."""
    done: set[int] = set()
    order: list[_Node] = []
    while len(order) < len(nodes):
        ready = [n for n in nodes if id(n) not in done and all(id(a) in done for a in n.after)]
        order.append(ready[-1])
        done.add(id(ready[-1]))
    return order
