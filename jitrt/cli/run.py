"""Run a plan file. Inputs come from .npy files, one --input each in the plan's order, or are random."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitrt.cli.terminal import check_writable, console, line, table
from jitrt.errors import OptionError
from jitrt.plan.dtypes import numpy_dtype
from jitrt.runtime.report import as_float64

if TYPE_CHECKING:
    from jitrt.plan.schema import Binding

EXAMPLES = """examples:
  jitrt run resnet50.plan
  jitrt run resnet50.plan --input image.npy --output scores.npy
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a plan file")
    parser.add_argument("--input", action="append", default=[], metavar="NPY", help="a numpy file; once an input")
    parser.add_argument("--output", action="append", default=[], metavar="NPY", help="file to write; once an output")


def run(args: argparse.Namespace) -> int:
    import jitrt
    from jitrt.plan.file import open_plan

    plan = open_plan(args.plan)[0].plan
    if len(args.output) > len(plan.outputs):
        raise OptionError(f"{len(args.output)} times --output, but {args.plan} has {len(plan.outputs)} output(s)")
    for path in args.output:
        check_writable("--output", path)
    inputs = _inputs(args.plan, plan.inputs, args.input)
    start = time.perf_counter()
    engine = jitrt.load(args.plan)
    loaded = time.perf_counter()
    results = engine.call(inputs)
    done = time.perf_counter()
    terminal = console()
    rows = [_row(binding, array) for binding, array in zip(plan.outputs, results, strict=True)]
    terminal.print(table(None, ("Output", "dtype", "Shape", "Mean", "Min", "Max"), rows, right=(3, 4, 5)))
    terminal.print(line(f"loaded in {loaded - start:.2f} s, first answer {1e3 * (done - loaded):.1f} ms later"))
    for path, array in zip(args.output, results, strict=False):
        _save(path, array)
        terminal.print(line(f"wrote {path}"))
    return 0


def _inputs(name: str, bindings: tuple[Binding, ...], paths: list[str]) -> list[Any]:
    import numpy as np

    if not paths:
        generator = np.random.default_rng(0)
        return [_random(binding, generator) for binding in bindings]
    if len(paths) != len(bindings):
        wanted = ", ".join(b.name for b in bindings)
        raise OptionError(f"{len(paths)} times --input, but {name} takes {len(bindings)}: {wanted}")
    return [_read(path, binding) for path, binding in zip(paths, bindings, strict=True)]


def _random(binding: Binding, generator: Any) -> Any:
    """Normal floats; whole numbers are 0 or 1."""
    dtype = numpy_dtype(binding.dtype)
    if dtype.kind in "iub":
        return generator.integers(0, 2, binding.shape).astype(dtype)
    return generator.standard_normal(binding.shape, dtype="float32").astype(dtype)


def _read(path: str, binding: Binding) -> Any:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise OptionError(f"{path} is not a whole .npy file of numbers; write one with numpy.save") from error
    return array.astype(numpy_dtype(binding.dtype)) if array.dtype.kind == "f" else array


def _save(path: str, array: Any) -> None:
    import numpy as np

    if array.dtype.kind == "V":  # bfloat16 has no .npy form
        array = array.astype(np.float32)
    with Path(path).open("wb") as stream:  # np.save would append .npy to a name without it
        np.save(stream, array)


def _row(binding: Binding, array: Any) -> tuple[str, ...]:
    wide = as_float64(array)
    shape = "x".join(map(str, binding.shape)) or "scalar"
    if not wide.size:
        return binding.name, binding.dtype, shape, "-", "-", "-"
    return binding.name, binding.dtype, shape, f"{wide.mean():.4g}", f"{wide.min():.4g}", f"{wide.max():.4g}"
