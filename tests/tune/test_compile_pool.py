"""Compiling in processes: results, a compiler that dies, and what is kept on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import planted
import pytest

from jitrt.codegen.target import target_of
from jitrt.errors import CacheError
from jitrt.kernels.base import Tactic, Template, templates
from jitrt.tune import compile_pool
from jitrt.tune.candidates import Candidate
from jitrt.tune.compile_pool import CompilePool
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.select import select
from jitrt.tune.worker import Worker

TARGET = target_of(90)
PROBLEM = planted.relu_problem(8, 64)


def candidate(template: Template, **config: object) -> Candidate:
    return Candidate(Tactic.make(template, config or template.candidates(PROBLEM, TARGET)[0]), template)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[CompilePool]:
    made = CompilePool(1, KernelCache(tmp_path))
    yield made
    made.close()


def test_a_kernel_is_compiled_once_and_then_read(pool: CompilePool, tmp_path: Path) -> None:
    good = candidate(templates()["pointwise"])
    first = pool.submit(PROBLEM, good, TARGET).result(60)
    assert first.reason is None
    assert not first.cached
    assert first.binaries[0].cubin.startswith(b"\x7fELF")
    pool.close()

    again = CompilePool(1, KernelCache(tmp_path))
    second = again.submit(PROBLEM, good, TARGET).result(60)
    assert second.cached
    assert second.binaries == first.binaries
    assert not again._all, "no process was needed"
    again.close()


def test_no_pool_thread_parses_source(pool: CompilePool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.Thread] = []
    original = compile_pool.kernel_key
    note = lambda *args: seen.append(threading.current_thread()) or original(*args)  # noqa: E731
    monkeypatch.setattr(compile_pool, "kernel_key", note)
    pool.submit(PROBLEM, candidate(planted.BadCompile(), kind="syntax"), TARGET).result(60)
    assert seen == [threading.current_thread()]


def test_bad_candidates_are_reported_and_the_next_one_compiles(pool: CompilePool) -> None:
    results = {
        kind: pool.submit(PROBLEM, candidate(planted.BadCompile(), kind=kind), TARGET).result(60)
        for kind in ("syntax", "crash", "raise", "fine")
    }
    assert "no_such_function" in (results["syntax"].reason or "")
    assert results["syntax"].lasting
    assert "the compiler died of SIGSEGV" in (results["crash"].reason or "")
    assert not results["crash"].lasting
    assert "KeyError: 'no such thing'" in (results["raise"].reason or "")
    assert results["fine"].binaries


def test_a_cross_build_compiles_its_first_guesses_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real templates, real compiler, no GPU; the second build reads what the first one compiled."""
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))
    problems = [PROBLEM, planted.linear_problem(16, 64, 32), PROBLEM]
    first = select(problems, TARGET, mode="60s")
    assert [choice.source for choice in first] == ["heuristic"] * 3
    assert first[0] == first[2]
    assert first[1].binaries[0].cubin.startswith(b"\x7fELF")
    monkeypatch.setattr(Worker, "start", no_process)
    assert select(problems, TARGET, mode="heuristic") == first


def no_process(worker: Worker) -> bool:
    raise AssertionError("a process was started")


def test_closing_stops_what_runs_and_what_waits(pool: CompilePool) -> None:
    futures = [pool.submit(PROBLEM, candidate(planted.BadCompile(), kind="forever"), TARGET) for _ in range(3)]
    pool.close()
    assert all(future.cancelled() or future.result(0).reason for future in futures)


def test_a_kernel_cache_that_cannot_be_written_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*arguments: object) -> None:
        raise CacheError("its disk is full")

    cache = KernelCache(tmp_path)
    monkeypatch.setattr(cache, "put", full)
    notes: list[str] = []
    pool = CompilePool(1, cache, notes.append)
    good = candidate(templates()["pointwise"])
    assert all(pool.submit(PROBLEM, good, TARGET).result(60).binaries for _ in range(2))
    pool.close()
    assert notes == ["its disk is full (this build goes on without it)"]
