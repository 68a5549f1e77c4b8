"""What a kernel file offers the compiler: a template, which turns a problem into launches.

A problem is one region with all its types and layouts, and nothing else: two models with the same layer have the same
problem, hence the same timing-cache entry. A template says whether it can run a region (`accepts`), which
configurations are worth trying (`candidates`, best guess first), and what to launch for one of them (`lower`).
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from typing import Any, ClassVar, Literal

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import GraphError, JitrtWarning
from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.op import Array
from jitrt.graph.ops import Gather, Region
from jitrt.graph.rebuild import rebuild
from jitrt.graph.text import to_text
from jitrt.graph.types import Layout, TensorType

Config = Mapping[str, Any]  # a template's tunable choices: str -> int | bool | str


@dataclass(frozen=True)
class Problem:
    """A region to be run: `body` with the strides its operands and result really have, and which operands are weights.

    Offsets and storage names are left out of the types: a kernel gets the pointer to its operand's first element.
    `alignment[i]` is the byte alignment (at most 16) the pointer of operand i is sure to have; the last, the output's.
    """

    body: Graph
    weights: tuple[bool, ...]
    alignment: tuple[int, ...]

    @cached_property
    def key(self) -> str:
        """The text that identifies the problem; constants inside are scalars and print in full."""
        head = f"weights={self.weights} alignment={self.alignment}\n"
        return head + to_text(self.body, locations=False)

    @property
    def output(self) -> Value:
        return self.body.outputs[0]

    @cached_property
    def anchor(self) -> Node | None:
        """The node that does the real work, the last of them if there are several; None in a pointwise region."""
        return anchor_of(self.body)

    @property
    def anchors(self) -> list[Node]:
        """All nodes that do real work, in order."""
        return anchors_of(self.body)

    @property
    def moved_bytes(self) -> int:
        """Bytes that move at least: every operand once, and the output. Of what is only gathered from, such as a table
        of embeddings, no more than is taken."""
        return sum(_read_bytes(value) for value in self.body.inputs) + self.output.type.nbytes

    @classmethod
    def of(cls, node: Node) -> Problem:
        """The problem a region node of a laid-out graph poses."""
        if not isinstance(node.op, Region):
            raise GraphError(f"{node!r} is no region")
        body = node.op.body
        types: dict[str, TensorType] = {}
        for inner, outer in [*zip(body.inputs, node.inputs), *zip(body.outputs, node.outputs)]:
            types[inner.name] = outer.type.with_layout(Layout(outer.type.strides))
        clean = rebuild(body, type=lambda v: types.get(v.name, v.type))
        clean.name = "region"
        alignment = tuple(_alignment(v.type) for v in (*node.inputs, *node.outputs))
        return cls(clean, tuple(v.is_constant for v in node.inputs), alignment)


def _read_bytes(value: Value) -> int:
    if not value.uses or any(not isinstance(user.op, Gather) or index for user, index in value.uses):
        return value.type.nbytes
    return min(value.type.nbytes, sum(user.output.type.nbytes for user in value.users))


def _alignment(type: TensorType) -> int:
    """Storages start 256-byte aligned, so only the offset can spoil a pointer's alignment."""
    offset = type.offset * type.dtype.itemsize
    return 16 if offset % 16 == 0 else offset & -offset


def anchor_of(body: Graph) -> Node | None:
    """The anchor of a region's body; the last if there are several. A template that knows of one refuses the others
    then, which are neither elementwise ops before it nor after it."""
    anchors = anchors_of(body)
    return anchors[-1] if anchors else None


# -- what lower() returns --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operand:
    """Pointer to the first element of the problem's operand `index`."""

    index: int


@dataclass(frozen=True)
class Result:
    """Pointer to the first element of the problem's output."""


@dataclass(frozen=True)
class Workspace:
    """Pointer into the launch's workspace, `offset` bytes from its start. Contents undefined at first."""

    offset: int = 0
    dtype: str = "f32"


