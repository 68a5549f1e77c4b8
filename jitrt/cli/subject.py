"""What MODEL, --shape and --shapes on the command line stand for."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitrt.cli.onnx_subject import OnnxFile, onnx_file
from jitrt.cli.shapes import SHAPES_HELP, named_shapes
from jitrt.errors import OptionError
from jitrt.request import left_out, optional

if TYPE_CHECKING:
    from jitrt.bench.subject import Subject
    from jitrt.frontend.network import Network

MODEL_HELP = (
    "an ONNX file, a torchvision name such as resnet50, bert_base, or module:callable, which returns a model (and its "
    "inputs) or a jitrt.Network"
)
PRECISIONS = {
    "fp32": "the default: IEEE float32",
    "tf32": "float32 whose products the tensor cores round to 10 bits",
    "fp16": "float16, inputs and outputs too (those of an ONNX file stay as they are); sums are in float32",
    "bf16": "bfloat16, likewise",
}
SHAPE_HELP = "shape of an input, batch first, as 1x3x224x224 or 1x128:i64 (default dtype: float); once for each input"

_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?::(f32|i64|i32))?")


def model_arguments(parser: argparse.ArgumentParser, *, batch: str = "1", several: bool = False) -> None:
    """MODEL (or MODEL ..., a list), --shape and --batch."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP, nargs="+" if several else None)
    shape_arguments(parser)
    parser.add_argument("--batch", default=batch, help=f"batch size in place of the first dimension (default: {batch})")


def shape_arguments(parser: argparse.ArgumentParser) -> None:
    """--shape and --shapes."""
    parser.add_argument("--shape", action="append", default=[], help=SHAPE_HELP)
    parser.add_argument("--shapes", action="append", default=[], metavar="NAME:DIMS", help=SHAPES_HELP)


def precision_arguments(parser: argparse.ArgumentParser) -> None:
    """--fp32, --tf32, --fp16, --bf16, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    for name, text in PRECISIONS.items():
        group.add_argument(f"--{name}", dest="precision", action="store_const", const=name, default="fp32", help=text)


def without_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """--without, whose help lists what it can name."""
    text = f"{what}, separated by commas: {', '.join(optional())}, or a rule of your own"
    parser.add_argument("--without", default="", metavar="NAMES", help=text)


def names_without(args: argparse.Namespace) -> tuple[str, ...]:
    """The optimisations of --without, in full. Raises OptionError for one that does not exist."""
    return left_out([name.strip() for name in args.without.split(",") if name.strip()])


@dataclass(frozen=True)
class Defined:
    """A `jitrt.Network`: it knows its inputs, and runs nowhere but in jitrt."""

    name: str
    network: Network


def load_subject(
    text: str, shapes: Sequence[str] = (), named: Sequence[str] = (), *, settled: bool = False
) -> Subject | Defined | OnnxFile:
    """The model that `text` names, in float32 on the CPU in eval mode, and how to make random inputs for it; or a
    network as it was defined; or an ONNX file as it is, for which alone there are `named` shapes (--shapes).

    With `settled` a named model's random weights are scaled so that no activation vanishes or overflows, which
    takes a forward pass and makes errors mean something.

    Raises OptionError for a text, module, name or shape that does not exist or does not fit, ImportFailure for a file
    that is no ONNX model.
    """
    wanted = [_parse_shape(shape) for shape in shapes]
    if is_onnx_file(text):
        return onnx_file(text, wanted, named_shapes(named))
    if named:
        raise OptionError(f"--shapes names inputs of an ONNX file, which {text} is not; give --shape, once an input")
    if ":" in text:
        return _callable(text, wanted)
    return _torchvision(text, wanted, settled)


def batch_sizes(text: str) -> list[int]:
    """The numbers of `--batch 1,8,128`. Raises OptionError unless they are whole and positive."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise OptionError(f"--batch is {text!r}; give positive whole numbers, such as 1 or 1,8,128")
    return [int(part) for part in parts]


def one_batch(text: str) -> int:
    sizes = batch_sizes(text)
    if len(sizes) != 1:
        raise OptionError(f"--batch is {text!r}; this command takes one number")
    return sizes[0]


def bench_subject(
    text: str, shapes: Sequence[str] = (), named: Sequence[str] = (), *, settled: bool = False
) -> Subject:
    """As `load_subject`, for what can be timed beside others. Raises OptionError for a network."""
    subject = load_subject(text, shapes, named, settled=settled)
    if isinstance(subject, Defined):
        raise OptionError(f"{text} is a Network, which PyTorch cannot run: jitrt build makes a plan of it to bench")
    if isinstance(subject, OnnxFile):
        from jitrt.bench.onnx_model import onnx_subject

        return onnx_subject(subject.name, subject.model, subject.shapes)
    return subject


