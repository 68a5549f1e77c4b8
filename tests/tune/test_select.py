"""The tuning loop with a compiler and a GPU made of Python: what wins, what is refused, and what ends it."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import planted
import pytest

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target, target_of
from jitrt.errors import OptionError, TuningError
from jitrt.kernels.base import Problem, Tactic
from jitrt.runtime.fake_driver import H200
from jitrt.tune import select as module
from jitrt.tune.candidates import Candidate
from jitrt.tune.compile_pool import Compiled
from jitrt.tune.progress import Event
from jitrt.tune.rig import Job, Outcome
from jitrt.tune.select import Choice, attempt, select
from jitrt.tune.shipped import Entry, Table, key_of
from jitrt.tune.timing_cache import Record, TimingCache

TARGET = target_of(90)
SMALL, LARGE = planted.relu_problem(8, 8), planted.relu_problem(4096, 4096)


def choice_of(tactic: Tactic) -> int:
    return int(dict(tactic.config)["choice"])


class FakeCompiler:
    """Compiles at once. `results` gives, by choice, a reason or the (spills, shared bytes, registers) of the binary."""

    def __init__(self, results: dict[int, object] | None = None, workers: int = 2):
        self.results, self.workers = results or {}, workers
        self.compiled: list[int] = []

    def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]:
        number = choice_of(candidate.tactic)
        self.compiled.append(number)
        result = self.results.get(number, (0, 0, 32))
        future: Future[Compiled] = Future()
        if isinstance(result, Compiled):
            future.set_result(result)
        else:
            spills, shared, registers = result  # type: ignore[misc]
            binary = Binary(f"cubin {number}".encode(), "k", shared, 4, (1, 1, 1), 0, registers, spills)
            future.set_result(Compiled((binary,)))
        return future

    def close(self) -> None: ...


class FakeGpu:
    """Answers with what `times` says of a choice: microseconds, a reason, or something to call."""

    device = H200

    def __init__(self, times: dict[int, object]):
        self.times = times
        self.jobs: list[Job] = []
        self.started = False

    def start(self) -> None:
        self.started = True

    def measure(self, job: Job) -> Outcome:
        self.jobs.append(job)
        answer = self.times[choice_of(job.candidate.tactic)]
        if callable(answer):
            answer = answer()
        if isinstance(answer, Outcome):
            return answer
        if isinstance(answer, str):
            return Outcome(Record(reason=answer))
        return Outcome(Record(float(answer), slower=job.best is not None and answer >= job.best))  # type: ignore[arg-type]

    @property
    def measured(self) -> list[int]:
        return [choice_of(job.candidate.tactic) for job in self.jobs]

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))
    return tmp_path


def run(
    gpu: FakeGpu | None,
    compiler: FakeCompiler | None = None,
    problems: tuple[Problem, ...] = (SMALL,),
    count: int = 3,
    **options: object,
) -> list[Choice]:
    offered = {"listed": planted.Listed(count)}
    return select(problems, TARGET, offered=offered, compiler=compiler or FakeCompiler(), measurer=gpu, **options)  # type: ignore[arg-type]


def test_the_gpu_worker_is_told_of_every_problem_once_before_its_turn() -> None:
    problems = tuple(planted.relu_problem(4, width) for width in (8, 16, 24, 32))
    gpu = FakeGpu({0: 3.0, 1: 2.0, 2: 1.0})
    run(gpu, problems=problems)
    told = [problem.key for job in gpu.jobs for problem in job.coming]
    assert len(set(told)) == len(told) == 3
    for key in told:
        measured = next(at for at, job in enumerate(gpu.jobs) if job.problem.key == key)
        assert any(key == problem.key for job in gpu.jobs[:measured] for problem in job.coming)


def test_the_gpu_worker_hears_of_a_few_problems_at_a_time() -> None:
    """It keeps but so many trials: what it hears too early of it has dropped by the time it needs it."""
    problems = tuple(planted.relu_problem(4, 8 * width) for width in range(1, 41))
    gpu = FakeGpu({0: 3.0, 1: 2.0, 2: 1.0})
    run(gpu, problems=problems)
    told, measured, ahead = set[str](), set[str](), []
    for job in gpu.jobs:
        told |= {problem.key for problem in job.coming}
        measured.add(job.problem.key)
        ahead.append(len(told - measured))
    assert max(ahead) == 16
    assert len(told) >= 39


# -- what wins ---------------------------------------------------------------------------------------------------------


def test_the_fastest_right_candidate_wins() -> None:
    (choice,) = run(FakeGpu({0: 5.0, 1: 3.0, 2: 4.0}))
    assert choice_of(choice.tactic) == 1
    assert (choice.microseconds, choice.source) == (3.0, "measured")
    assert choice.binaries[0].cubin == b"cubin 1"


@pytest.mark.parametrize(
    "reason",
    [
        "wrong numbers at 3 of 64 elements",
        "writes 2 bytes outside the output",
        "the GPU worker hung: killed",
        "crashed",
    ],
)
def test_a_refused_candidate_never_wins_and_its_reason_is_kept(reason: str) -> None:
    (choice,) = run(FakeGpu({0: 5.0, 1: reason, 2: 6.0}))
    assert choice_of(choice.tactic) == 0
    tried = {choice_of(tactic): result for tactic, result in choice.tried}
    assert tried == {0: 5.0, 1: reason, 2: 6.0}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ((0, TARGET.shared + 1, 32), "bytes of shared memory"),
        ((0, 0, 600), "registers for each of 128 threads"),
        ((16, 0, 32), "spills 16 bytes"),
        (Compiled(reason="CompilationError: no such thing", lasting=True), "no such thing"),
        (Compiled(reason="the compiler died of SIGSEGV"), "died of SIGSEGV"),
    ],
)
def test_what_the_compiler_says_is_enough_to_refuse(result: object, reason: str) -> None:
    gpu = FakeGpu({0: 5.0, 1: 1.0, 2: 6.0})
    (choice,) = run(gpu, FakeCompiler({1: result}))
    assert choice_of(choice.tactic) == 0
    assert 1 not in gpu.measured
    assert reason in str(dict(choice.tried))


def test_a_candidate_that_spills_is_the_last_resort() -> None:
    gpu = FakeGpu({0: "wrong numbers", 1: 7.0, 2: "wrong numbers"})
    (choice,) = run(gpu, FakeCompiler({1: (16, 0, 32)}))
    assert choice_of(choice.tactic) == 1
    assert gpu.measured == [0, 2, 1]


def test_equal_problems_are_tuned_once() -> None:
    gpu = FakeGpu({0: 5.0, 1: 3.0, 2: 4.0})
    first, _, again = run(gpu, problems=(SMALL, LARGE, planted.relu_problem(8, 8)))
    assert first == again
    assert len(gpu.jobs) == 6


def test_nothing_left_is_an_error_with_every_reason() -> None:
    with pytest.raises(TuningError, match=r"(?s)choice=0\): wrong numbers.*choice=1\): .*SIGSEGV.*relu"):
        run(
            FakeGpu({0: "wrong numbers", 2: "crashed"}),
            FakeCompiler({1: Compiled(reason="the compiler died of SIGSEGV")}),
        )


def test_no_template_is_an_error_with_every_templates_reason() -> None:
    offered = {"picky": planted.Listed(name="picky", refuses="is only for convolutions")}
    with pytest.raises(TuningError, match="picky: is only for convolutions"):
        select([SMALL], TARGET, offered=offered)


# -- modes -------------------------------------------------------------------------------------------------------------


def test_without_a_gpu_the_first_that_compiles_well_is_taken() -> None:
    compiler = FakeCompiler({0: (8, 0, 32)})
    (choice,) = run(None, compiler, mode="60s")
    assert choice_of(choice.tactic) == 1
    assert (choice.microseconds, choice.source) == (0.0, "heuristic")
    assert compiler.compiled == [0, 1]


def test_heuristic_on_a_gpu_takes_the_first_that_is_right() -> None:
    gpu = FakeGpu({0: "wrong numbers", 1: 5.0, 2: 1.0})
    (choice,) = run(gpu, mode="heuristic")
    assert choice_of(choice.tactic) == 1
    assert gpu.measured == [0, 1]
    # And the same again, whatever the cache has learnt since.
    (longer,) = run(FakeGpu({2: 1.0}), mode="exhaustive")
    assert choice_of(longer.tactic) == 2
    (again,) = run(FakeGpu({}), mode="heuristic")
    assert again.tactic == choice.tactic


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match="'quickly'"):
        run(FakeGpu({}), mode="quickly")


# -- the budget --------------------------------------------------------------------------------------------------------


def test_every_problem_gets_a_winner_before_any_gets_a_second_candidate() -> None:
    gpu = FakeGpu(dict.fromkeys(range(6), 5.0))
    run(gpu, FakeCompiler(workers=1), problems=(SMALL, LARGE), count=6)
    firsts = [gpu.measured[0], gpu.measured[1]]
    assert firsts == [0, 0]
    assert {job.problem.key for job in gpu.jobs[:2]} == {SMALL.key, LARGE.key}


def test_an_expensive_problem_gets_more_of_the_budget() -> None:
    clock = Ticking()
    gpu = FakeGpu(dict.fromkeys(range(50), clock.tick))
    with clock:
        run(gpu, FakeCompiler(workers=1), problems=(SMALL, LARGE), count=50, mode=14.0)
    large = sum(job.problem.key == LARGE.key for job in gpu.jobs)
    assert 12 <= len(gpu.jobs) <= 16
    assert large >= 9


def test_the_budget_ends_the_search_but_not_before_every_problem_has_a_winner() -> None:
    clock = Ticking()
    wrong_first = {0: lambda: clock.tick() and "wrong numbers", 1: lambda: clock.tick() and 9.0, 2: clock.tick}
    gpu = FakeGpu(wrong_first)
    with clock:
        small, large = run(gpu, FakeCompiler(workers=1), problems=(SMALL, LARGE), mode=0.5)
    assert choice_of(small.tactic) == choice_of(large.tactic) == 1
    assert sorted(gpu.measured) == [0, 0, 1, 1]


class Ticking:
    """A clock of a second a measurement, in place of the real one."""

    now = 0.0

    def tick(self) -> float:
        self.now += 1.0
        return 5.0

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        clock = module.Clock
        self._patch.setattr(module, "Clock", lambda seconds: clock(seconds, lambda: self.now))

    def __exit__(self, *exception: object) -> None:
        self._patch.undo()


def test_what_is_still_compiling_when_time_is_up_is_not_waited_for() -> None:
    class Slow(FakeCompiler):
        def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]:
            if choice_of(candidate.tactic) == 0:
                return super().submit(problem, candidate, target)
            return Future()  # never done

    start = time.perf_counter()
    (choice,) = run(FakeGpu({0: 5.0}), Slow(), mode=0.2)
    assert choice_of(choice.tactic) == 0
    assert time.perf_counter() - start < 5


# -- patience ----------------------------------------------------------------------------------------------------------


def slow_problems(*, mode: str | float, gpu: FakeGpu, patience: float | None = 2.0) -> list[Choice | None]:
    """Twenty problems, the wider the dearer, with three candidates each."""
    problems = [planted.relu_problem(512, 512 * width) for width in range(1, 21)]
    offered = {"listed": planted.Listed(3)}
    compiler = FakeCompiler(workers=1)
    return attempt(
        problems, TARGET, mode=mode, patience=patience, offered=offered, compiler=compiler, measurer=gpu, use_cache=True
    )


def test_a_search_ends_when_patience_does_and_the_dearest_problems_have_their_tactics() -> None:
    clock = Ticking()
    gpu = FakeGpu(dict.fromkeys(range(3), clock.tick))
    with clock:
        chosen = slow_problems(mode=5.0, gpu=gpu)
    assert clock.now == 7.0
    assert [choice is not None for choice in chosen] == [False] * 13 + [True] * 7
    assert all(choice.verified for choice in chosen if choice is not None)
    # Nobody waits for a measurement much longer than that.
    assert [job.limit for job in gpu.jobs] == [7.0 - at + 3.0 for at in range(7)]


def test_without_patience_and_without_a_time_to_be_over_every_problem_gets_its_tactic() -> None:
    for mode, patience in ((5.0, None), ("heuristic", 2.0), ("exhaustive", 2.0)):
        clock = Ticking()
        with clock:
            chosen = slow_problems(mode=mode, gpu=FakeGpu(dict.fromkeys(range(3), clock.tick)), patience=patience)
        assert all(choice is not None for choice in chosen)


@pytest.mark.parametrize("mode", ["60s", "heuristic", "exhaustive"])
@pytest.mark.parametrize("patience", [2.0, 100.0])
def test_ctrl_c_ends_a_search_in_seconds(mode: str, patience: float) -> None:
    clock, presses = Ticking(), iter([interrupt])
    gpu = FakeGpu(dict.fromkeys(range(3), lambda: next(presses, clock.tick)()))
    with clock:
        chosen = slow_problems(mode=mode, gpu=gpu, patience=patience)
    assert clock.now == 2.0
    assert sum(choice is not None for choice in chosen) == 2


def test_what_is_measured_is_on_disk_before_anything_else_is() -> None:
    """Whatever kills a build loses nothing."""
    clock, problems = Ticking(), [planted.relu_problem(8, 8 * width) for width in range(1, 9)]
    known: list[int] = []

    def look(problem: Problem, tactic: Tactic, record: Record) -> None:
        elsewhere = sqlite3.connect(TimingCache().path)  # as another process sees it
        known.append(elsewhere.execute("SELECT COUNT(*) FROM timings").fetchone()[0])
        elsewhere.close()
        if len(known) == 10:
            raise SystemExit("killed")

    gpu = FakeGpu(dict.fromkeys(range(3), clock.tick))
    with pytest.raises(SystemExit):
        run(gpu, problems=tuple(problems), on_candidate=look)
    assert known == list(range(1, 11))
    run(again := FakeGpu(dict.fromkeys(range(3), 5.0)), problems=tuple(problems))
    assert len(again.jobs) == 3 * 8 - 10


def guess(*problems: Problem, compiler: FakeCompiler | None = None) -> list[Choice]:
    chosen = attempt(
        problems,
        TARGET,
        mode=1e-3,
        measure=False,
        offered={"listed": planted.Listed(3)},
        compiler=compiler or FakeCompiler(),
        measurer=FakeGpu({}),
    )
    return [choice for choice in chosen if choice is not None]


def test_a_guess_is_what_the_cache_holds_good_or_else_the_first_that_was_not_found_wrong() -> None:
    run(FakeGpu({0: 5.0, 1: 3.0, 2: 4.0}), problems=(LARGE,))
    clock = Ticking()
    wrong = {0: lambda: clock.tick() and "wrong numbers", 1: "hung"}
    with clock, pytest.raises(KeyError):  # killed before the third has its turn
        run(FakeGpu(wrong), problems=(SMALL,), mode=0.5)
    large, small = guess(LARGE, SMALL)
    assert (choice_of(large.tactic), large.verified, large.source) == (1, True, "cache")
    assert (choice_of(small.tactic), small.verified, small.source) == (2, False, "heuristic")
    assert small.binaries[0].cubin == b"cubin 2"
    # And nobody takes it for a measurement.
    gpu = FakeGpu({2: 7.0})
    assert choice_of(run(gpu)[0].tactic) == 2
    assert gpu.measured == [2]


def test_a_guess_that_spills_is_the_last_resort() -> None:
    (choice,) = guess(SMALL, compiler=FakeCompiler({0: (8, 0, 32), 1: Compiled(reason="no such thing", lasting=True)}))
    assert (choice_of(choice.tactic), choice.verified) == (2, False)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_keeps_what_was_measured_and_says_so() -> None:
    events: list[Event] = []
    gpu = FakeGpu({0: 5.0, 1: 3.0, 2: interrupt, 3: 1.0})
    (choice,) = run(gpu, count=4, progress=events.append)
    assert choice_of(choice.tactic) == 1
    assert 3 not in gpu.measured
    assert [e.text for e in events if e.kind == "note"] == [
        "interrupted: keeps what was measured, finishes problems that have no tactic yet"
    ]
    # The next run goes on from there.
    gpu = FakeGpu({2: 4.0, 3: 1.0})
    assert choice_of(run(gpu, count=4)[0].tactic) == 3
    assert gpu.measured == [2, 3]


def test_ctrl_c_before_there_is_a_winner_measures_until_there_is_one() -> None:
    presses = iter([interrupt])
    gpu = FakeGpu({0: lambda: next(presses, lambda: 5.0)(), 1: 3.0, 2: 3.0})
    (choice,) = run(gpu, FakeCompiler(workers=1))
    assert choice_of(choice.tactic) == 0


def test_a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(FakeGpu({0: interrupt, 1: interrupt, 2: interrupt}))


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_a_second_run_measures_nothing_and_compiles_the_winner() -> None:
    before = FakeGpu({0: 5.0, 1: 3.0, 2: "crashed"})
    first = run(before)
    assert before.started
    compiler, gpu = FakeCompiler(), FakeGpu({})
    (again,) = run(gpu, compiler)
    assert (again.tactic, again.microseconds, again.source) == (first[0].tactic, 3.0, "cache")
    assert again.binaries == first[0].binaries
    assert gpu.jobs == []
    assert not gpu.started
    assert compiler.compiled == [1]
    assert len(again.tried) == 3
    assert first[0].cache == "miss: this problem was never tuned"
    assert again.cache == "hit: 3 tactics known, 1 of them refused, best 3.00 us"


def test_what_may_be_otherwise_next_time_is_tried_again() -> None:
    run(FakeGpu({0: 5.0, 1: Outcome(Record(reason="hung"), lasting=False), 2: 6.0}))
    gpu = FakeGpu({1: 2.0})
    assert choice_of(run(gpu)[0].tactic) == 1
    assert gpu.measured == [1]


def test_a_cached_winner_that_no_longer_compiles_makes_way() -> None:
    run(FakeGpu({0: 5.0, 1: 3.0, 2: 4.0}))
    gpu = FakeGpu({0: 5.0, 2: 4.0})
    (choice,) = run(gpu, FakeCompiler({1: Compiled(reason="the compiler died of SIGSEGV")}))
    # Choice 2 was behind the best then, so it never passed the last check: it does now.
    assert gpu.measured == [2]
    assert choice_of(choice.tactic) == 2
    assert choice.source == "measured"


def test_another_device_tunes_for_itself() -> None:
    run(FakeGpu({0: 5.0, 1: 3.0, 2: 4.0}))
    gpu = FakeGpu({0: 1.0, 1: 3.0, 2: 4.0})
    gpu.device = planted.other_device()
    assert choice_of(run(gpu)[0].tactic) == 0
    assert len(gpu.jobs) == 3


def test_without_the_cache_nothing_is_kept(folder: Path) -> None:
    run(FakeGpu({0: 5.0, 1: 3.0, 2: 4.0}), use_cache=False)
    assert list(folder.iterdir()) == []


def test_a_longer_search_is_not_forgotten_by_a_shorter_one() -> None:
    run(FakeGpu({**dict.fromkeys(range(20), 5.0), 19: 1.0}), count=20, mode="exhaustive")
    (choice,) = run(FakeGpu({}), count=20, mode="60s")
    assert choice_of(choice.tactic) == 19


def test_a_cache_that_cannot_be_used_is_told_and_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    events: list[Event] = []
    (choice,) = run(FakeGpu({0: 5.0, 1: 3.0, 2: 4.0}), progress=events.append)
    assert choice_of(choice.tactic) == 1
    (note,) = [e.text for e in events if e.kind == "note"]
    assert "set JITRT_CACHE_DIR to another folder" in note
    assert "goes on without it" in note


def test_a_cache_that_fails_half_way_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from jitrt.errors import CacheError

    def full(*arguments: object) -> None:
        raise CacheError("its disk is full")

    monkeypatch.setattr(TimingCache, "put", full)
    events: list[Event] = []
    (choice,) = run(FakeGpu({0: 5.0, 1: 3.0, 2: 4.0}), progress=events.append)
    assert choice_of(choice.tactic) == 1
    assert [e.text for e in events if e.kind == "note"] == ["its disk is full (this build goes on without it)"]


# -- the shipped table -------------------------------------------------------------------------------------------------


def listing(*choices: int, name: str = "listed", searched: tuple[str, ...] = ("listed",)) -> Table:
    """A table that has these tactics for SMALL, as measured on the GPU that TARGET stands for."""
    tactics = tuple((Tactic(name, (("choice", choice),)), 1.0) for choice in choices)
    return Table(90, TARGET.name, "a toolchain", (Entry(key_of(SMALL), "", "relu", searched, tactics),))


def test_a_problem_in_the_table_is_searched_already() -> None:
    gpu, events = FakeGpu({7: 5.0, 4: 6.0}), list[Event]()
    (choice,) = run(gpu, count=9, table=listing(7, 4), progress=events.append)
    assert gpu.measured == [7, 4]
    assert (choice_of(choice.tactic), choice.microseconds, choice.source) == (7, 5.0, "table")
    assert "1 in the shipped table, 2 candidates to try" in events[0].text
    # Both were verified in full, and are on offer to whoever tries the network as a whole.
    assert [job.best for job in gpu.jobs] == [None, None]
    assert [choice_of(tactic) for tactic, _ in choice.rivals] == [4]
    # By the next build the timing cache knows them.
    (again,) = run(FakeGpu({}), count=9, table=listing(7, 4))
    assert (choice_of(again.tactic), again.source) == (7, "cache")


def test_what_the_table_names_is_not_trusted() -> None:
    gpu = FakeGpu({7: "wrong numbers", 4: 6.0})
    (choice,) = run(gpu, count=9, table=listing(7, 4))
    assert (gpu.measured, choice_of(choice.tactic)) == ([7, 4], 4)
    # If nothing of it is right the search is the usual one.
    gpu = FakeGpu({0: 3.0, 1: 2.0, 2: "crashed"})
    (choice,) = run(gpu, table=listing(2), use_cache=False)
    assert (gpu.measured, choice_of(choice.tactic), choice.source) == ([2, 0, 1], 1, "measured")


def test_the_time_goes_to_problems_that_are_not_in_the_table() -> None:
    gpu = FakeGpu(dict.fromkeys(range(6), 5.0))
    run(gpu, FakeCompiler(workers=1), problems=(SMALL, LARGE), count=6, table=listing(3))
    assert [choice_of(job.candidate.tactic) for job in gpu.jobs if job.problem.key == SMALL.key] == [3]
    assert sum(job.problem.key == LARGE.key for job in gpu.jobs) == 6


@pytest.mark.parametrize("mode", ["2m", "exhaustive"])
def test_with_more_time_the_rest_comes_last(mode: str) -> None:
    gpu = FakeGpu({**dict.fromkeys(range(6), 5.0), 0: 4.0})
    small, _ = run(gpu, FakeCompiler(workers=1), problems=(SMALL, LARGE), count=6, table=listing(3), mode=mode)
    rest = [choice_of(job.candidate.tactic) for job in gpu.jobs[-5:] if job.problem.key == SMALL.key]
    assert rest == [0, 1, 2, 4, 5]
    assert (choice_of(small.tactic), small.source) == (0, "measured")


def test_on_another_gpu_the_table_is_only_where_the_search_begins() -> None:
    gpu = FakeGpu({0: 5.0, 1: 3.0, 2: 4.0})
    elsewhere = dataclasses.replace(listing(2), device="another sm_90")
    assert choice_of(run(gpu, table=elsewhere)[0].tactic) == 1
    assert gpu.measured == [2, 0, 1]


def test_templates_that_the_table_does_not_know_are_tried() -> None:
    gpu = FakeGpu({0: 5.0, 1: 3.0, 2: 4.0})
    offered = {name: planted.Listed(2, name) for name in ("listed", "new")}
    select([SMALL], TARGET, offered=offered, compiler=FakeCompiler(), measurer=gpu, table=listing(1))  # type: ignore[arg-type]
    tried = [(job.candidate.tactic.template, choice_of(job.candidate.tactic)) for job in gpu.jobs]
    assert tried == [("listed", 1), ("new", 0), ("new", 1)]


@pytest.mark.parametrize("stale", [listing(99), listing(0, name="gone"), dataclasses.replace(listing(2), arch=80)])
def test_what_is_no_candidate_any_more_is_ignored(stale: Table) -> None:
    gpu = FakeGpu({0: 5.0, 1: 3.0, 2: 4.0})
    assert choice_of(run(gpu, table=stale)[0].tactic) == 1
    assert gpu.measured == [0, 1, 2]


def test_the_first_guess_is_the_tables() -> None:
    (without_gpu,) = run(None, table=listing(2, 1))
    assert (choice_of(without_gpu.tactic), without_gpu.microseconds, without_gpu.source) == (2, 0.0, "table")
    gpu = FakeGpu({2: "wrong numbers", 1: 5.0})
    (choice,) = run(gpu, mode="heuristic", table=listing(2, 1))
    assert (choice_of(choice.tactic), gpu.measured, choice.source) == (1, [2, 1], "table")


# -- news --------------------------------------------------------------------------------------------------------------


def test_progress_counts_candidates_and_listeners_hear_of_each() -> None:
    events: list[Event] = []
    heard: list[tuple[int, Record]] = []
    listener: Callable[..., None] = lambda problem, tactic, record: heard.append((choice_of(tactic), record))  # noqa: E731
    run(FakeGpu({0: 5.0, 1: "crashed", 2: 9.0}), progress=events.append, on_candidate=listener)
    assert [e.kind for e in events] == ["start", "candidate", "candidate", "candidate", "end"]
    assert [(e.done, e.total) for e in events] == [(0, 3), (1, 3), (2, 3), (3, 3), (3, 3)]
    assert events[0].text == "1 distinct problems, 0 known from the timing cache, 3 candidates to try"
    assert events[1].text == "listed(choice=0): 5.00 us"
    assert events[3].text == "listed(choice=2): 9.00 us, slower"
    assert events[0].remaining is not None
    assert dict(heard)[1].reason == "crashed"


def test_measuring_does_not_keep_the_compiler_waiting() -> None:
    """While one candidate is measured, more than one for each process are in the compiler's hands."""
    compiler, seen = FakeCompiler(workers=3), []
    gpu = FakeGpu(dict.fromkeys(range(12), lambda: seen.append(len(compiler.compiled)) or 5.0))
    run(gpu, compiler, count=12)
    assert seen[0] >= 6


def test_rivals_are_what_came_close_verified_or_not() -> None:
    (choice,) = run(FakeGpu({0: 5.0, 1: 3.0, 2: 3.5, 3: 3.1, 4: "wrong", 5: 3.2, 6: 3.3}), count=7)
    assert choice_of(choice.tactic) == 1
    assert [(choice_of(tactic), microseconds) for tactic, microseconds in choice.rivals] == [
        (3, 3.1),
        (5, 3.2),
        (6, 3.3),
    ]


def test_a_first_guess_has_no_rivals() -> None:
    (choice,) = run(None)
    assert choice.rivals == ()
