"""MODEL on the command line where it is an ONNX file, and the shapes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitrt.cli.shapes import shape_text
from jitrt.errors import OptionError

if TYPE_CHECKING:
    from jitrt.frontend.onnx.model import Model
    from jitrt.frontend.onnx.signature import Port


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model that was read, and the shapes asked for: `said` by --shapes, `listed` by --shape, whose first dim
    is the batch's."""

    name: str
    model: Model
    said: Mapping[str, tuple[int, ...]]
    listed: Mapping[str, tuple[int, ...]]

    def shapes(self, batch: int = 1) -> dict[str, tuple[int, ...]]:
        """The shape of every input. `batch` stands for a first dim that the file leaves open and --shapes does not say.

        Raises OptionError for other open dims, for shapes that do not fit the file, and for a batch that cannot be.
        """
        from jitrt.frontend.onnx.signature import Signature

        ports = Signature.of(self.model.proto).inputs
        listed = {name: (batch, *shape[1:]) if batch != 1 else shape for name, shape in self.listed.items()}
        said = {**listed, **self.said}
        found = {port.name: said.get(port.name, _with_batch(port, batch)) for port in ports}
        wrong = [port for port in ports if None in found[port.name]]
        if wrong:
            example = ",".join(f"{port.name}:{_pattern(port)}" for port in wrong)
            raise OptionError(f"{self.name} leaves shapes open: {', '.join(map(str, wrong))}; give --shapes {example}")
        shapes = {name: tuple(int(size) for size in shape if size is not None) for name, shape in found.items()}
        if batch != 1 and not any(shape[:1] == (batch,) for shape in shapes.values()):
            raise OptionError(
                f"--batch is {batch}, but the batch of {self.name} is fixed: export it with a dynamic one"
            )
        Signature.of(self.model.proto).given(shapes)
        return shapes

    def notes(self, batch: int) -> list[str]:
        """What was taken for dims that the file leaves open and nobody said."""
        from jitrt.frontend.onnx.signature import Signature

        return [
            f"{port} is built for {shape_text(self.shapes(batch)[port.name])}; --batch or --shapes for another"
            for port in Signature.of(self.model.proto).dynamic
            if port.name not in (*self.said, *self.listed)
        ]


def onnx_file(path: str, shapes: Sequence[Any], named: Mapping[str, tuple[int, ...]]) -> OnnxFile:
    """The file at `path`; `shapes` are those of --shape, (dims, dtype) in the order of its inputs, `named` those of
    --shapes. Raises OptionError for a file that is not there or names it does not have, ImportFailure for what is no
    model."""
    from jitrt.frontend.onnx import read_model
    from jitrt.frontend.onnx.signature import Signature

    if not Path(path).is_file():
        raise OptionError(f"there is no file {path}")
    model = read_model(path)
    names = [port.name for port in Signature.of(model.proto).inputs]
    if len(shapes) > len(names):
        raise OptionError(f"{len(shapes)} times --shape, but {path} takes {len(names)} input(s): {', '.join(names)}")
    unknown = [name for name in named if name not in names]
    if unknown:
        raise OptionError(f"--shapes names {unknown[0]!r}; the inputs of {path} are {', '.join(names) or 'none'}")
    return OnnxFile(path, model, named, dict(zip(names, (dims for dims, _ in shapes))))


def _with_batch(port: Port, batch: int) -> tuple[int | None, ...]:
    """The dims of an input, None for those that are open and not first."""
    if port.dims is None:
        return (None,)
    sizes = [dim if isinstance(dim, int) else None for dim in port.dims]
    return tuple(batch if i == 0 and size is None else size for i, size in enumerate(sizes))


def _pattern(port: Port) -> str:
    if port.dims is None:
        return "1x..."
    return "x".join(str(dim) if isinstance(dim, int) else "1" if i == 0 else "?" for i, dim in enumerate(port.dims))
