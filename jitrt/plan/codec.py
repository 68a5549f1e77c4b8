"""Plan dataclasses to JSON and back, by their type annotations. Strict: nothing is coerced and nothing is ignored."""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jitrt.errors import PlanError
from jitrt.plan.schema import VERSION, Plan


def plan_to_json(plan: Plan) -> str:
    """Canonical JSON: sorted keys, no spaces, every field. Equal plans give equal text.

    Raises PlanError for a value JSON has no exact form for, such as a NaN or an object in `notes`.
    """
    try:
        return json.dumps(_encode(plan), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PlanError(f"plan {plan.name!r} cannot be written as JSON: {error}") from error


def plan_from_json(value: object) -> Plan:
    """The plan that parsed JSON describes. Raises PlanError naming the first field that does not fit the schema.

    A field that the schema gives a default may be absent, so that a plan outlives the addition of a field.
    """
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise PlanError(f"plan version {version!r}, but this jitrt reads version {VERSION}; build the plan again")
    plan = _decode(Plan, value, "plan")
    assert isinstance(plan, Plan)
    return plan


def _encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [_encode(part) for part in value]
    return value


@cache
def _fields(kind: type) -> dict[str, tuple[Any, Field[Any]]]:
    """Name -> (type, field) of a dataclass."""
    hints = get_type_hints(kind)
    return {f.name: (hints[f.name], f) for f in fields(kind)}


def _required(kind: type) -> set[str]:
    return {n for n, (_, f) in _fields(kind).items() if f.default is MISSING and f.default_factory is MISSING}


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is object:
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is Literal:
        return _expect(value in arguments and isinstance(value, str), value, where, f"one of {', '.join(arguments)}")
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is dict:
        return _expect(isinstance(value, dict), value, where, "an object")
    if kind is float:
        return float(_expect(type(value) in (int, float), value, where, "a number"))
    return _expect(type(value) is kind, value, where, {int: "a whole number", str: "text", bool: "true or false"}[kind])


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where, f"a {kind.__name__}")
    known = _fields(kind)
    if unknown := sorted(set(value) - set(known)):
        raise PlanError(f"{where} has the unknown field {unknown[0]!r}")
    if missing := sorted(_required(kind) - set(value)):
        raise PlanError(f"{where} lacks the field {missing[0]!r}")
    return kind(**{name: _decode(known[name][0], part, f"{where}.{name}") for name, part in value.items()})


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), value, where, "a list")
    if arguments[-1] is not ...:
        _expect(len(value) == len(arguments), value, where, f"a list of {len(arguments)}")
    return tuple(_decode(arguments[0], part, f"{where}[{i}]") for i, part in enumerate(value))


def _decode_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """The members of a union are told apart by their field names, or by being numbers."""
    if isinstance(value, dict):
        for kind in arguments:
            if is_dataclass(kind) and isinstance(kind, type) and _required(kind) <= set(value) <= set(_fields(kind)):
                return _decode_dataclass(kind, value, where)
    elif type(value) in arguments:
        return value
    names = ", ".join(getattr(kind, "__name__", str(kind)) for kind in arguments)
    raise PlanError(f"{where} is {_short(value)}, expected one of {names}")


def _expect(fits: bool, value: Any, where: str, what: str) -> Any:
    if not fits:
        raise PlanError(f"{where} is {_short(value)}, expected {what}")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