@dataclass(frozen=True)
class Zeros:
    """Pointer to `i32` zeros that every launch must leave zero again (arrival counters)."""

    offset: int = 0


@dataclass(frozen=True)
class Number:
    """A scalar passed by value."""

    value: int | float
    kind: Literal["i32", "i64", "f32"] = "i32"


@dataclass(frozen=True)
class Descriptor:
    """A host TMA descriptor over an operand, the result or workspace: see plan.schema.TensorMap. Gluon templates only.

    `shape` and `block` in elements, outermost first; `strides` in elements, one for every dimension but the innermost;
    `signature` is the Triton type text ("tensordesc<...>"), `swizzle` the bytes its shared layout swizzles by. What a
    load brings is `box`, where that is not `block`, of which it takes every `steps[d]`-th element.
    """

    base: Operand | Result | Workspace
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]
    swizzle: int
    signature: str
    box: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


Argument = Operand | Result | Workspace | Zeros | Number | Descriptor | tuple[Operand, ...]


@dataclass(frozen=True)
class KernelCall:
    """One launch: a `@triton.jit` (or `@gluon.jit`) function, its runtime arguments by parameter name in order, its
    constexpr arguments, grid and compile options. A tuple of Operands is passed as a Triton tuple of pointers.
    Numbers divisible by 16 are specialised as Triton does. All shapes are static, so a size may as well be a constexpr
    where that helps the compiler.

    A kernel with a constexpr `DEPENDENT` that is true executes `griddepcontrol.wait` before its first access to memory
    other than constants (`tl.extra.cuda.gdc_wait()`, sm_90 and later). It may then be launched while its predecessor
    still runs: measured on an H200, 0.2 to 0.5 us less a launch. Kernels that are often short let their successor
    launch (`gdc_launch_dependents`) when all that is left is to store: ResNet-50, batch 1, took 202 us instead of 207.
    Earlier is worse where programs wait for others' places: after the loop and before the epilogue 222 us. Where all
    run at once it is better: the compiler sees to that (codegen/overlap.py), but for gemm_tma, conv_tma and
    conv_pointwise, which let it launch as they begin (batch 8: 342 us instead of 372, 354 before the last store).

    The programs of a `cooperative` call may wait for each other: all of them run at the same time, or the launch fails,
    so there is one for each SM at most. Such a call has no `DEPENDENT`, and the interpreter, which runs one program
    after another, does not run it."""

    function: Any
    arguments: Mapping[str, Argument]
    constexprs: Mapping[str, Any]
    grid: tuple[int, int, int]
    num_warps: int = 4
    num_stages: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    cooperative: bool = False

    @property
    def dependent(self) -> bool:
        """Whether the kernel waits for its predecessor by itself."""
        return bool(self.constexprs.get("DEPENDENT"))


@dataclass(frozen=True)
class Lowered:
    """The launches, in order, that run a problem with one configuration.

    `pack[i]` turns weight operand i (a numpy array of its logical shape) into the array that is stored in the plan
    instead and that `Operand(i)` then points at.
    """

    calls: tuple[KernelCall, ...]
    workspace_bytes: int = 0
    zeros_bytes: int = 0
    pack: Mapping[int, Callable[[Array], Array]] = field(default_factory=dict)


class Template:
    """Base of all templates. A subclass in any module of `jitrt.kernels` is found by `templates()`.

    `priority` orders templates that accept the same region when nothing is measured: higher first. `in_place` promises
    what `kernels/in_place.py` asks, so that the result may lie on an operand that dies with it.
    """

    name: ClassVar[str]
    priority: ClassVar[int] = 0
    in_place: ClassVar[bool] = False

    source: str = ""  # of a template from outside: the digest of what defines it, for keys

    def accepts(self, body: Graph) -> str | None:
        """None if this template can run a region with this body, else the reason why not, as a person would say it.
        Called by the fusion passes with growing bodies, so it must be quick."""
        raise NotImplementedError

    def supports(self, problem: Problem, target: Target) -> str | None:
        """None, or why this problem cannot run on this target (for templates of one architecture)."""
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        """Whether a NaN or an infinity may also reach outputs that do not depend on it (through a product with zero).
        Verification then leaves such inputs out."""
        return False

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        """Configurations worth trying, best guess first. Never empty for an accepted problem."""
        raise NotImplementedError

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        """What to launch."""
        raise NotImplementedError


