"""The rig on a GPU made of Python: what it lets win, and everything it catches."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import planted
import pytest

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import target_of
from jitrt.errors import DriverError
from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Linear
from jitrt.kernels.base import Problem, Tactic
from jitrt.runtime.fake_driver import H200, FakeDriver, FakeKernel
from jitrt.tune import buffers, session, verify
from jitrt.tune.candidates import Candidate
from jitrt.tune.rig import Job, Outcome, Rig
from jitrt.tune.timing_cache import Record
from jitrt.tune.verify import Trial, make_trial

TARGET = target_of(90)
SHAPE = (16, 32)
counter = itertools.count()
Run = Callable[..., None]


def relu(
    driver: FakeDriver, y: int, x: int, strides: tuple[int, ...] | None = None, shape: tuple[int, ...] = SHAPE
) -> None:
    driver.array(y, shape, "f16", strides)[...] = np.maximum(driver.array(x, shape, "f16"), np.float16(0))


# -- kernels: each takes (driver, grid, y, x, workspace, zeros) ------------------------------------------------------


def right(driver: FakeDriver, grid: object, y: int, x: int, workspace: int, zeros: int) -> None:
    driver.array(workspace, (16,), "f32")[...] = 1
    relu(driver, y, x)


def wrong(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    relu(driver, y, x)
    driver.array(y, SHAPE, "f16")[3, 7] += np.float16(0.25)


def unwritten(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    before = driver.array(y, SHAPE, "f16")[2, 5].copy()
    relu(driver, y, x)
    driver.array(y, SHAPE, "f16")[2, 5] = before


def beyond(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    relu(driver, y, x)
    driver.array(y, (513,), "f16")[512] = 1


def before(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    relu(driver, y, x)
    driver.array(y - 4, (1,), "f16")[0] = 1


def workspace_beyond(driver: FakeDriver, grid: object, y: int, x: int, workspace: int, zeros: int) -> None:
    relu(driver, y, x)
    driver.array(workspace, (17,), "f32")[16] = 1


def zeros_left(driver: FakeDriver, grid: object, y: int, x: int, workspace: int, zeros: int) -> None:
    relu(driver, y, x)
    driver.array(zeros, (1,), "i32")[0] += 1


def zeros_beyond(driver: FakeDriver, grid: object, y: int, x: int, workspace: int, zeros: int) -> None:
    relu(driver, y, x)
    driver.array(zeros, (5,), "i32")[4] = 0


def stale_workspace(driver: FakeDriver, grid: object, y: int, x: int, workspace: int, zeros: int) -> None:
    relu(driver, y, x)
    if driver.array(workspace, (1,), "f32")[0] > 1e10:  # true of the second poison, not of NaN
        driver.array(y, SHAPE, "f16")[0, 0] *= np.float16(1.001)


def racing(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    relu(driver, y, x)
    driver.array(y, SHAPE, "f16")[...] *= np.float16(1 + next(counter) % 2 * 0.001)


def swallows_nan(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    relu(driver, y, x)
    out = driver.array(y, SHAPE, "f16")
    out[np.isnan(out)] = 0


def saturates(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    relu(driver, y, x)
    out = driver.array(y, SHAPE, "f16")
    out[...] = np.minimum(out, np.float16(100))


def outside_memory(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    driver.array(y + (1 << 30), (1,), "f16")[0] = 1


def raises(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    raise DriverError("cuGraphLaunch", 719, "CUDA_ERROR_LAUNCH_FAILED")


def flex(driver: FakeDriver, grid: tuple[int, int, int], y: int, x: int, *_: int) -> None:
    relu(driver, y, x, shape=grid[:1])


def job(run: Run, problem: Problem | None = None, best: float | None = None) -> Job:
    template = planted.Generous()
    binary = Binary(b"cubin", run.__name__, 0, 4, (1, 1, 1), 0, 32, 0)
    return Job(
        problem or planted.relu_problem(*SHAPE), Candidate(Tactic("listed", ()), template), (binary,), TARGET, best
    )


@pytest.fixture
def measure() -> Iterator[Callable[..., Outcome]]:
    drivers: list[tuple[FakeDriver, Rig]] = []

    def run(kernel: Run, problem: Problem | None = None, best: float | None = None, took: float = 3.0) -> Outcome:
        driver = FakeDriver({kernel.__name__: FakeKernel(("ptr",) * 4, kernel, took)})
        rig = Rig(driver)
        drivers.append((driver, rig))
        return rig.measure(job(kernel, problem, best))

    yield run
    for driver, rig in drivers:
        rig.close()
        assert driver.leaks() == {}


def test_a_right_candidate_is_timed(measure: Callable[..., Outcome]) -> None:
    record = measure(right).record
    assert record.wins
    assert record.microseconds == pytest.approx(3.0, rel=0.02)  # an event's cost is spread over the launches


def half(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
    relu(driver, y, x, shape=(8, 32))


def test_trials_of_problems_to_come_are_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other threads, plain and special, once; and they are what candidates are judged by."""
    made: list[tuple[str, bool]] = []

    def noting(problem: Problem, *, special: bool = False, like: Trial | None = None) -> Trial:
        assert threading.current_thread() is not threading.main_thread()
        made.append((problem.key, special))
        assert (like is None) != special
        return make_trial(problem, special=special, like=like)

    monkeypatch.setattr("jitrt.tune.rig.make_trial", noting)
    monkeypatch.setattr("jitrt.tune.session.make_trial", noting)
    first, second = planted.relu_problem(*SHAPE), planted.relu_problem(8, 32)
    kernels = {run.__name__: FakeKernel(("ptr",) * 4, run, 3.0) for run in (right, half)}
    with closing(Rig(FakeDriver(kernels))) as rig:
        for _ in range(2):
            told = dataclasses.replace(job(right, first), coming=(second, first, second))
            assert rig.measure(told).record.wins
        assert rig.measure(job(half, second)).record.wins
    assert sorted(made) == sorted((p.key, special) for p in (first, second) for special in (False, True))


