"""jitrt doctor: each check when all is well and when it is not."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jitrt.cli import doctor
from jitrt.errors import CompileError


def states(findings: Iterable[doctor.Finding]) -> dict[str, str]:
    return {f.subject: f.state for f in findings}


def test_all_is_well_where_everything_is_there(jitrt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [check for check in doctor.CHECKS if check is not doctor.packages]
    monkeypatch.setattr(doctor, "CHECKS", checks)
    status, out, _ = jitrt("doctor")
    assert status == 0
    assert "made a cubin for sm_90" in out
    assert "all that jitrt needs is here" in out


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("torch<2.16,>=2.11", ("torch", [("<", "2.16"), (">=", "2.11")])),
        ("cuda-bindings>=12.9", ("cuda-bindings", [(">=", "12.9")])),
        ("ml_dtypes", ("ml_dtypes", [])),
    ],
)
def test_requirements_are_read(text: str, parsed: Any) -> None:
    assert doctor.parse_requirement(text) == parsed


def test_a_requirement_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="not a requirement"):
        doctor.parse_requirement(">=2")


@pytest.mark.parametrize(
    ("version", "fits"),
    [("2.11", True), ("2.11.0", True), ("2.13.0+cpu", True), ("2.10.9", False), ("2.16", False), ("2.16.0", False)],
)
def test_versions_are_compared_as_numbers(version: str, fits: bool) -> None:
    assert doctor.satisfies(version, [(">=", "2.11"), ("<", "2.16")]) is fits


def test_packages_missing_old_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.10.0", "numpy": "2.4.6"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    needed = ["torch>=2.11", "numpy>=2.1", "rich>=13", "pytest>=8; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = list(doctor.packages())
    assert states(found) == {"torch": "wrong", "numpy": "ok", "rich": "wrong"}
    assert found[0].fix == "pip install 'torch>=2.11'"


def test_jitrt_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert states(doctor.packages()) == {"jitrt": "wrong"}


def test_a_cache_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    (finding,) = doctor.cache()
    assert finding.state == "wrong"
    assert "JITRT_CACHE_DIR" in finding.fix


def test_little_room_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK", 10**18)
    (finding,) = doctor.cache()
    assert (finding.state, finding.fix) == ("note", "free some space")


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, jitrt: Any) -> None:
    def broken(*args: Any) -> None:
        raise CompileError("ptxas was killed")

    monkeypatch.setattr("jitrt.codegen.compile.compile_call", broken)
    monkeypatch.setattr(doctor, "CHECKS", [doctor.compiler])
    status, out, _ = jitrt("doctor")
    assert status == 1
    assert "ptxas was killed" in out
    assert "1 thing(s) to mend" in out


def test_a_bad_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_LOG", "loud")
    (finding,) = doctor.environment()
    assert finding.state == "wrong"
    assert "JITRT_LOG" in finding.text
