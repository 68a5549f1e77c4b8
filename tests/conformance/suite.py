"""ONNX's own test suite (`onnx.backend.test`) as a list of cases, and one of them run and judged.

    cases()             every case of the installed onnx: small nodes, and whole models
    run(case, import…)  one case through an engine, compared as the suite compares

The suite makes its node cases as it is imported, with random numbers of a fixed seed: that takes seconds, once a
process. Nothing here imports torch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from jitrt.errors import CompileError, FallbackError, TuningError, UnsupportedOpError

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
NEEDS_DOWNLOAD = "its model and data must be downloaded"

_OURS = {  # the element types that the issue counts by
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.BOOL,
}
ORDINARY = _OURS | {TensorProto.INT16, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}


@dataclass(frozen=True)
class Case:
    """One case. `model` and `sets` are None for one that needs a download; a set is (inputs, outputs), each an array or
    a list of them. `operator` is what the table files it under."""

    name: str
    kind: str
    operator: str
    model: bytes | None
    sets: tuple[tuple[list[Any], list[Any]], ...] | None
    rtol: float
    atol: float

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(self.model or b"")

    @property
    def is_ordinary(self) -> bool:
        """Whether every input and output of the model is a tensor of numbers or booleans of 8 to 64 bits."""
        return self.model is not None and _elements(self.proto) <= ORDINARY

    @property
    def in_issue(self) -> bool:
        """Whether it is one of the 1,585 of 2,033 that issue 5 speaks of: node cases over float16, bfloat16, float32,
        float64, int8, int32, int64, uint8 and bool."""
        return self.kind == "node" and self.model is not None and _elements(self.proto) <= _OURS


def _elements(model: onnx.ModelProto) -> set[int | str]:
    types = [value.type for value in (*model.graph.input, *model.graph.output)]
    return {t.tensor_type.elem_type if t.HasField("tensor_type") else t.WhichOneof("value") or "" for t in types}


@cache
def cases() -> tuple[Case, ...]:
    """All cases of the installed onnx, by name."""
    from onnx.backend.test.loader import load_model_tests

    found = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for kind in KINDS:
            found += [_case(test, kind) for test in load_model_tests(kind=kind)]
    return tuple(sorted(_filed(found), key=lambda case: case.name))


def _case(test: Any, kind: str) -> Case:
    folder = None if test.model_dir is None else Path(test.model_dir)
    model: bytes | None = None
    sets: tuple[tuple[list[Any], list[Any]], ...] | None = None
    if test.model is not None:
        model = test.model.SerializeToString()
        sets = tuple(([_array(x) for x in inputs], [_array(x) for x in outputs]) for inputs, outputs in test.data_sets)
    elif folder is not None:
        model = (folder / "model.onnx").read_bytes()
        proto = onnx.ModelProto.FromString(model)
        sets = tuple(_stored(path, proto) for path in sorted(folder.glob("test_data_set*")))
    return Case(test.name, kind, "", model, sets, test.rtol, test.atol)


def _array(item: Any) -> Any:
    return numpy_helper.to_array(item) if isinstance(item, TensorProto) else item


def _stored(folder: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    inputs = [_read(folder / f"input_{i}.pb", v) for i, v in enumerate(model.graph.input)]
    outputs = [_read(folder / f"output_{i}.pb", v) for i, v in enumerate(model.graph.output)]
    return [x for x in inputs if x is not None], [x for x in outputs if x is not None]


def _read(path: Path, info: onnx.ValueInfoProto) -> Any:
    if not path.exists():  # an initialiser that is listed among the inputs
        return None
    if info.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    if info.type.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(TensorProto.FromString(path.read_bytes()))


def _filed(found: Sequence[Case]) -> list[Case]:
    """The cases under their operators: a model of one node under that node's, the expansion of such a case by its
    function under the same, any other under what its name begins with."""
    single: dict[str, str] = {}
    for case in found:
        nodes = case.proto.graph.node
        if case.kind == "node" and len(nodes) == 1:
            domain = nodes[0].domain
            single[case.name] = f"{domain}::{nodes[0].op_type}" if domain not in ("", "ai.onnx") else nodes[0].op_type
    out = []
    for case in found:
        operator = single.get(case.name) or single.get(re.sub(r"_expanded.*", "", case.name))
        if operator is None:
            operator = _by_name(case, set(single.values())) if case.kind == "node" else f"models ({case.kind})"
        out.append(Case(case.name, case.kind, operator, case.model, case.sets, case.rtol, case.atol))
    return out


def _by_name(case: Case, known: set[str]) -> str:
    """The operator of a node case of several nodes: of those in it, the one its name begins with."""
    inside = {node.op_type for node in case.proto.graph.node}
    plain = case.name.removeprefix("test_").replace("_", "").lower()
    fitting = [name for name in inside | known if plain.startswith(name.rpartition("::")[2].lower())]
    return max(fitting, key=lambda name: (name in inside, len(name)), default="several operators")


# -- running one -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a case: "pass", "fallback" (right, but with a step on the host) or "fail", and why not "pass"."""

    status: str
    reason: str = ""


