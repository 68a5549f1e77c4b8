"""What is defined in a notebook, a script or a package reaches the processes that compile, measure and interpret."""

from __future__ import annotations
import __future__

import importlib
import linecache
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import planted_plugins
import pytest
from notebook_cells import Notebook

import jitrt
from jitrt.codegen.compile import use_cache_dir
from jitrt.codegen.target import target_of
from jitrt.errors import JitrtWarning, PluginError
from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Relu
from jitrt.kernels import base
from jitrt.kernels.base import Problem, Tactic, templates
from jitrt.plan_cache import plan_key
from jitrt.plugins import registry
from jitrt.plugins.source import global_names
from jitrt.testing import check_plugin, check_problem, make_problem
from jitrt.tune import keys
from jitrt.tune.candidates import Candidate, candidates_of
from jitrt.tune.compile_pool import compile_candidate
from jitrt.tune.verify import make_trial
from jitrt.tune.worker import Worker, WorkerFailure

TARGET = target_of(90)
IMPORTS = "import torch, triton\nimport triton.language as tl\nimport jitrt\nfrom math import pi as PI\n"
HELPERS = """
BLOCK_SIZE = tl.constexpr(128)
CONFIGS = [{"num_warps": 4}, {"num_warps": 2}]
x = torch.zeros(3)  # has the name of a parameter, and may not be sent

@triton.jit
def gate(a):
    return tl.sigmoid(a) * FACTOR
gated = gate
FACTOR = tl.constexpr(2.0)

def by_hand(x, y):
    return x * torch.sigmoid(x) * FACTOR.value + y
"""
PLUGIN = """
@jitrt.plugin(
    "cell::swish_add",
    reference=by_hand,
    configs=CONFIGS,
    grid=lambda x: triton.cdiv(x.numel, BLOCK_SIZE.value),
    sizes=lambda x: {"N": x.numel},
)
@triton.jit
def swish_add(x, y, out, aux, N: tl.constexpr, STORE: tl.constexpr):
    i = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    a = tl.load(x + i, mask=i < N, other=0).to(tl.float32)
    STORE(out, aux, a * gated(a) + tl.load(y + i, mask=i < N, other=0), i, i < N)

@jitrt.plugin("cell::scaled", reference=lambda x, by=2.0: x * by * PI, elementwise=True)
@triton.jit
def scaled(x, by):
    return x * by * 3.141592653589793
"""
TEMPLATE = """
from jitrt.kernels.base import KernelCall, Lowered, Operand, Result, Template

@triton.jit
def copy_relu(x, y, N: tl.constexpr):
    i = tl.program_id(0) * 128 + tl.arange(0, 128)
    tl.store(y + i, tl.maximum(tl.load(x + i, mask=i < N), 0, tl.PropagateNan.ALL), mask=i < N)

@jitrt.kernel
class CellRelu(Template):
    name = "cell_relu"
    priority = 5
    def accepts(self, body):
        return None if [node.op.name for node in body.nodes] == ["relu"] else "cell_relu takes a relu"
    def candidates(self, problem, target):
        return [{}]
    def lower(self, problem, config, target):
        n = problem.output.type.numel
        call = KernelCall(copy_relu, {"x": Operand(0), "y": Result()}, {"N": n}, (triton.cdiv(n, 128), 1, 1))
        return Lowered((call,))
"""


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    made = Notebook()
    for cell in (IMPORTS, HELPERS, PLUGIN):
        made.run(cell)
    yield made
    registry.withdraw("cell_relu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that modules are imported from, here and in the worker."""
    made = tmp_path_factory.mktemp("modules")
    sys.path.insert(0, str(made))
    yield made
    sys.path.remove(str(made))


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[Worker]:
    """A process like those that compile and measure."""
    made = Worker("test worker")
    made.call(use_cache_dir, str(folder / "triton"), limit=60)
    yield made
    made.close()


def problem(name: str, *shapes: tuple[int, ...], **attributes: Any) -> Problem:
    plugin = jitrt.plugins.find(name)
    body = Graph("region")
    values = [body.add_input(n, TensorType(f32, shape)) for n, shape in zip(plugin.operands, shapes)]
    body.mark_output(body.add(plugin.op(**attributes), *values))
    return make_problem(body)


def relu() -> Problem:
    body = Graph("region")
    body.mark_output(body.add(Relu(), body.add_input("x", TensorType(f32, (5, 70)))))
    return make_problem(body)


# -- notebooks and scripts ---------------------------------------------------------------------------------------------


def test_cells_reach_every_kind_of_process(notebook: Notebook, worker: Worker) -> None:
    notebook.run(TEMPLATE)
    check_plugin("cell::swish_add", (3, 50), (3, 50))  # the interpreter
    check_plugin("cell::scaled", (3, 50), by=0.5)
    check_problem(relu(), templates()["cell_relu"])
    problems = [problem("cell::swish_add", (3, 50), (3, 50)), problem("cell::scaled", (3, 50), by=0.5), relu()]
    for posed in problems:  # the reference, in the process that measures
        expected = worker.call(make_trial, posed, limit=60).expected
        np.testing.assert_array_equal(expected, make_trial(posed).expected)
    for posed, chosen in zip(problems, ("cell::swish_add", "pointwise", "cell_relu")):
        candidate = next(c for c in candidates_of(posed, TARGET, templates(), None) if c.tactic.template == chosen)
        (binary,) = worker.call(compile_candidate, posed, candidate, TARGET, limit=60)
        assert binary.cubin.startswith(b"\x7fELF")


def test_a_definition_changes_with_what_it_uses_and_with_nothing_else(notebook: Notebook) -> None:
    first = jitrt.plugins.find("cell::swish_add")
    text = first.definition.text
    assert "def by_hand" in text
    assert "CONFIGS = [{'num_warps': 4}, {'num_warps': 2}]" in text
    assert "cell::scaled" not in text
    assert "torch.zeros" not in text
    before = problem("cell::swish_add", (4,), (4,)).key
    notebook.run(PLUGIN)
    assert problem("cell::swish_add", (4,), (4,)).key == before
    notebook.run(HELPERS.replace("2.0", "3.0"))
    notebook.run(PLUGIN)
    assert problem("cell::swish_add", (4,), (4,)).key != before
    check_plugin("cell::swish_add", (3, 50), (3, 50))  # a process that knows the first one learns the second


def test_annotations_that_are_not_evaluated_here_are_not_there(worker: Worker) -> None:
    notebook = Notebook()
    notebook.namespace["annotations"] = __future__.annotations
    notebook.run(IMPORTS)
    head = "from __future__ import annotations\n"
    notebook.run(head + "def by_hand(x: Nowhere) -> Nothing:\n    return x\n")
    notebook.run(head + 'jitrt.plugin("cell::typed", reference=by_hand, elementwise=True)(triton.jit(by_hand))\n')
    posed = problem("cell::typed", (4,))
    assert worker.call(make_trial, posed, limit=60).expected.shape == (4,)


def test_keys_of_plans_hold_offered_kernels_and_rules(notebook: Notebook) -> None:
    graph = relu().body
    seen = [plan_key(graph, "", TARGET, "")]
    notebook.run(TEMPLATE)
    seen.append(plan_key(graph, "", TARGET, ""))
    source = keys.source_of(templates()["cell_relu"])
    notebook.run(TEMPLATE.replace("% 128", "% 128 ").replace("tl.arange(0, 128)", "tl.arange(0, 128 )"))
    seen.append(plan_key(graph, "", TARGET, ""))
    assert keys.source_of(templates()["cell_relu"]) != source
    rule = 'jitrt.fusion_rule("cell", pattern=lambda g, x: g.relu(x), rewrite=lambda g, x: g.op("cell::scaled", x))'
    notebook.run(rule)
    seen.append(plan_key(graph, "", TARGET, ""))
    notebook.run(rule.replace("lambda g, x: g.relu", "lambda g,  x: g.relu"))
    seen.append(plan_key(graph, "", TARGET, ""))
    notebook.run(PLUGIN.replace("by=2.0", "by=2.5"))
    seen.append(plan_key(graph, "", TARGET, ""))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("table = object()\nhelp = lambda x: x if table else x\n", "uses the global table, a object, which cannot be"),
        ("def help(x): return x * LATER\n", "name 'LATER' is not defined"),
    ],
)
def test_what_cannot_be_sent_is_said(notebook: Notebook, worker: Worker, cell: str, complaint: str) -> None:
    notebook.run(cell)
    notebook.run(PLUGIN.replace("cell::scaled", "cell::other").replace("x * by * PI", "help(x)"))
    posed = problem("cell::other", (4,))
    if "LATER" in complaint:
        with pytest.raises(WorkerFailure, match=complaint):
            worker.call(make_trial, posed, limit=60)
        return
    with pytest.raises(PluginError, match=complaint):
        worker.call(make_trial, posed, limit=60)


