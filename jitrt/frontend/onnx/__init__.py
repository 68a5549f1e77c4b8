"""The ONNX front end: a model file, its bytes or a ModelProto in, a plain graph out.

>>> import_onnx("model.onnx", shapes={"x": (8, 3, 224, 224)})           # doctest: +SKIP

model      reads a model safely: sizes, nesting, external data
registry   which function imports which operator
node       what such a function is given
importer   walks the nodes, functions and subgraphs
fallback   an operator without an importer, as a step on the host
specialise a model's graph for the inputs of one call
ops        the operators, a family a file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from jitrt.errors import ImportFailure
from jitrt.frontend.onnx.importer import Imported, NeedsInput, dtype_of, import_model
from jitrt.graph.types import TensorType

__all__ = ["Imported", "NeedsInput", "import_onnx"]


def import_onnx(
    model: Any,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, Any] | None = None,
    fallback: bool = False,
) -> Imported:
    """The graph of an ONNX model: a path, its bytes or a ModelProto.

    `shapes` gives the shapes of inputs that have dynamic ones (or others than the model says, where those are
    dynamic); `constants` the numbers of inputs that what is built depends on, such as the shape given to a Reshape.
    With `fallback` an operator without an importer becomes a step on the host, if it can be one. Raises ImportFailure for a model that is malformed or leaves a shape open, UnsupportedOpError with all operators
    that have no importer, NeedsInput.
    """
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    shapes, constants = dict(shapes or {}), {name: np.asarray(array) for name, array in (constants or {}).items()}
    held = {tensor.name for tensor in proto.graph.initializer}
    types = {}
    for info in proto.graph.input:
        if info.name in held or info.name in constants:
            continue
        types[info.name] = _type(info, shapes.get(info.name))
    return import_model(proto, types, constants, fallback=fallback)


def _type(info: onnx.ValueInfoProto, shape: Sequence[int] | None) -> TensorType:
    tensor = info.type.tensor_type
    if shape is None:
        dims = list(tensor.shape.dim)
        dynamic = [dim.dim_param or "?" for dim in dims if dim.WhichOneof("value") != "dim_value"]
        if dynamic or not tensor.HasField("shape"):
            raise ImportFailure(f"input {info.name!r} has dynamic dims {', '.join(dynamic)}: give its shape")
        shape = [dim.dim_value for dim in dims]
    return TensorType(dtype_of(tensor.elem_type), tuple(shape))
