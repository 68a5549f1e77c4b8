"""ONNX's test suite on the reference target.

    python -m tests.conformance.reference [--write] [PATTERN]

prints the counts and what fails by reason; --write renews expected.json, the list of what is excluded.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.conformance.suite import Outcome, cases, run

PATH = Path(__file__).parent / "expected.json"
_RANK = {"fail": 0, "fallback": 1, "pass": 2}


@dataclass(frozen=True)
class Expected:
    """What is known not to pass, for one version of onnx: why, by case; and what runs on the host, by case."""

    onnx: str
    excluded: Mapping[str, str]
    fallback: Mapping[str, str]
    counts: Mapping[str, int]

    @classmethod
    def read(cls) -> Expected:
        return cls(**json.loads(PATH.read_text()))

    @classmethod
    def of(cls, outcomes: Mapping[str, Outcome]) -> Expected:
        """What outcomes say."""
        listed = {
            status: {n: o.reason for n, o in outcomes.items() if o.status == status} for status in ("fail", "fallback")
        }
        return cls(onnx.__version__, listed["fail"], listed["fallback"], counts(outcomes))

    def differences(self, outcomes: Mapping[str, Outcome]) -> list[str]:
        """What is not as expected: the list may only shrink, and says so when it could. Of a case that another version
        of onnx has in addition nothing is expected."""
        found = []
        for name, outcome in outcomes.items():
            listed = "fail" if name in self.excluded else "fallback" if name in self.fallback else "pass"
            if outcome.status == listed:
                continue
            if _RANK[outcome.status] > _RANK[listed]:
                found.append(f"{name} is listed as {listed}, but its outcome is {outcome.status}: take it off the list")
            elif onnx.__version__ == self.onnx or listed != "pass":
                found.append(f"{name}: {outcome.status} ({outcome.reason})")
        return found

    def write(self) -> None:
        PATH.write_text(json.dumps(vars(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def execute(model: onnx.ModelProto, inputs: Sequence[Any], fallback: bool) -> tuple[Sequence[Any], Sequence[str]]:
    """A model through the backend's CPU device."""
    from jitrt.integrations import onnx_backend

    rep = onnx_backend.prepare(model, "CPU", strict=not fallback)
    outputs = rep.run(inputs)
    return outputs, [step.operator for step in rep.steps]


def run_all(pattern: str = "") -> dict[str, Outcome]:
    """The outcome of every case whose name holds `pattern`."""
    return {case.name: run(case, execute) for case in cases() if re.search(pattern, case.name)}


def counts(outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    """How many cases there are, pass and fall back: of all, and of the two readings of "ordinary" element types."""
    found = Counter()
    for case in cases():
        if case.name not in outcomes:
            continue
        status = outcomes[case.name].status
        for group, inside in (("", True), (" ordinary", case.is_ordinary), (" of the issue", case.in_issue)):
            if inside:
                found[f"cases{group}"] += 1
                found[f"{status}{group}"] += 1
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.reference", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="", help="part of the cases' names, a regular expression")
    parser.add_argument("--write", action="store_true", help=f"write {PATH.name}")
    arguments = parser.parse_args()
    if arguments.write and arguments.pattern:
        parser.error("--write wants the whole suite: leave the pattern out")
    cases()
    started = time.perf_counter()
    outcomes = run_all(arguments.pattern)
    for status in ("fallback", "fail"):
        by_reason = defaultdict(list)
        for name, outcome in outcomes.items():
            if outcome.status == status:
                by_reason[outcome.reason].append(name)
        for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            print(f"{len(names):4d} {status}  {reason}  {names[:3]}")
    print(json.dumps(counts(outcomes), indent=1))
    print(f"{time.perf_counter() - started:.1f} s, numpy {np.__version__}, onnx {onnx.__version__}")
    if arguments.write:
        Expected.of(outcomes).write()


if __name__ == "__main__":
    main()
