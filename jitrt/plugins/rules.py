"""Rules of fusion from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jitrt.errors import PluginError
from jitrt.passes.apply_rules import register
from jitrt.passes.pattern import PatternRule, check_parameters, write_pattern
from jitrt.passes.pipeline import PIPELINE
from jitrt.plugins.definition import Place


def fusion_rule(
    name: str,
    *,
    pattern: Callable[..., Any],
    rewrite: Callable[..., Any],
    check: Callable[..., str | None] | None = None,
    judged: bool = False,
) -> PatternRule:
    """Replace what fits `pattern` by what `rewrite` builds, in every build from now on.

    `pattern` writes the ops to look for (see `jitrt.passes.pattern`), such as `lambda g, x: g.mul(x, g.sigmoid(x))`.
    `check` returns None, or why a place that fits is to be left alone: `jitrt explain` prints it. `rewrite` builds the
    same result from other ops, plugins' included. Both are called with what they have parameters for: the pattern's
    variables (values of the graph, with `.type`), `match` (`match.node("conv").op` has the attributes), and `rewrite`
    with `g`, which adds ops. Nothing is replaced whose inner results somebody else reads.

    The rule runs after the graph is normalised and before it is fused. With `judged` it is applied only where that is
    measured to be faster (without a GPU: where fewer kernels are left). A rule of the same name is replaced.

    Raises PluginError for a pattern that is none, functions with parameters that they are not offered, or a name that
    is taken.

    >>> jitrt.fusion_rule(                                                       # doctest: +SKIP
    ...     "swish_add",
    ...     pattern=lambda g, x, y: g.add(g.mul(x, g.sigmoid(x)), y),
    ...     check=lambda x, y: None if x.type == y.type else "the operands broadcast",
    ...     rewrite=lambda g, x, y: g.op("ns::swish_add", x, y),
    ... )
    """
    if name in {step.name for step in PIPELINE}:
        raise PluginError(f"{name!r} is the name of a pass of jitrt; call the rule something else")
    written = write_pattern(pattern)
    variables = [variable for variable in inspect.signature(pattern).parameters if variable != "g"]
    _check_function(name, "rewrite", rewrite, [*variables, "g", "match"])
    if check is not None:
        _check_function(name, "check", check, [*variables, "match"])
    source = Place.above(1).definition.digest
    rule = PatternRule(name, written, rewrite, check, judged, source)
    register(rule)
    return rule


def _check_function(rule: str, what: str, function: Any, offered: list[str]) -> None:
    if not callable(function):
        raise PluginError(f"rule {rule}: {what} is {function!r}; give a function")
    try:
        check_parameters(function, offered)
    except PluginError as error:
        raise PluginError(f"rule {rule}: {what} {error}") from error
