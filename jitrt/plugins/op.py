"""The op of a plugin: a class of its own for each, named like the plugin, so that graphs and reports say that name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jitrt.codegen.pointwise import EXPRESSIONS
from jitrt.codegen.source import provide
from jitrt.errors import GraphError, PluginError, ShapeError
from jitrt.graph.dtype import DType, promote
from jitrt.graph.op import OPS, Array, Op, Trait, wide
from jitrt.graph.types import TensorType, broadcast_shapes
from jitrt.plugins.definition import Definition, portable
from jitrt.plugins.registry import call, restored

if TYPE_CHECKING:
    from jitrt.plugins.registry import Plugin

_KINDS = {bool: "a bool", int: "a whole number", float: "a number", str: "a str"}


@dataclasses.dataclass(frozen=True)
class PluginOp(Op):
    """Base of the ops of plugins. Fields are the plugin's attributes and `source`, the digest of its definition: it is
    in the text of every graph and problem, and so in every key."""

    plugin: ClassVar[Plugin]

    @property
    def attributes(self) -> dict[str, Any]:
        """The plugin's attributes, by name."""
        return {name: getattr(self, name) for name in self.plugin.attributes}

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        names = self.plugin.operands
        self.check(len(types) == len(names), f"takes {', '.join(names)}; got {len(types)} operands")
        for name, type in zip(names, types, strict=True):
            dtype = type.dtype
            fits = not dtype.is_float or dtype.value in self.plugin.dtypes
            self.check(fits, f"{name} is {dtype.value}; its kernel is declared for {', '.join(self.plugin.dtypes)}")
        try:
            return (self.plugin.result(dict(zip(names, types, strict=True)), self.attributes),)
        except PluginError as error:
            raise ShapeError(str(error)) from error

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        import torch

        plugin = self.plugin
        tensors = [torch.from_numpy(np.array(wide(array))) for array in arrays]
        with torch.no_grad():
            try:
                result = plugin.reference(*tensors, **self.attributes)
            except Exception as error:  # the user's function
                message = f"the reference of {plugin.name} raises {type(error).__name__}: {error}"
                raise PluginError(message) from error
        if not isinstance(result, torch.Tensor):
            raise PluginError(f"the reference of {plugin.name} returns a {type(result).__name__}, not one tensor")
        types = [TensorType(DType.of(array.dtype), array.shape) for array in arrays]
        declared = plugin.result(dict(zip(plugin.operands, types, strict=True)), self.attributes).shape
        if tuple(result.shape) != declared:
            raise PluginError(
                f"the reference of {plugin.name} makes {list(result.shape)} of operands for which its shape is "
                f"declared as {list(declared)}; correct `shape`"
            )
        return (result.numpy(),)

    def takes(self, dtype: DType) -> bool:
        return dtype.value in self.plugin.dtypes

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        plugin = self.plugin
        if plugin.flops is None:
            return super().flops(inputs, outputs)
        given = {**dict(zip(plugin.operands, inputs, strict=True)), **self.attributes, "out": outputs[0]}
        return int(call(f"flops of {plugin.name}", plugin.flops, given))

    def __reduce__(self) -> tuple[Any, ...]:
        definition = portable(self.plugin.name, self.plugin.definition)
        return _restore_op, (definition, self.plugin.name, self.attributes)


def _restore_op(definition: Definition, name: str, attributes: Mapping[str, Any]) -> Op:
    return restored(definition, name).op(**attributes)


def define_op(plugin: Plugin) -> None:
    """Make the class of the plugin's op. Raises PluginError for an attribute that cannot be a field of it."""
    taken = {"source", *dir(PluginOp)} & plugin.attributes.keys()
    if taken:
        raise PluginError(f"{plugin.name}: an attribute cannot be called {', '.join(sorted(taken))}; rename it")
    fields: list[Any] = [
        (name, type(default), dataclasses.field(default=default)) for name, default in plugin.attributes.items()
    ]
    # Not known before the rest of the user's module is: hence asked for when the first op is made.
    digest = dataclasses.field(default_factory=lambda: plugin.definition.digest, repr=False)
    traits = Trait.ELEMENTWISE if plugin.elementwise else Trait.ANCHOR
    if plugin.row_major:
        traits |= Trait.ROW_MAJOR
    kind = dataclasses.make_dataclass(
        "".join(part.title() for part in plugin.name.split("::")[1].split("_")),
        [*fields, ("source", str, digest)],
        bases=(PluginOp,),
        namespace={"name": plugin.name, "traits": traits, "plugin": plugin, "__post_init__": _check_source},
        frozen=True,
    )
    if plugin.elementwise:
        EXPRESSIONS[kind] = _expression


