"""trtexec command lines, and what jitrt makes of them; what is printed is parsed by the commands themselves."""

from __future__ import annotations

import importlib
import shlex
from typing import Any

import pytest

from jitrt import cli
from jitrt.cli.migrate import migrate
from jitrt.cli.trtexec import ALWAYS, NEVER
from jitrt.errors import OptionError


def commands(text: str) -> list[str]:
    return [shlex.join(command) for command in migrate(shlex.split(text)).commands]


def notes(text: str) -> dict[str, str]:
    return dict(migrate(shlex.split(text)).notes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "trtexec --onnx=a/m.onnx --fp16 --saveEngine=m.engine --shapes=x:8x3x224x224,ids:8x77 --duration=10",
            ["build a/m.onnx --fp16 --shapes x:8x3x224x224,ids:8x77 -o m.plan", "bench m.plan --seconds 10"],
        ),
        (
            "/opt/bin/trtexec --onnx=m.onnx --saveEngine=m.plan --buildOnly --noTF32 --memPoolSize=workspace:2G",
            ["build m.onnx --fp32 --workspace 2048 -o m.plan"],
        ),
        (
            "trtexec --onnx=m --skipInference --bf16 --workspace=512 --noBuilderCache --builderOptimizationLevel=5",
            ["build m --bf16 --tune exhaustive --workspace 512 --no-cache -o m.plan"],
        ),
        (
            "trtexec --onnx=m --minShapes=x:1x3 --optShapes=x:8x3 --maxShapes=x:32x3 --best --memPoolSize=workspace:1",
            ["bench m --precision fp16 --shapes x:8x3 --vs none"],
        ),
        (
            "trtexec --onnx=m.onnx --batch=4 --builderOptimizationLevel=1 --shapes=\\'in:0\\':1x3 --shapes=y:2",
            ["bench m.onnx --precision tf32 --shapes in:0:1x3,y:2 --batch 4 --tune heuristic --vs none"],
        ),
        (
            "trtexec --loadEngine=m.plan --dumpProfile --dumpLayerInfo --exportLayerInfo=l.json --dumpOutput",
            ["bench m.plan --layers", "inspect m.plan --layers", "inspect m.plan --json", "run m.plan"],
        ),
        (
            "trtexec --loadEngine=m.trt --loadInputs=x:x.bin,y:0:y.dat --exportOutput=o.json --useCudaGraph",
            ["bench m.plan", "run m.plan --input x.npy --input y.npy --output o.npy"],
        ),
    ],
)
def test_command_lines(given: str, expected: list[str]) -> None:
    assert commands(given) == [f"jitrt {line}" for line in expected]
    for line in expected:
        name, *words = shlex.split(line)
        parser = cli.Parser(prog=name)
        importlib.import_module(f"jitrt.cli.{name}").arguments(parser)
        parser.parse_args(words)  # a wrong one would exit


def test_what_is_set_before_and_what_becomes_a_variable() -> None:
    assert commands("NO_COLOR=1 trtexec --loadEngine=m.plan --device=1 --verbose") == [
        "NO_COLOR=1 CUDA_VISIBLE_DEVICES=1 JITRT_LOG=debug jitrt bench m.plan"
    ]


def test_every_flag_without_a_counterpart_is_named() -> None:
    found = notes("trtexec --onnx=m.onnx --fp16 --bf16 --int8 --iterations=9 --useCudaGraph --timingCacheFile=t.cache")
    assert found["--iterations"].startswith("no counterpart: a measurement lasts --seconds")
    assert found["--useCudaGraph"].startswith("nothing to ask for: ")
    assert "JITRT_CACHE_DIR" in found["--timingCacheFile"]
    assert found["--int8"] == "this version computes in no 8-bit type: --fp16 is the fastest"
    assert found["--bf16"].endswith("--fp16")
    assert "one shape, here that of --shapes" in notes("trtexec --onnx=m --shapes=x:1 --optShapes=x:2")["--optShapes"]
    assert "--tf32" in notes("trtexec --onnx=m")
    assert "--tf32" not in notes("trtexec --loadEngine=m.plan")
    assert "no pool 'dlaSRAM'" in notes("trtexec --onnx=m --memPoolSize=dlaSRAM:1")["--memPoolSize"]
    assert "only jitrt build takes it" in notes("trtexec --onnx=m --workspace=1")["--workspace"]
    every = migrate(["trtexec", "--onnx=m.onnx", *(f"--{name}" for name in (*ALWAYS, *NEVER))])
    assert not every.unknown
    assert len(every.notes) == len(ALWAYS) + len(NEVER)


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        (["trtexec --onnx=m.onnx --fp16"], 0, "jitrt bench m.onnx --precision fp16 --vs none\n"),
        (["trtexec", "--onnx=m.onnx", "--fp16"], 0, "jitrt bench m.onnx --precision fp16 --vs none\n"),
        (["trtexec \\\n --onnx=m.onnx \\\n --fp16"], 0, "jitrt bench m.onnx --precision fp16 --vs none\n"),
        (["trtexec --onnx=m.onnx --fp16 --fast -v"], 1, "# --fast: no flag of trtexec that jitrt knows of\n"),
        (["trtexec --onnx=m.onnx --fp16 --fast -v"], 1, "# -v: no flag of trtexec that jitrt knows of\n"),
        (
            ["trtexec --deploy=m.prototxt --output=prob"],
            1,
            "# --deploy is of a Caffe or UFF model: export it to ONNX\n",
        ),
        (["trtexec --fp16"], 1, "# no --onnx and no --loadEngine: there is nothing jitrt could read\n"),
        (["trtexec --help --onnx=m"], 0, "jitrt build --help, jitrt bench --help"),
    ],
)
def test_what_is_printed(jitrt: Any, words: list[str], status: int, printed: str) -> None:
    found, out, _ = jitrt("migrate", *words)
    assert found == status
    assert printed in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python train.py", "give a trtexec command line, as in"),
        ("", "give a trtexec command line"),
        ("trtexec --onnx=m --shapes=8x3", "--shapes has '8x3'"),
        ("trtexec --onnx=m --duration=long", "--duration is 'long'; give a whole number"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        migrate(shlex.split(text))
