"""The walls between the rooms, held by reading every import, and shown to fall when a wall is broken.

A room is a package or top-level module of jitrt. Upper floors may import lower ones, never the other way round.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitrt.knobs import environment

ROOT = Path(__file__).resolve().parent.parent

FLOORS = (  # top to bottom; a module imports its own room and the floors below it
    ("__main__",),
    ("cli",),
    ("integrations", "bench"),
    ("__init__", "testing"),
    ("explanation", "onnx"),
    ("api",),
    ("jitted_module",),
    ("jitted",),
    ("request",),
    ("hybrid",),
    ("reference",),
    ("compiler",),
    ("judge", "plan_cache", "progress", "refine"),
    ("planner",),
    ("assemble",),
    ("frontend", "tune"),
    ("lowering",),
    ("plugins",),
    ("kernels",),
    ("codegen", "passes"),
    ("graph", "runtime"),
    ("plan",),
    ("knobs",),
    ("errors",),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

# codegen compiles the calls that kernels/base.py declares: a contract, not a kernel.
CONTRACTS = {("codegen", "jitrt.kernels.base")}

PACKAGES = {  # what a room may import from outside jitrt, beside the standard library
    "errors": set(),
    "knobs": {"platformdirs"},
    "plan": {"numpy", "safetensors", "ml_dtypes"},
    "runtime": {"numpy", "safetensors", "ml_dtypes", "cuda"},
    "graph": {"numpy", "ml_dtypes"},
    "passes": {"numpy", "ml_dtypes"},
}

# Things only one file may touch.
OWNERS = {"os.environ": "knobs.py", "triton.compile": "codegen/compile.py", "cuda.bindings": "runtime/driver.py"}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a module of `package`, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, owned thing) of every use of something in OWNERS."""
    for line, name in imports(tree, "jitrt"):
        if name.split(".")[0] == "os" and name.split(".")[-1] in ENVIRONMENT:
            yield line, "os.environ"
        if name.split(".")[0] == "triton" and name.split(".")[-1] == "compile":
            yield line, "triton.compile"
        if name.split(".")[0] == "cuda":
            yield line, "cuda.bindings"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node.value)
            if dotted == "os" and node.attr in ENVIRONMENT:
                yield node.lineno, "os.environ"
            if dotted.split(".")[0] == "triton" and node.attr == "compile":
                yield node.lineno, "triton.compile"


def room_of(name: str) -> str | None:
    """The room a dotted name inside jitrt belongs to."""
    parts = name.split(".")
    if parts[0] != "jitrt":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


def broken_walls(root: Path) -> list[str]:
    """Every import or use under root/jitrt that goes through a wall, as `file:line: what`."""
    found = []
    for path in sorted((root / "jitrt").rglob("*.py")):
        inside = path.relative_to(root / "jitrt")
        room = inside.parts[0].removesuffix(".py")
        where = str(inside)
        if room not in FLOOR:
            found.append(f"{where}:1: {room} is no room: add it to FLOORS or put the file where it belongs")
            continue
        tree = ast.parse(path.read_text(), where)
        package = ".".join(path.relative_to(root).parent.parts)
        for line, name in imports(tree, package):
            target, top = room_of(name), name.split(".")[0]
            if target is not None and target != room and FLOOR[target] <= FLOOR[room]:
                if not any(room == who and name.startswith(what) for who, what in CONTRACTS):
                    found.append(f"{where}:{line}: {room} imports {name}, which is not on a floor below")
            elif target is None and top not in sys.stdlib_module_names and top not in PACKAGES.get(room, {top}):
                found.append(f"{where}:{line}: {room} imports {top}")
            elif room in ("plan", "runtime") and target == "graph":
                found.append(f"{where}:{line}: {room} imports {name}: a plan runs without the graph")
        for line, thing in uses(tree):
            if where != OWNERS[thing]:
                found.append(f"{where}:{line}: {thing} belongs to {OWNERS[thing]} alone")
    return found


HEAVY = ("torch", "triton", "onnx")


