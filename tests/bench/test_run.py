"""jitrt.bench.run and peers, on the CPU: the contest's rules; the peers that need a GPU are in tests/gpu."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from jitrt.bench.measure import Call, HostTimer, Inputs
from jitrt.bench.peers import PEERS, Peer, compiled, peers_named
from jitrt.bench.report import Report
from jitrt.bench.run import bench_models
from jitrt.bench.subject import Subject
from jitrt.errors import OptionError
from jitrt.hybrid import HybridEngine
from jitrt.runtime.report import LayerTime, Profile
from tests.cli.plans import tiny_plan


def subject() -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    return Subject("tiny", model, lambda batch: (torch.randn(batch, 3, 6, 6),))


@dataclass(frozen=True)
class Broken:
    """A contestant that fails while preparing, or at its n-th call."""

    at: int
    name: str = "broken"

    def prepare(self, model: nn.Module, inputs: Inputs) -> Call:
        calls = 0

        def call(x: torch.Tensor) -> Any:
            nonlocal calls
            calls += 1
            if calls > self.at:
                raise RuntimeError("out of luck\nand of memory")
            return model(x)

        if not self.at:
            raise RuntimeError("out of luck")
        return call


def bench(*contestants: Any, batches: tuple[int, ...] = (1,), precision: str = "fp32", **kwargs: Any) -> Report:
    options: dict[str, Any] = {"device": "cpu", "timer": HostTimer(), "seconds": 0.01, **kwargs}
    return bench_models([subject()], batches, precision, contestants, **options)


def test_every_contestant_runs_every_batch_and_is_checked() -> None:
    said: list[str] = []
    report = bench(PEERS["eager"], batches=(1, 3), say=said.append)
    assert [(o.batch, o.contestant) for o in report.outcomes] == [(1, "eager"), (3, "eager")]
    assert all(o.timing is not None and o.error < 1e-6 and o.failure is None for o in report.outcomes)
    assert "tiny, batch 3, fp32" in said
    assert said[-1].startswith("  eager ") and said[-1].endswith(" us")
    assert report.tools["torch"] == torch.__version__


def test_a_wrong_answer_shows_as_an_error() -> None:
    doubled = Peer("doubled", lambda model, inputs, dtype: lambda x: 2 * model(x))
    (outcome,) = bench(doubled).outcomes
    assert outcome.error == pytest.approx(1.0)


def test_bf16_inputs_reach_the_contestants_channels_last() -> None:
    seen: list[torch.Tensor] = []

    def prepare(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Call:
        seen.extend(inputs)
        return lambda x: model(x.float())

    (outcome,) = bench(Peer("spy", prepare), precision="bf16").outcomes
    assert outcome.error < 1e-6  # the reference gets the rounded input too
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_failure_is_reported_and_the_others_go_on(at: int) -> None:
    report = bench(Broken(at), PEERS["eager"])
    broken, eager = report.outcomes
    assert broken.failure == "RuntimeError: out of luck"
    assert broken.timing is None
    assert eager.timing is not None
    assert report.failures() == [broken]


@pytest.mark.parametrize("end", [RuntimeError("CUDA error: an illegal memory access"), KeyboardInterrupt()])
def test_a_lost_gpu_or_ctrl_c_ends_the_run_and_keeps_what_was_measured(
    end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([None, end])

    def empty_cache() -> None:
        error = next(calls)
        if error is not None:
            raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    report = bench(PEERS["eager"], batches=(1, 2, 3))
    assert [(o.batch, o.failure) for o in report.outcomes] == [(1, None), (2, None)]


def test_ctrl_c_while_timing_keeps_who_was_timed_already() -> None:
    """The second contestant is interrupted at its first measurement, which the first has behind it."""

    class Pressed(HostTimer):
        def mark(self) -> float:
            if pressed:
                raise KeyboardInterrupt
            return super().mark()

    pressed: list[int] = []

    @dataclass(frozen=True)
    class Slow:
        name: str = "slow"

        def prepare(self, model: nn.Module, inputs: Inputs) -> Call:
            calls: list[int] = []

            def call(x: torch.Tensor) -> Any:
                calls.append(1)
                pressed.extend(calls[1:])  # the first call is for the answer
                return model(x)

            return call

    said: list[str] = []
    report = bench(PEERS["eager"], Slow(), batches=(1, 2), timer=Pressed(), say=said.append)
    (outcome,) = report.outcomes
    assert (outcome.contestant, outcome.batch, outcome.failure, outcome.repeat) == ("eager", 1, None, 0.0)
    assert said[-1] == "  interrupted; the report holds what was measured before"


def test_who_took_the_context_is_named() -> None:
    class Lost(HostTimer):
        def wait(self) -> None:
            if broken:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    broken: list[int] = []

    @dataclass(frozen=True)
    class Fatal:
        name: str = "fatal"

        def prepare(self, model: nn.Module, inputs: Inputs) -> Call:
            def call(x: torch.Tensor) -> Any:
                broken.append(1)
                raise RuntimeError("illegal")

            return call

    report = bench(PEERS["eager"], Fatal(), batches=(1, 2), timer=Lost())
    failures = {o.contestant: o.failure for o in report.outcomes}
    assert failures == dict.fromkeys(["eager", "fatal"], "fatal took the CUDA context with it: RuntimeError: illegal")


GAIN = {"name": "parallel", "with_it": 10.0, "without": 11.0, "kept": True}


def engine(fails: bool = False) -> Any:
    """Stands in for jitrt's: its layer takes 9 of 10 microseconds, or profiling it fails."""
    plan = replace(tiny_plan().plan, notes={"gains": [GAIN]})

    def profile(*inputs: torch.Tensor) -> Profile:
        if fails:
            raise RuntimeError("out of memory")
        return Profile("tiny", "H200", (LayerTime(plan.layers[0], 9.0, 1.0),), 10.0, 9.0, 1.0)

    return SimpleNamespace(plan=plan, profile=profile)


