"""build, run, bench and explain: what they hand to the API and what they make of its answer. The API itself is faked
here; the real thing is driven in tests/integration and tests/gpu."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import jitrt as package
from jitrt.bench.measure import HostTimer
from jitrt.errors import NoGpuError, OptionError
from jitrt.passes.apply_rules import unregister
from jitrt.request import optional
from jitrt.runtime.report import LayerTime, Profile
from tests.cli.plans import tiny_arena, tiny_plan


class FakeEngine:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def save(self, path: Path) -> None:
        Path(path).write_bytes(b"x" * 1234)

    def __call__(self, *inputs: Any) -> Any:
        return self.call(inputs)[0]

    def call(self, inputs: Any) -> list[Any]:
        self.calls.append(tuple(inputs))
        return [np.arange(10, dtype=np.float32).reshape(2, 5)]

    plan = tiny_plan().plan

    def profile(self, *inputs: Any) -> Profile:
        layers = tuple(LayerTime(layer, 9.0, 1.0) for layer in self.plan.layers)
        return Profile("tiny", "Fake H200", layers, 17.0, 18.0, 1.0)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeEngine, dict[str, Any]]:
    """Stands in for what jitrt.compile and jitrt.load return; the dict holds how they were called."""
    fake, seen = FakeEngine(), dict[str, Any]()

    def compile(model: Any, inputs: Any, **options: Any) -> FakeEngine:
        seen.update(model=model, inputs=inputs, options=options)
        return fake

    def load(path: Any) -> FakeEngine:
        seen["path"] = path
        return fake

    monkeypatch.setitem(package.__dict__, "compile", compile)
    monkeypatch.setitem(package.__dict__, "load", load)
    return fake, seen


def test_build_hands_over_what_was_asked(jitrt: Any, engine: Any, tmp_path: Path) -> None:
    output = tmp_path / "s.plan"
    words = ("--shape", "1x3x64x64", "--batch", "3", "--fp16", "--target", "sm_80", "--tune", "heuristic")
    status, _, err = jitrt("build", "squeezenet1_1", *words, "--no-cache", "-o", output)
    assert status == 0
    assert f"wrote {output} (1.2 KiB)" in err
    _, seen = engine
    assert seen["options"] == {
        "precision": "fp16",
        "tune": "heuristic",
        "cache": False,
        "target": "sm_80",
    }
    assert seen["inputs"][0].shape == (3, 3, 64, 64)
    assert seen["inputs"][0].dtype == torch.float16
    assert next(seen["model"].parameters()).dtype == torch.float16


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("-o", "there"), 2, "--output is there, which is a folder; name a file in it"),
        (("-o", "s.plan", "--target", "reference"), 1, "unknown target 'reference'; jitrt builds for sm_80"),
        (("-o", "s.plan", "--target", "sm_80,sm_9"), 1, "unknown target 'sm_9'"),
        (("-o", "s.plan", "--tune", "long"), 2, "tune is 'long'; give a time such as"),
    ],
)
def test_build_refuses_before_it_loads_the_model(
    jitrt: Any,
    engine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    monkeypatch.setattr("jitrt.cli.build.load_subject", lambda *_, **__: pytest.fail("the model was loaded"))
    found, _, err = jitrt("build", "resnet50", *words)
    assert (found, message in err) == (status, True), err


def test_build_refuses_a_folder_that_cannot_be_written(
    jitrt: Any, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    status, _, err = jitrt("build", "resnet50", "-o", tmp_path / "s.plan")
    assert status == 2
    assert f"but {tmp_path} cannot be written; choose another folder" in err


def test_build_without_a_gpu_says_what_can_be_built(
    jitrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile(model: Any, inputs: Any, **options: Any) -> None:
        raise NoGpuError("no NVIDIA driver is installed here")

    monkeypatch.setitem(package.__dict__, "compile", compile)
    status, _, err = jitrt("build", "squeezenet1_1", "-o", tmp_path / "s.plan")
    assert status == 1
    assert "--target sm_90" in err


def test_run_with_files(jitrt: Any, engine: Any, plan_path: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(1).random((2, 3, 4, 4), dtype=np.float32)
    np.save(tmp_path / "image.npy", image)
    result = tmp_path / "scores.out"
    status, out, _ = jitrt("run", plan_path, "--input", tmp_path / "image.npy", "--output", result)
    assert status == 0
    assert "f32" in out
    assert "4.5" in out  # the mean of 0..9
    fake, seen = engine
    assert seen["path"] == str(plan_path)
    ((given,),) = fake.calls
    assert given.dtype == np.float16
    assert np.array_equal(np.load(result), np.arange(10, dtype=np.float32).reshape(2, 5))


def test_run_with_random_inputs(jitrt: Any, engine: Any, plan_path: Path) -> None:
    assert jitrt("run", plan_path)[0] == 0
    ((given,),) = engine[0].calls
    assert given.shape == (2, 3, 4, 4)
    assert given.std() > 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--input", "a.npy", "--input", "b.npy"), "2 times --input, but"),
        (("--output", "a", "--output", "b"), "2 times --output, but"),
        (("--input", "text.npy"), "text.npy is not a whole .npy file of numbers; write one with"),
        (("--input", "missing.npy"), "No such file or directory: missing.npy"),
        (("--output", "nowhere/y.npy"), "--output is nowhere/y.npy, but there is no folder nowhere"),
    ],
)
def test_run_refuses(
    jitrt: Any, engine: Any, plan_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plan_path.parent)
    Path("text.npy").write_text("hello")
    status, _, err = jitrt("run", plan_path, *words)
    assert status in (1, 2)
    assert message in err


def test_bench_needs_a_gpu_and_good_options(jitrt: Any, plan_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "shows none; jitrt doctor" in jitrt("bench", "resnet50")[2]
    for words, message in (
        (("resnet50", "--vs", "tensorrt"), "unknown peer 'tensorrt'"),
        (("resnet50", "--precision", "fp4"), "--precision is 'fp4'"),
        (("resnet50", "--batch", "0"), "--batch is '0'"),
        (("resnet50", "--output", "/nowhere/R.md"), "there is no folder /nowhere"),
        (("resnet50", plan_path), "cannot be timed in one run"),
        (("resnet50", "--seconds", "0"), "--seconds is 0.0"),
        (("resnet50", "--tune", "long"), "tune is 'long'"),
        (("resnet50", "--without", "join_branches,vertical"), "without names 'vertical'; what can be left out is"),
        (("resnet50", "--without", "pool"), "what can be left out is join_stem_pool, join_conv_pool"),
        ((plan_path, "--without", "parallel"), "--without needs a model"),
        ((plan_path, "--vs", "eager"), "a plan has no PyTorch model"),
        (("/nowhere/x.plan",), "there is no plan at /nowhere/x.plan"),
    ):
        status, _, err = jitrt("bench", *words)
        assert (status, message in err) == (2, True), err


def test_bench_times_a_model_and_writes_the_table(
    jitrt: Any, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_host(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("model_to_bench.py").write_text("from torch import nn\nnet = nn.Linear(4, 3)\n")
    words = ("--shape", "1x4", "--batch", "1,2", "--vs", "eager", "--precision", "fp32", "--seconds", "0.02")
    status, out, err = jitrt("bench", "model_to_bench:net", *words, "--output", "RESULTS.md")
    assert status == 1  # the fake engine's answer has another shape, which counts as a failure of ours
    assert "jitrt failed on model_to_bench:net, batch 1: `ValueError: output shape" in out
    assert "model_to_bench:net, batch 2, fp32" in err
    assert Path("RESULTS.md").read_text().count("| model_to_bench:net |") == 6


@pytest.mark.parametrize("command", ["bench", "explain"])
def test_what_can_be_left_out_is_in_the_help(jitrt: Any, command: str) -> None:
    text = " ".join(jitrt(command, "--help")[1].split())
    assert all(f"{name}, " in text for name in optional())


def test_bench_takes_a_rule_that_the_module_of_a_model_brings(
    jitrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bench_models(subjects: Any, batches: Any, precision: str, contestants: Any, **_: Any) -> None:
        raise OptionError(f"timed are {[contestant.name for contestant in contestants]}")

    monkeypatch.setattr("jitrt.cli.bench._need_gpu", lambda: None)
    monkeypatch.setattr("jitrt.bench.run.bench_models", bench_models)
    monkeypatch.chdir(tmp_path)
    Path("model_with_a_rule.py").write_text(
        "import jitrt\nfrom torch import nn\nnet = nn.Linear(4, 3)\n"
        "jitrt.fusion_rule('rule_of_a_module', pattern=lambda g, x: g.tanh(x), rewrite=lambda g, x: g.tanh(x))\n"
    )
    words = ("bench", "model_with_a_rule:net", "--shape", "1x4", "--vs", "none", "--without")
    try:
        assert "timed are ['jitrt', 'without rule_of_a_module']" in jitrt(*words, "rule_of_a_module")[2]
    finally:
        unregister("rule_of_a_module")
    assert "without names 'rule_of_a_module'" in jitrt(*words, "rule_of_a_module")[2]


def test_bench_times_a_plan(jitrt: Any, engine: Any, plan_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_host(monkeypatch)
    status, out, _ = jitrt("bench", plan_path, "--layers", "--seconds", "0.01")
    assert status == 0
    assert "17 us a call, layers one by one 18 us" in out
    assert "conv+add+relu" in out
    (given,) = engine[0].calls[0]
    assert given.stride() == (48, 1, 12, 3)
    assert given.dtype == torch.float16


def test_explain_shows_the_explanation_or_its_counts(jitrt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Explanation:
        def __str__(self) -> str:
            return "everything"

        def count(self) -> str:
            return "3 kernels"

        before, after = "as it came", "as it runs"

    seen, left_out = [], []

    def explain(model: Any, inputs: Any, precision: str, without: Any) -> Explanation:
        seen.append((*inputs, precision))
        left_out.append(without)
        return Explanation()

    monkeypatch.setitem(package.__dict__, "explain", explain)
    assert jitrt("explain", "squeezenet1_1", "--batch", "2")[1] == "everything\n"
    assert jitrt("explain", "squeezenet1_1", "--count", "--fp16")[1] == "3 kernels\n"
    words = ("--graph", "--without", "branches, parallel")
    assert jitrt("explain", "squeezenet1_1", *words)[1] == "as it came\nas it runs\n"
    assert left_out == [(), (), ("join_branches", "parallel")]
    assert seen[0][0].shape == (2, 3, 224, 224)
    assert [precision for _, precision in seen] == ["fp32", "fp16", "fp32"]
    assert seen[1][0].dtype == torch.float16


def test_explain_counts_several_models_in_one_table(jitrt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are made up; those of the three models of the post are in tests/cli/test_count.py."""

    made = SimpleNamespace(layers=Counter(conv=60, batch_norm=6), kernels=Counter({"conv 3x3": 20}), launches=21)
    loaded: list[str] = []
    monkeypatch.setattr("jitrt.cli.explain.load_subject", lambda model, *_, **__: loaded.append(model))
    monkeypatch.setattr("jitrt.cli.explain.prepared", lambda *_: (None, ()))
    monkeypatch.setitem(package.__dict__, "explain", lambda *_, **__: made)
    status, out, _ = jitrt("explain", "squeezenet1_1", "squeezenet1_0", "--count")
    assert (status, loaded) == (0, ["squeezenet1_1", "squeezenet1_0"])
    rows = [[cell.strip() for cell in row.strip("│").split("│")] for row in out.splitlines() if "squeeze" in row]
    assert rows == [["squeezenet1_1", "66", "20", "21"], ["squeezenet1_0", "66", "20", "21"]]
    status, _, err = jitrt("explain", "squeezenet1_1", "squeezenet1_0")
    assert status == 2
    assert "one model at a time, not squeezenet1_1, squeezenet1_0; --count takes several" in err


def test_explain_draws_the_arena(jitrt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(memory=SimpleNamespace(to_json=tiny_arena))
    monkeypatch.setattr("jitrt.cli.explain.load_subject", lambda *_, **__: None)
    monkeypatch.setattr("jitrt.cli.explain.prepared", lambda *_: (None, ()))
    monkeypatch.setitem(package.__dict__, "explain", lambda *_, **__: made)
    assert "%sum over %left" in jitrt("explain", "squeezenet1_1", "--memory")[1]


def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bench run on the CPU, timed by the host's clock."""
    monkeypatch.setattr("jitrt.cli.bench._need_gpu", lambda: None)
    monkeypatch.setattr("jitrt.bench.run.CudaTimer", HostTimer)
    for name in ("bench_models", "bench_plans"):
        real = getattr(__import__("jitrt.bench.run", fromlist=[name]), name)

        def on_cpu(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            return real(*args, **{**kwargs, "device": "cpu"})

        monkeypatch.setattr(f"jitrt.bench.run.{name}", on_cpu)
