"""Generated functions are real ones: with source, shared by equal text."""

from __future__ import annotations

import inspect
import traceback

from jitrt.codegen.source import define, function

SOURCE = "@triton.jit\ndef twice(x):\n    return x + x\n"


def test_the_source_can_be_read_back() -> None:
    twice = define(SOURCE, "twice")
    assert inspect.getsource(twice.fn) == SOURCE
    assert twice.fn.__code__.co_filename.startswith("<jitrt generated ")


def test_a_traceback_shows_the_generated_line() -> None:
    broken = define("def broken():\n    return 1 / 0\n", "broken")
    try:
        broken()
    except ZeroDivisionError:
        assert "return 1 / 0" in traceback.format_exc()


def test_equal_sources_are_one_function() -> None:
    assert function(SOURCE, "twice") is function(str(SOURCE), "twice")
    assert function(SOURCE, "twice") is not function(SOURCE.replace("x + x", "2 * x"), "twice")


def test_gluon_is_in_scope_where_it_is_used() -> None:
    made = define("@gluon.jit\ndef empty(x):\n    pass\n", "empty")
    assert type(made).__name__ == "GluonJITFunction"
