"""Every notebook runs from top to bottom here, and is stored without outputs.

What a notebook claims, its own cells assert; these tests see that they did, and that there was something to look at.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
for needed in ("ipykernel", "matplotlib", "sklearn"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELL_LIMIT = 240  # seconds; the longest takes five on two idle cores

Run = Callable[[Any], dict[str, list[Any]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Execute a notebook in a kernel of this very interpreter, away from the user's caches and settings; the outputs
    by cell id. Raises CellExecutionError at the first cell that does."""
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(spec.parents[2]))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "JITRT_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def execute(notebook: Any) -> dict[str, list[Any]]:
        where = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=CELL_LIMIT, kernel_name="python3", resources=where).execute()
        return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    return execute


def stored_faults(notebook: Any) -> list[str]:
    """What a notebook under version control should not hold: anything that running it leaves behind."""
    faults = []
    for cell in notebook.cells:
        if cell.get("outputs"):
            faults.append(f"cell {cell.id} has outputs")
        if cell.get("execution_count") is not None:
            faults.append(f"cell {cell.id} has an execution count")
        if cell.metadata:
            faults.append(f"cell {cell.id} has metadata")
        if re.fullmatch("[0-9a-f]{8}|[0-9a-f-]{36}", cell.id):
            faults.append(f"cell {cell.id} has a random id; give it a name")
    if set(notebook.metadata) - {"kernelspec", "language_info"} or set(notebook.metadata.language_info) - {"name"}:
        faults.append("the notebook's metadata name more than its language")
    return faults


def text_of(outputs: list[Any]) -> str:
    """All that a cell shows as text, HTML included."""
    shown = [o.text if o.output_type == "stream" else o.data.get("text/html", "") for o in outputs]
    return "\n".join(shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_clean(path: Path) -> None:
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert stored_faults(notebook) == []


def test_what_running_leaves_behind_is_found() -> None:
    v4 = nbformat.v4
    output = v4.new_output("stream", text="hello")
    left = v4.new_code_cell("1", id="left", outputs=[output], execution_count=1, metadata={"execution": {}})
    notebook = v4.new_notebook(
        cells=[left, v4.new_markdown_cell("", id="0123abcd")],
        metadata={"language_info": {"name": "python", "version": "3.11.7"}},
    )
    assert len(stored_faults(notebook)) == 5


def quickstart(outputs: dict[str, list[Any]]) -> None:
    plain, compiled = (re.search(r"([\d.]+)%", text_of(outputs[cell])) for cell in ("train", "jit"))
    assert plain and compiled
    assert float(plain[1]) == float(compiled[1]) > 90

    assert "relative error" in text_of(outputs["compare"])
    assert "batch_norm" in text_of(outputs["before"])
    assert "In[3]:22 (wide.0)" in text_of(outputs["before"]), "nodes name the cell and line they come from"
    assert "layers become" in text_of(outputs["after"])
    assert "2 branches of a concat in one launch" in text_of(outputs["after"])
    assert "conv 3x3 + bias + relu" in text_of(outputs["branches"])
    for heading in ("tactic", "registers", "shared", "spills"):
        assert f">{heading}</th>" in text_of(outputs["tactics"])
    assert "num_warps=" in text_of(outputs["tactics"])
    assert "a plan of" in text_of(outputs["plan"])
    assert any("image/png" in output.get("data", {}) for output in outputs["profile"])
    assert ">share</th>" in text_of(outputs["profile"])


def fusions_and_plugins(outputs: dict[str, list[Any]]) -> None:
    drawn = {stage: text_of(outputs[stage]) for stage in ("before", "vertical", "horizontal", "concat")}
    assert drawn["before"].count("batch_norm") == 6
    assert drawn["vertical"].count("conv 1x1 + bias + relu") == 4
    assert drawn["horizontal"].count("conv 1x1 + bias + relu") == 2
    assert "concat  f16" in drawn["horizontal"]
    assert drawn["concat"].count("conv 1x1 + bias + relu") == 2
    assert "(each branch wrote its part of)" in drawn["concat"]
    assert "after concat elimination" in text_of(outputs["counts"])
    assert "[99]" in text_of(outputs["check"])
    assert "ns::swish_add+relu" in text_of(outputs["model"])
    assert "1 kernel after, 1 launch\n" in text_of(outputs["elementwise"])
    report = text_of(outputs["rule"])
    assert "not replaced: one of the operands is broadcast" in report
    assert "sigmoid + mul + add replaced" in report
    assert "ns::swish_add" in text_of(outputs["rule-check"])
    assert "linear" in text_of(outputs["swapped"])


# What a notebook must show, beyond running.
CHECKS = {"01_quickstart": quickstart, "02_fusions_and_plugins": fusions_and_plugins}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, run: Run) -> None:
    outputs = run(nbformat.read(path, nbformat.NO_CONVERT))
    if path.stem in CHECKS:
        CHECKS[path.stem](outputs)


def test_what_is_checked_exists() -> None:
    assert CHECKS.keys() <= {path.stem for path in NOTEBOOKS}


def test_a_claim_that_fails_fails_the_test(run: Run) -> None:
    v4 = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell("import jitrt"), v4.new_code_cell("assert 1 == 2, 'a claim'")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="a claim"):
        run(notebook)