def _check_source(op: Any) -> None:
    if op.source != op.plugin.definition.digest:
        raise GraphError(
            f"this graph has {op.plugin.name} of another source, {op.source}, than is defined now; trace again"
        )


def make_op(plugin: Plugin, attributes: Mapping[str, Any]) -> Op:
    """The plugin's op with these attributes, the defaults for others."""
    unknown = attributes.keys() - plugin.attributes.keys()
    if unknown:
        known = ", ".join(plugin.attributes) or "none"
        raise PluginError(f"{plugin.name} has no attribute {', '.join(sorted(unknown))}; it has: {known}")
    values = {name: _attribute(plugin, name, value) for name, value in attributes.items()}
    kind: Any = OPS[plugin.name]
    if kind.plugin is not plugin:
        raise PluginError(f"{plugin.name} was defined anew; use the one that jitrt.plugins.find({plugin.name!r}) gives")
    op: Op = kind(**values)
    return op


def _attribute(plugin: Plugin, name: str, value: Any) -> Any:
    """`value` in the type that the attribute's default has. Raises PluginError if that would make another of it."""
    default = plugin.attributes[name]
    try:
        made = type(default)(value)
        if made == value or (made != made and value != value):  # NaN is NaN
            return made
    except (TypeError, ValueError):
        pass
    raise PluginError(f"{plugin.name}: {name} is {value!r}; by its default, {default!r}, it is {_KINDS[type(default)]}")


def result_type(plugin: Plugin, types: Mapping[str, TensorType], attributes: Mapping[str, Any]) -> TensorType:
    """What `shape` and `dtype` of the declaration make of operands of such types."""
    given = {**types, **attributes}
    shape: Any
    if plugin.shape is not None:
        shape = call(f"shape of {plugin.name}", plugin.shape, given)
    elif plugin.elementwise:
        shape = broadcast_shapes(*(t.shape for t in types.values()))
        if shape is None:
            raise PluginError(f"{plugin.name}: shapes {[list(t.shape) for t in types.values()]} do not broadcast")
    else:
        shape = next(iter(types.values())).shape
    sizes = tuple(shape) if isinstance(shape, Iterable) else None
    if sizes is None or not all(map(_is_size, sizes)):
        raise PluginError(f"shape of {plugin.name} gives {shape!r}; a tuple of whole numbers, none negative, is wanted")
    return TensorType(_dtype(plugin, types, given), sizes)


def _is_size(size: Any) -> bool:
    return size >= 0 if isinstance(size, int) else hasattr(size, "__index__")  # which PyTorch's symbols have too


def _dtype(plugin: Plugin, types: Mapping[str, TensorType], given: Mapping[str, Any]) -> DType:
    wanted = plugin.dtype
    if callable(wanted):
        wanted = call(f"dtype of {plugin.name}", wanted, given)
    if isinstance(wanted, DType):
        return wanted
    if wanted is not None:
        return checked_dtype(plugin.name, wanted)
    dtype, *others = (type.dtype for type in types.values())
    if plugin.elementwise:
        for other in others:
            dtype = promote(dtype, other)
    return dtype


def checked_dtype(name: str, given: Any) -> DType:
    """A dtype that a plugin names as its result's. Raises PluginError, with those there are, for another."""
    known = [dtype.value for dtype in DType]
    if given not in known:
        raise PluginError(f"dtype of {name} gives {given!r}; dtypes are {', '.join(map(repr, known))}")
    return DType(given)


def _expression(op: Any, *operands: str) -> str:
    """A call of the device function, under a name that only this source of it has."""
    name = f"plugin_{op.source[:16]}_{type(op).__name__.lower()}"
    provide(name, op.plugin.kernel)
    # A literal operand becomes a tensor: the function may ask for its dtype.
    values = [x if x.isidentifier() else f"tl.full([1, 1], {x}, tl.float32)" for x in operands]
    attributes = [f"{key}={value!r}" for key, value in op.attributes.items()]
    return f"{name}({', '.join([*values, *attributes])})"
