"""`InferenceSession`: an ONNX model that runs, called as ONNX Runtime is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jitrt.errors import FeedError, JitrtWarning, OptionError
from jitrt.frontend.onnx import read_model
from jitrt.frontend.onnx.elements import dtype_of
from jitrt.frontend.onnx.signature import Port, Signature, as_numpy
from jitrt.onnx.binding import IOBinding
from jitrt.onnx.engines import Engines, Specialisation
from jitrt.onnx.options import RunOptions, SessionOptions
from jitrt.onnx.providers import Provider, choose
from jitrt.onnx.values import OrtValue
from jitrt.request import Request


@dataclass(frozen=True)
class NodeArg:
    """An input or output: its dims are numbers, the names of dynamic ones, or None."""

    name: str
    type: str
    shape: list[int | str | None]


@dataclass(frozen=True)
class ModelMetadata:
    """Who made a model, and what they wrote into it."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]


class InferenceSession:
    """An ONNX model (a path, its bytes or a ModelProto) that runs on the GPU, or in numpy on "CPUExecutionProvider".

    Shapes the model leaves open are built for when they first come; the `specialisations` used last are kept, and so
    is a set of values of each input that what is built depends on. A model without open shapes is built at once.
    Further keyword arguments are those of `jitrt.request.Request`: `precision="fp16"`, `tune="heuristic"`.

    Raises ImportFailure and UnsupportedOpError for the model, OptionError for the options, and what a build raises.

    >>> session = InferenceSession("model.onnx", precision="fp16")       # doctest: +SKIP
    >>> (logits,) = session.run(None, {"input": image})                  # doctest: +SKIP
    """

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: SessionOptions | None = None,
        providers: Sequence[Provider] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        *,
        specialisations: int = 8,
        enable_fallback: bool = True,
        disabled_optimizers: object = None,
        **options: Any,
    ):
        if not isinstance(specialisations, int) or isinstance(specialisations, bool) or specialisations < 1:
            raise OptionError(f"specialisations is {specialisations!r}; give how many to keep, at least 1")
        self._options = sess_options or SessionOptions()
        self._asked, self._limit = options, specialisations
        if self._options.unmet:
            text = "; ".join(self._options.unmet)
            warnings.warn(f"the session options ask for what jitrt does not do: {text}", JitrtWarning, stacklevel=2)
        self._model = read_model(path_or_bytes)
        self._signature = Signature.of(self._model.proto)
        ports = [_narrowed(port, self._options.free_dimensions) for port in self._signature.inputs]
        self._inputs = {port.name: port for port in ports}
        self.output_names = [port.name for port in self._signature.outputs]
        self._start(providers, provider_options)

    # -- what the model is

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that have to be fed."""
        return [_node_arg(port) for port in self._inputs.values()]

    def get_outputs(self) -> list[NodeArg]:
        return [_node_arg(port) for port in self._signature.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The inputs that have a value in the file, which is part of what is built."""
        return [_node_arg(port) for port in self._signature.defaulted]

    def get_modelmeta(self) -> ModelMetadata:
        model = self._model.proto
        return ModelMetadata(
            model.producer_name,
            model.graph.name,
            model.domain,
            model.doc_string,
            model.graph.doc_string,
            model.model_version,
            {entry.key: entry.value for entry in model.metadata_props},
        )

    # -- where it runs

    def get_providers(self) -> list[str]:
        return self._choice.names

    def get_provider_options(self) -> dict[str, dict[str, Any]]:
        return {name: dict(self._choice.given) if name == self._choice.name else {} for name in self._choice.names}

    def set_providers(
        self, providers: Sequence[Provider] | None = None, provider_options: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Run elsewhere from now on; what was built is forgotten."""
        self._start(providers, provider_options)

    def get_session_options(self) -> SessionOptions:
        return self._options

    def disable_fallback(self) -> None:
        """Nothing to switch off: a session never changes its provider by itself."""

    def enable_fallback(self) -> None:
        """Nothing to switch on: a session never changes its provider by itself."""

    @property
    def on_gpu(self) -> bool:
        return self._choice.is_gpu

    @property
    def engines(self) -> list[Any]:
        """The engines there are, the one used last at the end; `session.engines[0].save("model.plan")`."""
        return self._engines.all

    # -- running it

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None = None
    ) -> list[Any]:
        """The named outputs (all of them, if None) for the inputs by name, as numpy arrays.

        Raises FeedError for names the model does not have, inputs that are missing, or of another dtype or shape.
        """
        names = self._names(output_names)
        feed = {name: self.checked(name, value) for name, value in input_feed.items()}
        found = self.specialise(feed)
        results = found.run([feed[name] for name in found.inputs])
        return [results[name] for name in names]

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """As `run`, from values to values; on the GPU they stay there."""
        binding = self.io_binding()
        for name, value in input_dict_ort_values.items():
            binding.bind_ortvalue_input(name, value)
        names = self._names(output_names)
        for name in dict.fromkeys(names):
            binding.bind_output(name, "cuda" if self.on_gpu else "cpu")
        binding.run()
        made = dict(zip(dict.fromkeys(names), binding.get_outputs(), strict=True))
        return [made[name] for name in names]

    def io_binding(self) -> IOBinding:
        """Somewhere to say which memory a run reads and writes."""
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """Run on what is bound; the outputs are there when this returns."""
        iobinding.run()

    def profile(self, input_feed: Mapping[str, Any]) -> Any:
        """Where the time goes, layer by layer: `Engine.profile` (not in ONNX Runtime)."""
        feed = {name: self.checked(name, value) for name, value in input_feed.items()}
        found = self.specialise(feed)
        return found.engine.profile(*(feed[name] for name in found.inputs))

    def _names(self, output_names: Sequence[str] | None) -> list[str]:
        if isinstance(output_names, str):
            raise FeedError(f"output_names is {output_names!r}; give a list, [{output_names!r}], or None for all")
        for name in output_names or ():
            self.check_output(name)
        return list(output_names or self.output_names)

    # -- what the parts of a session ask of it

    def check(self, name: str, shape: Sequence[int], dtype: np.dtype) -> None:
        """Raise FeedError unless a tensor of this shape and dtype can be the input `name`."""
        port = self._inputs.get(name)
        if port is None:
            given = any(name == other.name for other in self._signature.defaulted)
            reason = "it is a weight of the file, which is part of what is built" if given else "the model has none"
            raise FeedError(
                f"there is no input {name!r} to feed: {reason}; feed {', '.join(self._inputs) or 'nothing'}"
            )
        wanted = dtype_of(port.element).numpy
        if dtype != wanted:
            raise FeedError(f"input {name!r} is {port.kind}, but is fed {dtype}; convert it: x.astype({wanted.name!r})")
        complaint = port.complaint(shape)
        if complaint is not None:
            raise FeedError(f"input {name!r}: {complaint}")

    def checked(self, name: str, value: Any) -> np.ndarray:
        """A value that is fed as an array on the host."""
        if isinstance(value, OrtValue):
            array = value.numpy()
        elif isinstance(value, list | tuple | int | float | bool) and name in self._inputs:
            array = np.asarray(value, dtype_of(self._inputs[name].element).numpy)
        else:
            array = as_numpy(value)
        self.check(name, array.shape, array.dtype)
        return array

    def check_output(self, name: str) -> None:
        """Raise FeedError if the model has no such output."""
        if name not in self.output_names:
            raise FeedError(f"there is no output {name!r}; the model has {', '.join(self.output_names)}")

    def specialise(self, feed: Mapping[str, np.ndarray | OrtValue]) -> Specialisation:
        """The engine for inputs of these shapes, built if there is none. Raises FeedError if an input is missing, and
        what a build raises."""
        missing = [str(port) for name, port in self._inputs.items() if name not in feed]
        if missing:
            raise FeedError(f"nothing is fed for {', '.join(missing)}; fed are: {', '.join(feed) or 'no inputs'}")
        return self._engines.of({name: feed[name] for name in self._inputs})

    # -- building

    def _start(self, providers: Any, provider_options: Any) -> None:
        """Choose where to run, and build for the shapes of the file if it leaves none open."""
        self._choice = choose(providers, provider_options, self._options, stacklevel=3)
        request = Request.of({**self._choice.options, **self._asked}, also=("specialisations",))
        self._engines = Engines(self._model, request, self._limit)
        shapes = {name: port.shape for name, port in self._inputs.items()}
        if None not in shapes.values():
            self._engines.ahead({name: shape for name, shape in shapes.items() if shape is not None})


def _node_arg(port: Port) -> NodeArg:
    return NodeArg(port.name, port.kind, list(port.dims or ()))


def _narrowed(port: Port, sizes: Mapping[str, int]) -> Port:
    """A port whose named dims are those of `sizes` where it has them."""
    if port.dims is None:
        return port
    return replace(port, dims=tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in port.dims))
