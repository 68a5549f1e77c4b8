"""The peers: other ways to run the same PyTorch model, each prepared as well as it can be without writing kernels.

    eager         the module as it is, channels_last
    eager+graph   that, captured in one CUDA graph
    compile       torch.compile(mode="reduce-overhead") with Inductor's freezing, channels_last
    cudnn-fused   batch norm folded, cuDNN's fused conv + bias (+ residual) + relu, one CUDA graph: see fold.py; what it
                  cannot fuse runs as in eager+graph, and a network without convolutions is left to that

if named

    compile-default, compile-max    as compile, in the modes "default" and "max-autotune"

and of an ONNX file

    onnxruntime   ONNX Runtime's CUDA provider on bound device memory: see onnx_model.py

`cudnn.benchmark` is on for all of them (run.py sets it), so cuDNN picks its algorithms by measurement.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from jitrt.bench.fold import cudnn_fused
from jitrt.bench.measure import Call, DoesNotApply, Inputs
from jitrt.bench.onnx_model import ONNX_RUNTIME, OnnxRuntime
from jitrt.bench.subject import DTYPES
from jitrt.errors import OptionError

Prepare = Callable[[nn.Module, Inputs, torch.dtype], Call]


class Contestant(Protocol):
    """Something to time: `prepare` takes a float32 model in eval mode (or an OnnxModel) and inputs of the dtype to run
    in, on the device, and returns a callable of such inputs. The model given is left as it was."""

    @property
    def name(self) -> str: ...

    def prepare(self, model: Any, inputs: Inputs) -> Call: ...


@dataclass(frozen=True)
class Peer:
    """A contestant that is not jitrt: a way to prepare models, and the dtype they run in, which inputs that are all
    whole numbers do not tell."""

    name: str
    way: Prepare
    dtype: torch.dtype = torch.float32

    def prepare(self, model: Any, inputs: Inputs) -> Call:
        """Raises DoesNotApply for an ONNX file."""
        if not isinstance(model, nn.Module):
            raise DoesNotApply("it runs PyTorch models; this is an ONNX file")
        return self.way(model, inputs, next((x.dtype for x in inputs if x.is_floating_point()), self.dtype))


def eager(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Call:
    """PyTorch as it comes."""
    return converted(model, inputs, dtype)


def eager_graph(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Call:
    """PyTorch's kernels without their launch cost."""
    return graphed(converted(model, inputs, dtype), inputs)


def compiled(mode: str) -> Prepare:
    """Inductor in one of its modes, with freezing. Preparing raises OptionError if this PyTorch does not have it."""

    def prepare(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Call:
        import torch._inductor as inductor

        if mode not in inductor.list_mode_options():
            raise OptionError(f"torch.compile has no mode {mode!r} in PyTorch {torch.__version__}")
        call: Call = torch.compile(converted(model, inputs, dtype), mode=mode, dynamic=False)
        with inductor.config.patch(freezing=True):
            for _ in range(4):  # compile, then warm up, record and replay the CUDA graph
                call(*inputs)
        return call

    return prepare


def fused(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Call:
    """cuDNN's fused convolutions; batch norm is folded in float32, before the weights are rounded. Raises DoesNotApply
    for a network without convolutions."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        raise DoesNotApply("the network has no convolutions; eager+graph runs it as this would")
    wide = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    rewritten = cudnn_fused(copy.deepcopy(model).to(inputs[0].device), wide)
    return graphed(converted(rewritten, inputs, dtype), inputs)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("eager", eager),
        Peer("eager+graph", eager_graph),
        Peer("compile", compiled("reduce-overhead")),
        Peer("cudnn-fused", fused),
        Peer("compile-default", compiled("default")),
        Peer("compile-max", compiled("max-autotune")),
    )
}
BY_NAME_ONLY = ("compile-default", "compile-max")
"""Not among "all": Inductor's default, as it is slower than reduce-overhead, and max-autotune, which takes minutes."""


def peers_named(text: str, kinds: Collection[str] = ("torch",), precision: str = "fp32") -> list[Contestant]:
    """The peers of a comma-separated list; "all" (those that can run models of these kinds, "torch" or "onnx", but
    BY_NAME_ONLY) and "none" are lists too. Raises OptionError for an unknown one, or one that can run none of the
    models."""
    if text == "none":
        return []
    fitting = [*(PEERS if "torch" in kinds else ()), *((ONNX_RUNTIME,) if "onnx" in kinds else ())]
    usual = [name for name in fitting if name not in BY_NAME_ONLY]
    names = usual if text == "all" else [name.strip() for name in text.split(",")]
    known = [*PEERS, ONNX_RUNTIME]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise OptionError(f"unknown peer {unknown[0]!r}; jitrt can be compared with {', '.join(known)}, all or none")
    unfit = [name for name in names if name not in fitting]
    if unfit:
        runs = "ONNX files" if unfit[0] == ONNX_RUNTIME else "PyTorch models"
        raise OptionError(f"{unfit[0]} runs {runs}, of which there is none here; compare with {', '.join(fitting)}")
    dtype = DTYPES.get(precision, torch.float32)
    return [
        OnnxRuntime(precision) if name == ONNX_RUNTIME else replace(PEERS[name], dtype=dtype)
        for name in dict.fromkeys(names)
    ]


def converted(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> nn.Module:
    """A copy of the model on the inputs' device, its 4-d weights channels_last."""
    copied = copy.deepcopy(model).eval().to(inputs[0].device, dtype)
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Graphed:
    """A captured forward pass that reads `inputs` in place; others are copied into them. It keeps `forward` alive: the
    graph reads the module's weights where they lie, and nothing else would hold on to them."""

    forward: Call
    inputs: Inputs
    graph: torch.cuda.CUDAGraph
    output: Any

    def __call__(self, *given: torch.Tensor) -> Any:
        for static, new in zip(self.inputs, given, strict=True):
            if new is not static:
                static.copy_(new)
        self.graph.replay()
        return self.output


def graphed(forward: Call, inputs: Inputs) -> Call:
    """`forward` captured in one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuDNN must have chosen its algorithms before the capture
        for _ in range(4):
            forward(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    # cuBLAS keeps one workspace a stream. The capture must get one of its own, in the graph's pool: one from an earlier
    # graph's is unmapped once torch.compile clears all workspaces, as it does, and this graph would write there.
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)  # not in PyTorch for the CPU
    if clear is not None:
        clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward(*inputs)
    return Graphed(forward, inputs, graph, output)
