"""What `jitrt bench` writes, compares and refuses, and the names it takes; test_commands.py has what it hands to the
API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jitrt.bench.layers import Convolutions, LayerTimes
from jitrt.bench.models import SETS, torchvision_models
from jitrt.errors import OptionError
from tests.cli.test_commands import on_the_host

MODULE = "from torch import nn\nnet = nn.Linear(4, 3)\n"
WORDS = ("bench", "model_of_test_bench:net", "--shape", "1x4", "--vs", "eager", "--precision", "fp32")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model in it, where bench runs on the host and jitrt is the model itself."""
    on_the_host(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jitrt.bench.run.Jitrt.prepare", lambda self, model, inputs: model)
    Path("model_of_test_bench.py").write_text(MODULE)
    return tmp_path


def test_a_run_is_written_thrice_and_the_next_compared_with_it(jitrt: Any, here: Path) -> None:
    words = (*WORDS, "--seconds", "0.02", "--output", "R.md")
    assert jitrt(*words)[0] == 0
    assert {path.suffix for path in here.glob("R.*")} == {".md", ".jsonl", ".html"}
    status, out, _ = jitrt(*words, "--against", "R.jsonl", "--html", "page.html")
    assert status == 0
    assert "Against the last runs in R.jsonl:" in out
    first, second = (json.loads(line) for line in Path("R.jsonl").read_text().splitlines())
    assert first["command"] == f"jitrt {' '.join(words)}"
    assert [o["contestant"] for o in second["outcomes"]] == ["jitrt", "eager"]
    assert Path("R.md").read_text().count("| model_of_test_bench:net | 1 | fp32 | jitrt | ") == 1  # in the comparison
    assert "Against the last runs" in Path("page.html").read_text()
    assert "Against the last runs" not in Path("R.html").read_text()


def test_a_set_is_its_networks(jitrt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def bench_models(subjects: Any, *_: Any, **__: Any) -> None:
        raise OptionError(f"timed are {', '.join(subjects)}")

    monkeypatch.setattr("jitrt.cli.bench._need_gpu", lambda: None)
    monkeypatch.setattr("jitrt.cli.bench.bench_subject", lambda name, *_, **__: name)
    monkeypatch.setattr("jitrt.bench.run.bench_models", bench_models)
    err = jitrt("bench", "cnn", "alexnet", "transformer")[2]
    assert f"timed are {', '.join(SETS['cnn'])}, alexnet, vit_b_16, bert_base" in err
    models = torchvision_models()
    assert {*SETS["cnn"], *SETS["transformer"]} - {*models.list_models(module=models)} == {"bert_base"}
    assert len(SETS["cnn"]) == 13


def test_the_layer_benchmark_runs_every_model_and_batch(
    jitrt: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def bench_layers(subject: Any, batch: int, precision: str, *, tune: str, seconds: float, say: Any) -> Convolutions:
        asked.append((subject.name, batch, precision, tune, seconds))
        layer = LayerTimes("3x3 64 -> 64, 56x56", "bias", 1, 10.0, 15.0, 0.1, 5.0, "conv2d", None)
        return Convolutions(subject.name, batch, precision, (layer,))

    monkeypatch.setattr("jitrt.bench.layers.bench_layers", bench_layers)
    words = ("--layers-vs-cudnn", "--batch", "1,8", "--tune", "5s", "--output", "R.md")
    status, out, _ = jitrt(*WORDS, *words)
    assert status == 0
    assert asked == [("model_of_test_bench:net", batch, "fp32", "5s", 0.1) for batch in (1, 8)]
    assert out.count("sum to 10 us by jitrt, 15 us by cuDNN, 5 us at the floor") == 2
    (line,) = Path("R.jsonl").read_text().splitlines()
    assert [found["batch"] for found in json.loads(line)["convolutions"]] == [1, 8]
    assert json.loads(line)["convolutions"][0]["layers"][0]["theirs"] == 15.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resnet18", "--html", "/nowhere/R.html"), "there is no folder /nowhere"),
        (("resnet18", "--against", "/nowhere/R.jsonl"), "the history /nowhere/R.jsonl cannot be read"),
        (("resnet18", "--layers-vs-cudnn", "--layers"), "takes models, and neither --layers nor --without"),
        (("resnet18", "--layers-vs-cudnn", "--without", "parallel"), "takes models, and neither --layers"),
        (("r.plan", "--layers-vs-cudnn"), "takes models"),
        (("resnet18", "--layers-vs-cudnn", "--precision", "fp8"), "unknown precision 'fp8'"),
    ],
)
def test_bench_refuses(jitrt: Any, words: tuple[str, ...], message: str) -> None:
    status, _, err = jitrt("bench", *words)
    assert (status, message in err) == (2, True), err
