"""The ONNX front end: a model file, its bytes or a ModelProto in, a plain graph out.

>>> import_onnx("model.onnx", shapes={"x": (8, 3, 224, 224)})           # doctest: +SKIP

model      reads a model safely: sizes, nesting, external data
registry   which function imports which operator
node       what such a function is given
importer   walks the nodes, functions and subgraphs
failures   what cannot be imported, collected for one error
plugins    operators that are plugins
fallback   an operator without an importer, as a step on the host
signature  what goes into a model and comes out; the import for a caller's inputs
checkup    all that is in the way of a model, without building it
ops        the operators, a family a file
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from jitrt.errors import ImportFailure, OptionError
from jitrt.frontend.onnx.elements import dtype_of, element_of
from jitrt.frontend.onnx.failures import NeedsInput
from jitrt.frontend.onnx.importer import Imported, import_model
from jitrt.frontend.onnx.model import Limits, Model, read_model
from jitrt.frontend.onnx.tensors import elements
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.types import TensorType

__all__ = ["Imported", "Limits", "Model", "NeedsInput", "import_onnx", "read_model"]


def import_onnx(
    model: Any,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    fallback: bool = False,
) -> Imported:
    """The graph of an ONNX model: a path, its bytes, a ModelProto or what `read_model` has made of one.

    `shapes` gives the shapes of inputs that have dynamic ones (or others than the model says, where those are
    dynamic); `constants` the numbers of inputs that what is built depends on, such as the shape given to a Reshape.
    `outputs` names values to return, any of the model's, in place of its outputs: what none of them depends on is left
    out. With `fallback` an operator without an importer becomes a step on the host, if it can be one.

    Raises ImportFailure for a model that is malformed or leaves a shape open, and for what is given for inputs it does
    not have or of another shape or dtype; OptionError for an output it does not have; UnsupportedOpError with all
    operators that have no importer; NeedsInput.
    """
    source = read_model(model)
    graph = source.proto.graph
    shapes, constants = dict(shapes or {}), {name: np.asarray(array) for name, array in (constants or {}).items()}
    unknown = (shapes.keys() | constants.keys()) - {info.name for info in graph.input}
    if unknown:
        names = ", ".join(info.name for info in graph.input) or "none"
        raise ImportFailure(f"the model has no input {min(unknown)!r}; its inputs: {names}")
    held = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    types = {}
    for info in graph.input:
        if info.name in constants:
            _check_constant(info, constants[info.name])
        elif info.name not in held:
            types[info.name] = _type(info, shapes.get(info.name))
    if outputs is not None:
        _check_outputs(graph, outputs)
    return import_model(
        source.proto, types, constants, source.read, outputs=outputs, fallback=fallback, limits=source.limits
    )


def _check_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Raise OptionError unless all names are of values of the model."""
    known = {name for node in graph.node for name in node.output if name} | {info.name for info in graph.input}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            there = ", ".join(info.name for info in graph.output)
            raise OptionError(f"outputs: there is no {name!r}{hint}; the outputs are {there}")
    if not names:
        raise OptionError(f"outputs is empty; name at least one of {', '.join(info.name for info in graph.output)}")


def _type(info: onnx.ValueInfoProto, shape: Sequence[int] | None) -> TensorType:
    """The static type of an input, with the shape given for it if the model leaves that open."""
    where = f"input {info.name!r}"
    if not info.type.HasField("tensor_type"):
        kind = (info.type.WhichOneof("value") or "of no type").removesuffix("_type")
        raise ImportFailure(f"{where} is {kind}; jitrt's engines take tensors")
    tensor = info.type.tensor_type
    dims = [dim.dim_value if _is_static(dim) else None for dim in tensor.shape.dim]
    if shape is None:
        dynamic = [str(dim.dim_param or "?") for dim in tensor.shape.dim if not _is_static(dim)]
        if dynamic or not tensor.HasField("shape"):
            raise ImportFailure(f"{where} has dynamic dims {', '.join(dynamic) or '?'}: give its shape")
        shape = [size for size in dims if size is not None]
    shape = tuple(int(size) for size in shape)
    fits = len(shape) == len(dims) and all(own in (None, size) for own, size in zip(dims, shape))
    if tensor.HasField("shape") and not fits:
        declared = ", ".join("?" if size is None else str(size) for size in dims)
        raise ImportFailure(f"{where} is [{declared}] in the model, {list(shape)} does not fit")
    elements(shape, where)
    return TensorType(dtype_of(tensor.elem_type), shape)


def _check_constant(info: onnx.ValueInfoProto, array: Array) -> None:
    if not DType.knows(array.dtype) or element_of(DType.of(array.dtype)) != info.type.tensor_type.elem_type:
        raise ImportFailure(f"input {info.name!r} is not {array.dtype} in the model: give its numbers in its own dtype")


def _is_static(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """Some exporters write a negative number where they mean a dynamic one."""
    return bool(dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0)
