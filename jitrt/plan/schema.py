"""What a plan says: dataclasses that the file's JSON header is made of.

A plan is a list of launches over five address spaces. Nothing in it is code that the loader runs: the cubins are
data for the driver, and every address is a space and a byte offset.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

VERSION = 1

Space = Literal["arena", "constants", "zeros", "input", "output"]


@dataclass(frozen=True)
class Pointer:
    """An address: `offset` bytes into a space.

    arena      activations and workspace; contents undefined before the launch that writes them; one a context.
    constants  weights, uploaded once, shared by all contexts, never written.
    zeros      filled with zeros when a context is made; every launch that uses it leaves it zero; one a context.
    input, output  the caller's tensor number `index`.
    """

    space: Space
    offset: int = 0
    index: int = 0


@dataclass(frozen=True)
class Scalar:
    """A number passed by value: kind is "i32", "i64" or "f32"."""

    kind: Literal["i32", "i64", "f32"]
    value: int | float


@dataclass(frozen=True)
class TensorMap:
    """A CUtensorMap (128 bytes, passed by value) for tiled TMA; encoded when the pointer's address is known.

    `shape` and `box` are in elements, outermost dimension first; `strides` in bytes, one for every dimension but the
    innermost; `swizzle` is 0, 32, 64 or 128 bytes; `dtype` is a graph dtype name. Elements outside `shape` read zero.
    With `steps`, one for each dimension, only every `steps[d]`-th element of the box is loaded; () is all of them.
    It stands for these 128 bytes alone: the sizes and strides that Triton passes after them are Scalars of their own.
    """

    pointer: Pointer
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    steps: tuple[int, ...] = ()


Argument = Pointer | Scalar | TensorMap


@dataclass(frozen=True)
class Kernel:
    """One entry point of a cubin. `image` names the plan's tensor that holds the cubin's bytes; `cluster` is the blocks
    that one program is made of (Triton's num_ctas)."""

    entry: str
    image: str
    shared_bytes: int
    num_warps: int
    cluster: tuple[int, int, int] = (1, 1, 1)
    scratch_bytes: int = 0  # global scratch a program, 128-byte aligned
    registers: int = 0
    spills: int = 0


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `arguments` are in the order of the kernel's parameters, without Triton's two hidden trailing
    pointers (global scratch, profile scratch), which the runtime adds. `grid` counts programs. `after` lists the
    launches it must wait for."""

    kernel: int
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]
    after: tuple[int, ...]
    layer: int
    dependent: bool = False  # programmatic dependent launch: may start before its predecessors end
    cooperative: bool = False  # programs wait for each other: all run at the same time, one an SM at most


@dataclass(frozen=True)
class Binding:
    """One input or output of the engine: dtype name, shape, strides in elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One region of the graph and how it runs, for `profile` and `inspect`.

    `microseconds` is the tuned time (0 when untuned), `bytes` and `flops` the least a kernel must move and compute,
    `source` what the tactic was chosen from: measurement, the timing cache, the shipped table or the cost model.
    """

    name: str
    kind: str
    text: str
    location: str
    tactic: str
    microseconds: float
    bytes: int
    flops: int
    source: str = ""


@dataclass(frozen=True)
class Constant:
    """A weight inside the constants space."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """Everything but the bytes of weights and cubins.

    `arch` is the compute capability as one number (90); a cubin runs on that major version from that minor version on.
    `structure` is the caller's output structure as JSON (nested lists, dicts, and {"output": i} leaves); None is one
    output, or a tuple of several.
    `notes` is free-form JSON: toolchain, device, options, graph text, fusion report, memory report.
    """

    name: str
    arch: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    kernels: tuple[Kernel, ...]
    launches: tuple[Launch, ...]
    layers: tuple[Layer, ...]
    constants: tuple[Constant, ...]
    arena_bytes: int
    zeros_bytes: int
    constants_bytes: int
    structure: object = None
    notes: dict[str, object] = field(default_factory=dict)
    version: int = VERSION

    def __repr__(self) -> str:
        """One line: all of it is what `jitrt inspect` and `Engine.inspect` are for."""
        on = f"sm_{self.arch}" if self.arch else "numpy"
        return f"Plan({self.name!r}, {on}, {len(self.layers)} layers, {len(self.launches)} launches)"


@dataclass(frozen=True)
class PlanFile:
    """A plan and its bytes: `constants` is one flat uint8 array laid out by `Plan.constants`, `images` the cubins.
    `others` are plans of the same model for other architectures, without others of their own."""

    plan: Plan
    constants: memoryview | bytes
    images: dict[str, bytes]
    others: tuple[PlanFile, ...] = ()

    def __repr__(self) -> str:
        return f"PlanFile({', '.join(repr(file.plan) for file in (self, *self.others))})"

    @property
    def every(self) -> tuple[PlanFile, ...]:
        """One file an architecture, this plan's own first."""
        return (replace(self, others=()), *self.others)

    def fitting(self, arch: int) -> PlanFile:
        """The file whose cubins run on a device of compute capability `arch` and are made for the highest; the first
        if there is none."""
        able = [file for file in self.every if runs_on(file.plan.arch, arch)]
        return max(able, key=lambda file: file.plan.arch, default=self.every[0])


def runs_on(built_for: int, arch: int) -> bool:
    """Whether a cubin for one compute capability runs on another: same major version, minor not below."""
    return built_for // 10 == arch // 10 and built_for <= arch
