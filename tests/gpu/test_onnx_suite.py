"""ONNX's own test suite through the kernels, against what is known to pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jitrt.knobs import environment
from tests.conformance.table import Gpu

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """(status, reason) of every case that was reached. In a process of its own: it forks, which a CUDA context does not
    survive."""
    path = tmp_path_factory.mktemp("onnx") / "results.jsonl"
    command = [sys.executable, "-m", "tests.conformance.cuda", "--out", str(path), "--limit-s", "400"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = map(json.loads, path.read_text().splitlines())
    return {line["case"]: (line["status"], line["reason"]) for line in lines}


def test_enough_pass(results: dict[str, tuple[str, str]]) -> None:
    assert sum(status == "pass" for status, _ in results.values()) >= 1100


def test_what_passed_before_passes(results: dict[str, tuple[str, str]]) -> None:
    known = Gpu.read()
    assert known is not None, "tests/conformance/cuda.json is gone: python -m tests.conformance.table --cuda makes it"
    broken = {name: found for name, found in results.items() if name in known.passes and found[0] != "pass"}
    assert broken == {}


def test_what_failed_before_is_not_forgotten(results: dict[str, tuple[str, str]]) -> None:
    """A case that is listed as failing and passes is to be taken off the list."""
    known = Gpu.read()
    assert known is not None, "tests/conformance/cuda.json is gone: python -m tests.conformance.table --cuda makes it"
    mended = [name for name in (*known.fails, *known.fallback) if results.get(name, ("", ""))[0] == "pass"]
    assert mended == [], "run `python -m tests.conformance.table --cuda` with the new results"
