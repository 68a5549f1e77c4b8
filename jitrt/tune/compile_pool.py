"""Candidates compiled in parallel processes, without the GPU, results as they come.

Every process keeps Triton's own cache in a folder of this pool's, which is deleted with it; what lasts is the kernel
cache, which checks what it reads. A process that dies takes one candidate with it.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jitrt.codegen.compile import Binary, compile_call, use_cache_dir
from jitrt.codegen.target import Target
from jitrt.errors import CacheError, CompileError
from jitrt.kernels.base import Problem
from jitrt.knobs import knobs
from jitrt.tune.candidates import Candidate
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.keys import kernel_key
from jitrt.tune.worker import Worker, WorkerFailure

LIMIT = 120.0  # seconds a candidate may compile


@dataclass(frozen=True)
class Compiled:
    """A candidate's binaries, one a launch in order, or why there are none. `lasting` says that the reason will be the
    same next time; a worker's death may not be."""

    binaries: tuple[Binary, ...] = ()
    reason: str | None = None
    lasting: bool = False
    cached: bool = False


class Compiler(Protocol):
    """What `select` needs of a compile pool."""

    @property
    def workers(self) -> int: ...

    def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]: ...

    def close(self) -> None: ...


class CompilePool:
    """`workers` processes, by default one a core (JITRT_COMPILE_WORKERS), each started when there is work for it.
    `note` is told, once, if the kernel cache cannot be written."""

    def __init__(
        self,
        workers: int | None = None,
        cache: KernelCache | None = None,
        note: Callable[[str], None] = lambda text: None,
    ):
        self.workers = workers or knobs().compile_workers
        self._cache = cache
        self._note = note
        self._folder = tempfile.TemporaryDirectory(prefix="jitrt-compile-")
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="jitrt-compile")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: list[Worker] = []
        self._closing = False

    def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]:
        """Compile a candidate as soon as a process is free."""
        # The key is made here, not on a pool thread: it parses source, and before Python 3.11.8 and 3.12.2 two threads
        # in ast.parse can raise SystemError (python/cpython#106905).
        key = kernel_key(problem, candidate, target)
        return self._threads.submit(self._compile, key, problem, candidate, target)

    def close(self) -> None:
        """Stop at once: what has not begun is cancelled, what runs is killed."""
        with self._lock:
            self._closing = True
            running = list(self._all)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in running:
            worker.interrupt()
        self._threads.shutdown()
        for worker in running:
            worker.close()
        self._folder.cleanup()

    def _compile(self, key: str, problem: Problem, candidate: Candidate, target: Target) -> Compiled:
        cache = self._cache
        known = cache.get(key) if cache is not None else None
        if known is not None:
            return Compiled(known, cached=True)
        try:
            answer = self._worker().call(compile_candidate, problem, candidate, target, limit=LIMIT)
        except WorkerFailure as error:
            return Compiled(reason=str(error))
        if isinstance(answer, str):
            return Compiled(reason=answer, lasting=True)
        self._store(key, answer)
        return Compiled(answer)

    def _worker(self) -> Worker:
        """This thread's process."""
        if not hasattr(self._local, "worker"):
            with self._lock:
                if self._closing:
                    raise WorkerFailure("the compile pool is closed")
                number = len(self._all)
                worker = Worker("compiler", {"TRITON_INTERPRET": "0"})
                self._all.append(worker)
            self._local.folder = str(Path(self._folder.name) / str(number))
            self._local.worker = worker
        worker = self._local.worker
        if worker.start():
            if self._closing:  # `close` may have come before there was a process to interrupt
                raise WorkerFailure("the compile pool is closed")
            worker.call(use_cache_dir, self._local.folder, limit=LIMIT)
        return worker

    def _store(self, key: str, binaries: tuple[Binary, ...]) -> None:
        if self._cache is None:
            return
        try:
            self._cache.put(key, binaries)
        except CacheError as error:
            with self._lock:
                first, self._cache = self._cache is not None, None
            if first:
                self._note(f"{error} (this build goes on without it)")


class ThisProcess:
    """Compiles at once, where it is: for whoever builds many small graphs in processes of their own, as starting one
    takes longer than a small kernel does. A compiler that dies takes this process with it."""

    workers = 1

    def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]:
        answer = compile_candidate(problem, candidate, target)
        done: Future[Compiled] = Future()
        done.set_result(Compiled(reason=answer, lasting=True) if isinstance(answer, str) else Compiled(answer))
        return done

    def close(self) -> None:
        """Nothing to stop."""


def compile_candidate(problem: Problem, candidate: Candidate, target: Target) -> tuple[Binary, ...] | str:
    """In a worker: the binaries of a candidate's launches, or what the compiler said."""
    try:
        lowered = candidate.lower(problem, target)
        return tuple(compile_call(call, problem, target, packed=lowered.pack) for call in lowered.calls)
    except CompileError as error:
        return str(error)
