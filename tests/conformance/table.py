"""The table of operators in jitrt/integrations/ONNX.md, from what is recorded beside this file.

    python -m tests.conformance.table [--cuda results.jsonl --device "NVIDIA H200"]

expected.json says what the reference target passes (`python -m tests.conformance.reference --write`), cuda.json what
the kernels pass: --cuda renews it from a whole run of `tests.conformance.cuda`. others.json has what TensorRT and ONNX
Runtime say of themselves.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from tests.conformance.reference import Expected, counts
from tests.conformance.suite import Case, Outcome, cases

FOLDER = Path(__file__).parent
CUDA, OTHERS = FOLDER / "cuda.json", FOLDER / "others.json"
PATH = FOLDER.parents[1] / "jitrt/integrations/ONNX.md"

_HEAD = """# ONNX operators

What of ONNX's own test suite (`onnx.backend.test`, onnx {onnx}) jitrt passes, at the suite's own tolerances, next to
what TensorRT and ONNX Runtime say of themselves. Written by `python -m tests.conformance.table`; do not edit.

{summary}

*Passes* are through jitrt's own graph: on the reference target in numpy, on the GPU ({device}) through its kernels.
*On the host* are cases that are right because a step of them runs through ONNX's reference, or through the `eval` of an
op that has no kernel: such steps are named and costed (`engine.inspect()`, `engine.profile(x)`), and `strict=True`
forbids them. *Excluded* are all others of the reference target; `tests/conformance/expected.json` has a reason for
each, and a test fails when one of them passes. Of the {cases:,} cases of this onnx, {ordinary:,} have nothing but
tensors of numbers and booleans of 8 to 64 bits as inputs and outputs; {issue:,} are cases of single operators over the
nine types float16, bfloat16, float32, float64, int8, int32, int64, uint8 and bool. Cases over strings, 4-bit and 8-bit
floats, sequences and optionals count in none of these figures but the first; {download} models would have to be
downloaded.

