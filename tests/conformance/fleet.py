"""Many cases in a few processes: each is forked from one that has everything imported, and may die with its case.

A case whose process crashes, or takes too long and is killed, is one result; a fresh process takes the next case. After
a result that says so (`Result.spoiled`: a CUDA context that nothing can mend) the process leaves by itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any


@dataclass(frozen=True)
class Result:
    """What came of one case: `answer` is what its function returned, None if its process died, and of what."""

    index: int
    answer: Any
    died: str = ""
    seconds: float = 0.0
    spoiled: bool = False


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection[Any, Any]
    index: int | None = None  # of the case under way
    since: float = 0.0

    def give(self, index: int) -> None:
        self.index, self.since = index, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died in the meantime: seen when its answer is awaited
            self.connection.send(index)


def run_all(
    function: Callable[[int], Any],
    order: Sequence[int],
    *,
    workers: int,
    limit: float,
    each: float,
    setup: Callable[[], None] = lambda: None,
    spoils: Callable[[Any], bool] = lambda answer: False,
) -> Iterator[Result]:
    """`function(index)` for every index, in that order, results as they come, until `limit` seconds are over. One that
    takes more than `each` seconds is killed. `setup` is called in every process first; RuntimeError if it raises."""
    context = multiprocessing.get_context("fork")
    ends = time.monotonic() + limit
    waiting = list(reversed(order))
    fleet: list[_Worker] = []

    def start() -> _Worker:
        ours, theirs = context.Pipe()
        # What a fork would inherit of the others' pipes would keep those open.
        others = [worker.connection for worker in fleet] + [ours]
        process = context.Process(target=_serve, args=(function, theirs, others, setup, spoils), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    try:
        while waiting or any(worker.index is not None for worker in fleet):
            for worker in [w for w in fleet if w.index is None]:
                if waiting:
                    worker.give(waiting.pop())
            while waiting and len(fleet) < workers:
                fleet.append(start())
                fleet[-1].give(waiting.pop())
            now = time.monotonic()
            if now > ends:
                return
            busy = {worker.connection: worker for worker in fleet if worker.index is not None}
            ready = wait(list(busy), timeout=min(0.5, ends - now))
            for connection in ready:
                worker = busy[connection]  # type: ignore[index]
                result = _receive(worker)
                yield result
                worker.index = None
                if result.spoiled or result.died:
                    _end(worker)
                    fleet.remove(worker)
            for worker in list(busy.values()):
                if worker.index is not None and time.monotonic() - worker.since > each:
                    yield Result(worker.index, None, f"killed after {each:g} s", each)
                    _end(worker)
                    fleet.remove(worker)
    finally:
        for worker in fleet:
            _end(worker)


def _receive(worker: _Worker) -> Result:
    assert worker.index is not None
    try:
        received = worker.connection.recv()
    except (EOFError, ConnectionError):
        worker.process.join(5)
        code = worker.process.exitcode or 0
        died = (
            f"its process died of {signal.Signals(-code).name}" if code < 0 else f"its process ended with code {code}"
        )
        return Result(worker.index, None, died, time.monotonic() - worker.since)
    if isinstance(received, str):
        raise RuntimeError(f"no process can be set up: {received}")
    answer, seconds, spoiled = received
    return Result(worker.index, answer, seconds=seconds, spoiled=spoiled)


def _end(worker: _Worker) -> None:
    worker.connection.close()
    if worker.process.exitcode is None and worker.process.pid:
        with contextlib.suppress(ProcessLookupError):  # it is no group's leader yet
            os.killpg(worker.process.pid, signal.SIGKILL)  # with what it started itself
    worker.process.kill()
    worker.process.join()


def _serve(
    function: Callable[[int], Any],
    connection: Connection[Any, Any],
    others: Sequence[Connection[Any, Any]],
    setup: Callable[[], None],
    spoils: Callable[[Any], bool],
) -> None:
    os.setsid()
    for other in others:
        other.close()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # compilers print what they die of
    try:
        setup()
    except Exception as error:  # whatever it is, no case can run here
        connection.send(f"{type(error).__name__}: {error}")
        with contextlib.suppress(EOFError, OSError):
            connection.recv()  # the index that is on its way
        return
    while True:
        try:
            index = connection.recv()
        except (EOFError, OSError):
            return
        started = time.monotonic()
        answer = function(index)
        spoiled = spoils(answer)
        connection.send((answer, time.monotonic() - started, spoiled))
        if spoiled:
            return