def test_what_is_defined_inside_a_function_or_without_source_says_what_to_do(notebook: Notebook) -> None:
    body = PLUGIN.split("\n\n")[1].replace("cell::scaled", "cell::inner").strip()
    notebook.run("def define():\n    " + body.replace("\n", "\n    ") + "\ndefine()\n")
    with pytest.raises(PluginError, match="defined inside a function; define it at the top level"):
        jitrt.plugins.find("cell::inner").__reduce__()
    name = "<cell nowhere>"
    linecache.cache[name] = (1, None, body.splitlines(keepends=True), name)
    exec(compile(body, name, "exec"), notebook.namespace)
    del linecache.cache[name]
    with pytest.raises(PluginError, match="its source cannot be found; define it in a file"):
        jitrt.plugins.find("cell::inner").__reduce__()


def test_global_names_are_those_of_the_scope_outside() -> None:
    text = "@deco(lambda a: a + outer)\ndef f(x, y: kind = default):\n    z = [x for x in other]\n    return z\n"
    assert global_names(text) == ["deco", "default", "f", "kind", "other", "outer"]


# -- modules and packages ----------------------------------------------------------------------------------------------


def test_a_module_is_imported_by_name(worker: Worker) -> None:
    assert planted_plugins.swish_add.definition.text == ""
    posed = problem("planted::swish_add", (3, 50), (3, 50))
    np.testing.assert_array_equal(worker.call(make_trial, posed, limit=60).expected, make_trial(posed).expected)


