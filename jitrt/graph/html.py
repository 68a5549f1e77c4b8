"""A graph as HTML, for notebooks: one row a node, a region's body folded away under it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from html import escape

from jitrt.graph.graph import Graph, Node, Value

_STYLE = "text-align:left;vertical-align:top;font-family:monospace;padding:1px 8px"
_LONGEST = 60  # characters of attributes shown; the rest is in the row's tooltip


def to_html(graph: Graph) -> str:
    """Title, inputs, a table of nodes, outputs. Everything that came from a model is escaped."""
    inputs = ", ".join(_value(v) for v in graph.inputs)
    outputs = ", ".join(_value(v) for v in graph.outputs)
    weights = sum(v.type.nbytes for v in graph.constants.values())
    title = f"{_count(graph.nodes, 'node')}, {_count(graph.constants, 'constant')} of {_megabytes(weights)}"
    rows = table(("result", "op", "operands", "type", "from"), map(_row, graph.nodes))
    return (
        f"<div><b>graph {escape(graph.name)}</b> ({title})<br><small>in: {inputs}</small>{rows}"
        f"<small>out: {outputs}</small></div>"
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already. Every cell has its style: notebooks have styles of their own."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag} style='{_STYLE}'>{cell}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', headings)}</thead><tbody>{body}</tbody></table>"


def _row(node: Node) -> tuple[str, ...]:
    return (
        ", ".join(_name(v) for v in node.outputs),
        _op(node),
        ", ".join(_name(v) for v in node.inputs),
        "<br>".join(escape(str(v.type)) for v in node.outputs),
        f"<small>{escape(node.loc)}</small>",
    )


def _count(things: Sequence[object] | dict[str, Value], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


def _op(node: Node) -> str:
    attributes, bodies = [], []
    for field in dataclasses.fields(node.op):
        value = getattr(node.op, field.name)
        if not field.repr:
            continue
        if isinstance(value, Graph):
            bodies.append(value)
        elif field.default is dataclasses.MISSING or value != field.default:
            attributes.append(f"{field.name}={value!r}")
    if bodies:
        ops = " + ".join(inner.op.name for inner in bodies[0].nodes)
        return f"<details><summary>{escape(ops)}</summary>{to_html(bodies[0])}</details>"
    text = ", ".join(attributes)
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"<span title='{escape(text)}'><b>{escape(node.op.name)}</b> <small>{escape(short)}</small></span>"


def _name(value: Value) -> str:
    return f"{'#' if value.is_constant else '%'}{escape(value.name)}"


def _value(value: Value) -> str:
    return escape(repr(value))
