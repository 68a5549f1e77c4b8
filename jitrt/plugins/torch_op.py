"""A plugin as an operator of PyTorch, `torch.ops.<namespace>.<name>`: its reference, and what shape tracing needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jitrt.errors import PluginError
from jitrt.graph.dtype import DType
from jitrt.graph.types import TensorType
from jitrt.plugins import registry
from jitrt.plugins.registry import Plugin

_TORCH: dict[DType, torch.dtype] = {dtype: getattr(torch, dtype.numpy.name) for dtype in DType}
_DTYPES = {found: dtype for dtype, found in _TORCH.items()}
_registered: dict[str, tuple[str, torch.library.Library]] = {}  # by name: schema, and what keeps it alive


def torch_op(plugin: Plugin) -> Callable[..., torch.Tensor]:
    """The operator, defined if it is not yet. One that was defined anew in the same form stays the same operator."""
    namespace, name = plugin.name.split("::")
    schema = schema_of(plugin)
    known = _registered.get(plugin.name)
    if known is None or known[0] != schema:
        if known is not None:
            known[1]._destroy()
        library = torch.library.Library(namespace, "FRAGMENT")
        try:
            library.define(schema)
        except RuntimeError as error:
            raise PluginError(
                f"{plugin.name} cannot be an operator of PyTorch: {str(error).splitlines()[0]}"
            ) from error
        # The registry is asked at each call: a notebook's cell may define the plugin anew.
        library.impl(name, _eager(plugin.name), "CompositeExplicitAutograd")
        torch.library.register_fake(plugin.name, _fake(plugin.name), lib=library)
        _registered[plugin.name] = schema, library
    operator: Callable[..., torch.Tensor] = getattr(getattr(torch.ops, namespace), name).default
    return operator


def schema_of(plugin: Plugin) -> str:
    """The operator's signature in PyTorch's words.

    >>> schema_of(jitrt.plugins.find("ns::scaled"))                # doctest: +SKIP
    'scaled(Tensor x, float alpha=1.0) -> Tensor'
    """
    parts = [f"Tensor {operand}" for operand in plugin.operands]
    for name, default in plugin.attributes.items():
        text = f'"{default}"' if isinstance(default, str) else str(default)
        parts.append(f"{type(default).__name__} {name}={text}")
    return f"{plugin.name.split('::')[1]}({', '.join(parts)}) -> Tensor"


def bind(plugin: Plugin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """(operands, attributes) of a call of the operator."""
    given = {**dict(zip([*plugin.operands, *plugin.attributes], args)), **kwargs}
    operands = [given[name] for name in plugin.operands]
    return operands, {name: given[name] for name in plugin.attributes if name in given}


def _result(plugin: Plugin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, torch.dtype]:
    """(shape, dtype) that the declaration says."""
    operands, attributes = bind(plugin, args, kwargs)
    types = {n: TensorType(_DTYPES[t.dtype], tuple(t.shape)) for n, t in zip(plugin.operands, operands, strict=True)}
    result = plugin.result(types, {**plugin.attributes, **attributes})
    return result.shape, _TORCH[result.dtype]


def _eager(name: str) -> Callable[..., torch.Tensor]:
    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        plugin = registry.find(name)
        result = plugin.reference(*args, **kwargs)
        shape, dtype = _result(plugin, args, kwargs)
        if tuple(result.shape) != tuple(shape):
            raise PluginError(f"the reference of {name} makes {list(result.shape)}, declared is {list(shape)}")
        shared = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        # An operator's result may not lie in the memory of its operands.
        copied = result.clone() if result.untyped_storage().data_ptr() in shared else result
        return copied.to(dtype)

    return run


def _fake(name: str) -> Callable[..., torch.Tensor]:
    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        shape, dtype = _result(registry.find(name), args, kwargs)
        first: torch.Tensor = args[0]
        return first.new_empty(shape, dtype=dtype)

    return run
