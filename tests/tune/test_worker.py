"""A worker's calls, and every way a call can fail."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import planted
import pytest

from jitrt.knobs import environment
from jitrt.tune import worker as worker_module
from jitrt.tune.worker import Worker, WorkerFailure


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test worker")
    yield made
    made.close()


def test_it_calls_a_function_and_keeps_its_process(worker: Worker) -> None:
    pid = worker.call(os.getpid, limit=20)
    assert pid != os.getpid()
    assert worker.call(divmod, 7, 2, limit=20) == (3, 1)
    assert worker.call(os.getpid, limit=20) == pid


def test_an_exception_comes_back_and_the_process_lives(worker: Worker) -> None:
    pid = worker.call(os.getpid, limit=20)
    with pytest.raises(WorkerFailure, match=r"ZeroDivisionError: .* by zero"):
        worker.call(divmod, 1, 0, limit=20)
    assert worker.call(os.getpid, limit=20) == pid


def test_a_function_it_cannot_import_is_an_error_of_that_call(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.call(os.getpid, limit=20)
    monkeypatch.setattr(planted, "no_longer_there", planted.hang, raising=False)
    monkeypatch.setattr(planted.hang, "__qualname__", "no_longer_there")
    with pytest.raises(WorkerFailure, match=r"no_longer_there|planted"):
        worker.call(planted.no_longer_there, limit=20)


def test_what_cannot_be_pickled_is_an_error_with_advice(worker: Worker) -> None:
    with pytest.raises(WorkerFailure, match="a template must be a class at the top level of a module"):
        worker.call(lambda: 1, limit=20)


def test_a_crash_is_reported_with_its_signal_and_another_process_takes_over(worker: Worker) -> None:
    pid = worker.call(os.getpid, limit=20)
    with pytest.raises(WorkerFailure, match="the test worker died of SIGSEGV"):
        worker.call(ctypes.string_at, 0, limit=20)
    assert worker.call(os.getpid, limit=20) != pid


def test_an_exit_is_reported_with_the_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerFailure, match=r"ended with exit code 3 \(ptxas fatal: out of ideas\)"):
        worker.call(planted.last_words, limit=20)


def test_a_call_that_takes_too_long_is_killed(worker: Worker) -> None:
    worker.call(os.getpid, limit=20)
    start = time.perf_counter()
    with pytest.raises(WorkerFailure, match=r"no answer within 0\.2 s: killed"):
        worker.call(time.sleep, 60, limit=0.2)
    assert time.perf_counter() - start < 10
    assert worker.call(divmod, 7, 2, limit=20) == (3, 1)


def test_its_own_time_limit_ends_a_worker_that_python_cannot_interrupt(worker: Worker) -> None:
    with pytest.raises(WorkerFailure, match="hung: killed at its time limit"):
        worker.call(planted.hang, limit=20)


def test_a_time_limit_that_is_kept_does_nothing(worker: Worker) -> None:
    assert worker.call(planted.in_time, limit=20) == "in time"


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys, threading, time\n"
        "from jitrt.tune.worker import Worker\n"
        "worker = Worker('orphan')\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(worker.call(os.getpid, limit=20)))\n"
        "threading.Thread(target=worker.call, args=(time.sleep, 60), kwargs={'limit': 60}, daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(worker_module.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], env=environment({"PYTHONPATH": str(root)}), check=False)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.perf_counter() + 10
    while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
        assert time.perf_counter() < deadline, "the worker still runs"
        time.sleep(0.1)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


@pytest.mark.parametrize(("seconds", "lives"), [(0.4, True), (60.0, False)])
def test_ctrl_c_ends_a_call_soon_and_spares_a_worker_that_is_about_to_answer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, seconds: float, lives: bool
) -> None:
    monkeypatch.setattr(worker_module, "_SOON", 0.8)
    pid = worker.call(os.getpid, limit=20)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    start = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        worker.call(time.sleep, seconds, limit=120)
    assert time.perf_counter() - start < 3
    # What it answered meanwhile is not taken for the answer to the next call.
    assert (worker.call(os.getpid, limit=20) == pid) == lives


def test_a_second_ctrl_c_ends_a_call_at_once(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_SOON", 60.0)
    pid = worker.call(os.getpid, limit=20)
    for after in (0.1, 0.4):
        threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        worker.call(time.sleep, 60, limit=120)
    assert time.perf_counter() - start < 3
    assert worker.call(os.getpid, limit=20) != pid


def test_a_worker_prepares_itself_before_its_first_call() -> None:
    worker = Worker("test worker", prepare="import sys; sys.prepared = 'yes'")
    try:
        worker.start()
        assert worker.call(planted.prepared, limit=20) == "yes"
    finally:
        worker.close()
