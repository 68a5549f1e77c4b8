"""The command as such: help that teaches, one line for every mistake, the exit status."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from jitrt import cli
from jitrt.errors import JitrtError, OptionError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces `jitrt cache` by a command that raises or returns what it is given."""

    def install(outcome: BaseException | int) -> None:
        def run(args: Any) -> int:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        fake = types.ModuleType("jitrt.cli.cache", "A fake.")
        fake.EXAMPLES, fake.arguments, fake.run = "", lambda parser: None, run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "jitrt.cli.cache", fake)

    return install


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_and_shows_first_steps(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert "jitrt build resnet50 --fp16 -o resnet50.plan" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jitrt {cli.version()}\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: jitrt {name}")
    assert "examples:" in out
    assert importlib.import_module(f"jitrt.cli.{name}").__doc__.splitlines()[0] in out  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["biuld"], 2, "there is no command 'biuld' (did you mean 'build'?); jitrt --help"),
        (["frobnicate"], 2, "there is no command 'frobnicate'; jitrt --help"),
        (["build", "resnet50"], 2, "required: -o/--output (see jitrt build --help)"),
        (["build", "resnet50", "--fp16", "--bf16", "-o", "x"], 2, "not allowed with argument --fp16"),
        (["run"], 2, "required: PLAN"),
        (["cache", "explode"], 2, "invalid choice: 'explode'"),
        (["run", "/nowhere/a.plan"], 1, "there is no plan at /nowhere/a.plan"),
        (["inspect", "/nowhere/a.plan"], 1, "there is no plan at /nowhere/a.plan"),
        (["explain", "/nowhere/a.onnx"], 2, "there is no file /nowhere/a.onnx"),
        (["build", "m:f", "-o", "/nowhere/m.plan"], 2, "there is no folder /nowhere"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jitrt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (JitrtError("no luck; try again"), 1, "jitrt: error: no luck; try again\n"),
        (OptionError("bad tune"), 2, "jitrt: error: bad tune\n"),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "jitrt: error: Permission denied: /root/x\n"),
        (ZeroDivisionError("oops\nmore"), 1, "jitrt: error: ZeroDivisionError: oops (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "jitrt: error: interrupted\n"),
        (3, 3, ""),
    ],
)
def test_what_a_command_raises_becomes_a_message_and_a_status(
    command: Any, outcome: Any, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command(outcome)
    assert cli.main(["cache"]) == status
    assert capsys.readouterr().err == message


def test_debug_shows_the_traceback(command: Any) -> None:
    command(JitrtError("no luck"))
    with pytest.raises(JitrtError, match="no luck"):
        cli.main(["cache", "--debug"])


@pytest.mark.parametrize("package", ["jitrt", "jitrt.cli"])
def test_as_a_process(package: str) -> None:
    command = [sys.executable, "-m", package, "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "jitrt: error: there is no command 'nothing'; jitrt --help lists them\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = f"{sys.executable} -m jitrt.cli --help | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def command_lines() -> list[list[str]]:
    """Every command line that the README, the help and the commands' examples show."""
    pages = [(ROOT / "README.md").read_text(), cli.HELP]
    pages += [importlib.import_module(f"jitrt.cli.{name}").EXAMPLES for name in cli.COMMANDS]
    found = re.findall(r"^ *(?:JITRT_\w+=\S+ )?jitrt ((?:(?!  |\|).)+)", "\n".join(pages), re.MULTILINE)
    return [shlex.split(text) for text in found if text.split()[0] in cli.COMMANDS]


def test_the_shown_command_lines_are_right() -> None:
    lines = command_lines()
    assert len(lines) > 20
    for words in lines:
        module = importlib.import_module(f"jitrt.cli.{words[0]}")
        parser = cli.Parser(prog=f"jitrt {words[0]}")
        module.arguments(parser)
        parser.parse_args(words[1:])  # a wrong one would exit
