"""ONNX models, called as ONNX Runtime is: a program written for it runs by changing one import.

>>> import jitrt.onnx as onnxruntime                                         # doctest: +SKIP
>>> session = onnxruntime.InferenceSession("model.onnx")                     # doctest: +SKIP
>>> session.run(None, {"x": array})                                          # doctest: +SKIP

session    InferenceSession, and what it tells about a model
engines    its engines, one a set of shapes
binding    IOBinding: which memory a run reads and writes
values     OrtValue: tensors on the host and on the GPU
providers  which of ONNX Runtime's execution providers means what here
options    SessionOptions and RunOptions

"CPUExecutionProvider" is the reference target, the optimised graph in numpy: exact, and no match for ONNX Runtime's
kernels for the CPU. Strings, sequences, maps and sparse tensors do not go in or out of a model, and errors are those of
`jitrt.errors`: FeedError for a run, ImportFailure for a model.
"""

from __future__ import annotations

from jitrt.onnx.binding import IOBinding
from jitrt.onnx.options import ExecutionMode, GraphOptimizationLevel, RunOptions, SessionOptions
from jitrt.onnx.providers import available as get_available_providers
from jitrt.onnx.session import InferenceSession, ModelMetadata, NodeArg
from jitrt.onnx.values import OrtValue

__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "ModelMetadata",
    "NodeArg",
    "OrtValue",
    "RunOptions",
    "SessionOptions",
    "get_all_providers",
    "get_available_providers",
    "get_device",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
]


def get_device() -> str:
    """ "GPU" or "CPU": what a session runs on by default."""
    return "GPU" if len(get_available_providers()) > 1 else "CPU"


def get_all_providers() -> list[str]:
    """Every provider's name that means something here."""
    from jitrt.onnx.providers import CPU, GPU

    return [*GPU, CPU]


def set_default_logger_severity(severity: int) -> None:
    """Taken, and nothing to do: JITRT_LOG says what is logged."""


def set_default_logger_verbosity(verbosity: int) -> None:
    """Taken, and nothing to do: JITRT_LOG says what is logged."""