Execute = Callable[[onnx.ModelProto, Sequence[Any], bool], tuple[Sequence[Any] | None, Sequence[str]]]
"""(outputs, what ran on the host) of a model on its inputs; the last argument is whether it may fall back. Outputs that
are None are not compared: the model was built, not run."""


def run(case: Case, execute: Execute) -> Outcome:
    """Run a case without fallback, and where that is refused with it. Never raises for what the case does."""
    if case.model is None:
        return Outcome("fail", NEEDS_DOWNLOAD)
    first = _attempt(case, execute, fallback=False)
    if first.status == "pass":
        return first
    second = _attempt(case, execute, fallback=True)
    return second if second.status == "fallback" else first


def _attempt(case: Case, execute: Execute, *, fallback: bool) -> Outcome:
    model = case.proto
    on_host: list[str] = []
    try:
        for inputs, expected in case.sets or ():
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                outputs, steps = execute(model, inputs, fallback)
            on_host += steps
            if outputs is None:
                continue
            compare(outputs, expected, case.rtol, case.atol)
    except AssertionError as error:
        return Outcome("fail", _wrong(error))
    except Exception as error:  # whatever a case meets is what is to be told of it
        return Outcome("fail", reason_of(error))
    if on_host:
        return Outcome("fallback", ", ".join(sorted(set(on_host))))
    return Outcome("pass")


def compare(outputs: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> None:
    """Raise AssertionError unless outputs are what the suite expects: as the runner of onnx 1.23.2 compares, whose
    predecessors could not compare bfloat16."""
    np.testing.assert_equal(len(outputs), len(expected))
    for index, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        if isinstance(wanted, list | tuple):
            assert isinstance(output, list | tuple), f"Output {index} is no sequence"
            compare(output, wanted, rtol, atol)
            continue
        output, wanted = np.asarray(output), np.asarray(wanted)
        np.testing.assert_array_equal(output.shape, wanted.shape, err_msg=f"Output {index} has incorrect shape")
        np.testing.assert_equal(output.dtype, wanted.dtype)
        if wanted.dtype == object:
            np.testing.assert_array_equal(output, wanted)
        elif wanted.dtype.name == "bfloat16":
            two_ulps = max(rtol, 2**-6)
            np.testing.assert_allclose(output.astype(np.float32), wanted.astype(np.float32), rtol=two_ulps, atol=atol)
        else:
            np.testing.assert_allclose(output, wanted, rtol=rtol, atol=atol)


def _wrong(error: AssertionError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next(
        (line for line in lines if re.match(r"(Mismatched|Max absolute|x and y|Output|ACTUAL|\(shapes)", line)), ""
    )
    return f"wrong result: {told or (lines[0] if lines else 'an assertion')}"


def reason_of(error: Exception) -> str:
    """An error as one line that is the same on every machine: without numbers of cases, times or addresses."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or ["no message"]
    if isinstance(error, UnsupportedOpError):
        lines = ["; ".join(name for name, _, _ in error.ops)]
    if isinstance(error, FallbackError):
        lines = ["; ".join(dict.fromkeys(f"{what}: {why}" for what, why, _, _ in error.steps))]
    if isinstance(error, CompileError) and len(lines) > 1:
        lines = ["; ".join(dict.fromkeys(re.sub(r"^(\S+) at .*?: ", r"\1: ", line) for line in lines[1:]))]
    if isinstance(error, TuningError):
        lines = [" ".join(lines[:2])]
    return f"{type(error).__name__}: {lines[0]}"[:240]
