"""A process that runs functions for this one and may die doing it.

Compiling crashes (an assertion in LLVM ends the process), and a bad kernel leaves a CUDA context that nothing can mend:
both happen in a worker, whose death is one failed call. It is a fresh interpreter and no fork, because CUDA does not
survive a fork, and not `multiprocessing`'s spawn, because that runs the user's script again.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import IO, Any

from jitrt.errors import TuningError
from jitrt.knobs import environment

_BOOT = "import sys; sys.path[:] = {path!r}; {prepare}; from jitrt.tune.worker import serve; serve({fd})"
_SOON = 1.0  # seconds


class WorkerFailure(TuningError):
    """A call to a worker did not return: it raised, the worker died, or it was killed for taking too long."""


class Worker:
    """One child process, started at the first call and again after each death. Used by one thread at a time, except
    for `interrupt`. `variables` are set in its environment; `name` is what messages call it; `prepare` is a statement
    that it begins with, while nobody waits for it yet."""

    def __init__(self, name: str, variables: Mapping[str, str] | None = None, prepare: str = "pass"):
        self.name = name
        self._variables = dict(variables or {})
        self._prepare = prepare
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._stderr: IO[bytes] | None = None

    def start(self) -> bool:
        """Start the process if there is none; whether there was none."""
        if self._process is not None:
            return False
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        path = [entry or os.getcwd() for entry in sys.path]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=path, prepare=self._prepare, fd=theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=environment(self._variables),
                start_new_session=True,  # Ctrl-C is for the parent, which decides what to keep
            )
        self._connection = Connection(ours.detach())
        return True

    def call(self, function: Callable[..., Any], *arguments: Any, limit: float) -> Any:
        """`function(*arguments)` in the worker, which imports the function by name.

        Raises WorkerFailure, saying why, if it raises, dies, or takes more than `limit` seconds (it is then killed).
        """
        try:
            request = pickle.dumps((function, arguments))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            advice = "a template must be a class at the top level of a module"
            raise WorkerFailure(f"cannot be sent to another process: {error}; {advice}") from error
        self.start()
        assert self._connection is not None
        waiting = False
        try:
            self._connection.send_bytes(request)
            waiting = True
            if not self._connection.poll(limit):
                self.kill()
                raise WorkerFailure(f"no answer within {limit:g} s: killed")
            waiting = False
            fine, answer = pickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise WorkerFailure(self._epitaph()) from None
        except KeyboardInterrupt:
            if not (waiting and self._falls_silent()):
                self.kill()
            raise
        if not fine:
            raise WorkerFailure(answer)
        return answer

    def _falls_silent(self) -> bool:
        """Somebody pressed Ctrl-C: a worker that has its answer soon may live on, as starting one takes longer. A late
        answer must not be taken for the next call's."""
        assert self._connection is not None
        try:
            if self._connection.poll(_SOON):
                self._connection.recv_bytes()
                return True
        except (EOFError, ConnectionError, KeyboardInterrupt):  # a second Ctrl-C has no more patience
            pass
        return False

    def kill(self) -> None:
        """End the process at once; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def interrupt(self) -> None:
        """From another thread: make the call in progress, if there is one, fail at once."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process, giving it half a second to leave by itself."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
        self.kill()

    def _epitaph(self) -> str:
        """What the process died of, and the last thing it said."""
        assert self._process is not None
        assert self._stderr is not None
        code = self._process.wait()
        self._stderr.seek(0)
        said = [line for line in self._stderr.read()[-20_000:].decode(errors="replace").splitlines() if line.strip()]
        self._forget()
        if code == -signal.SIGALRM:
            cause = "hung: killed at its time limit"
        elif code < 0:
            cause = f"died of {signal.Signals(-code).name}"
        else:
            cause = f"ended with exit code {code}"
        return f"the {self.name} {cause}" + (f" ({said[-1].strip()[:200]})" if said else "")

    def _forget(self) -> None:
        for resource in (self._connection, self._stderr):
            if resource is not None:
                resource.close()
        self._process = self._connection = self._stderr = None


# -- the worker's side -------------------------------------------------------------------------------------------------


def serve(fd: int) -> None:
    """Answer calls until the other side closes the connection."""
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    connection: Connection[Any, Any] = Connection(fd)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            function, arguments = pickle.loads(request)
            answer = pickle.dumps((True, function(*arguments)))
        except Exception as error:  # whatever it is, it belongs to the caller
            traceback.print_exc()
            answer = pickle.dumps((False, f"{type(error).__name__}: {_last_line(error)}"))
        connection.send_bytes(answer)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _leave_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, even in the middle of a call."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """In a worker: the kernel of the operating system ends the process if the body takes longer. A hung GPU needs this:
    the driver's wait cannot be interrupted from Python."""
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
