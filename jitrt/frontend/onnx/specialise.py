"""A model's graph for the inputs of one call: their shapes, and the numbers of those that sizes depend on.

TensorRT calls such inputs shape tensors: the shape given to a Reshape, the k of a TopK, the pads of a Pad. An engine is
built for one value of each; another value is another engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jitrt.errors import ImportFailure
from jitrt.frontend.onnx.importer import Imported, NeedsInput
from jitrt.graph.op import Array


@dataclass(frozen=True)
class Specialised:
    """A graph for one signature. `numbers` are the inputs whose values are part of it: it has no such inputs."""

    imported: Imported
    numbers: Mapping[str, Array]


def specialise(
    import_with: Callable[..., Imported], given: Mapping[str, Array], numbers: Mapping[str, Array] | None = None
) -> Specialised:
    """The graph for the inputs `given`, by name. `import_with(shapes=, constants=)` imports the model, and is called
    again whenever it says that it needs numbers of `given`; those in `numbers` are known to be needed.

    Raises what the import raises.
    """
    known: dict[str, Array] = dict(numbers or {})
    shapes: dict[str, Any] = {name: tuple(array.shape) for name, array in given.items()}
    while True:
        try:
            return Specialised(import_with(shapes=shapes, constants=known), known)
        except NeedsInput as needed:
            more = {name: given[name] for name in needed.names if name in given and name not in known}
            if not more:
                raise ImportFailure(str(needed)) from needed
            known = known | more
