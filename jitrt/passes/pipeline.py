"""The passes, in order: the one list to read, and the one way to run it."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.errors import OptionError, PassError
from jitrt.graph.graph import Graph
from jitrt.graph.verify import verify
from jitrt.passes.absorb_padding import absorb_padding
from jitrt.passes.apply_rules import apply_rules, registered
from jitrt.passes.base import Pass, PassContext
from jitrt.passes.eliminate_common import eliminate_common
from jitrt.passes.eliminate_concat import eliminate_concat
from jitrt.passes.eliminate_unused import eliminate_unused
from jitrt.passes.flatten_channels_last import flatten_channels_last
from jitrt.passes.fold_batch_norm import fold_batch_norm
from jitrt.passes.fold_constants import fold_constants
from jitrt.passes.fold_norm_scale import fold_norm_scale
from jitrt.passes.fuse_horizontal import FuseHorizontal
from jitrt.passes.fuse_pointwise import fuse_pointwise
from jitrt.passes.fuse_prologue import FusePrologue
from jitrt.passes.fuse_vertical import fuse_vertical
from jitrt.passes.join_attention import JoinAttention
from jitrt.passes.join_bottleneck import JoinBottleneck
from jitrt.passes.join_branches import JoinBranches
from jitrt.passes.join_conv_pool import JoinConvPool
from jitrt.passes.join_mean_linear import JoinMeanLinear
from jitrt.passes.join_separable import JoinSeparable
from jitrt.passes.join_slices import join_slices
from jitrt.passes.join_stem_pool import JoinStemPool
from jitrt.passes.keep_rows import keep_rows
from jitrt.passes.layout import layout
from jitrt.passes.lift_permutes import lift_permutes
from jitrt.passes.merge_views import merge_views
from jitrt.passes.pair_copies import pair_copies
from jitrt.passes.precision import precision
from jitrt.passes.proposal import Rule, judged
from jitrt.passes.raise_activations import raise_activations
from jitrt.passes.raise_group_norms import raise_group_norms
from jitrt.passes.raise_linears import raise_linears
from jitrt.passes.raise_norms import raise_norms
from jitrt.passes.regroup_views import regroup_views
from jitrt.passes.reorder_pools import reorder_pools
from jitrt.passes.schedule import schedule
from jitrt.passes.simplify import simplify
from jitrt.passes.sink_views import sink_views
from jitrt.passes.untranspose import untranspose

RULES: tuple[Rule, ...] = (
    FuseHorizontal(),
    JoinAttention(),
    JoinBranches(),
    JoinMeanLinear(),
    JoinStemPool(),
    JoinSeparable(),
    JoinBottleneck(),
    FusePrologue(),
    JoinConvPool(),
)

PIPELINE: tuple[Pass, ...] = (
    Pass("normalize", eliminate_unused),
    Pass("normalize", fold_constants),
    Pass("normalize", merge_views),
    Pass("normalize", regroup_views),
    Pass("normalize", keep_rows),
    Pass("normalize", simplify),
    Pass("normalize", raise_activations),
    Pass("normalize", raise_norms),
    Pass("normalize", raise_group_norms),
    Pass("normalize", raise_linears),
    Pass("normalize", fold_norm_scale),
    Pass("normalize", untranspose),
    Pass("normalize", fold_batch_norm),
    Pass("normalize", absorb_padding),
    Pass("normalize", reorder_pools, optional=True),
    Pass("normalize", eliminate_common),
    Pass("normalize", apply_rules),
    Pass("specialize", precision),
    Pass("specialize", lift_permutes),
    Pass("specialize", sink_views),
    Pass("specialize", merge_views),
    Pass("specialize", join_slices),
    Pass("specialize", flatten_channels_last),
    Pass("specialize", layout),
    Pass("fuse", fuse_vertical),
    Pass("fuse", fuse_pointwise),
    *(Pass("fuse", judged(rule)) for rule in RULES),
    Pass("fuse", eliminate_concat),
    Pass("fuse", pair_copies),
    Pass("finalize", schedule),
)


def optimize(graph: Graph, context: PassContext | None = None, *, passes: Sequence[Pass] = PIPELINE) -> Graph:
    """An optimised copy of `graph`; what was done and what was not is in `context.report`.

    Rules and optional passes named in `context.without` are left out. The graph is verified after every pass. Raises
    PassError naming the pass that broke it and those that ran before; OptionError if an option does not fit the graph,
    or names no rule.

    >>> from jitrt.graph import Graph, TensorType, f32
    >>> from jitrt.graph.ops import Dropout, Relu
    >>> g = Graph("demo"); x = g.add_input("x", TensorType(f32, (4,)))
    >>> g.mark_output(g.add(Relu(), g.add(Dropout(), x)))
    >>> [node.op.name for node in optimize(g).nodes]
    ['region']
    """
    context = context or PassContext()
    check_without(context.without)
    graph = graph.clone()
    verify(graph)
    ran: list[str] = []
    for step in passes:
        if step.name in context.without:
            continue
        try:
            step.run(graph, context.within(step.name))
            verify(graph)
        except OptionError:
            raise
        except Exception as error:  # whatever went wrong, the reader needs to know where
            message = (
                f"pass {step.name} ({step.stage}) failed: {error}\npasses that ran before: {', '.join(ran) or 'none'}"
            )
            raise PassError(message) from error
        ran.append(step.name)
    return graph


def check_without(names: Sequence[str]) -> None:
    """Raise OptionError for a name that is none of a rule."""
    for name in names:
        if name not in rule_names():
            raise OptionError(f"without names {name!r}; what can be left out is {', '.join(rule_names())}")


def rule_names() -> list[str]:
    """What can be left out: jitrt's rules, optional passes, and the rules that users registered."""
    rules, passes = (rule.name for rule in RULES), (step.name for step in PIPELINE if step.optional)
    return [*rules, *passes, *(rule.name for rule in registered())]