@dataclass(frozen=True)
class Tactic:
    """A template with one configuration."""

    template: str
    config: tuple[tuple[str, Any], ...]

    @classmethod
    def make(cls, template: Template, config: Config) -> Tactic:
        return cls(template.name, tuple(sorted(config.items())))

    def lower(self, problem: Problem, target: Target) -> Lowered:
        return templates()[self.template].lower(problem, dict(self.config), target)

    def __str__(self) -> str:
        return f"{self.template}({', '.join(f'{k}={v}' for k, v in self.config)})"


@cache
def templates() -> dict[str, Template]:
    """Every template by name, in order of priority, then name: this package's, and those offered from outside."""
    import jitrt.kernels as package

    load_installed()

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"jitrt.kernels.{module.name}")
    found = [*(kind() for kind in _leaves(Template)), *_OFFERED.values()]
    return {t.name: t for t in sorted(found, key=lambda t: (-t.priority, t.name))}


_OFFERED: dict[str, Template] = {}
_GROUP = "jitrt.kernels"  # the entry points by which installed packages bring templates and plugins


def offer(template: Template) -> None:
    """Put a template from outside on offer to every build; it takes the place of one offered under the same name."""
    _OFFERED[template.name] = template
    templates.cache_clear()


def withdraw(name: str) -> None:
    """Undo `offer`."""
    if _OFFERED.pop(name, None) is not None:
        templates.cache_clear()


def offered() -> dict[str, Template]:
    """The templates from outside, by name."""
    load_installed()
    return dict(_OFFERED)


@cache
def load_installed() -> None:
    """Import the modules that installed packages name as entry points `jitrt.kernels`, once. They offer what they have
    by `jitrt.plugin` and `jitrt.kernel`. One that cannot be imported costs a warning."""
    for entry in metadata.entry_points(group=_GROUP):
        try:
            entry.load()
        except Exception as error:  # whatever somebody else's package raises
            told = f"{type(error).__name__}: {error}; mend or remove the package"
            warnings.warn(f"the kernels of {entry.value} are not on offer: {told}", JitrtWarning, stacklevel=2)


def _leaves(kind: type[Template]) -> list[type[Template]]:
    # Templates outside the package (a test's, a plugin's) are not on offer to everybody.
    own = [child for child in kind.__subclasses__() if child.__module__.startswith("jitrt.kernels.")]
    below = [leaf for child in own for leaf in _leaves(child)]
    return below or ([kind] if "name" in kind.__dict__ else [])


def accepts(body: Graph) -> str | None:
    """None if some template can run a region with this body; else the first reason given. Handed to the passes."""
    reasons = []
    for template in templates().values():
        reason = template.accepts(body)
        if reason is None:
            return None
        reasons.append(reason)
    anchor = anchor_of(body)
    specific = [r for r in reasons if not r.startswith("anchor")]
    where = "" if anchor is None else f" (at {anchor.op.name})"
    return (specific or reasons or ["there are no templates"])[0] + where


def supports(region: Node, target: Target | None = None) -> str | None:
    """None if a template that accepts a region's body supports its operands too, on `target` or on any: its weights may
    have to be constants, its sizes to fit into 32 bits. Else the first reason given. Handed to the passes."""
    problem = Problem.of(region)
    reasons = []
    for template in templates().values():
        if template.accepts(problem.body) is not None:
            continue
        for chip in TARGETS.values() if target is None else (target,):
            reason = template.supports(problem, chip)
            if reason is None:
                return None
            reasons.append(reason)
    return reasons[0] if reasons else accepts(problem.body)
