"""What goes into an ONNX model and what comes out, and the import with what a caller gave for its inputs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from jitrt.errors import JitrtWarning, OptionError
from jitrt.frontend.onnx.elements import dtype_of, element_name
from jitrt.frontend.onnx.failures import NeedsInput
from jitrt.frontend.onnx.importer import Imported
from jitrt.graph.op import Array
from jitrt.graph.types import Layout, channels_last

Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of a model: `kind` is its type as ONNX Runtime writes it, "tensor(float)", `element` ONNX's
    number of a tensor's element type (0 for what is no tensor). A dim is a number, the name of a dynamic one, or None
    for one without a name; `dims` is None if the model does not even say how many there are."""

    name: str
    kind: str
    element: int
    dims: Dims | None

    @classmethod
    def of(cls, info: onnx.ValueInfoProto) -> Port:
        tensor = info.type.tensor_type
        dims = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
        return cls(info.name, kind_of(info.type), tensor.elem_type, dims)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The dims if all of them are numbers."""
        if self.dims is None or not all(isinstance(dim, int) for dim in self.dims):
            return None
        return tuple(dim for dim in self.dims if isinstance(dim, int))

    def complaint(self, shape: Sequence[int]) -> str | None:
        """None, or what keeps a tensor of `shape` from being this input."""
        if self.dims is None:
            return None
        if len(shape) != len(self.dims):
            return f"it has {len(self.dims)} dimension(s), {self}, not {len(shape)}"
        wrong = [i for i, (a, b) in enumerate(zip(self.dims, shape, strict=True)) if isinstance(a, int) and a != b]
        return f"dimension {wrong[0]} of {self} is {self.dims[wrong[0]]}, not {shape[wrong[0]]}" if wrong else None

    def __str__(self) -> str:
        dims = "..." if self.dims is None else ", ".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"{self.name} [{dims}]"


@dataclass(frozen=True)
class Signature:
    """The inputs a caller gives, those that have a default (an initialiser of the same name), and the outputs."""

    inputs: tuple[Port, ...]
    defaulted: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Signature:
        held = {tensor.name for tensor in model.graph.initializer}
        held |= {sparse.values.name for sparse in model.graph.sparse_initializer}
        ports = [Port.of(info) for info in model.graph.input]
        return cls(
            tuple(port for port in ports if port.name not in held),
            tuple(port for port in ports if port.name in held),
            tuple(Port.of(info) for info in model.graph.output),
        )

    @property
    def dynamic(self) -> tuple[Port, ...]:
        """The inputs whose shape the model leaves open."""
        return tuple(port for port in self.inputs if port.shape is None)

    def given(self, inputs: Any) -> dict[str, Any]:
        """What a caller gave for inputs, by name: a dict, a tuple in the model's order, or one array on its own. Each
        is an array, or a shape as a tuple of numbers. Raises OptionError for names or numbers of inputs that are not
        the model's, for shapes and dtypes that are not theirs, and for dynamic dims that nothing was given for."""
        if isinstance(inputs, Mapping):
            found = dict(inputs)
        else:
            listed = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
            if listed and len(listed) != len(self.inputs):
                raise OptionError(f"{len(listed)} input(s) given, but the model takes {_listed(self.inputs)}")
            found = dict(zip((port.name for port in self.inputs), listed))
        ports = {port.name: port for port in self.inputs}
        for name, value in found.items():
            if name not in ports:
                raise OptionError(f"the model has no input {name!r}; it takes {_listed(self.inputs)}")
            _check(ports[name], value)
        unknown = [port for port in self.dynamic if port.name not in found]
        if unknown:
            example = ", ".join(f"{port.name!r}: {_example(port)}" for port in unknown)
            raise OptionError(
                f"the model leaves shapes open: {_listed(unknown)}; give each an array, or the shape to build for, as "
                f"in inputs={{{example}}}"
            )
        return found


