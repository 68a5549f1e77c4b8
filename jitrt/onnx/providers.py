"""Execution providers: which of ONNX Runtime's names means the GPU here, and which the reference target."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jitrt.errors import JitrtWarning, NoGpuError, OptionError
from jitrt.onnx.options import SessionOptions

CPU = "CPUExecutionProvider"
GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
STRICT = "session.disable_cpu_ep_fallback"  # ONNX Runtime's configuration entry

_ON = ("1", "true", "True")
_TF32 = "use_tf32"
_PRECISIONS = {"trt_fp16_enable": "fp16", "trt_bf16_enable": "bf16", _TF32: "tf32"}
_REFUSED = {
    "trt_int8_enable": "this version computes in no 8-bit type",
    "user_compute_stream": "a session runs on the default stream; Engine.context(stream) runs on another",
}

Provider = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Choice:
    """The provider that runs a session, its options as they were given, and those of `jitrt.compile` they mean."""

    name: str
    given: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        return self.name != CPU

    @property
    def names(self) -> list[str]:
        """As `get_providers` lists them."""
        return [self.name, CPU] if self.is_gpu else [CPU]


def available() -> list[str]:
    """The providers that can run here, best first."""
    return ["CUDAExecutionProvider", CPU] if _missing_gpu() is None else [CPU]


def choose(
    providers: Sequence[Provider] | None,
    provider_options: Sequence[Mapping[str, Any]] | None,
    session_options: SessionOptions,
    stacklevel: int = 2,
) -> Choice:
    """The first of the providers that can run here; without any, the GPU if there is one. Says so with a JitrtWarning
    where that is not what was asked for. Raises OptionError for what is no list of providers or for an option that
    jitrt cannot honour, NoGpuError if the session options forbid to do without a GPU."""
    listed = _listed(providers, provider_options)
    reason = _missing_gpu()
    for name, given in listed or [(GPU[0], {})]:
        if name == CPU or (name in GPU and reason is None):
            return Choice(name, dict(given), _options(name, given))
    wanted = ", ".join(name for name, _ in listed) or "no provider named"
    text = (
        f"{wanted}: {reason}" if not listed or any(name in GPU for name, _ in listed) else f"{wanted}: not known here"
    )
    if session_options.entries.get(STRICT) == "1":
        raise NoGpuError(f"{text}, and {STRICT} forbids to run without a GPU")
    warnings.warn(
        f"{text}; {CPU} runs the optimised graph in numpy, which is exact and slow (name it to run without this note)",
        JitrtWarning,
        stacklevel=stacklevel + 1,
    )
    return Choice(CPU, {}, _options(CPU, {}))


def _listed(
    providers: Sequence[Provider] | None, options: Sequence[Mapping[str, Any]] | None
) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(providers, str):
        raise OptionError(f"providers is {providers!r}; give a list of names, such as [{providers!r}]")
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers or ()]
    given: list[Mapping[str, Any]] = [{} if isinstance(entry, str) else entry[1] for entry in providers or ()]
    if options is not None:
        if len(options) != len(names):
            raise OptionError(f"provider_options has {len(options)} entries for {len(names)} providers; give one each")
        given = [{**a, **b} for a, b in zip(given, options, strict=True)]
    return list(zip(names, given, strict=True))


def _options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a provider's options ask of a build. Those that steer ONNX Runtime's allocator and libraries mean nothing
    here. Raises OptionError for one that would change the result or the place of computation."""
    if name == CPU:
        return {"target": "reference"}
    if str(given.get("device_id", 0)) != "0":
        raise OptionError(
            f"{name}: device_id is {given['device_id']}, but a session runs on the first GPU the process sees; set "
            "CUDA_VISIBLE_DEVICES"
        )
    for key, reason in _REFUSED.items():
        if str(given.get(key, "0")) not in ("0", "false", "False", "None"):
            raise OptionError(f"{name}: {key} is given, but {reason}; leave it out")
    asked = [precision for key, precision in _PRECISIONS.items() if str(given.get(key)) in _ON]
    return {"precision": asked[0]} if asked else {}


def _missing_gpu() -> str | None:
    """None, or why there is no GPU to run on."""
    from jitrt.runtime.driver import cuda_driver

    try:
        cuda_driver()
    except NoGpuError as error:
        return str(error).partition(";")[0]
    return None