@dataclass(frozen=True)
class Ours:
    """jitrt's place in a contest, taken by the model itself with an engine's plan and profile."""

    engine: Any
    name: str = "jitrt"

    def prepare(self, model: nn.Module, inputs: Inputs) -> Call:
        class Callable(type(self.engine)):  # type: ignore[misc]
            def __call__(self, *x: torch.Tensor) -> Any:
                return model(*x)

        return Callable(**vars(self.engine))


def test_what_the_build_found_of_its_optimisations_is_in_the_report() -> None:
    (gains,) = bench(Ours(engine())).gains
    assert (gains.model, gains.batch, gains.found) == ("tiny", 1, (GAIN,))


def test_results_are_said_as_they_come() -> None:
    said: list[str] = []
    bench(Ours(engine()), Peer("none", lambda model, inputs, dtype: None), say=said.append)
    assert "none failed" in said[-2]
    assert said[-1] == "  parallel 10.0 11.0 +10.0% kept"


def test_layers_are_profiled_if_asked_for() -> None:
    assert bench(Ours(engine())).rooflines == ()
    (roofline,) = bench(Ours(engine()), layers=True).rooflines
    assert (roofline.model, roofline.batch, roofline.call) == ("tiny", 1, 10.0)
    assert [layer.achieved for layer in roofline.layers] == [9.0]


def test_a_profile_that_fails_is_said_and_ends_nothing() -> None:
    said: list[str] = []
    report = bench(Ours(engine(fails=True)), layers=True, say=said.append)
    assert report.rooflines == ()
    assert "  no roofline: RuntimeError: out of memory" in said
    assert report.failures() == []


def test_an_engine_with_steps_on_the_host_has_no_roofline() -> None:
    class Hybrid(HybridEngine):
        def __init__(self, model: nn.Module):
            self.model = model

        def __call__(self, *x: Any) -> Any:
            return self.model(*x)

    @dataclass(frozen=True)
    class Mixed:
        name: str = "jitrt"

        def prepare(self, model: nn.Module, inputs: Inputs) -> Call:
            return Hybrid(model)

    said: list[str] = []
    assert bench(Mixed(), layers=True, say=said.append).rooflines == ()
    assert "  no roofline: part of it runs on the host" in said


def test_a_peer_that_is_for_other_models_says_why() -> None:
    report = bench_models(
        [Subject("mlp", nn.Linear(4, 2), lambda batch: (torch.randn(batch, 4),))],
        [1],
        "fp32",
        [PEERS["cudnn-fused"], PEERS["eager"]],
        device="cpu",
        timer=HostTimer(),
        seconds=0.01,
    )
    assert [(o.timing is None, (o.failure or "").partition(";")[0]) for o in report.outcomes] == [
        (True, "does not apply: the network has no convolutions"),
        (False, ""),
    ]


def test_settings_are_put_back() -> None:
    before = torch.backends.cudnn.benchmark
    seen: list[bool] = []

    def prepare(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Call:
        seen.append(torch.backends.cudnn.benchmark)
        return model

    bench(Peer("spy", prepare))
    assert seen == [True]
    assert torch.backends.cudnn.benchmark == before


def test_compilers_forget_when_a_contest_is_over_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset would have a compiled contestant that is still to be timed compiled anew, without its freezing."""
    happened: list[str] = []
    monkeypatch.setattr("torch._inductor.list_mode_options", lambda: ["a", "b"])
    monkeypatch.setattr("torch._dynamo.reset", lambda: happened.append("reset"))

    def compile(model: nn.Module, *, mode: str, dynamic: bool) -> nn.Module:
        happened.append(f"compile {mode}")
        return model

    monkeypatch.setattr(torch, "compile", compile)
    said = lambda line: happened.append("timing") if "timing" in line else None  # noqa: E731
    report = bench(Peer("a", compiled("a")), Peer("b", compiled("b")), batches=(1, 2), say=said)
    assert report.failures() == []
    assert happened == 2 * ["compile a", "compile b", "timing", "reset"]


def test_bad_requests() -> None:
    with pytest.raises(OptionError, match="unknown precision 'fp8'"):
        bench(precision="fp8")
    with pytest.raises(OptionError, match="positive"):
        bench(batches=(0,))
    with pytest.raises(OptionError, match="unknown peer 'tensorrt'"):
        peers_named("eager,tensorrt")


def test_peers_by_name() -> None:
    assert [p.name for p in peers_named("compile, eager,compile")] == ["compile", "eager"]
    assert [p.name for p in peers_named("all")] == ["eager", "eager+graph", "compile", "cudnn-fused"]
    assert peers_named("none") == []
