"""A small plan file that every command can look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jitrt.plan.file import write_plan
from tests.cli.plans import tiny_plan


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.plan"
    write_plan(path, tiny_plan())
    return path


@pytest.fixture
def jitrt(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line: (exit status, stdout, stderr)."""
    from jitrt import cli

    def run(*words: object) -> tuple[int, str, str]:
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
