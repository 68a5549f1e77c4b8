"""The `jitrt` command. One file a subcommand, imported only when it is the one asked for.

A command module has a docstring (its help text), `EXAMPLES` (shown below the options), `arguments(parser)` and
`run(args) -> int`, the exit status. It raises JitrtError for anything that is the user's to mend.

Exit status: 0 done, 1 it failed, 2 the command line or an option's value is wrong, 130 interrupted. A failure is one
message on stderr; `--debug` adds the traceback.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from jitrt.errors import JitrtError, OptionError

COMMANDS = {
    "demo": "see what jitrt does, on a full-size GoogLeNet; no GPU needed",
    "explain": "show a model's graph before and after fusion, and why something was not fused",
    "build": "compile a model into a plan file",
    "run": "run a plan or ONNX file on .npy inputs or random ones",
    "inspect": "show what is in a plan file: layers, kernels, memory",
    "bench": "time a model or plan against PyTorch, torch.compile, cuDNN and ONNX Runtime",
    "cache": "list, check or clear built plans and the timing cache",
    "doctor": "check this machine, or whether jitrt can run an ONNX model",
    "migrate": "turn a trtexec command line into jitrt's",
}

HELP = """usage: jitrt COMMAND [options]        jitrt COMMAND --help tells more

jitrt compiles PyTorch and ONNX models into fused, tuned Triton kernels, and into plan files that run without PyTorch.

commands:
{commands}

a model is
  model.onnx             an ONNX file, from any framework
  resnet50               a name from torchvision (random weights)
  mymodels:make_model    module:callable; it returns a model, or a model and a tuple of its inputs

first steps:
  jitrt doctor                                  is everything here?
  jitrt demo                                    what does it do?
  jitrt explain resnet50 --count                how many kernels will that be?
  jitrt build resnet50 --fp16 -o resnet50.plan  compile and tune for the GPU in this machine; --target sm_90 needs none
  jitrt run resnet50.plan                       run it
  jitrt doctor model.onnx                       can it be built? what is in the way?
  jitrt bench resnet50 --batch 1,8,128          is it fast?
"""


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"jitrt: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if words[0] == "--version":
        print(f"jitrt {version()}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        return _complain(f"there is no command {name!r}{_suggestion(name)}; jitrt --help lists them", 2)
    module = importlib.import_module(f"jitrt.cli.{name}")
    parser = Parser(
        prog=f"jitrt {name}",
        description=module.__doc__,
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    module.arguments(parser)
    try:
        args = parser.parse_args(words[1:])
        args.typed = shlex.join(["jitrt", *words])
    except SystemExit as stop:  # argparse has said what there is to say
        return int(stop.code or 0)
    try:
        return int(module.run(args))
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        return 0
    except Exception as error:  # the last stop: whatever went wrong becomes one message and a status
        if args.debug:
            raise
        return _report(error)


def help_text() -> str:
    width = max(map(len, COMMANDS))
    return HELP.format(commands="\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()))


def version() -> str:
    import jitrt

    return jitrt.__version__


def _report(error: Exception) -> int:
    if isinstance(error, OptionError):
        return _complain(str(error), 2)
    if isinstance(error, JitrtError):
        return _complain(str(error), 1)
    if isinstance(error, OSError) and error.strerror:
        return _complain(f"{error.strerror}: {error.filename}" if error.filename else error.strerror, 1)
    lines = str(error).strip().splitlines() or ["no message"]
    return _complain(f"{type(error).__name__}: {lines[0]} (--debug shows where)", 1)


def _complain(message: str, status: int) -> int:
    print(f"jitrt: error: {message}", file=sys.stderr)
    return status


def _suggestion(word: str) -> str:
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
