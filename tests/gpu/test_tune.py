"""Tuning on a real GPU: real kernels win, planted ones that break a rule are found out, what dies is survived."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parent))  # workers import the planted template by name

import planted_kernels

from jitrt.codegen.target import target_of
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32
from jitrt.graph.ops import Add, Conv, Linear, Mul, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem, templates
from jitrt.tune.measure import GpuMeasurer
from jitrt.tune.progress import Event
from jitrt.tune.select import Choice, select

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


def nhwc(type: TensorType) -> TensorType:
    return type.with_layout(Layout(channels_last(type.shape)))


def conv(batch: int, channels: int, size: int, filters: int, taps: int, dtype: DType = f16) -> Problem:
    """conv + bias + residual + relu, NHWC."""
    body = Graph("region")
    x = body.add_input("x", nhwc(TensorType(dtype, (batch, channels, size, size))))
    w = body.add_input("w", nhwc(TensorType(dtype, (filters, channels, taps, taps))))
    bias = body.add_input("bias", TensorType(dtype, (filters, 1, 1)))
    pad = (taps // 2, taps // 2)
    y = body.add(Add(), body.add(Conv((1, 1), (pad, pad), (1, 1)), x, w), bias)
    y = body.add(Relu(), body.add(Add(), y, body.add_input("residual", nhwc(y.type.logical()))))
    y.type = nhwc(y.type)
    body.mark_output(y)
    return Problem(body, (False, True, True, False), (16,) * 5)


def linear(rows: int, columns: int, filters: int, dtype: DType = f16) -> Problem:
    body = Graph("region")
    x = body.add_input("x", TensorType(dtype, (rows, columns)))
    w = body.add_input("w", TensorType(dtype, (filters, columns)))
    body.mark_output(body.add(Add(), body.add(Linear(), x, w), body.add_input("bias", TensorType(dtype, (filters,)))))
    return Problem(body, (False, True, True), (16,) * 4)


def swish(*shape: int) -> Problem:
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, shape))
    body.mark_output(body.add(Mul(), x, body.add(Sigmoid(), x)))
    return Problem(body, (False,), (16, 16))


def tune(problems: list[Problem], mode: str | float, **options: object) -> tuple[list[Choice], list[Event], float]:
    events: list[Event] = []
    start = time.perf_counter()
    choices = select(problems, target_of(90), mode=mode, device=0, progress=events.append, **options)  # type: ignore[arg-type]
    return choices, events, time.perf_counter() - start


def refusals(events: list[Event]) -> list[str]:
    return [event.text for event in events if event.record is not None and event.record.reason is not None]


def test_real_problems_are_tuned_once_and_then_known() -> None:
    problems = [
        conv(1, 64, 56, 64, 3),
        conv(1, 512, 7, 512, 3),  # few tiles, a deep reduction: split-K
        conv(8, 128, 28, 128, 3),
        conv(2, 24, 15, 40, 3, bf16),  # nothing divides
        conv(1, 32, 14, 32, 3, f32),
        linear(1, 2048, 1000),
        linear(300, 256, 72, f32),
        swish(4, 1000, 77),
    ]
    choices, events, seconds = tune(problems, "40s")
    print(f"{seconds:.1f} s")
    for choice in choices:
        print(f"{choice.microseconds:8.2f} us  {choice.tactic}")
    print("\n".join(refusals(events)))
    sources = [choice.source for choice in choices]  # the shipped table knows a linear layer like the one to 1000
    assert all(source == "measured" or (source == "table" and at == 5) for at, source in enumerate(sources)), sources
    assert all(0.5 < choice.microseconds < 60 for choice in choices)
    assert sum("wrong numbers" in text for text in refusals(events)) == 0, "the package's own kernels are right"
    # The second time nothing is compiled or measured.
    again, events, seconds = tune(problems, "40s")
    known = [event for event in events if event.kind == "candidate"]
    print(f"again: {seconds:.1f} s, {len(known)} more candidates")
    assert known == []
    assert [(c.tactic, c.binaries) for c in again] == [(c.tactic, c.binaries) for c in choices]
    assert all(choice.source == "cache" for choice in again)
    assert seconds < 10


def test_a_large_problem_is_checked_to_the_last_item_and_timed_at_memory_speed() -> None:
    problems = [conv(64, 64, 56, 64, 1), swish(64, 256, 56, 56)]
    (first, second), events, seconds = tune(problems, "heuristic")
    print(f"{seconds:.1f} s: {first.microseconds:.1f} us, {second.microseconds:.1f} us", refusals(events))
    moved = 2 * problems[1].output.type.nbytes
    assert 1.0e12 < moved / (second.microseconds * 1e-6) < 6.0e12


def test_planted_faults_are_found_out_and_their_crashes_survived() -> None:
    measurer = GpuMeasurer(0, patience=3.0)
    template = planted_kernels.Faulty()
    problem = planted_kernels.faulty_problem()
    events: list[Event] = []
    try:
        (choice,) = select(
            [problem],
            target_of(90),
            mode="exhaustive",
            offered={"faulty": template},
            measurer=measurer,
            progress=events.append,
        )
    finally:
        measurer.close()
    said = {dict(e.tactic.config)["fault"]: e for e in events if e.tactic is not None}
    for fault, event in said.items():
        print(fault, "->", event.text)
    expected = {
        "wrong": "wrong numbers",
        "unwritten": "NaN or unwritten at 96 of 49152 elements",
        "gaps": "bytes between the rows of its output",
        "stale": "gives other numbers at a second run",
        "workspace": "bytes outside its workspace",
        "zeros": "does not leave its zeros zero",
        "illegal": "crashed",
        "hang": "hung",
    }
    for fault, reason in expected.items():
        assert reason in said[fault].text, fault
    assert dict(choice.tactic.config)["fault"] == "none"
    slow, none = said["slow"].record, said["none"].record
    assert slow is not None
    assert none is not None
    assert slow.reason is None
    assert (slow.microseconds or 0) > 5 * (none.microseconds or 1e9)


def test_a_candidate_that_swallows_nan_may_not_win() -> None:
    (choice,), events, _ = tune(
        [planted_kernels.faulty_problem()],
        "exhaustive",
        offered={"faulty": planted_kernels.Faulty("swallows", "slow")},  # one that loses is not looked at so closely
    )
    assert dict(choice.tactic.config)["fault"] == "slow"
    assert "on large numbers and NaN: a number at" in refusals(events)[0]


def test_times_agree_between_two_measurements() -> None:
    problem = conv(8, 256, 14, 256, 3)
    times = [tune([problem], "heuristic", use_cache=False)[0][0].microseconds for _ in range(2)]
    print(times)
    assert times[0] == pytest.approx(times[1], rel=0.15)


def test_every_template_is_on_offer() -> None:
    assert {"conv2d", "pointwise"} <= set(templates())