@dataclass(frozen=True)
class Bound:
    """A model imported for what a caller gave, `given` by name. `fixed` has the inputs whose numbers are part of the
    graph, because what is built depends on them: it no longer takes those."""

    imported: Imported
    fixed: Mapping[str, Array]
    given: Mapping[str, Any]

    def lay_as_given(self) -> None:
        """Let inputs that were given channels-last lie so in the graph, as those of a PyTorch model do; others are
        row-major."""
        for name, value in zip(self.imported.inputs, self.imported.graph.inputs, strict=True):
            last = channels_last(value.type.shape) if value.type.rank > 3 else None
            if last is not None and last != value.type.strides and _strides(self.given.get(name)) == last:
                value.type = value.type.with_layout(Layout(last))

    def warn(self, stacklevel: int = 2) -> None:
        """Say, as a JitrtWarning, which inputs' numbers have become part of what is built."""
        if self.fixed:
            left = ", ".join(self.imported.inputs) or "no input"
            warnings.warn(
                f"what is built depends on the numbers in {', '.join(map(repr, self.fixed))}: those of the example are "
                f"part of it, and it takes {left}. Compile again for others.",
                JitrtWarning,
                stacklevel=stacklevel + 1,
            )


def import_bound(
    source: Any, inputs: Any = (), *, outputs: Sequence[str] | None = None, fallback: bool = False
) -> Bound:
    """The graph of a model (a path, bytes, a ModelProto, or what `read_model` made of one) for what a caller gave for
    its inputs, see `Signature.given`.

    Where what is built depends on an input's numbers (the shape given to a Reshape, say) they are taken from the array
    given for it. `outputs` and `fallback` are those of `import_onnx`. Raises NeedsInput if there is none, and what
    `import_onnx` and `Signature.given` raise.
    """
    from jitrt.frontend.onnx import import_onnx, read_model

    model = read_model(source)
    given = Signature.of(model.proto).given(inputs)
    shapes = {name: shape_of(value) for name, value in given.items()}
    fixed: dict[str, Array] = {}
    while True:
        try:
            imported = import_onnx(model, shapes=shapes, constants=fixed, outputs=outputs, fallback=fallback)
            return Bound(imported, fixed, given)
        except NeedsInput as need:
            told = [name for name in need.names if name in given and name not in fixed and not is_shape(given[name])]
            new = {name: as_numpy(given[name]) for name in told}
            if not new:
                raise
            fixed |= new


def is_shape(value: Any) -> bool:
    """Whether a value is a shape rather than an array."""
    whole = (int, np.integer)
    return isinstance(value, tuple | list) and all(isinstance(n, whole) and not isinstance(n, bool) for n in value)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape that an array has, or is."""
    return tuple(int(n) for n in (value if is_shape(value) else value.shape))


def as_numpy(value: Any) -> Array:
    """The elements of an array of any kind as numpy's."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from jitrt.frontend.torch.arrays import to_numpy

        return to_numpy(value)
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else np.from_dlpack(value)


def kind_of(type: onnx.TypeProto) -> str:
    """A type as ONNX Runtime writes it: tensor(float), seq(tensor(int64)), map(int64,tensor(float))."""
    which = type.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        inner = element_name(getattr(type, which).elem_type)
        return f"{which.removesuffix('_type')}({inner})"
    if which in ("sequence_type", "optional_type"):
        name = "seq" if which == "sequence_type" else "optional"
        return f"{name}({kind_of(getattr(type, which).elem_type)})"
    if which == "map_type":
        return f"map({element_name(type.map_type.key_type)},{kind_of(type.map_type.value_type)})"
    return which or "unknown"


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.WhichOneof("value") == "dim_value" else dim.dim_param or None


def _check(port: Port, value: Any) -> None:
    """Raise OptionError unless `value`, an array or a shape, can be this input."""
    if not is_shape(value):
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            kind = type(value).__name__
            raise OptionError(f"input {port.name!r} is given as a {kind}; give an array, or a shape such as (1, 3)")
        wanted, found = dtype_of(port.element).numpy.name, str(value.dtype).removeprefix("torch.")
        if found != wanted:
            raise OptionError(f"input {port.name!r} is {wanted} in the model, but the example is {found}; convert it")
    complaint = port.complaint(shape_of(value))
    if complaint is not None:
        raise OptionError(f"input {port.name!r}: {complaint}")


def _strides(value: Any) -> tuple[int, ...] | None:
    """The strides of an array in elements; None for a shape, and for an array that does not tell."""
    if isinstance(value, np.ndarray):
        return tuple(step // value.itemsize for step in value.strides)
    return tuple(value.stride()) if hasattr(value, "stride") else None


def _example(port: Port) -> str:
    if port.dims is None:
        return "(...)"
    text = ", ".join(str(dim) if isinstance(dim, int) else "1" for dim in port.dims)
    return f"({text},)" if len(port.dims) == 1 else f"({text})"


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(map(str, ports)) or "no inputs"
