"""Run a plan file, or an ONNX model. Inputs come from .npy files, one --input each in its order, or are random.

An ONNX model is built first, for the shapes of the files given, without measuring; where there is no GPU its optimised
graph runs in numpy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jitrt.cli.onnx_subject import onnx_file
from jitrt.cli.shapes import SHAPES_HELP, named_shapes
from jitrt.cli.subject import is_onnx_file
from jitrt.cli.terminal import check_writable, console, line, table
from jitrt.errors import OptionError
from jitrt.plan.dtypes import numpy_dtype
from jitrt.runtime.report import as_float64

if TYPE_CHECKING:
    from jitrt.plan.schema import Binding

EXAMPLES = """examples:
  jitrt run resnet50.plan
  jitrt run resnet50.plan --input image.npy --output scores.npy
  jitrt run model.onnx --shapes x:1x3x224x224
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN|MODEL", help="a plan file, or an ONNX file")
    parser.add_argument("--shapes", action="append", default=[], metavar="NAME:DIMS", help=SHAPES_HELP)
    parser.add_argument("--input", action="append", default=[], metavar="NPY", help="a numpy file; once an input")
    parser.add_argument("--output", action="append", default=[], metavar="NPY", help="file to write; once an output")


def run(args: argparse.Namespace) -> int:
    return _run_model(args) if is_onnx_file(args.plan) else _run_plan(args)


def _run_plan(args: argparse.Namespace) -> int:
    import jitrt
    from jitrt.plan.file import open_plan

    plan = open_plan(args.plan)[0].plan
    if args.shapes:
        raise OptionError(f"--shapes is given, but {args.plan} is a plan and has its own; leave it out")
    outputs = [binding.name for binding in plan.outputs]
    _check_outputs(args, outputs)
    inputs = _inputs(args.plan, plan.inputs, args.input)
    start = time.perf_counter()
    engine = jitrt.load(args.plan)
    loaded = time.perf_counter()
    results = engine.call(inputs)
    return _show(args, outputs, results, "loaded", loaded - start, time.perf_counter() - loaded)


def _run_model(args: argparse.Namespace) -> int:
    from jitrt.frontend.onnx.elements import dtype_of
    from jitrt.frontend.onnx.signature import Signature
    from jitrt.onnx import InferenceSession, get_available_providers

    file = onnx_file(args.plan, (), named_shapes(args.shapes))
    ports = Signature.of(file.model.proto).inputs
    if args.input and len(args.input) != len(ports):
        wanted = ", ".join(port.name for port in ports)
        raise OptionError(f"{len(args.input)} times --input, but {args.plan} takes {len(ports)}: {wanted}")
    dtypes = [dtype_of(port.element).numpy for port in ports]
    if args.input:
        arrays = [_read(path, dtype) for path, dtype in zip(args.input, dtypes, strict=True)]
    else:
        generator, shapes = np.random.default_rng(0), file.shapes()
        arrays = [_random(shapes[port.name], dtype, generator) for port, dtype in zip(ports, dtypes, strict=True)]
    start = time.perf_counter()
    session = InferenceSession(file.model, providers=get_available_providers(), tune="heuristic")
    _check_outputs(args, session.output_names)
    feed = {port.name: array for port, array in zip(ports, arrays, strict=True)}
    session.specialise(feed)
    built = time.perf_counter()
    results = session.run(None, feed)
    what = "built" if session.on_gpu else "no GPU here, so it runs in numpy: built"
    return _show(args, session.output_names, results, what, built - start, time.perf_counter() - built)


def _check_outputs(args: argparse.Namespace, names: Sequence[str]) -> None:
    if len(args.output) > len(names):
        raise OptionError(f"{len(args.output)} times --output, but {args.plan} has {len(names)} output(s)")
    for path in args.output:
        check_writable("--output", path)


def _show(
    args: argparse.Namespace, names: Sequence[str], results: Sequence[Any], what: str, took: float, answered: float
) -> int:
    """Print the outputs, and write those that are to be kept."""
    terminal = console()
    rows = [_row(name, array) for name, array in zip(names, results, strict=True)]
    terminal.print(table(None, ("Output", "dtype", "Shape", "Mean", "Min", "Max"), rows, right=(3, 4, 5)))
    terminal.print(line(f"{what} in {took:.2f} s, first answer {1e3 * answered:.1f} ms later"))
    for path, array in zip(args.output, results, strict=False):
        _save(path, array)
        terminal.print(line(f"wrote {path}"))
    return 0


def _inputs(name: str, bindings: tuple[Binding, ...], paths: list[str]) -> list[Any]:
    if not paths:
        generator = np.random.default_rng(0)
        return [_random(binding.shape, numpy_dtype(binding.dtype), generator) for binding in bindings]
    if len(paths) != len(bindings):
        wanted = ", ".join(b.name for b in bindings)
        raise OptionError(f"{len(paths)} times --input, but {name} takes {len(bindings)}: {wanted}")
    return [_read(path, numpy_dtype(binding.dtype)) for path, binding in zip(paths, bindings, strict=True)]


def _random(shape: Sequence[int], dtype: Any, generator: Any) -> Any:
    """Normal floats; whole numbers are 0 or 1."""
    if dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(dtype)
    return generator.standard_normal(shape, dtype="float32").astype(dtype)


def _read(path: str, dtype: Any) -> Any:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise OptionError(f"{path} is not a whole .npy file of numbers; write one with numpy.save") from error
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _save(path: str, array: Any) -> None:
    if array.dtype.kind == "V":  # bfloat16 has no .npy form
        array = array.astype(np.float32)
    with Path(path).open("wb") as stream:  # np.save would append .npy to a name without it
        np.save(stream, array)


def _row(name: str, array: Any) -> tuple[str, ...]:
    from jitrt.graph.dtype import DType

    wide, dtype = as_float64(array), DType.of(array.dtype).value
    shape = "x".join(map(str, array.shape)) or "scalar"
    if not wide.size:
        return name, dtype, shape, "-", "-", "-"
    return name, dtype, shape, f"{wide.mean():.4g}", f"{wide.min():.4g}", f"{wide.max():.4g}"