def test_trials_nobody_asks_for_are_given_up() -> None:
    kernels = {right.__name__: FakeKernel(("ptr",) * 4, right, 3.0)}
    with closing(Rig(FakeDriver(kernels))) as rig:
        many = tuple(planted.relu_problem(1, width) for width in range(1, 50))
        assert rig.measure(dataclasses.replace(job(right), coming=many)).record.wins
        assert len(rig._trials) == 32


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (wrong, "wrong numbers at 1 of 512 elements"),
        (unwritten, "NaN or unwritten at 1 of 512 elements"),
        (beyond, "writes 2 bytes outside the output"),
        (before, "writes 2 bytes outside the output"),
        (workspace_beyond, "bytes outside its workspace"),
        (zeros_left, "does not leave its zeros zero"),
        (zeros_beyond, "bytes outside its zeros"),
        (stale_workspace, "gives other numbers at a second run"),
        (racing, "gives other numbers at a second run"),
        (swallows_nan, "(first at [0, 31]: expected nan, got 0) where the reference is NaN"),
        (saturates, "on large numbers and NaN: wrong numbers"),
        (outside_memory, "crashed: kernel failed with CUDA error 700"),
        (raises, "crashed: cuGraphLaunch failed with CUDA error 719"),
    ],
)
def test_a_bad_candidate_is_refused_with_its_reason(measure: Callable[..., Outcome], kernel: Run, reason: str) -> None:
    outcome = measure(kernel)
    assert reason in (outcome.record.reason or "")
    assert outcome.lasting
    assert outcome.fatal == ("crashed" in reason)
    assert not outcome.record.wins


