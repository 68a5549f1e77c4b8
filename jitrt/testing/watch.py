"""An eye on every access to memory that programs make in the interpreter. Of its process only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array


class Watch:
    """Told of everything the programs of a launch do. With `dry` nothing is stored, and what is loaded is zero."""

    dry = False

    def begin(self, program: tuple[int, int, int]) -> tuple[int, int, int]:
        """A program begins; which one it is to take itself for."""
        return program

    def wait(self) -> None:
        """The program waits for the launch before its own."""

    def touch(self, addresses: Array, itemsize: int, *, store: bool) -> None:
        """Elements of `itemsize` bytes at these addresses (int64) are loaded, or stored."""


class Patience(Watch):
    """Raises KernelError for a program that should wait for the launch before its own and first touches memory other
    than `constants`, which no launch writes."""

    def __init__(self, constants: Sequence[Array] = (), *, must_wait: bool):
        self._must_wait, self._waited = must_wait, False
        self._constants = [_extent(array) for array in constants]

    def begin(self, program: tuple[int, int, int]) -> tuple[int, int, int]:
        self._waited = False
        return program

    def wait(self) -> None:
        self._waited = True

    def touch(self, addresses: Array, itemsize: int, *, store: bool) -> None:
        if not self._must_wait or self._waited or not addresses.size:
            return
        low, high = int(addresses.min()), int(addresses.max()) + itemsize
        if store or not any(start <= low and high <= end for start, end in self._constants):
            raise KernelError("the kernel touches memory before it waits for its predecessor")


class Fence(Patience):
    """Raises KernelError also for an access outside all of `loads` or `stores`, before it happens: it may end the
    process. The first of `stores` is the result's, whose elements begin at byte `start`."""

    def __init__(
        self,
        loads: Sequence[Array],
        stores: Sequence[Array],
        start: int,
        constants: Sequence[Array],
        *,
        must_wait: bool,
    ):
        super().__init__(constants, must_wait=must_wait)
        self._loads, self._stores = ([_extent(array) for array in arrays] for arrays in (loads, stores))
        self._origin = self._stores[0][0] + start

    def touch(self, addresses: Array, itemsize: int, *, store: bool) -> None:
        super().touch(addresses, itemsize, store=store)
        if not addresses.size:
            return
        extents = self._stores if store else self._loads
        low, high = int(addresses.min()), int(addresses.max()) + itemsize
        if any(start <= low and high <= end for start, end in extents):
            return
        inside = [(addresses >= start) & (addresses + itemsize <= end) for start, end in extents]
        outside = addresses[~np.logical_or.reduce(inside)]
        if outside.size:
            place = f"the first at element {(int(outside[0]) - self._origin) // itemsize}, counted from its output"
            raise KernelError(f"the kernel {'wrote' if store else 'read'} far outside its tensors, {place}")


def _extent(array: Array) -> tuple[int, int]:
    """The addresses of an array's first byte, and of the one after its last."""
    start = int(array.__array_interface__["data"][0])
    return start, start + array.nbytes


_watch: Watch | None = None


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """A scope in which `watch` is told of all accesses."""
    global _watch
    _watch = watch
    try:
        yield
    finally:
        _watch = None


def install() -> None:
    """Make this process's interpreter report to the watch, if there is one, and know early launches."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    load, store, atomic = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    set_grid_idx = builder.set_grid_idx

    def touch(pointers: Any, mask: Any, *, store: bool) -> Any:
        """None, or in a dry run what a load results in."""
        if _watch is None:
            return None
        element = pointers.get_element_ty()
        on = np.broadcast_to(mask.data.astype(bool), pointers.data.shape)  # a mask may be numbers, which would index
        addresses = pointers.data[on].astype(np.int64)
        _watch.touch(addresses, max(1, element.primitive_bitwidth // 8), store=store)
        if not _watch.dry:
            return None
        return interpreter.TensorHandle(np.zeros(pointers.data.shape, interpreter._get_np_dtype(element)), element)

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        nothing = touch(pointers, mask, store=False)
        return load(self, pointers, mask, *rest) if nothing is None else nothing

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        nothing = touch(pointers, mask, store=True)
        return store(self, pointers, value, mask, *rest) if nothing is None else None

    def create_atomic_rmw(self: Any, op: Any, pointer: Any, value: Any, mask: Any, *rest: Any) -> Any:
        touch(pointer, mask, store=False)
        nothing = touch(pointer, mask, store=True)
        return atomic(self, op, pointer, value, mask, *rest) if nothing is None else nothing

    def begin(self: Any, x: int, y: int, z: int) -> None:
        set_grid_idx(self, x, y, z)
        if _watch is not None:
            self.grid_idx = _watch.begin((x, y, z))

    def gdc_wait() -> None:
        if _watch is not None:
            _watch.wait()

    builder.create_masked_load, builder.create_masked_store = create_masked_load, create_masked_store
    builder.create_atomic_rmw, builder.set_grid_idx = create_atomic_rmw, begin
    tl.extra.cuda.gdc_wait = gdc_wait
    tl.extra.cuda.gdc_launch_dependents = lambda: None  # the interpreter runs one launch after the other
