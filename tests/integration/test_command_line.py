"""The command line for real, without a GPU: explain, cross-build and inspect of a small model of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import jitrt
from jitrt import cli

MODULE = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5)
    )
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in a folder with the model's module: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("model_for_the_command_line.py").write_text(MODULE)

    def command(*words: str) -> tuple[int, str, str]:
        status = cli.main(words)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


MODEL = ("model_for_the_command_line:make", "--shape", "1x3x8x8")


def test_build_for_another_machine_and_inspect(run: Any) -> None:
    options = ("--fp16", "--batch", "2", "--target", "sm_90", "--tune", "heuristic", "-o", "m.plan")
    status, _, err = run("build", *MODEL, *options)
    assert status == 0, err
    jitrt.verify("m.plan")
    plan = json.loads(run("inspect", "m.plan", "--json")[1])
    assert plan["arch"] == 90
    assert plan["inputs"][0]["shape"] == [2, 3, 8, 8]
    assert plan["inputs"][0]["dtype"] == "f16"
    _, out, _ = run("inspect", "m.plan", "--layers")
    assert "conv+add+relu" in out
    assert "conv2d(" in out


def test_an_unknown_target_is_one_line(run: Any) -> None:
    status, _, err = run("build", *MODEL, "--target", "sm_42", "-o", "m.plan")
    assert status == 1
    assert err.startswith("jitrt: error: unknown target 'sm_42'")
    assert not Path("m.plan").exists()


def test_explain(run: Any) -> None:
    status, out, _ = run("explain", *MODEL)
    assert status == 0
    assert "batch_norm folded into the weights of conv" in out
    status, out, _ = run("explain", *MODEL, "--count")
    assert status == 0
    assert "kernels" in out
