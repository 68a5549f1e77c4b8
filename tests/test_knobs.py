"""jitrt.knobs: defaults, every variable, and the values it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitrt.errors import OptionError
from jitrt.knobs import environment, knobs

VARIABLES = ("JITRT_CACHE_DIR", "JITRT_LOG", "JITRT_COMPILE_WORKERS", "JITRT_TABLE", "NO_COLOR", "XDG_CACHE_HOME")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = knobs()
    assert found.cache_dir == tmp_path / ".cache" / "jitrt"
    assert found.log == "warning"
    assert found.compile_workers >= 1
    assert found.color
    assert found.table


def test_each_variable_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("JITRT_LOG", "DEBUG")
    monkeypatch.setenv("JITRT_COMPILE_WORKERS", "3")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("JITRT_TABLE", "0")
    found = knobs()
    assert not found.table
    assert (found.cache_dir, found.log, found.compile_workers, found.color) == (tmp_path / "here", "debug", 3, False)


def test_an_empty_no_color_means_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert knobs().color


@pytest.mark.parametrize(
    ("name", "value"),
    [("JITRT_LOG", "loud"), ("JITRT_COMPILE_WORKERS", "0"), ("JITRT_COMPILE_WORKERS", "many"), ("JITRT_TABLE", "off")],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=name):
        knobs()


def test_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_LOG", "info")
    child = environment({"JITRT_NOT_A_KNOB": "/nowhere"})
    assert child["JITRT_LOG"] == "info"
    assert child["JITRT_NOT_A_KNOB"] == "/nowhere"
    assert "JITRT_NOT_A_KNOB" not in environment()
