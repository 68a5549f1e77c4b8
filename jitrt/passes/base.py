"""What a pass is, what it is told, and where it says what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from jitrt.errors import OptionError
from jitrt.graph.graph import Graph, Node, anchors_of
from jitrt.graph.op import Trait
from jitrt.passes.report import Decision, Report

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
Stage = Literal["normalize", "specialize", "fuse", "finalize"]
Accepts = Callable[[Graph], str | None]
"""Whether a kernel exists for a region with this body: None, or the reason why not."""
Supports = Callable[[Node], str | None]
"""Whether such a kernel takes the operands of this region too, where `accepts` of its body is None."""


def one_anchor(body: Graph) -> str | None:
    """The laxest `accepts`: at most one anchor, everything else elementwise. For the reference target, which runs any
    region, and for tests."""
    anchors = anchors_of(body)
    if len(anchors) > 1:
        return f"{anchors[0].op.name} and {anchors[1].op.name} cannot share a kernel"
    return None


def any_operands(region: Node) -> str | None:
    """The `supports` that goes with `one_anchor`."""
    return None


@dataclass(frozen=True)
class Proposal:
    """A rewrite that rule `rule` could make, in words, with the graph of the regions concerned `before` and `after`.
    Both have the same inputs; the outputs of `after` may hold several of those of `before`. `whole` is the graph that
    they are part of. `doubt` says why it may be slower, where such places have been: it must be measured then, and
    gain more."""

    rule: str
    text: str
    before: Graph
    after: Graph
    whole: Graph
    doubt: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What a judge found of a proposal: what it gains (microseconds if measured), and how that is known."""

    gain: float
    text: str

    @property
    def accepted(self) -> bool:
        return self.gain > 0


Judge = Callable[[Sequence[Proposal]], Sequence[Verdict]]
"""Whether the rewrites proposed are worth it: one verdict each. Asked once for all the proposals of a pass."""


def fewer_kernels(proposals: Sequence[Proposal]) -> list[Verdict]:
    """The judge where nothing can be measured."""
    verdicts = []
    for proposal in proposals:
        before, after = (sum(n.has(Trait.OPAQUE) for n in g.nodes) for g in (proposal.before, proposal.after))
        text = f"{before} kernels become {after} (not measured)"
        if proposal.doubt is None:
            verdicts.append(Verdict(float(before - after), text))
        else:
            verdicts.append(Verdict(0.0, f"{text}, and {proposal.doubt}"))
    return verdicts


@dataclass(frozen=True)
class PassContext:
    """What every pass is told.

    `precision` is what float32 becomes. `accepts` says whether a kernel exists for a body, `supports` whether for a
    region's operands too, `judge` whether a rewrite is worth it. `outputs` names the values to compute (None: what the
    graph returns), `without` the passes to leave out. `report` collects the decisions; `pass_name` signs them.
    """

    precision: Precision = "fp32"
    accepts: Accepts = one_anchor
    judge: Judge = fewer_kernels
    outputs: Sequence[str] | None = None
    without: Sequence[str] = ()
    report: Report = field(default_factory=Report)
    pass_name: str = ""
    supports: Supports = any_operands

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise OptionError(f"precision={self.precision!r}: expected one of {', '.join(get_args(Precision))}")

    @property
    def tf32(self) -> bool:
        """Whether float32 products may be rounded to tf32."""
        return self.precision == "tf32"

    def within(self, pass_name: str) -> PassContext:
        """The same context, signing as `pass_name`."""
        return replace(self, pass_name=pass_name)

    def applied(self, node: Node, text: str) -> None:
        """Report that something was done to `node`."""
        self._note(node, True, text)

    def refused(self, node: Node, reason: str) -> None:
        """Report that something was not done to `node`, and why."""
        self._note(node, False, reason)

    def _note(self, node: Node, applied: bool, text: str) -> None:
        names = ", ".join(f"%{v.name}" for v in node.outputs)
        self.report.add(Decision(self.pass_name, f"{node.op.name} {names}", node.loc, applied, text))


@dataclass(frozen=True)
class Pass:
    """A function that edits a graph in place, and the stage it belongs to. Its name is the function's. What is
    `optional` a user may leave out, to see what it gains."""

    stage: Stage
    run: Callable[[Graph, PassContext], None]
    optional: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__
