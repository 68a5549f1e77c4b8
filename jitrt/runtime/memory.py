"""Device memory and kernels as objects that give back what they hold: once, in reverse order, whoever lets go last."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from jitrt.errors import DriverError
from jitrt.plan.schema import Launch, Plan, Pointer
from jitrt.runtime.seam import LOST, Driver

_ALIGN = 256


class Resources:
    """What one owner got from a driver. Freed by `close`, or when the owner is collected, or at exit; `keep` stays
    alive until then, because the order in which Python collects an owner and what it refers to is nobody's business."""

    def __init__(self, driver: Driver, owner: object, keep: object = None):
        self.driver = driver
        self._stack = ExitStack()
        self._finalizer = weakref.finalize(owner, _release, driver, self._stack, keep)

    def add(self, release: Callable[..., object], *arguments: Any) -> None:
        """Have `release(*arguments)` called in the end, after everything added later."""
        self._stack.callback(_unless_lost, release, *arguments)

    def alloc(self, nbytes: int) -> int:
        """Device memory; address 0 for no bytes."""
        if nbytes == 0:
            return 0
        address = self.driver.alloc(nbytes)
        self.add(self.driver.free, address)
        return address

    def close(self) -> None:
        self._finalizer()


def _release(driver: Driver, stack: ExitStack, keep: object) -> None:
    with driver.active():
        _unless_lost(driver.idle)  # nothing may still be running on what is freed
        stack.close()


def _unless_lost(release: Callable[..., object], *arguments: Any) -> None:
    """A context that a failed kernel took down has given everything back already."""
    try:
        release(*arguments)
    except DriverError as error:
        if error.code not in LOST:
            raise


@dataclass(frozen=True)
class Addresses:
    """Where the spaces of a plan are that do not change from call to call. `scratch` is one region for the global
    scratch of all launches."""

    arena: int = 0
    constants: int = 0
    zeros: int = 0
    scratch: int = 0

    def of(self, pointer: Pointer) -> int:
        """The address of a pointer into one of these spaces."""
        return int(getattr(self, pointer.space)) + pointer.offset


def scratch_bytes(plan: Plan, launch: Launch) -> int:
    """Global scratch of one launch: Triton counts it a program, and a program is a cluster of blocks."""
    kernel = plan.kernels[launch.kernel]
    blocks = kernel.cluster[0] * kernel.cluster[1] * kernel.cluster[2]
    nbytes = launch.grid[0] * launch.grid[1] * launch.grid[2] * blocks * kernel.scratch_bytes
    return -(-nbytes // _ALIGN) * _ALIGN


def allocate_spaces(plan: Plan, resources: Resources, constants: int, stream: int) -> Addresses:
    """An arena, zeros and scratch of its own for one execution context. The zeros are zero once `stream` gets there."""
    zeros = resources.alloc(plan.zeros_bytes)
    if zeros:
        resources.driver.fill(zeros, 0, plan.zeros_bytes, stream)
    return Addresses(
        arena=resources.alloc(plan.arena_bytes),
        constants=constants,
        zeros=zeros,
        scratch=resources.alloc(sum(scratch_bytes(plan, launch) for launch in plan.launches)),
    )
