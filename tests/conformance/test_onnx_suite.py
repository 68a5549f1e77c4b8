"""The whole of ONNX's own test suite on the reference target, against the list of what is not expected to pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from jitrt.errors import UnsupportedOpError
from tests.conformance import table
from tests.conformance.reference import Expected, counts, run_all
from tests.conformance.suite import NEEDS_DOWNLOAD, Case, Execute, Outcome, cases, run

SAME = onnx.__version__ == Expected.read().onnx
RENEW = "run `python -m tests.conformance.reference --write` and `python -m tests.conformance.table`"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return run_all()


def test_every_case_goes_as_expected(outcomes: dict[str, Outcome]) -> None:
    assert Expected.read().differences(outcomes) == [], RENEW


def test_as_many_pass_as_promised(outcomes: dict[str, Outcome]) -> None:
    counted, expected = counts(outcomes), Expected.read().counts
    assert counted["pass of the issue"] >= 1400
    if SAME:
        assert counted == expected, RENEW
    else:  # a few cases come and go with each version
        assert counted["pass"] >= 0.98 * expected["pass"]


@pytest.mark.skipif(not SAME, reason="the table is of another version of onnx")
def test_the_table_is_of_what_is_expected() -> None:
    assert table.PATH.read_text() == table.text(), RENEW


@pytest.mark.skipif(not SAME, reason="these are the counts of another version of onnx")
def test_the_issues_counts() -> None:
    assert (len(cases()), sum(case.in_issue for case in cases())) == (2033, 1585)


# -- the judge can say no --------------------------------------------------------------------------------------------


def case_of(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


def outcome(name: str, execute: Execute) -> Outcome:
    return run(case_of(name), execute)


def test_right_results_pass() -> None:
    def execute(model: onnx.ModelProto, inputs: Sequence[Any], fallback: bool) -> tuple[list[Any], list[str]]:
        return [np.abs(inputs[0])], []

    assert outcome("test_abs", execute) == Outcome("pass")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda y: y * 1.01, "wrong result: Mismatched elements"),
        (lambda y: y.astype(np.float64), "wrong result"),
        (lambda y: y[0], "wrong result: Output 0 has incorrect shape"),
    ],
)
def test_wrong_results_fail(spoil: Any, reason: str) -> None:
    found = outcome("test_abs", lambda model, inputs, fallback: ([spoil(np.abs(inputs[0]))], []))
    assert found.status == "fail"
    assert found.reason.startswith(reason)


def test_too_few_results_fail() -> None:
    assert outcome("test_abs", lambda model, inputs, fallback: ([], [])).status == "fail"


def test_a_step_on_the_host_is_no_pass() -> None:
    def execute(model: onnx.ModelProto, inputs: Sequence[Any], fallback: bool) -> tuple[list[Any], list[str]]:
        if not fallback:
            raise UnsupportedOpError("ONNX", [("Abs: no importer", 1, "y (Abs)")])
        return [np.abs(inputs[0])], ["Abs"]

    assert outcome("test_abs", execute) == Outcome("fallback", "Abs")


def test_a_wrong_step_on_the_host_fails_for_the_first_reason() -> None:
    def execute(model: onnx.ModelProto, inputs: Sequence[Any], fallback: bool) -> tuple[list[Any], list[str]]:
        if not fallback:
            raise UnsupportedOpError("ONNX", [("Abs: no importer", 1, "y (Abs)")])
        return [inputs[0]], ["Abs"]

    assert outcome("test_abs", execute) == Outcome("fail", "UnsupportedOpError: Abs: no importer")


def test_what_needs_a_download_is_excluded_with_that_reason() -> None:
    real = [case for case in cases() if case.kind == "real"]
    assert real
    assert all(run(case, lambda *_: ([], [])) == Outcome("fail", NEEDS_DOWNLOAD) for case in real)


EXPECTED = Expected(onnx.__version__, {"a": "no importer"}, {"b": "Abs"}, {})


@pytest.mark.parametrize(
    ("name", "status", "complaint"),
    [
        ("a", "pass", "a is listed as fail, but its outcome is pass: take it off the list"),
        ("a", "fallback", "a is listed as fail, but its outcome is fallback: take it off the list"),
        ("b", "pass", "b is listed as fallback, but its outcome is pass: take it off the list"),
        ("b", "fail", "b: fail (why)"),
        ("c", "fail", "c: fail (why)"),
        ("c", "fallback", "c: fallback (why)"),
    ],
)
def test_the_list_can_only_shrink(name: str, status: str, complaint: str) -> None:
    assert EXPECTED.differences({name: Outcome(status, "why")}) == [complaint]


def test_what_is_as_listed_is_fine() -> None:
    found = {"a": Outcome("fail", "another reason"), "b": Outcome("fallback"), "c": Outcome("pass")}
    assert EXPECTED.differences(found) == []


def test_a_new_case_of_another_onnx_is_no_surprise() -> None:
    other = Expected("0.0.0", {"a": "no importer"}, {}, {})
    assert other.differences({"new": Outcome("fail"), "a": Outcome("fail")}) == []
    assert len(other.differences({"a": Outcome("pass")})) == 1


# -- the table -------------------------------------------------------------------------------------------------------


def test_results_of_a_gpu_get_into_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CUDA", tmp_path / "cuda.json")
    assert table.Gpu.read() is None
    found = [("test_abs", "pass", ""), ("test_acos", "fallback", "Acos"), ("test_acosh", "fail", "wrong result")]
    lines = [json.dumps({"case": c, "status": s, "reason": r, "seconds": 0.1}) for c, s, r in found]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    table.Gpu.renew(tmp_path / "results.jsonl", "a GPU", "1.0")
    gpu = table.Gpu.read()
    assert gpu == table.Gpu(
        "a GPU", "1.0", frozenset({"test_abs"}), {"test_acos": "Acos"}, {"test_acosh": "wrong result"}
    )
    page = table.text()
    assert "on the GPU (a GPU) through its kernels" in page
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells]
        for cells in (line.split("|") for line in page.splitlines())
        if len(cells) > 9
    }
    assert [rows[name][4] for name in ("Abs", "Acos", "Acosh")] == ["1", "", ""]
    assert rows["all cases"][6:9] == ["1", "1", "1"]
