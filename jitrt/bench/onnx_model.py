"""An ONNX file on the bench, and ONNX Runtime as its peer."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from jitrt.bench.measure import Call, DoesNotApply, Inputs
from jitrt.errors import OptionError
from jitrt.frontend.onnx.elements import dtype_of, element_of
from jitrt.frontend.onnx.signature import Signature, import_bound
from jitrt.frontend.torch import arrays
from jitrt.graph import interpret

if TYPE_CHECKING:
    from jitrt.bench.subject import Subject
    from jitrt.frontend.onnx import Model

ONNX_RUNTIME = "onnxruntime"
TORCH_DTYPES = {named: dtype for dtype, named in arrays.DTYPES.items()}


@dataclass(frozen=True)
class OnnxModel:
    """A model to time that PyTorch cannot run: the file at `path`, and what was read of it."""

    path: str
    source: Model

    def reference(self, inputs: Inputs) -> list[torch.Tensor]:
        """What it computes in the precision of the file: by ONNX Runtime on the CPU where that is installed, else in
        numpy."""
        if importlib.util.find_spec(ONNX_RUNTIME) is not None:
            session = _session(self.path, ["CPUExecutionProvider"])
            names = [port.name for port in session.get_inputs()]
            feed = {name: arrays.to_numpy(x) for name, x in zip(names, inputs, strict=True)}
            return [arrays.from_numpy(array, inputs[0].device) for array in session.run(None, feed)]
        graph = import_bound(self.source, inputs, fallback=True).imported.graph
        results = interpret(graph, [arrays.to_numpy(x) for x in inputs])
        return [arrays.from_numpy(array, inputs[0].device) for array in results]


def onnx_subject(path: str, source: Model, shapes: Callable[[int], Mapping[str, tuple[int, ...]]]) -> Subject:
    """A file to time; `shapes(batch)` are those of its inputs. The inputs have the file's own element types."""
    from jitrt.bench.subject import Subject

    elements = {port.name: dtype_of(port.element) for port in Signature.of(source.proto).inputs}

    def inputs(batch: int) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        made = []
        for name, shape in shapes(batch).items():
            dtype = TORCH_DTYPES[elements[name]]
            if dtype.is_floating_point:
                made.append(torch.randn(shape, generator=generator).to(dtype))
            else:  # valid as tokens of any vocabulary, and as a mask
                made.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
        return tuple(made)

    return Subject(path, OnnxModel(path, source), inputs)


@dataclass(frozen=True)
class OnnxRuntime:
    """The peer: the CUDA provider on bound device memory. For fp16 the file is converted by ONNX Runtime's own tool,
    inputs and outputs as they were; for other precisions it runs as it is, in tf32 where that was asked for."""

    precision: str

    @property
    def name(self) -> str:
        return ONNX_RUNTIME

    def prepare(self, model: Any, inputs: Inputs) -> Call:
        """Raises OptionError, which says what is missing, where it cannot run, DoesNotApply for a PyTorch model."""
        if not isinstance(model, OnnxModel):
            raise DoesNotApply("onnxruntime runs ONNX files; this is a PyTorch model")
        if importlib.util.find_spec(ONNX_RUNTIME) is None:
            raise OptionError("onnxruntime is not installed; pip install onnxruntime-gpu")
        device = inputs[0].device.type
        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in importlib.import_module(ONNX_RUNTIME).get_available_providers():
            raise OptionError("this onnxruntime has no CUDA provider; pip install onnxruntime-gpu")
        options = {"use_tf32": int(self.precision != "fp32")} if device == "cuda" else {}
        source: Any = _in_fp16(model.path) if self.precision == "fp16" else model.path
        session = _session(source, [(provider, options)])
        if provider not in session.get_providers():
            raise OptionError("onnxruntime could not start its CUDA provider; its own messages say why")
        return BoundSession(session, device)


class BoundSession:
    """A session on the memory of torch tensors: outputs are its own and overwritten by the next call."""

    def __init__(self, session: Any, device: str):
        self._session = session
        self._device = device
        self._names = [port.name for port in session.get_inputs()]
        self._outputs: list[torch.Tensor] = []
        self._bound: tuple[int, ...] = ()
        self._binding = session.io_binding()

    def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        given = tuple(x.contiguous() for x in inputs)  # it reads them row-major
        addresses = tuple(x.data_ptr() for x in given)
        if addresses != self._bound:
            self._bind(given)
            self._bound = addresses
        self._session.run_with_iobinding(self._binding)
        return self._outputs

    def _bind(self, inputs: Inputs) -> None:
        binding = self._binding
        for name, x in zip(self._names, inputs, strict=True):
            element = element_of(arrays.dtype_of(x.dtype))
            binding.bind_input(name, self._device, 0, element, tuple(x.shape), x.data_ptr())
        names = [port.name for port in self._session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)  # tells the shapes of the outputs
        found = [(value.shape(), TORCH_DTYPES[dtype_of(value.element_type())]) for value in binding.get_outputs()]
        self._outputs = [torch.empty(shape, dtype=dtype, device=self._device) for shape, dtype in found]
        for name, y in zip(names, self._outputs, strict=True):
            element = element_of(arrays.dtype_of(y.dtype))
            binding.bind_output(name, self._device, 0, element, tuple(y.shape), y.data_ptr())


def _session(source: Any, providers: list[Any]) -> Any:
    runtime = importlib.import_module(ONNX_RUNTIME)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(source, options, providers=providers)


def _in_fp16(path: str) -> bytes:
    """The file with its computation in float16."""
    import onnx

    try:
        convert = importlib.import_module("onnxruntime.transformers.float16").convert_float_to_float16
    except ImportError as error:
        raise OptionError(f"onnxruntime's conversion to float16 cannot be loaded: {error}") from error
    converted: bytes = convert(onnx.load(path), keep_io_types=True).SerializeToString()
    return converted
