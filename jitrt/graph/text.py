"""The text form of a graph, and its parser: `parse(str(g), g_constants) == g`.

Constants of at most eight finite elements are written out; larger ones by digest, and `parse` looks their data up.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from jitrt.errors import GraphError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import OPS, Array, Op
from jitrt.graph.types import Layout, TensorType

_INLINE = 8


def to_text(graph: Graph, *, locations: bool = True) -> str:
    """The text form. `locations=False` leaves source lines out, for keys and comparisons."""
    return "\n".join(_graph_lines(graph, "", locations))


def _graph_lines(graph: Graph, indent: str, locations: bool) -> list[str]:
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    title = re.sub(r"[\s()]", "_", graph.name) or "_"
    lines = [f"graph {title}({inputs}) {{"]
    inner = indent + "  "
    lines += [f"{inner}const %{v.name}: {v.type} = {_constant(v)}" for v in graph.constants.values()]
    for node in graph.nodes:
        lines += _node_lines(node, inner, locations)
    lines.append(f"{inner}return {', '.join('%' + v.name for v in graph.outputs)}")
    lines.append(indent + "}")
    return lines


def _node_lines(node: Node, indent: str, locations: bool) -> list[str]:
    outs = ", ".join(f"%{v.name}" for v in node.outputs)
    args = ", ".join(f"%{v.name}" for v in node.inputs)
    types = ", ".join(str(v.type) for v in node.outputs)
    attributes, bodies = [], []
    for field in dataclasses.fields(node.op):
        value = getattr(node.op, field.name)
        if isinstance(value, Graph):
            bodies.append(value)
        else:
            attributes.append(f"{field.name}={value!r}")  # inf and nan included: `_literal` reads them
    head = f"{indent}{outs} = {node.op.name}({args})"
    if attributes:
        head += " <" + ", ".join(attributes) + ">"
    tail = f" : {types}" + (f" @ {node.loc!r}" if locations and node.loc else "")
    if not bodies:
        return [head + tail]
    lines = _graph_lines(bodies[0], indent, locations)
    return [f"{head} {lines[0]}", *lines[1:-1], lines[-1] + tail]


def _constant(value: Value) -> str:
    data = value.data
    assert data is not None
    if data.size <= _INLINE and np.all(np.isfinite(data.astype(np.float64))):
        wide = data.astype(np.float64) if value.type.dtype.is_float else data
        return repr(wide.tolist())
    return "#" + value.digest


# -- parsing -------------------------------------------------------------------------------------------------------

_NAME = r"[^\s,(){}\[\]<>=@%'\"]+"  # what `Graph` lets a name consist of
_TYPE = re.compile(rf"(\w+)\[([\d,]*)\](?:\{{([\d,]*)(?:\+(\d+))?(?:@%({_NAME}))?\}})?")
_HEADER = re.compile(r"graph (\S+?)\((.*)\) \{$")
_INPUT = re.compile(rf"%({_NAME}): (\w+\[[^\]]*\](?:\{{[^}}]*\}})?)")
_CONST = re.compile(rf"const %({_NAME}): (\S+) = (.*)$")
_NODE = re.compile(r"(%[^=]+?) = ([\w:]+)\(([^)]*)\)(?: <(.*?)>)?(?: (graph .*\{)| : (.*?)(?: @ ('.*'|\".*\"))?)$")
_CLOSE = re.compile(r"\} : (.*?)(?: @ ('.*'|\".*\"))?$")


def parse(text: str, constants: Mapping[str, Array] | None = None) -> Graph:
    """Read a graph back from its text. `constants` maps digests to arrays. Raises GraphError naming the bad line."""
    import_module("jitrt.graph.ops")  # which registers them; it imports this module's neighbours, hence only now
    lines = [line.strip() for line in text.strip().splitlines()]
    graph, rest = _parse_graph(lines, 0, constants or {})
    if rest != len(lines):
        raise GraphError(f"unexpected text after the graph: {lines[rest]!r}")
    return graph


def parse_type(text: str) -> TensorType:
    """A TensorType from its text form."""
    match = _TYPE.fullmatch(text.strip())
    if match is None:
        raise GraphError(f"not a type: {text!r}")
    dtype, shape, strides, offset, storage = match.groups()
    layout = None if strides is None else Layout(_ints(strides), int(offset or 0), storage)
    try:
        return TensorType(DType(dtype), _ints(shape), layout)
    except ValueError:
        raise GraphError(f"not a dtype: {dtype!r}") from None


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _types(text: str) -> list[TensorType]:
    return [parse_type(m.group(0)) for m in _TYPE.finditer(text)]


def _parse_graph(lines: list[str], at: int, data: Mapping[str, Array], header: str | None = None) -> tuple[Graph, int]:
    first = header or _line(lines, at, "'graph NAME(...) {'")
    match = _HEADER.match(first)
    if match is None:
        raise GraphError(f"expected 'graph NAME(...) {{', got {first!r}")
    graph = Graph(match.group(1))
    for part in _INPUT.finditer(match.group(2)):
        graph.add_input(part.group(1), parse_type(part.group(2)))
    env = {v.name: v for v in graph.inputs}
    at += 1
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line:
            continue
        if line.startswith("return"):
            names = [n.strip().lstrip("%") for n in line[6:].split(",") if n.strip()]
            graph.mark_output(*(_look_up(env, name, line) for name in names))
            if header is not None:
                return graph, at
            if _line(lines, at, "'}'") != "}":
                raise GraphError(f"expected '}}', got {lines[at]!r}")
            return graph, at + 1
        if constant := _CONST.match(line):
            name, type_text, literal = constant.groups()
            type = parse_type(type_text)
            env[name] = graph.add_constant(_constant_data(literal, type, data), name, type)
            continue
        node = _NODE.match(line)
        if node is None:
            raise GraphError(f"cannot read line: {line!r}")
        outs, op_name, args, attributes, body_header, types_text, loc = node.groups()
        body = None
        if body_header:
            body, at = _parse_graph(lines, at - 1, data, header=body_header)
            close = _CLOSE.match(_line(lines, at, "'} : type'"))
            if close is None:
                raise GraphError(f"expected '}} : type', got {lines[at]!r}")
            types_text, loc = close.groups()
            at += 1
        op = _op(op_name, attributes, body, line)
        inputs = [_look_up(env, a.strip().lstrip("%"), line) for a in args.split(",") if a.strip()]
        names = [o.strip().lstrip("%") for o in outs.split(",")]
        types = _types(types_text)
        if len(types) != len(names):
            raise GraphError(f"{len(names)} outputs but {len(types)} types: {line!r}")
        made = graph.append(op, inputs, loc=ast.literal_eval(loc) if loc else "", names=names, types=types)
        env.update({v.name: v for v in made.outputs})
    raise GraphError("the text ends inside a graph: no 'return' line")


def _line(lines: list[str], at: int, expected: str) -> str:
    if at >= len(lines):
        raise GraphError(f"expected {expected}, the text ends")
    return lines[at]


def _look_up(env: Mapping[str, Value], name: str, line: str) -> Value:
    if name not in env:
        raise GraphError(f"%{name} is not defined: {line!r}")
    return env[name]


def _op(name: str, attributes: str | None, body: Graph | None, line: str) -> Op:
    if name not in OPS:
        raise GraphError(f"unknown op {name!r}: {line!r}")
    kind = OPS[name]
    values: dict[str, Any] = {}
    try:
        if attributes:
            call = ast.parse(f"f({attributes})", mode="eval").body
            assert isinstance(call, ast.Call)
            values = {k.arg: _literal(k.value) for k in call.keywords if k.arg}
        for field in dataclasses.fields(kind):
            if body is not None and field.name not in values:
                values[field.name] = body
            if field.name in values and field.type in ("DType", DType) and isinstance(values[field.name], str):
                values[field.name] = DType(values[field.name])
        return kind(**values)
    except (SyntaxError, TypeError, ValueError) as error:
        raise GraphError(f"cannot read the attributes of {name}: {error}: {line!r}") from error


def _literal(tree: ast.expr) -> Any:
    """`ast.literal_eval` that also knows how Python prints the floats it cannot read."""
    for node in ast.walk(tree):
        for field, child in ast.iter_fields(node):
            if isinstance(child, list):
                child[:] = [_number(c) for c in child]
            else:
                setattr(node, field, _number(child))
    return ast.literal_eval(_number(tree))


def _number(tree: Any) -> Any:
    if isinstance(tree, ast.Name) and tree.id in ("inf", "nan"):
        return ast.Constant(float(tree.id))
    return tree


def _constant_data(literal: str, type: TensorType, data: Mapping[str, Array]) -> Array:
    if not literal.startswith("#"):
        return np.asarray(ast.literal_eval(literal)).astype(type.dtype.numpy).reshape(type.shape)
    if literal[1:] not in data:
        raise GraphError(f"no data given for constant {literal}")
    return data[literal[1:]]