def loaded(root: Path, code: str, *, block: bool = False) -> list[str]:
    """Which of torch, triton and onnx a fresh process has loaded after `code`; with `block`, importing one fails."""
    guard = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n" if block else ""
    report = f"\nimport sys\nprint(*[n for n in {HEAVY} if sys.modules.get(n) is not None])"
    done = subprocess.run(
        [sys.executable, "-c", guard + code + report],
        cwd=root,
        env=environment({"PYTHONPATH": str(root)}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ImportError(done.stderr.strip().splitlines()[-1])
    return done.stdout.split()


def modules(root: Path, *rooms: str) -> list[str]:
    """Dotted names of all modules of some rooms."""
    paths = [p for room in rooms for p in sorted((root / "jitrt" / room).rglob("*.py"))]
    return [".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for p in paths]


# -- the house stands ------------------------------------------------------------------------------------------------


def test_no_wall_is_broken() -> None:
    assert broken_walls(ROOT) == []


@pytest.mark.parametrize("statement", ["import jitrt", "import jitrt.cli"])
def test_import_is_light(statement: str) -> None:
    assert loaded(ROOT, statement) == []


def test_plan_and_runtime_load_where_torch_triton_and_onnx_are_blocked() -> None:
    names = modules(ROOT, "plan", "runtime")
    assert "jitrt.plan.schema" in names
    assert loaded(ROOT, "\n".join(f"import {name}" for name in names), block=True) == []


# -- and each wall falls when it is broken ---------------------------------------------------------------------------


def house(root: Path, **files: str) -> Path:
    """A small jitrt under `root`; `graph__a="..."` writes jitrt/graph/a.py."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "jitrt" / (name.replace("__", "/", 1) + ".py" if name != "__init__" else "__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("plan__a", "import torch", "plan imports torch"),
        ("runtime__a", "def late():\n    import triton.language", "a.py:2: runtime imports triton"),
        ("runtime__a", "from onnx import helper", "runtime imports onnx"),
        ("runtime__a", "from jitrt.graph import Graph", "not on a floor below"),
        ("plan__a", "from jitrt.graph.dtype import f32", "not on a floor below"),
        ("graph__a", "import scipy", "graph imports scipy"),
        ("graph__a", "from jitrt.passes import base", "not on a floor below"),
        ("passes__a", "from jitrt.kernels.base import accepts", "not on a floor below"),
        ("passes__a", "import torch", "passes imports torch"),
        ("codegen__a", "from jitrt.kernels.matmul import Matmul", "not on a floor below"),
        ("kernels__a", "from jitrt import compiler", "not on a floor below"),
        ("kernels__a", "from ..tune import cost", "kernels imports jitrt.tune.cost"),
        ("frontend__a", "from jitrt.hybrid import steps", "not on a floor below"),
        ("reference", "from jitrt.hybrid import engine", "not on a floor below"),
        ("hybrid__a", "from jitrt.request import Request", "not on a floor below"),
        ("hybrid__a", "from jitrt.onnx import session", "not on a floor below"),
        ("api", "from jitrt.onnx import InferenceSession", "not on a floor below"),
        ("onnx__a", "from jitrt.integrations import onnx_backend", "not on a floor below"),
        ("errors", "from jitrt import knobs", "not on a floor below"),
        ("kernels__a", "import os\nos.environ['A']", "os.environ belongs to knobs.py"),
        ("tune__a", "from os import getenv", "os.environ belongs to knobs.py"),
        ("tune__a", "import triton\ntriton.compile(1)", "triton.compile belongs to codegen/compile.py"),
        ("tune__a", "from triton.compiler import compile", "triton.compile belongs to codegen/compile.py"),
        ("tune__a", "from cuda.bindings import driver", "cuda.bindings belongs to runtime/driver.py"),
        ("attic__a", "", "attic is no room"),
    ],
)
def test_the_scan_sees_a_broken_wall(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    (found,) = broken_walls(house(tmp_path, **{file: text}))
    assert complaint in found


def test_the_scan_lets_through_what_is_allowed(tmp_path: Path) -> None:
    house(
        tmp_path,
        knobs="import os\nos.environ",
        codegen__compile="import triton\nfrom jitrt.kernels.base import KernelCall\ntriton.compile",
        runtime__driver="from cuda.bindings import driver\nimport numpy\nfrom jitrt.plan.schema import Plan",
        cli__build="from jitrt.api import compile\nfrom jitrt.bench import run\nimport torch",
    )
    assert broken_walls(tmp_path) == []


def test_the_process_checks_see_a_heavy_import(tmp_path: Path) -> None:
    house(tmp_path, plan__a="import onnx", runtime__a="").joinpath("jitrt/__init__.py").write_text("import onnx")
    assert loaded(tmp_path, "import jitrt") == ["onnx"]
    with pytest.raises(ImportError, match="onnx"):
        loaded(tmp_path, "import jitrt.runtime.a", block=True)


def test_the_process_checks_see_a_blocked_import_in_a_module(tmp_path: Path) -> None:
    house(tmp_path, plan__a="import triton", runtime__a="")
    assert loaded(tmp_path, "import jitrt.runtime.a", block=True) == []
    with pytest.raises(ImportError, match="triton"):
        loaded(tmp_path, "import jitrt.plan.a", block=True)
