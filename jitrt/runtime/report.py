"""What an engine says about itself, as text and as HTML: its contents, its times, its distance from a reference."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.errors import InputError
from jitrt.plan.schema import Binding, Kernel, Layer, Plan, PlanFile
from jitrt.runtime.memory import scratch_bytes

_NUMBER = re.compile(r"(nan|-?[\d,]*\.?\d+(e[+-]\d+)?( ?(%|x|[KMG]i?B|B))?)?")


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; a column of numbers is right-aligned."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def filled(self) -> Table:
        """Without the columns in which no row says anything."""
        keep = [index for index in range(len(self.headings)) if any(row[index] for row in self.rows)]
        cut = lambda cells: tuple(cells[index] for index in keep)  # noqa: E731
        return Table(cut(self.headings), tuple(map(cut, self.rows)))

    def _right(self) -> list[bool]:
        """Which columns hold numbers alone."""
        columns = list(zip(*self.rows)) or [("",)] * len(self.headings)
        return [any(column) and all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.headings, *self.rows)]
        right, lines = self._right(), []
        for row in (self.headings, *self.rows):
            cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        # Every cell says how it is aligned: notebooks have styles of their own for cells.
        styles = ["text-align:right;white-space:nowrap" if right else "text-align:left" for right in self._right()]

        def line(tag: str, cells: Sequence[str]) -> str:
            made = (f"<{tag} style='{style}'>{html.escape(cell)}</{tag}>" for cell, style in zip(cells, styles))
            return f"<tr>{''.join(made)}</tr>"

        head, body = line("th", self.headings), "".join(line("td", row) for row in self.rows)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def nbytes_text(nbytes: int) -> str:
    """A size as a person reads it."""
    size, unit = float(nbytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


@dataclass(frozen=True)
class Inspection:
    """Layers, tactics, bindings and memory of a plan."""

    plan: Plan
    constants_bytes: int
    cubin_bytes: int

    @classmethod
    def of(cls, file: PlanFile) -> Inspection:
        return cls(file.plan, len(file.constants), sum(map(len, file.images.values())))

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.plan.layers

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by purpose: `arena`, `zeros` and `scratch` a context, `constants` and `cubins` an engine."""
        return {
            "arena": self.plan.arena_bytes,
            "zeros": self.plan.zeros_bytes,
            "scratch": sum(scratch_bytes(self.plan, launch) for launch in self.plan.launches),
            "constants": self.constants_bytes,
            "cubins": self.cubin_bytes,
        }

    @property
    def table(self) -> Table:
        """The layers in order. Registers and shared memory are the most of a layer's kernels, spills their sum."""
        kernels: list[list[Kernel]] = [[] for _ in self.layers]
        for launch in self.plan.launches:
            kernels[launch.layer].append(self.plan.kernels[launch.kernel])
        resources = ("launches", "registers", "shared", "spills")
        headings = ("layer", "kind", "what", "tactic", "chosen from", *resources, "tuned us", "from")
        rows = (
            (made.name, made.kind, made.text, made.tactic, made.source, *_resources(used), _tuned(made), made.location)
            for made, used in zip(self.layers, kernels)
        )
        return Table(headings, tuple(rows)).filled()

    def _head(self) -> list[str]:
        plan = self.plan
        memory = ", ".join(f"{name} {nbytes_text(size)}" for name, size in self.memory.items() if size)
        parts = ((plan.layers, "layer", "s"), (plan.launches, "launch", "es"), (plan.kernels, "kernel", "s"))
        counts = ", ".join(f"{len(what)} {name}{'' if len(what) == 1 else many}" for what, name, many in parts)
        return [
            f"{plan.name}: sm_{plan.arch}, {counts}",
            *(f"input   {_binding_text(binding)}" for binding in plan.inputs),
            *(f"output  {_binding_text(binding)}" for binding in plan.outputs),
            f"memory  {memory or 'none'}",
        ]

    def __repr__(self) -> str:
        return "\n".join([*self._head(), "", str(self.table)])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(chr(10).join(self._head()))}</pre>{self.table._repr_html_()}"


def _resources(kernels: Sequence[Kernel]) -> tuple[str, str, str, str]:
    """Launches, registers, shared memory and spills of a layer's kernels; nothing if it has none."""
    if not kernels:
        return "", "", "", ""
    shared = nbytes_text(max(kernel.shared_bytes for kernel in kernels))
    registers, spills = max(kernel.registers for kernel in kernels), sum(kernel.spills for kernel in kernels)
    return str(len(kernels)), str(registers or ""), shared, str(spills)


