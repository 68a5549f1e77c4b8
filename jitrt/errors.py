"""Every error a user can meet, one class each; the message says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class JitrtError(Exception):
    """Base of every error raised on purpose."""


_ADVICE = {
    "ONNX": "Export the model without them, or declare them with @jitrt.plugin(..., onnx=(domain, name)). jitrt doctor "
    "MODEL lists every node.",
    "torch": "Rewrite those lines with supported operators, or use torch.compile(model, backend='jitrt'), which leaves "
    "unsupported parts to PyTorch.",
}


class UnsupportedOpError(JitrtError):
    """The model uses operators no importer knows.

    Lists *all* of them at once, with counts and the user's source lines, so that one run tells the whole story.
    """

    def __init__(self, front_end: str, ops: Sequence[tuple[str, int, str]]):
        self.ops = list(ops)
        lines = [f"  {name} (x{count}) first at {where or 'unknown location'}" for name, count, where in ops]
        super().__init__(
            f"{len(self.ops)} operator(s) of this model have no {front_end} importer:\n"
            + "\n".join(lines)
            + f"\n{_ADVICE.get(front_end, _ADVICE['torch'])}"
        )


class ImportFailure(JitrtError):
    """A model could not be turned into a graph for a reason other than an unknown operator."""


class ModelError(ImportFailure):
    """A model file is broken, contradicts itself, or reaches for what it must not: the message names where."""


class GraphError(JitrtError):
    """A graph breaks an invariant: found by the verifier, the builder or the text parser."""


class ShapeError(GraphError):
    """Operand shapes or dtypes do not fit an operator."""


class NetworkError(GraphError):
    """A `jitrt.Network` is put together in a way that cannot be: the message begins with the line that did it."""


class PassError(GraphError):
    """A pass failed or left the graph broken; the message names it and those that ran before."""


class InputError(JitrtError):
    """An engine was called with the wrong number, shape, dtype or device of inputs."""


class FeedError(InputError, ValueError):
    """An ONNX session is fed, or asked for, what its model does not have, or lacks an input."""


class GradientError(InputError):
    """An input requires a gradient while gradients are enabled; jitrt compiles for inference only."""


class TrainingModeError(ImportFailure, GradientError):
    """The model is in training mode: batch norm or dropout would behave as in training."""


class OptionError(JitrtError, ValueError):
    """An option or argument has a value outside what it accepts."""


class TargetError(JitrtError):
    """The requested target is not one jitrt can build for or run on here."""


class NoGpuError(TargetError):
    """Something needs an NVIDIA GPU and this machine has none that the driver can see."""


class CompileError(JitrtError):
    """Triton or ptxas refused a generated kernel."""


class FallbackError(JitrtError):
    """strict=True, but parts of the model would run on the host: lists all of them, (what, reason, times, first at)."""

    def __init__(self, steps: Sequence[tuple[str, str, int, str]]):
        self.steps = list(steps)
        lines = [
            f"  {what} (x{count}) first at {where or 'unknown location'}: {why}" for what, why, count, where in steps
        ]
        super().__init__(
            f"strict=True, but {len(self.steps)} kind(s) of step would run on the host:\n"
            + "\n".join(lines)
            + "\nLeave strict out to have them run there, or replace them in the model."
        )


class KernelError(JitrtError, AssertionError):
    """A kernel under test gave wrong numbers or touched memory it must not."""


class TuningError(JitrtError):
    """No candidate of a problem survived compilation and verification."""


class CacheError(JitrtError):
    """The cache folder cannot be read or written."""


class PluginError(JitrtError):
    """A custom layer, kernel or rule is declared in a way that does not hold together, or is not what it says."""


class PlanError(JitrtError):
    """A plan file is truncated, tampered with, of another version, or for another architecture."""


class DriverError(JitrtError):
    """A CUDA driver call failed."""

    def __init__(self, call: str, code: int, text: str):
        self.call, self.code = call, code
        super().__init__(f"{call} failed with CUDA error {code} ({text})")


class JitrtWarning(UserWarning):
    """Something works, but not as well as it might: the message says what to do."""