def prepared(subject: Subject | Defined | OnnxFile, batch: int, precision: str) -> tuple[Any, Any]:
    """The model and inputs in the dtype that `precision` computes in, on the GPU if there is one. A network takes no
    example inputs and keeps the dtypes it was defined with, and so does an ONNX file, which takes shapes. Raises
    OptionError for a batch size that they do not have."""
    if isinstance(subject, OnnxFile):
        return subject.model, subject.shapes(batch)
    if isinstance(subject, Defined):
        sizes = {tensor.shape[0] for tensor in subject.network.inputs if tensor.rank}
        if batch != 1 and sizes != {batch}:
            raise OptionError(
                f"--batch is {batch}, but {subject.name} is a Network and has its own shapes; leave it out"
            )
        return subject.network, ()
    import torch
    from torch import nn

    from jitrt.bench.subject import DTYPES

    dtype = DTYPES[precision]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = tuple(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in subject.inputs(batch))
    assert isinstance(subject.model, nn.Module)
    return subject.model.to(device, dtype), inputs


def is_onnx_file(text: str) -> bool:
    """Whether MODEL is the path of an ONNX file."""
    return text.endswith(".onnx")


def _torchvision(name: str, shapes: list[_Shape], settled: bool) -> Subject:
    if name.endswith(".py"):
        raise OptionError(f"{name} is a file; name the callable in it too, as {name[:-3].replace('/', '.')}:make_model")
    if name.endswith(".plan"):
        raise OptionError(f"{name} is a plan, not a model; jitrt inspect shows it, jitrt run and jitrt bench take it")
    from jitrt.bench.models import load_model, settle
    from jitrt.bench.subject import Subject

    model, make_input = load_model(name)
    inputs = _random(shapes) if shapes else lambda batch: (make_input(batch),)
    if settled:
        try:
            settle(model, *inputs(2))
        except Exception as error:  # a torch model raises what it likes
            if not shapes:
                raise
            raise OptionError(f"{name} does not run on --shape {_text(shapes)}: {error}") from error
    return Subject(name, model, inputs)


def _callable(text: str, shapes: list[_Shape]) -> Subject | Defined:
    import torch

    from jitrt.bench.subject import Subject
    from jitrt.frontend.network import Network

    made = _resolve(text)
    if not isinstance(made, torch.nn.Module | Network):
        if not callable(made):
            raise OptionError(f"{text} is a {type(made).__name__}; name an nn.Module or a function that returns one")
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(made).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
        if needed:
            raise OptionError(f"{text} takes {', '.join(needed)}; name a function without arguments, returning a model")
        made = made()
    if isinstance(made, Network):
        if shapes:
            raise OptionError(f"--shape is given, but {text} is a Network and has its own shapes; leave it out")
        return Defined(text, made)
    model, given = made if isinstance(made, tuple) else (made, None)
    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise OptionError(
            f"{text} returned a {kind}; it must return an nn.Module, or one and a tuple of its inputs, or a Network"
        )
    if shapes:
        inputs = _random(shapes)
    elif given is not None:
        inputs = _repeated(text, given if isinstance(given, tuple | list) else (given,))
    else:
        raise OptionError(f"the inputs of {text} are unknown; give --shape, or let it return (model, inputs)")
    return Subject(text, model.float().eval(), inputs)


def _resolve(text: str) -> Any:
    module_name, _, attribute = text.partition(":")
    if not module_name or not attribute:
        raise OptionError(f"{text} names no callable; write it as module:callable")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise OptionError(f"{text}: there is no module {error.name!r} here or installed") from error
    except AttributeError as error:
        raise OptionError(f"{text}: {error}") from error
    finally:
        sys.path.pop(0)
    return found


_Shape = tuple[tuple[int, ...], str]


def _parse_shape(text: str) -> _Shape:
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise OptionError(f"--shape is {text!r}; write it as 1x3x224x224, or 1x128:i64 for whole numbers")
    return tuple(int(part) for part in match[1].split("x")), match[2] or "f32"


def _random(shapes: list[_Shape]) -> Any:
    """A maker of random inputs, the same every time; whole numbers are 0 or 1, valid as tokens of any vocabulary."""
    import torch

    def inputs(batch: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        made = []
        for shape, dtype in shapes:
            full = (batch, *shape[1:])
            if dtype == "f32":
                made.append(torch.randn(full, generator=generator))
            else:
                kind = torch.int64 if dtype == "i64" else torch.int32
                made.append(torch.randint(0, 2, full, generator=generator, dtype=kind))
        return tuple(made)

    return inputs


def _text(shapes: list[_Shape]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape, _ in shapes)


def _repeated(text: str, given: Sequence[Any]) -> Any:
    """A maker of inputs that repeats the rows of those the user's function gave."""
    import torch

    try:
        tensors = [torch.as_tensor(x) for x in given]
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(
            f"{text} returns inputs that are no tensors ({error}); return (model, (x, y)), or use jitrt.compile"
        ) from error

    def inputs(batch: int) -> tuple[torch.Tensor, ...]:
        return tuple(x[torch.arange(batch) % len(x)] if x.dim() else x for x in tensors)

    return inputs
