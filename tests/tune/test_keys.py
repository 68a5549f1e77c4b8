"""What the caches' keys depend on, and what they do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import planted
import pytest

from jitrt.codegen.target import target_of
from jitrt.kernels.base import Tactic, templates
from jitrt.runtime.fake_driver import H200
from jitrt.tune import keys
from jitrt.tune.candidates import Candidate

TARGET = target_of(90)


def test_a_source_is_the_templates_file_and_what_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read.append(f"{path.parent.name}/{path.name}") or original(path)
    )
    keys._source_of.__wrapped__("jitrt.kernels.depthwise")
    assert {"kernels/depthwise.py", "kernels/base.py", "codegen/compile.py", "codegen/epilogue.py"} <= set(read)
    assert "kernels/pool.py" not in read
    assert not any(name.startswith("graph/") for name in read)


def test_editing_a_file_changes_the_digest_of_templates_that_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: keys._source_of.__wrapped__(type(t).__module__) for name, t in templates().items()}
    original = Path.read_bytes
    edited = lambda path: original(path) + (b"\n# edited" if path.name == "pool.py" else b"")  # noqa: E731
    monkeypatch.setattr(Path, "read_bytes", edited)
    after = {name: keys._source_of.__wrapped__(type(t).__module__) for name, t in templates().items()}
    changed = {name for name in before if before[name] != after[name]}
    assert "pool" in changed
    assert "pointwise" not in changed


def test_a_template_outside_the_package_has_a_source_too() -> None:
    assert keys.source_of(planted.Listed()) != keys.source_of(templates()["pointwise"])


def test_kernels_depend_on_problem_tactic_and_chip_but_not_on_its_name() -> None:
    template = planted.Listed()
    candidate = Candidate(Tactic("listed", (("choice", 1),)), template)
    problem = planted.relu_problem(8)
    key = keys.kernel_key(problem, candidate, TARGET)
    assert key == keys.kernel_key(planted.relu_problem(8), candidate, TARGET.with_sms(132, "another name"))
    others = [
        keys.kernel_key(planted.relu_problem(9), candidate, TARGET),
        keys.kernel_key(problem, Candidate(Tactic("listed", (("choice", 2),)), template), TARGET),
        keys.kernel_key(problem, candidate, TARGET.with_sms(114, "smaller")),
        keys.kernel_key(problem, candidate, target_of(80)),
    ]
    assert len({key, *others}) == 5


def test_a_device_is_described_in_full_but_for_its_number() -> None:
    text = keys.device_text(H200)
    assert text == keys.device_text(dataclasses.replace(H200, index=3))
    assert text != keys.device_text(dataclasses.replace(H200, clock=1.0e9))
    assert H200.name in text


def test_the_toolchain_names_triton_and_ptxas() -> None:
    assert keys.toolchain(TARGET).startswith("triton ")
    assert "ptxas " in keys.toolchain(TARGET)
    assert keys.digest("a", "b") != keys.digest("ab")