Inputs that sizes depend on (the shape given to a Reshape, the k of a TopK; TensorRT's shape tensors) are built for by
value.
In 55 of the passing cases that is all there is to compute (Range, Unique, the windows, reductions of nothing):
their results are made while building, and kernels only hand them out. 42 more compute nothing (Shape, Identity,
Dropout). (Counted once, on 2026-11-22.)
"""

_LEGEND = """
## By operator

- *cases*: of this operator in the suite, its expansions as a function among them
- *reference*, *GPU*: how many of them pass; *host*: how many only with a step on the host, on the reference target
- *TensorRT*: {tensorrt}
- *ORT CPU*, *ORT CUDA*: Y has a kernel, F runs by its function in the standard, - neither; by {cpu},
  and {cuda}

"""


@dataclass
class Row:
    """One operator: how its cases went."""

    operator: str
    cases: int = 0
    passes: int = 0
    gpu: int = 0
    host: int = 0
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def notes(self) -> str:
        """Why cases are excluded, the most frequent reasons first."""
        ranked = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return "; ".join(f"{count}: {_short(reason)}" for reason, count in ranked[:2])


@dataclass(frozen=True)
class Gpu:
    """What a run on a GPU found: `device`, and the status of every case it reached ("pass", or why not)."""

    device: str
    onnx: str
    passes: frozenset[str]
    fallback: Mapping[str, str]
    fails: Mapping[str, str]

    @classmethod
    def read(cls) -> Gpu | None:
        """What was found last; None if nothing ever was."""
        if not CUDA.exists():
            return None
        held = json.loads(CUDA.read_text())
        return cls(held["device"], held["onnx"], frozenset(held["pass"]), held["fallback"], held["fail"])

    @classmethod
    def renew(cls, results: Path, device: str, version: str) -> None:
        """Write down a file of results of `tests.conformance.cuda`."""
        found: dict[str, Any] = {"pass": [], "fallback": {}, "fail": {}, "device": device, "onnx": version}
        for line in map(json.loads, results.read_text().splitlines()):
            if line["status"] == "pass":
                found["pass"].append(line["case"])
            else:
                found[line["status"]][line["case"]] = line["reason"]
        found["pass"].sort()
        CUDA.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@cache
def _others() -> dict[str, Any]:
    held: dict[str, Any] = json.loads(OTHERS.read_text())
    return held


def text() -> str:
    """The whole page."""
    expected, gpu = Expected.read(), Gpu.read()
    rows = _rows(cases(), expected, gpu)
    counted = expected.counts
    head = _HEAD.format(
        onnx=expected.onnx,
        device=gpu.device if gpu else "not run yet",
        summary=_summary(expected, gpu),
        cases=counted["cases"],
        ordinary=counted["cases ordinary"],
        issue=counted["cases of the issue"],
        download=sum(case.model is None for case in cases()),
    )
    others = _others()
    sources = {"tensorrt": "tensorrt", "cpu": "onnxruntime_cpu", "cuda": "onnxruntime_cuda"}
    legend = _LEGEND.format(**{name: others[key]["source"] for name, key in sources.items()})
    headings = ("operator", "cases", "reference", "GPU", "host", "TensorRT", "ORT CPU", "ORT CUDA", "excluded, and why")
    body = [
        (
            row.operator,
            _number(row.cases),
            _number(row.passes),
            _number(row.gpu) if gpu else "",
            _number(row.host),
            others["tensorrt"]["operators"].get(row.operator, ""),
            _runs(row.operator, others["onnxruntime_cpu"]["operators"]),
            _runs(row.operator, others["onnxruntime_cuda"]["operators"]),
            row.notes,
        )
        for row in rows
    ]
    return head + legend + _markdown(headings, body)


def _summary(expected: Expected, gpu: Gpu | None) -> str:
    groups = (
        ("all cases", ""),
        ("over ordinary types", " ordinary"),
        ("single operators over nine types", " of the issue"),
    )
    found = _counts_on(gpu) if gpu else {}
    rows = []
    for name, key in groups:
        numbers = [expected.counts.get(f"{what}{key}", 0) for what in ("cases", "pass", "fallback", "fail")]
        there = [found.get(f"{what}{key}", 0) for what in ("pass", "fallback", "fail")] if gpu else ["", "", ""]
        rows.append((name, *map(str, numbers), *map(str, there)))
    supported, listed = _of_tensorrt(expected)
    trt = _others()["tensorrt"]["operators"]
    theirs = sum(value != "N" for value in trt.values())
    headings = ("", "cases", "reference", "on the host", "excluded", "GPU", "GPU, on the host", "GPU, failed")
    return _markdown(headings, rows) + (
        f"\nOf the {listed} operators that TensorRT's own table lists, jitrt passes cases of {supported} through its "
        f"graph, and\nTensorRT supports {theirs}."
    )


def _counts_on(gpu: Gpu) -> Mapping[str, int]:
    outcomes = {name: Outcome("pass") for name in gpu.passes}
    outcomes |= {name: Outcome("fallback", reason) for name, reason in gpu.fallback.items()}
    outcomes |= {name: Outcome("fail", reason) for name, reason in gpu.fails.items()}
    return counts(outcomes)


def _of_tensorrt(expected: Expected) -> tuple[int, int]:
    """(operators of TensorRT's table that have a case that passes, operators in that table)."""
    listed = _others()["tensorrt"]["operators"]
    missed = expected.excluded.keys() | expected.fallback.keys()
    passed = {case.operator for case in cases() if case.name not in missed}
    inside = {node for case in cases() if case.name not in missed and case.kind == "node" for node in _operators(case)}
    return len(listed.keys() & (passed | inside)), len(listed)


def _operators(case: Case) -> Iterable[str]:
    return (node.op_type for node in case.proto.graph.node)


def _rows(found: Sequence[Case], expected: Expected, gpu: Gpu | None) -> list[Row]:
    rows: dict[str, Row] = {}
    for case in found:
        row = rows.setdefault(case.operator, Row(case.operator))
        row.cases += 1
        row.gpu += gpu is not None and case.name in gpu.passes
        if case.name in expected.fallback:
            row.host += 1
        elif case.name in expected.excluded:
            row.reasons[expected.excluded[case.name]] += 1
        else:
            row.passes += 1
    for operator in _others()["tensorrt"]["operators"]:
        rows.setdefault(operator, Row(operator))
    return sorted(rows.values(), key=lambda row: ("::" in row.operator or "(" in row.operator, row.operator.lower()))


def _runs(operator: str, listed: Sequence[str]) -> str:
    if operator in listed:
        return "Y"
    if "(" in operator or " " in operator:
        return ""
    domain, _, name = operator.rpartition("::")
    if not onnx.defs.has(name, domain):
        return ""
    schema: Any = onnx.defs.get_schema(name, domain=domain)
    return "F" if schema.has_function or schema.has_context_dependent_function else "-"


def _number(count: int) -> str:
    return str(count) if count else ""


def _short(reason: str) -> str:
    kind, _, what = reason.partition(": ")
    told = what if what and kind.endswith(("Error", "Failure")) else reason
    return told.replace("|", "/")[:110]


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.table", description=__doc__)
    parser.add_argument("--cuda", type=Path, help="results of tests.conformance.cuda to write down first")
    parser.add_argument("--device", default="NVIDIA H200", help="the GPU those are of")
    parser.add_argument("--onnx", default=onnx.__version__, help="the version of onnx those are of")
    arguments = parser.parse_args()
    if arguments.cuda:
        Gpu.renew(arguments.cuda, arguments.device, arguments.onnx)
    PATH.write_text(text())
    print(f"{PATH}: {len(text().splitlines())} lines")


if __name__ == "__main__":
    main()