def _tuned(layer: Layer) -> str:
    return f"{layer.microseconds:.1f}" if layer.microseconds else ""


def _binding_text(binding: Binding) -> str:
    return f"{binding.name}  {binding.dtype} {binding.shape} strides {binding.strides}"


@dataclass(frozen=True)
class LayerTime:
    """One layer's share: `microseconds` measured, `floor` the least its bytes and FLOPs take on this GPU, 0 if that is
    not known."""

    layer: Layer
    microseconds: float
    floor: float


@dataclass(frozen=True)
class Profile:
    """Times of one engine, all in microseconds.

    graph    one call as the engine runs it, back to back with others.
    serial   the same launches one after another; the layers sum to it. More than `graph` if branches overlap.
    enqueue  host time of one launch of the graph.
    """

    name: str
    device: str
    layers: tuple[LayerTime, ...]
    graph: float
    serial: float
    enqueue: float

    @property
    def floor(self) -> float:
        """Sum of the layers' floors."""
        return sum(layer.floor for layer in self.layers)

    @property
    def table(self) -> Table:
        """The layers, slowest first."""
        headings = ("layer", "what", "us", "share", "floor us", "of floor", "tactic", "from")
        rows = []
        for time in sorted(self.layers, key=lambda t: -t.microseconds):
            layer, spent, floor = time.layer, time.microseconds, time.floor
            share = f"{100 * spent / self.serial:.1f}%" if self.serial else ""
            floors = (_microseconds(floor), f"{spent / floor:.1f}x") if floor else ("", "")
            rows.append((layer.name, layer.text, _microseconds(spent), share, *floors, layer.tactic, layer.location))
        return Table(headings, tuple(rows)).filled()

    def _head(self) -> str:
        parts = [f"{_microseconds(self.graph)} us a call, {_microseconds(self.serial)} us with its layers one by one"]
        if self.floor:
            parts.append(f"{_microseconds(self.floor)} us at the layers' floors")
        if self.enqueue:
            parts.append(f"{_microseconds(self.enqueue)} us of host time to launch")
        return f"{self.name} on {self.device}: {', '.join(parts)}"

    def __repr__(self) -> str:
        return f"{self._head()}\n\n{self.table}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._head())}</p>{self.table._repr_html_()}"


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


@dataclass(frozen=True)
class Comparison:
    """Distance of each output from its reference: (name, ||out - ref|| / ||ref||, largest absolute difference).

    Worked out in float64. NaN where the reference has a NaN and the output has none, or the other way round; equal
    infinities and NaNs in the same place count as equal.
    """

    outputs: tuple[tuple[str, float, float], ...]

    @classmethod
    def of(cls, plan: Plan, outputs: Sequence[Any], references: Sequence[Any]) -> Comparison:
        """Compare by position. Raises InputError if number or shapes differ."""
        names = [binding.name for binding in plan.outputs]
        if len(references) != len(outputs):
            raise InputError(f"the reference returned {len(references)} array(s), the engine {len(outputs)}")
        pairs = zip(names, map(as_float64, outputs), map(as_float64, references))
        return cls(tuple((name, *_distance(name, ours, theirs)) for name, ours, theirs in pairs))

    @property
    def worst(self) -> float:
        """The largest relative error; NaN if any is."""
        return float(np.max([error for _, error, _ in self.outputs], initial=0.0))

    @property
    def table(self) -> Table:
        rows = tuple((name, f"{error:.2e}", f"{largest:.2e}") for name, error, largest in self.outputs)
        return Table(("output", "relative error", "largest difference"), rows)

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _distance(name: str, ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    if ours.shape != theirs.shape:
        raise InputError(f"output {name!r} has shape {ours.shape}, the reference {theirs.shape}")
    with np.errstate(invalid="ignore"):
        difference = np.where((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)), 0.0, ours - theirs)
    finite = theirs[np.isfinite(theirs)]
    size, norm = float(np.linalg.norm(difference)), float(np.linalg.norm(finite))
    largest = float(np.max(np.abs(difference), initial=0.0))
    return (size / norm if norm else size), largest


def as_float64(array: Any) -> np.ndarray:
    """Any array as float64 on the host."""
    if hasattr(array, "detach"):  # a torch.Tensor: numpy knows neither its device nor its bfloat16
        array = array.detach().cpu().double()
    elif hasattr(array, "__cuda_array_interface__") and hasattr(array, "get"):  # CuPy refuses implicit copies
        array = array.get()
    return np.asarray(array).astype(np.float64)


def leaves(value: Any) -> list[Any]:
    """The arrays in a nested result, depth first."""
    return list(_leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield value
