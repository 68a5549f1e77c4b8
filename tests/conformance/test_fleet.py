"""Cases in forked processes: those that crash or hang are one result each."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cuda import execute_on, in_turns
from tests.conformance.fleet import Result, run_all
from tests.conformance.suite import Outcome, cases, run


def results(function: Callable[[int], Any], count: int, **options: Any) -> list[Result]:
    settings: dict[str, Any] = {"workers": 2, "limit": 20.0, "each": 10.0, **options}
    found = run_all(function, range(count), **settings)
    return sorted(found, key=lambda result: result.index)


def test_every_case_has_its_answer() -> None:
    assert [result.answer for result in results(lambda index: index * index, 9)] == [n * n for n in range(9)]


def test_a_crash_is_one_result() -> None:
    found = results(lambda index: os.kill(os.getpid(), signal.SIGKILL) if index == 2 else index, 5)
    assert [result.answer for result in found] == [0, 1, None, 3, 4]
    assert found[2].died == "its process died of SIGKILL"


def test_what_hangs_is_killed() -> None:
    found = results(lambda index: time.sleep(60) if index == 1 else index, 4, each=0.3)
    assert [result.died for result in found] == ["", "killed after 0.3 s", "", ""]


def test_what_a_killed_process_started_dies_too(tmp_path: Path) -> None:
    def start_and_hang(index: int) -> None:
        child = subprocess.Popen(["sleep", "60"])
        (tmp_path / "child").write_text(str(child.pid))
        time.sleep(60)

    (found,) = results(start_and_hang, 1, each=1.0)
    assert found.died == "killed after 1 s"
    status = Path(f"/proc/{(tmp_path / 'child').read_text()}/status")
    assert not status.exists() or "zombie" in status.read_text()


def test_a_spoiled_process_takes_no_further_case() -> None:
    found = results(lambda index: os.getpid(), 4, workers=1, spoils=lambda answer: True)
    assert len({result.answer for result in found}) == 4


def test_a_process_takes_many_cases_after_its_setup() -> None:
    ready: list[int] = []
    found = results(lambda index: (os.getpid(), len(ready)), 6, workers=1, setup=lambda: ready.append(1))
    assert {result.answer for result in found} == {(found[0].answer[0], 1)}
    assert found[0].answer[0] != os.getpid()


def test_a_setup_that_fails_ends_it_all() -> None:
    def setup() -> None:
        raise OSError("no GPU")

    with pytest.raises(RuntimeError, match="no process can be set up: OSError: no GPU"):
        results(lambda index: index, 3, setup=setup)


def test_the_limit_ends_it_all() -> None:
    started = time.monotonic()
    assert len(results(lambda index: time.sleep(0.4), 50, limit=0.7)) < 6
    assert time.monotonic() - started < 5


def test_families_take_turns() -> None:
    order = in_turns(cases())
    operators = {case.operator for case in order}
    assert len({case.operator for case in order[: len(operators)]}) == len(operators)
    assert len(order) == len(cases())


@pytest.mark.parametrize("name", ["test_abs", "test_reduce_sum_empty_set"])
def test_a_case_is_built_without_a_gpu(name: str) -> None:
    pytest.importorskip("triton")
    (case,) = (case for case in cases() if case.name == name)
    assert run(case, execute_on("sm_90", "build")) == Outcome("pass")
