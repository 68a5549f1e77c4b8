"""Run a template's launches in Triton's interpreter, on the CPU, in a process of their own.

Triton decides at import whether `@triton.jit` makes compiled or interpreted functions, so the interpreter lives in one
long-lived child process that has TRITON_INTERPRET set; the parent's Triton goes on compiling. The child is
`python -m jitrt.testing`; it reads pickled requests from stdin and answers on stdout.
"""

from __future__ import annotations

import atexit
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.graph.text import to_text
from jitrt.kernels.base import Problem, Tactic, Template, templates
from jitrt.knobs import environment
from jitrt.plugins.op import PluginOp
from jitrt.plugins.registry import Plugin


def run_interpreted(
    problem: Problem,
    tactic: Tactic,
    arrays: Sequence[Array],
    target: Target = TARGETS[90],
    *,
    template: Template | None = None,
) -> Array:
    """The output of one tactic on `arrays` (the operands, of their logical shapes), computed by Triton's interpreter.

    Operands, output and workspace lie in NaN-poisoned storages with the problem's strides. `template` is needed for one
    that is not in `jitrt.kernels`; it must be a class at the top of a file. Raises KernelError if the kernel fails,
    writes outside its output, leaves part of it unwritten, or leaves a counter that is not zero.
    """
    template = template or templates()[tactic.template]
    kind = type(template)
    constants = {v.digest: v.data for v in problem.body.constants.values() if v.data is not None}
    request = Request(
        body=to_text(problem.body, locations=False),
        constants=constants,
        weights=problem.weights,
        alignment=problem.alignment,
        needs=needs_of(problem, template),
        template=template if template.source else (kind.__module__, kind.__qualname__, inspect.getfile(kind)),
        config=dict(tactic.config),
        arrays=tuple(arrays),
        target=target,
    )
    output: Array = ask(request, str(tactic))
    return output


def ask(request: object, what: str) -> Any:
    """What the interpreter process answers to a request. Raises KernelError, naming `what`, if it fails."""
    ok, answer = _child().ask(request)
    if not ok:
        raise KernelError(f"{what} in the interpreter: {answer}")
    return answer


def needs_of(problem: Problem, template: Template) -> tuple[Plugin | Template, ...]:
    """What from outside jitrt a problem's ops and a template are made of."""
    plugins = [node.op.plugin for node in problem.body.nodes if isinstance(node.op, PluginOp)]
    return (*dict.fromkeys(plugins), *((template,) if template.source else ()))


@dataclass(frozen=True)
class Request:
    """One run, in terms that a fresh process understands. `template` is (module, class, file), or one that was offered
    from outside; it and `needs` define themselves there as they are unpickled."""

    needs: tuple[Plugin | Template, ...]
    body: str
    constants: Mapping[str, Array]
    weights: tuple[bool, ...]
    alignment: tuple[int, ...]
    template: Template | tuple[str, str, str]
    config: Mapping[str, Any]
    arrays: tuple[Array, ...]
    target: Target


class _Child:
    """The interpreter process, started at the first request and again if it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: object) -> tuple[bool, Any]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jitrt.testing"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment({"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}),
                start_new_session=True,  # Ctrl-C is for the parent
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            # Packed by itself, so that what cannot be unpacked there is an answer and no end.
            pickle.dump(pickle.dumps(request), self._process.stdin)
            self._process.stdin.flush()
            answer: tuple[bool, Any] = pickle.load(self._process.stdout)
        except (EOFError, OSError):
            return False, f"the interpreter process died with exit status {self._process.wait()}"
        except BaseException:  # Ctrl-C: an answer that is late must not be taken for the next one's
            self._process.kill()
            self._process.wait()
            raise
        return answer

    def close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()


@cache
def _child() -> _Child:
    child = _Child()
    atexit.register(child.close)
    return child
