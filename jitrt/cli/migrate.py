"""Print the jitrt command lines that do what a trtexec command line does.

What is printed can be run as it is: what has no counterpart, and what needs no asking for, stands in comments. Exit
status 1 if a flag is not known or the model is none that jitrt reads.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jitrt.cli.shapes import named_shapes, shape_text
from jitrt.cli.trtexec import ALWAYS, NEVER
from jitrt.errors import OptionError

EXAMPLES = """examples:
  jitrt migrate "trtexec --onnx=model.onnx --saveEngine=model.engine --fp16 --shapes=x:8x3x224x224"
  jitrt migrate trtexec --onnx=model.onnx --minShapes=x:1x3x224x224 --optShapes=x:8x3x224x224 --maxShapes=x:32x3x224x224
  jitrt migrate "trtexec --loadEngine=model.plan --duration=10 --useCudaGraph" | sh
"""

_EIGHT_BIT = ("int8", "fp8", "int4", "best")
_OTHER_MODELS = ("model", "deploy", "uff", "uffInput", "uffNHWC", "output")
_TUNE = {0: "heuristic", 1: "heuristic", 2: "30s", 4: "5m", 5: "exhaustive"}  # 3 is trtexec's default and jitrt's
_UNITS = {"B": 1 / (1 << 20), "K": 1 / (1 << 10), "M": 1.0, "G": 1024.0}


@dataclass
class Migration:
    """The commands, in order, and what there is to say of single flags."""

    commands: list[list[str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def note(self, flag: str, text: str) -> None:
        self.notes.append((f"--{flag}", text))

    def text(self) -> str:
        """Commands, then comments."""
        width = max((len(flag) for flag, _ in self.notes), default=0)
        lines = [shlex.join(command) for command in self.commands]
        lines += [f"# {failure}" for failure in self.failures]
        lines += [f"# {flag:<{width}}  {text}" for flag, text in self.notes]
        lines += [f"# {flag}: no flag of trtexec that jitrt knows of" for flag in self.unknown]
        return "\n".join(lines)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "command", metavar="TRTEXEC", nargs=argparse.REMAINDER, help="a trtexec command line, quoted or not"
    )


def run(args: argparse.Namespace) -> int:
    words = list(args.command)
    found = migrate(shlex.split(words[0].replace("\\\n", " ")) if len(words) == 1 else words)
    print(found.text())
    return 1 if found.unknown or found.failures else 0


def migrate(words: Sequence[str]) -> Migration:
    """What does the same as `words`, the words of a trtexec command line, maybe with variables set before it. Raises
    OptionError for another program, or for shapes and numbers that are none."""
    program = next((i for i, word in enumerate(words) if "=" not in word or word.startswith("-")), len(words))
    if program == len(words) or Path(words[program]).name not in ("trtexec", "trtexec.exe"):
        raise OptionError('give a trtexec command line, as in jitrt migrate "trtexec --onnx=model.onnx --fp16"')
    flags: dict[str, str] = {}
    found = Migration()
    for word in words[program + 1 :]:
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            found.unknown.append(word)
        elif name in ("shapes", "minShapes", "optShapes", "maxShapes") and name in flags:
            flags[name] += f",{value}"
        else:
            flags[name] = value
    _Migrator(flags, list(words[:program]), found).run()
    return found


class _Migrator:
    """Takes the flags one after another; what is left in the end is not known."""

    def __init__(self, flags: dict[str, str], environment: list[str], found: Migration):
        self.flags = flags
        self.found = found
        self.environment = environment

    def take(self, name: str) -> str | None:
        """The value of a flag ("" for one without), once; None if it is not there."""
        return self.flags.pop(name, None)

    def run(self) -> None:
        self.surroundings()
        model, load = self.take("onnx"), self.take("loadEngine")
        save, only = self.take("saveEngine"), self.flags.keys() & {"buildOnly", "skipInference"}
        said = len(self.found.notes)
        options, bench = self.build_options(), self.bench_options()
        if model is None:
            del self.found.notes[said:]  # what is built already is not asked for its precision
        plan = self.plan_name(save, "saveEngine") if save else None
        if load:
            plan = self.plan_name(load, "loadEngine")
            self.found.note("loadEngine", f"{plan} must be jitrt's: an engine of TensorRT holds TensorRT's code")
        elif model and (save or only):
            plan = plan or str(Path(model).with_suffix(".plan"))
            self.command("build", model, *options, "-o", plan)
        if plan is not None and not only:
            self.command("bench", plan, *self.layers(), *bench)
        elif model and not plan:
            self.command("bench", model, "--precision", self.precision, *self.known_to_bench(options), *bench)
        elif not model and not load:
            self.found.failures.append("no --onnx and no --loadEngine: there is nothing jitrt could read")
        self.looks(plan or "PLAN")
        self.rest()

    def command(self, name: str, *words: str) -> None:
        self.found.commands.append([*self.environment, "jitrt", name, *words])

    # -- groups of flags -----------------------------------------------------------------------------------------

    def surroundings(self) -> None:
        if (device := self.take("device")) is not None:
            self.environment.append(f"CUDA_VISIBLE_DEVICES={device}")
        if self.take("verbose") is not None:
            self.environment.append("JITRT_LOG=debug")
        if (cache := self.take("timingCacheFile")) is not None:
            self.found.note(
                "timingCacheFile", f"timings are always kept, for all models; JITRT_CACHE_DIR moves them ({cache})"
            )

    def build_options(self) -> list[str]:
        self.precision = self.chosen_precision()
        options = [f"--{self.precision}"]
        shapes = self.shapes()
        if shapes:
            options += ["--shapes", shapes]
        if (batch := self.take("batch")) is not None:
            options += ["--batch", batch]
        if (level := self.take("builderOptimizationLevel")) is not None:
            tune = _TUNE.get(_number("builderOptimizationLevel", level))
            options += ["--tune", tune] if tune else []
        workspace = self.workspace()
        if workspace is not None:
            options += ["--workspace", f"{workspace:g}"]
        if self.take("noBuilderCache") is not None:
            options.append("--no-cache")
        return options

    def known_to_bench(self, options: Sequence[str]) -> list[str]:
        """Of the options of a build those that a model can be timed with, alone."""
        pairs = dict(zip(options[1::2], options[2::2], strict=False))
        if "--workspace" in pairs:
            self.found.note("workspace", "only jitrt build takes it: --saveEngine names a plan to build")
        kept = ("--shapes", "--batch", "--tune")
        return [word for name in kept if name in pairs for word in (name, pairs[name])] + ["--vs", "none"]

    def chosen_precision(self) -> str:
        asked = [name for name in ("fp16", "bf16") if self.take(name) is not None]
        eight = [name for name in _EIGHT_BIT if self.take(name) is not None]
        for name in eight:
            self.found.note(name, f"this version computes in no 8-bit type: --{(asked or ['fp16'])[0]} is the fastest")
        if len(asked) > 1:
            self.found.note("bf16", "one precision holds for the whole model: --fp16")
        strict = self.take("noTF32") is not None
        if asked or eight:
            return (asked or ["fp16"])[0]
        if not strict and "stronglyTyped" not in self.flags:
            self.found.note("tf32", "trtexec's default, unless --noTF32; without it jitrt computes in IEEE float32")
            return "tf32"
        return "fp32"

    def shapes(self) -> str | None:
        """--shapes of jitrt: those of inference, or those a profile is best for."""
        named = {name: self.take(name) for name in ("shapes", "optShapes", "maxShapes", "minShapes")}
        given = {name: named_shapes([value]) for name, value in named.items() if value is not None}
        if not given:
            return None
        chosen = next(iter(given))
        others = [name for name, shapes in given.items() if shapes != given[chosen]]
        if others:
            self.found.note(
                ", --".join(others),
                f"a plan has one shape, here that of --{chosen}: build one for each, or let "
                "jitrt.onnx.InferenceSession build them as they come",
            )
        return ",".join(f"{name}:{shape_text(shape)}" for name, shape in given[chosen].items())

    def workspace(self) -> float | None:
        """MiB of scratch memory, from either of trtexec's flags."""
        old, pools = self.take("workspace"), self.take("memPoolSize")
        if old is not None:
            return float(_number("workspace", old))
        found = None
        for entry in (pools or "").split(",") if pools else ():
            pool, _, size = entry.partition(":")
            if pool == "workspace":
                unit = size[-1:].upper() if size[-1:].isalpha() else "M"
                digits = size[:-1] if size[-1:].isalpha() else size
                found = _number("memPoolSize", digits) * _UNITS.get(unit, 1.0)
            else:
                self.found.note("memPoolSize", f"jitrt has no pool {pool!r}")
        return found

    def bench_options(self) -> list[str]:
        duration = self.take("duration")
        return [] if duration is None else ["--seconds", str(_number("duration", duration) or 2)]

    def layers(self) -> list[str]:
        wanted = [self.take(name) is not None for name in ("dumpProfile", "exportProfile")]
        return ["--layers"] if any(wanted) else []

    def looks(self, plan: str) -> None:
        """Commands that print what trtexec prints on the side."""
        shown, kept = self.take("dumpLayerInfo"), self.take("exportLayerInfo")
        if shown is not None:
            self.command("inspect", plan, "--layers")
        if kept is not None:
            self.command("inspect", plan, "--json")
            self.found.note("exportLayerInfo", f"redirect what jitrt inspect prints, to {kept}")
        inputs, dumped, exported = self.take("loadInputs"), self.take("dumpOutput"), self.take("exportOutput")
        if inputs is not None:
            self.found.note(
                "loadInputs", "jitrt run reads .npy files, in the model's order: numpy.save(numpy.fromfile)"
            )
        if inputs is not None or dumped is not None or exported is not None:
            files = [entry.rpartition(":")[2] for entry in inputs.split(",")] if inputs else []
            npy = [word for path in files for word in ("--input", str(Path(path).with_suffix(".npy")))]
            out = ["--output", str(Path(exported).with_suffix(".npy"))] if exported else []
            self.command("run", plan, *npy, *out)

    def plan_name(self, path: str, flag: str) -> str:
        """Where the plan is: jitrt knows plans by their suffix."""
        name = str(Path(path).with_suffix(".plan"))
        if name != path:
            self.found.note(flag, f"a plan's name ends in .plan: {name}")
        return name

    def rest(self) -> None:
        """What has no counterpart, what needs none, and what nobody knows."""
        for name in self.flags:
            if name in ALWAYS:
                self.found.note(name, f"nothing to ask for: {ALWAYS[name]}")
            elif name in NEVER:
                self.found.note(name, f"no counterpart: {NEVER[name]}")
            elif name in ("dumpProfile", "exportProfile"):
                self.found.note(name, "jitrt bench PLAN --layers times every layer")
            elif name in _OTHER_MODELS:
                self.found.failures.append(f"--{name} is of a Caffe or UFF model: export it to ONNX")
            elif name in ("help", "h"):
                self.found.note(name, "jitrt build --help, jitrt bench --help")
            else:
                self.found.unknown.append(f"--{name}")


def _number(flag: str, text: str) -> int:
    if not text.isdigit():
        raise OptionError(f"--{flag} is {text!r}; give a whole number")
    return int(text)