def test_a_module_that_was_edited_since_is_an_error(folder: Path, worker: Worker) -> None:
    path = folder / "edited_plugins.py"
    path.write_text(IMPORTS + PLUGIN.split("\n\n")[1].replace("cell::", "edited::"))
    importlib.import_module("edited_plugins")
    posed = problem("edited::scaled", (4,))
    path.write_text(path.read_text() + "\n# edited\n")
    with pytest.raises(WorkerFailure, match="does not define the plugin edited::scaled as this process knows it"):
        worker.call(make_trial, posed, limit=60)


def test_an_installed_package_brings_plugins_by_its_entry_point(
    folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "installed_plugins.py").write_text(IMPORTS + PLUGIN.split("\n\n")[1].replace("cell::", "installed::"))
    (folder / "broken_plugins.py").write_text("import no_such_module\n")
    importlib.invalidate_caches()
    found = [metadata.EntryPoint(name, f"{name}_plugins", "jitrt.kernels") for name in ("installed", "broken")]
    monkeypatch.setattr(metadata, "entry_points", lambda group: found if group == "jitrt.kernels" else [])
    assert "installed::scaled" not in registry.names()
    base.load_installed.cache_clear()
    with pytest.warns(JitrtWarning, match="the kernels of broken_plugins are not on offer: ModuleNotFoundError"):
        assert jitrt.plugins.find("installed::scaled").operands == ("x",)
    assert jitrt.plugins.find_onnx("installed", "scaled") is not None
    posed = problem("installed::scaled", (3, 5))
    np.testing.assert_array_equal(worker.call(make_trial, posed, limit=60).expected, make_trial(posed).expected)


def test_candidates_of_offered_kernels_stand_by_priority(notebook: Notebook) -> None:
    notebook.run(TEMPLATE)
    names = [c.tactic.template for c in candidates_of(relu(), TARGET, templates(), None)]
    assert names[0] == "cell_relu"
    assert "pointwise" in names
    assert isinstance(Candidate(Tactic("cell_relu", ()), templates()["cell_relu"]).lower(relu(), TARGET), base.Lowered)
