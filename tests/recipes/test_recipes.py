"""CONTRIBUTING.md's recipes, followed to the letter on a copy of the package, and the tests they end in.

A block of Python in a recipe begins with a line that says where it goes:

    # new file: PATH
    # PATH, at the end:
    # PATH, after: LINE      (a line of the file, which must be there exactly once)
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jitrt.knobs import environment

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("add an op", "add an ONNX operator", "add a fusion", "add a kernel")


def blocks(text: str, recipe: str) -> list[tuple[str, str]]:
    """(first line, code) of every Python block of a recipe."""
    section = re.search(rf"^## Recipe: {recipe}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"there is no recipe {recipe!r}"
    found = re.findall(r"^```python\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    return [(block.split("\n", 1)[0], block.split("\n", 1)[1]) for block in found]


def follow(root: Path, where: str, code: str) -> Path:
    """Do what one block says under `root`; returns the file it went to."""
    if (new := re.fullmatch(r"# new file: (\S+)", where)) is not None:
        path = root / new[1]
        if path.exists():
            raise ValueError(f"{new[1]} exists already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return path
    if (end := re.fullmatch(r"# (\S+), at the end:", where)) is not None:
        path = root / end[1]
        path.write_text(f"{path.read_text()}\n\n{code}")
        return path
    if (after := re.fullmatch(r"# (\S+), after: (.+)", where)) is not None:
        path = root / after[1]
        lines = path.read_text().split("\n")
        if lines.count(after[2]) != 1:
            raise ValueError(f"{after[1]} has the line {after[2]!r} {lines.count(after[2])} times")
        at = lines.index(after[2]) + 1
        path.write_text("\n".join([*lines[:at], code.rstrip("\n"), *lines[at:]]))
        return path
    raise ValueError(f"a block begins with {where!r}")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe(recipe: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jitrt", tmp_path / "jitrt", ignore=shutil.ignore_patterns("__pycache__"))
    files = [follow(tmp_path, *block) for block in blocks((ROOT / "CONTRIBUTING.md").read_text(), recipe)]
    tests = [str(path) for path in files if path.name.startswith("test_")]
    assert tests
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tmp_path,
        env=environment({"PYTHONPATH": str(tmp_path)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_recipe_of_the_page_is_followed() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert re.findall(r"^## Recipe: (.+)$", text, re.MULTILINE) == list(RECIPES)


def test_a_block_that_fits_nowhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\ntwo\n")
    follow(tmp_path, "# a.py, after: one", "inserted\n")
    assert (tmp_path / "a.py").read_text() == "one\ninserted\ntwo\ntwo\n"
    for where, complaint in (
        ("# a.py, after: two", "2 times"),
        ("# a.py, after: three", "0 times"),
        ("# new file: a.py", "exists already"),
        ("import os", "begins with"),
    ):
        with pytest.raises(ValueError, match=complaint):
            follow(tmp_path, where, "code\n")
