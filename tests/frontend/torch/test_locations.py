"""Where nodes come from when the model was typed into a notebook or a terminal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from jitrt.errors import ImportFailure
from jitrt.frontend.torch import import_torch

IPython = pytest.importorskip("IPython")

CELL = """
def predict(x):
    y = x * 2
    return y.relu()

def broken(x):
    return x.no_such_method()
"""


@pytest.fixture(params=["/tmp/ipykernel_12/345.py", "<ipython-input-3-0123456789ab>"], ids=["notebook", "terminal"])
def cell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What cell 3 defines, compiled under the name that IPython gives it there."""
    from IPython.core.compilerop import CachingCompiler

    class Compiler(CachingCompiler):
        def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
            return str(request.param)

    compiler = Compiler()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(compile=compiler))
    defined: dict[str, object] = {}
    exec(compiler(CELL, compiler.cache(CELL, 3), "exec"), defined)
    return defined


def test_lines_are_named_as_ipython_names_them(cell: dict[str, object]) -> None:
    graph = import_torch(cell["predict"], (torch.ones(2),)).graph
    assert [node.loc for node in graph.nodes] == ["In[3]:3", "In[3]:4"]


def test_an_error_shows_the_line_of_the_cell(cell: dict[str, object]) -> None:
    with pytest.raises(ImportFailure, match=r"In\[3\]:7 in broken: return x\.no_such_method\(\)"):
        import_torch(cell["broken"], (torch.ones(2),))
