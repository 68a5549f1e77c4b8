"""What is timed: a model with its inputs, in the dtype to run in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from jitrt.bench.measure import Inputs
from jitrt.bench.onnx_model import TORCH_DTYPES, OnnxModel
from jitrt.errors import OptionError
from jitrt.graph.dtype import DType
from jitrt.plan.schema import Binding

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32}


@dataclass(frozen=True)
class Subject:
    """A model to bench: float32, eval mode, on the CPU, or an ONNX file. `inputs(batch)` gives it float32 (or integer)
    inputs, or those of the file's types."""

    name: str
    model: nn.Module | OnnxModel
    inputs: Callable[[int], Inputs]


def source_of(model: nn.Module | OnnxModel, precision: str, inputs: Inputs) -> Any:
    """What jitrt compiles: a copy of a PyTorch model in the dtype to run in, an ONNX file as it is."""
    if isinstance(model, OnnxModel):
        return model.source
    return copy.deepcopy(model).eval().to(inputs[0].device, DTYPES[precision])


def inputs_of(subject: Subject, batch: int, precision: str, device: str) -> Inputs:
    """A subject's inputs on the device, in the dtype to run in; those of an ONNX file have a type of their own."""
    wide = subject.inputs(batch)
    if isinstance(subject.model, OnnxModel):
        return tuple(x.to(device) for x in wide)
    return tuple(place(x, DTYPES[precision], device) for x in wide)


def check_request(batches: Sequence[int], precision: str) -> None:
    """Raise OptionError for an unknown precision or a batch that is no positive number."""
    if precision not in DTYPES:
        raise OptionError(f"unknown precision {precision!r}; choose one of {', '.join(DTYPES)}")
    if not batches or min(batches) < 1:
        raise OptionError(f"batches are {list(batches)}; give positive numbers")


def place(x: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    """On the device, in the dtype, images channels_last: the layout every contestant likes best."""
    x = x.to(device, dtype) if x.is_floating_point() else x.to(device)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def random_input(binding: Binding, device: str) -> torch.Tensor:
    """Normal floats, or zeros and ones, lying as the binding says."""
    dtype = TORCH_DTYPES[DType(binding.dtype)]
    made = torch.empty_strided(binding.shape, binding.strides, dtype=dtype, device=device)
    return made.normal_() if dtype.is_floating_point else made.random_(0, 2)