def test_the_gaps_between_rows_must_stay(measure: Callable[..., Outcome]) -> None:
    problem = planted.relu_problem(*SHAPE, out_strides=(40, 1))

    def into_gaps(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        relu(driver, y, x, (40, 1))
        driver.array(y + 2 * 33, (1,), "f16")[0] = 1

    def tidy(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        relu(driver, y, x, (40, 1))

    assert measure(into_gaps, problem).record.reason == "writes 2 bytes between the rows of its output"
    assert measure(tidy, problem).record.wins


def test_pointers_have_the_promised_alignment_and_no_more(measure: Callable[..., Outcome]) -> None:
    problem = dataclasses.replace(planted.relu_problem(*SHAPE), alignment=(4, 2))
    seen: set[tuple[int, int]] = set()

    def look(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        seen.add((x % 16, y % 16))
        relu(driver, y, x)

    assert measure(look, problem).record.wins
    assert seen == {(4, 2)}


def test_launches_rotate_among_buffers(measure: Callable[..., Outcome]) -> None:
    outputs: list[int] = []

    def look(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        outputs.append(y)
        relu(driver, y, x)

    measure(look)
    timed = outputs[:-4]  # the last runs are for verification, on one set of buffers
    assert len(set(timed)) == 4
    assert all(a != b for a, b in itertools.pairwise(timed))


@pytest.mark.parametrize(("template", "early"), [(planted.Generous(), False), (planted.Dependent(), True)])
def test_launches_are_chained_and_start_early_only_where_the_kernel_waits_itself(
    template: planted.Listed, early: bool
) -> None:
    graphs: list[list[tuple[int, int, bool]]] = []

    def look(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        graphs.append(max((driver.edges(e) for e in driver.executables), key=len))
        relu(driver, y, x)

    rig = Rig(FakeDriver({"look": FakeKernel(("ptr",) * 4, look)}))
    given = dataclasses.replace(job(look), candidate=Candidate(Tactic("listed", ()), template))
    assert rig.measure(given).record.wins
    edges = max(graphs, key=len)
    assert [(a, b) for a, b, _ in edges] == [(i, i + 1) for i in range(len(edges))]
    assert {programmatic for _, _, programmatic in edges[1:-1]} == {early}
    assert not edges[0][2], "after an event a launch waits in full"


def test_a_candidate_behind_the_best_is_not_timed_to_the_end(measure: Callable[..., Outcome]) -> None:
    assert measure(right, best=1.0, took=100.0).record == Record(pytest.approx(100, rel=0.01), slower=True)
    assert measure(right, best=2.9).record.slower
    assert measure(swallows_nan, best=2.9).record.slower  # never ran the last check, and may not win
    assert measure(right, best=9.0).record.wins


def test_a_wrong_verdict_caused_by_another_candidate_is_reversed() -> None:
    """A candidate that scribbles where nothing watches spoils the operands; the next one gets a second hearing."""

    def scribbles(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        relu(driver, y, x)
        driver.array(x, SHAPE, "f16")[...] = 7

    kernels = {run.__name__: FakeKernel(("ptr",) * 4, run) for run in (scribbles, right)}
    rig = Rig(FakeDriver(kernels))
    assert "wrong numbers" in (rig.measure(job(scribbles)).record.reason or "")
    assert rig.measure(job(right)).record.wins
    at = rig._session(planted.relu_problem(*SHAPE)).blocks[0].operands[0].address
    with rig.driver.active():
        rig.driver.fill(at, 7, 64)
    assert rig.measure(job(right)).record.wins


def test_packed_weights_are_what_the_kernel_gets() -> None:
    body = Graph("region")
    x, w = body.add_input("x", TensorType(f32, (3, 5))), body.add_input("w", TensorType(f32, (2, 5)))
    body.mark_output(body.add(Linear(), x, w))
    problem = Problem(body, (False, True), (16, 16, 16))

    def linear(driver: FakeDriver, grid: object, y: int, x: int, w: int) -> None:
        packed = driver.array(w, (5, 2), "f32")
        driver.array(y, (3, 2), "f32")[...] = driver.array(x, (3, 5), "f32") @ packed

    rig = Rig(FakeDriver({"linear": FakeKernel(("ptr",) * 3, linear)}))
    binary = Binary(b"cubin", "linear", 0, 4, (1, 1, 1), 0, 32, 0)
    candidate = Candidate(Tactic("packs", ()), planted.Packs())
    assert rig.measure(Job(problem, candidate, (binary,), TARGET)).record.wins


def test_sessions_make_room_for_one_another() -> None:
    small = dataclasses.replace(H200, memory_bytes=24 << 20)
    driver = FakeDriver({"flex": FakeKernel(("ptr",) * 4, flex)}, small)
    rig = Rig(driver)
    for size in range(8, 14):
        assert rig.measure(job(flex, planted.relu_problem(1, size))).record.wins
    assert len(rig._sessions) == 2
    rig.close()
    assert driver.leaks() == {}


def test_sessions_are_given_up_when_others_fill_the_memory() -> None:
    driver = FakeDriver({"flex": FakeKernel(("ptr",) * 4, flex)}, dataclasses.replace(H200, memory_bytes=64 << 20))
    rig = Rig(driver)
    rig.measure(job(flex, planted.relu_problem(1, 8)))
    with driver.active():
        driver.alloc(driver.memory_info()[0] - (1 << 20))
    assert rig.measure(job(flex, planted.relu_problem(1, 9))).record.wins
    assert len(rig._sessions) == 1


def test_a_problem_too_large_for_the_gpu_is_refused_for_now() -> None:
    tiny = dataclasses.replace(H200, memory_bytes=1 << 20)
    outcome = Rig(FakeDriver({"right": FakeKernel(("ptr",) * 4, right)}, tiny)).measure(job(right))
    assert "out of memory" in (outcome.record.reason or "")
    assert not outcome.lasting


@pytest.mark.parametrize("copies", [0, 100])
def test_a_batch_of_repeated_items_lies_on_the_gpu_as_the_reference_counts_on(
    measure: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    monkeypatch.setattr(session, "_COPIES", copies)
    monkeypatch.setattr(session, "make_trial", functools.partial(make_trial, seconds=1e-12))
    problem = planted.relu_problem(9, 7, out_strides=(10, 1))

    def tidy(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        relu(driver, y, x, (10, 1), (9, 7))

    def exchanges(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
        tidy(driver, grid, y, x)
        out = driver.array(y, (9, 7), "f16", (10, 1))
        out[...] = out[::-1].copy()

    assert measure(tidy, problem).record.wins
    assert "wrong numbers" in (measure(exchanges, problem).record.reason or "")


# -- samples of large batches ------------------------------------------------------------------------------------------

BATCH = (64, 4, 5, 6)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., None]], tuple[Outcome, float]]]:
    """Tries a kernel that writes relu(x) and then lets a function of (the output, x, run) spoil it; returns what came
    of it, and how many times the output was downloaded."""
    monkeypatch.setattr(session, "make_trial", functools.partial(make_trial, seconds=1e-12))
    monkeypatch.setattr(verify, "_SAMPLE", 4)
    rigs: list[Rig] = []

    def run(spoil: Callable[..., None]) -> tuple[Outcome, float]:
        runs, loaded = itertools.count(), []

        def spoiled(driver: FakeDriver, grid: object, y: int, x: int, *_: int) -> None:
            relu(driver, y, x, shape=BATCH)
            spoil(driver.array(y, BATCH, "f16"), driver.array(x, BATCH, "f16"), next(runs))

        driver = FakeDriver({"spoiled": FakeKernel(("ptr",) * 4, spoiled)})
        download = driver.download
        rigs.append(rig := Rig(driver))

        def counting(target: int, source: int, nbytes: int, stream: int = 0) -> None:
            loaded.append(nbytes if nbytes % (5 * 6 * 4 * 2) == 0 else nbytes - 2 * buffers.GUARD)
            download(target, source, nbytes, stream)

        monkeypatch.setattr(driver, "download", counting)
        outcome = rig.measure(job(spoiled, planted.relu_problem(*BATCH)))
        return outcome, sum(n for n in loaded if n > 64) / (2 * np.prod(BATCH))

    yield run
    for rig in rigs:
        rig.close()


def test_of_a_large_batch_one_output_is_looked_at_whole_and_of_the_others_a_sample(
    sampled: Callable[..., tuple[Outcome, float]],
) -> None:
    outcome, whole = sampled(lambda y, x, run: None)
    assert outcome.record.wins
    assert 1.0 < whole < 1.7


@pytest.mark.parametrize(
    ("item", "place"), [(0, (0, 0, 0)), (63, (3, 4, 5)), (62, (0, 4, 0)), (31, (2, 0, 5)), (17, (1, 2, 3))]
)
def test_one_wrong_element_anywhere_in_a_large_batch_is_found(
    sampled: Callable[..., tuple[Outcome, float]], item: int, place: tuple[int, int, int]
) -> None:
    def spoil(y: np.ndarray, x: np.ndarray, run: int) -> None:
        y[(item, *place)] += np.float16(0.25)

    assert "wrong numbers at 1 of" in (sampled(spoil)[0].record.reason or "")


def at_random(y: np.ndarray, x: np.ndarray, run: int) -> None:
    y[...] *= np.float16(1 + run % 2 * 0.002)


def one_channel(y: np.ndarray, x: np.ndarray, run: int) -> None:
    y[:, 2] *= np.float16(1.02)


def forgets_nan(y: np.ndarray, x: np.ndarray, run: int) -> None:
    y[np.isnan(y)] = 0


def leaks_nan(y: np.ndarray, x: np.ndarray, run: int) -> None:
    y[1:, 0, 0, 0][np.isnan(x[:-1]).any((1, 2, 3))] = np.nan


def saturated(y: np.ndarray, x: np.ndarray, run: int) -> None:
    np.minimum(y, np.float16(100), out=y)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (at_random, "gives other numbers at a second run"),
        (one_channel, "wrong numbers"),
        (forgets_nan, "on large numbers and NaN: a number at"),
        (leaks_nan, "on large numbers and NaN: NaN or unwritten at"),
        (saturated, "on large numbers and NaN: wrong numbers"),
    ],
)
def test_what_a_sample_must_show_it_shows(
    sampled: Callable[..., tuple[Outcome, float]], spoil: Callable[..., None], reason: str
) -> None:
    assert (sampled(spoil)[0].record.reason or "").startswith(reason)
