"""ONNX's own C++, asked in a process of its own: it trusts the models it is given.

Its shape inference and the bodies it makes for operators read out of bounds for an axis that is, abort for a list that
is too short, and take memory and time without end for sizes that overflow; a model from outside has what it likes. The
process is started for the first question (a third of a second), serves all that follow, and is replaced if it dies.
"""

from __future__ import annotations

import atexit
import marshal
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from jitrt.frontend.onnx.registry import Unsupported
from jitrt.frontend.onnx.worker import read, write

SECONDS = 20.0  # for one answer


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the types of its values, strictly inferred, known numbers included. Raises Unsupported."""
    result = onnx.ModelProto()
    result.ParseFromString(_ask("types", model.SerializeToString()))
    return result


def made_body(node: onnx.NodeProto, opset: int, domain: str, types: Sequence[onnx.TypeProto]) -> onnx.FunctionProto:
    """The function that the standard makes for a node with operands of these types. Raises Unsupported."""
    body = onnx.FunctionProto()
    texts = [type.SerializeToString() for type in types]
    body.ParseFromString(_ask("body", node.op_type, opset, domain, node.SerializeToString(), texts))
    return body


class _Worker:
    """The process, and the one question it is asked at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0

    def ask(self, question: bytes) -> bytes:
        """The answer. Raises Unsupported if there is none: the process died of the question, or takes too long."""
        with self.lock:
            process = self.started()
            assert process.stdin is not None and process.stdout is not None
            try:
                write(process.stdin, question)
                ready, _, _ = select.select([process.stdout], [], [], SECONDS)
                reply = read(process.stdout) if ready else None
            except BrokenPipeError:
                reply = None
            except BaseException:  # Ctrl-C: an answer that is late must not be taken for the next one's
                self.stop()
                raise
            if reply is None:
                self.stop()
                raise Unsupported("ONNX's own code crashes on it, or does not come to an end")
        if not reply.startswith(b"+"):
            raise Unsupported(reply[1:].decode(errors="replace"))
        return reply[1:]

    def started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.owner != os.getpid():  # a forked process must not use its parent's
            script = Path(__file__).with_name("worker.py")
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent
            )
            self.owner = os.getpid()
        return self.process

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None and self.owner == os.getpid():
            process.kill()
            process.communicate()


_WORKER = _Worker()
atexit.register(_WORKER.stop)


def _ask(what: str, *arguments: Any) -> bytes:
    return _WORKER.ask(marshal.dumps((what, *arguments)))
