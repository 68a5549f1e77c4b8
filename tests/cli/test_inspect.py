"""jitrt inspect: what it shows of a plan, and that a damaged one is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jitrt.plan.file import write_plan
from tests.cli.plans import tiny_plan

ROOT = Path(__file__).resolve().parents[2]


def test_the_summary(jitrt: Any, plan_path: Path) -> None:
    status, out, _ = jitrt("inspect", plan_path)
    assert status == 0
    assert "tiny[net]" in out
    assert "f16[2,3,4,4] strides [48, 1, 12, 3]" in out
    assert "2 of 2 different kernels" in out
    assert "12.5" in out
    assert "4.0 s for fusions, 30.2 s for kernels" in out


def test_layers_show_tactic_resources_and_the_users_line(jitrt: Any, plan_path: Path) -> None:
    _, out, _ = jitrt("inspect", plan_path, "--layers")
    row = next(line for line in out.splitlines() if "conv+add+relu" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[1:9] == ["3", "conv+add+relu", "12.5", "4.0 KiB", "2.0", "168", "48.0 KiB", "16"]
    assert "conv2d(BLOCK_M=64)" in out
    assert "net.py:12 (stem)" in out


def test_memory(jitrt: Any, plan_path: Path) -> None:
    _, out, _ = jitrt("inspect", plan_path, "--memory")
    assert "weight stem.weight f16[5, 3, 3, 3]" in out
    assert "%sum over %left" in out
    assert "0.67 x the 4.5 KiB of all blocks in places of their own" in out


def test_memory_of_a_plan_that_notes_none(jitrt: Any, tmp_path: Path) -> None:
    write_plan(tmp_path / "old.plan", replace(tiny_plan(), plan=replace(tiny_plan().plan, notes={})))
    _, out, _ = jitrt("inspect", tmp_path / "old.plan", "--memory")
    assert "weight stem.weight" in out
    assert "built by an older jitrt" in out


def test_json_is_the_whole_plan(jitrt: Any, plan_path: Path) -> None:
    _, out, _ = jitrt("inspect", plan_path, "--json")
    plan = json.loads(out)
    assert plan["layers"][0]["tactic"] == "conv2d(BLOCK_M=64)"
    assert plan["arch"] == 90


def test_a_truncated_plan_is_refused(jitrt: Any, plan_path: Path) -> None:
    plan_path.write_bytes(plan_path.read_bytes()[:-7])
    status, out, err = jitrt("inspect", plan_path)
    assert (status, out) == (1, "")
    assert "truncated" in err


@pytest.mark.parametrize(("command", "status"), [("inspect", 0), ("run", 1)])
def test_a_plan_needs_neither_torch_nor_triton(command: str, status: int, plan_path: Path) -> None:
    """In a process where they cannot be imported. `run` fails for want of a GPU, or of real cubins."""
    block = "import sys\nfor name in ('torch', 'triton', 'onnx'): sys.modules[name] = None\n"
    script = f"{block}from jitrt import cli\nsys.exit(cli.main([{command!r}, {str(plan_path)!r}]))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "ImportError" not in done.stderr
    assert "ModuleNotFoundError" not in done.stderr
