"""A plan's launches as one CUDA graph, built node by node: what waits for what is the plan's `after`, so that
independent branches run side by side. Nothing is captured from a stream.

Inputs and outputs are bound by giving new arguments to the nodes that use them, and only when an address has changed
since the last launch: no copy into fixed buffers, no synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.plan.schema import Kernel, Launch, Plan
from jitrt.runtime.memory import Addresses, Resources, scratch_bytes
from jitrt.runtime.parameters import Parameters
from jitrt.runtime.seam import Driver, Handle, KernelNode


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel of a plan with its function on the device."""

    kernel: Kernel
    function: Handle


class LaunchGraph:
    """An executable graph of some launches.

    `addresses` holds the spaces of one execution context; inputs and outputs are given to `launch`. The graph is built
    at the first launch, when all addresses are known. With `chain` every launch waits for the one before, whatever the
    plan says, and with `events` (one more than launches) an event is recorded before, between and after them.
    """

    def __init__(
        self,
        driver: Driver,
        plan: Plan,
        kernels: Sequence[LoadedKernel],
        addresses: Addresses,
        *,
        chain: bool = False,
        events: Sequence[Handle] = (),
    ):
        self._driver = driver
        self._plan = plan
        self._kernels = kernels
        self._addresses = addresses
        self._chain = chain
        self._events = events
        self._resources = Resources(driver, self)
        self._executable: Handle = None
        self._bound: Sequence[int] = ()
        self._stale = True  # no node, or not every node, has the addresses in _bound
        # Per binding: (parameters, graph node, what patching it takes) of every launch that uses it.
        self._users: list[list[tuple[Parameters, Handle, Handle]]] = []

    def launch(self, bound: Sequence[int], stream: int) -> None:
        """Run in stream order on the tensors at these addresses, a list: first the plan's inputs, then its outputs."""
        if self._stale or bound != self._bound:
            self._bind(bound)
        self._driver.launch(self._executable, stream)

    def close(self) -> None:
        """Free the graph, once the device is idle."""
        self._resources.close()

    def _bind(self, bound: Sequence[int]) -> None:
        changed = range(len(bound)) if self._stale else [i for i, old in enumerate(self._bound) if old != bound[i]]
        # Should a patch fail half way, the next launch binds everything again.
        self._bound, self._stale = list(bound), True
        if self._executable is None:
            self._build()
        else:
            users = {id(user): user for binding in changed for user in self._users[binding]}
            for parameters, node, prepared in users.values():
                parameters.rebind(bound)
                self._driver.patch(self._executable, node, prepared)
        self._stale = False

    def _build(self) -> None:
        self._users = [[] for _ in self._bound]
        graph = self._driver.create_graph()
        try:
            self._add_nodes(graph)
            self._executable = self._driver.instantiate(graph)
        except BaseException:
            self._driver.destroy_graph(graph)
            raise
        # Nodes of the graph are what patching names, so it lives as long as the executable.
        self._resources.add(self._driver.destroy_graph, graph)
        self._resources.add(self._driver.destroy_executable, self._executable)

    def _add_nodes(self, graph: Handle) -> None:
        nodes: list[Handle] = []
        last: list[Handle] = []  # the end of the chain, events included
        scratch = self._addresses.scratch
        if self._events:
            last = [self._driver.add_event(graph, self._events[0], [])]
        for index, launch in enumerate(self._plan.launches):
            after = last if self._chain else [nodes[earlier] for earlier in launch.after]
            # A programmatic edge holds between two kernels: with several predecessors, or an event, wait in full.
            programmatic = launch.dependent and len(after) == 1 and not self._events
            nodes.append(self._add_launch(graph, launch, scratch, after, programmatic))
            scratch += scratch_bytes(self._plan, launch)
            last = nodes[-1:]
            if self._events:
                last = [self._driver.add_event(graph, self._events[index + 1], last)]

    def _add_launch(
        self, graph: Handle, launch: Launch, scratch: int, after: Sequence[Handle], programmatic: bool
    ) -> Handle:
        loaded = self._kernels[launch.kernel]
        kernel = loaded.kernel
        scratch = scratch if kernel.scratch_bytes else 0
        parameters = Parameters(launch.arguments, len(self._plan.inputs), scratch, self._driver)
        parameters.bind(self._addresses)
        parameters.rebind(self._bound)
        # A Triton program is a cluster of blocks; the driver counts blocks.
        x, y, z = (size * span for size, span in zip(launch.grid, kernel.cluster, strict=True))
        node = KernelNode(
            function=loaded.function,
            grid=(x, y, z),
            block=(32 * kernel.num_warps, 1, 1),
            shared_bytes=kernel.shared_bytes,
            arguments=parameters.address,
            cluster=kernel.cluster,
            cooperative=launch.cooperative,
        )
        added = self._driver.add_kernel(graph, node, after, programmatic=programmatic)
        user = (parameters, added, self._driver.prepare_patch(node))
        for binding in parameters.bindings:
            self._users[binding].append(user)
        return added
