"""jitrt as a backend of ONNX (`onnx.backend.base`): what ONNX's own test suite, and tools that take any backend, run.

    rep = onnx_backend.prepare(model, "CUDA")
    (y,) = rep.run([x])

The device "CPU" is the reference target (the optimised graph, in numpy), "CUDA" the kernels, tuned by "heuristic"
unless `tune` says otherwise. Further keyword arguments are those of `jitrt.request.Request`.

A model is built at the first `run`, for the shapes of its inputs, and again for other shapes. Inputs that sizes depend
on (the shape given to a Reshape, the k of a TopK, which TensorRT calls shape tensors) are built for by value: other
numbers in them are another build too. The builds used last are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from jitrt.errors import InputError, OptionError, TargetError
from jitrt.frontend.onnx.signature import Bound, Signature, import_bound
from jitrt.graph import Graph
from jitrt.graph.op import Array
from jitrt.hybrid import Step, build_with_fallback
from jitrt.request import Request, steps_on_host

__all__ = ["JitrtBackend", "JitrtRep", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]

Build = Callable[[Graph, Request], Any]  # a graph to an engine

_KEPT = 8


def build(graph: Graph, request: Request) -> Any:
    """The engine that `JitrtRep` runs, unless it is given another way to build: it returns a list."""
    structure = listed(graph)
    return build_with_fallback(
        graph, request.options, target=request.target, structure=structure, strict=request.strict
    )


def listed(graph: Graph) -> list[dict[str, int]]:
    """The structure of all results in a list: an engine's own outputs are distinct, two results may be one of them."""
    return [{"output": index} for index in range(len(graph.outputs))]


class JitrtRep(BackendRep):
    """A model, ready to be run on inputs of any shapes it takes."""

    def __init__(self, model: onnx.ModelProto, request: Request, build: Build = build):
        self.model = model
        self.request = request
        self.signature = Signature.of(model)
        self._build = build
        self._fixed: tuple[str, ...] = ()  # inputs whose numbers are known to decide what is built
        self._engines: OrderedDict[Hashable, tuple[Bound, Any]] = OrderedDict()
        self._outputs = [port.name for port in self.signature.outputs]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, a named tuple in the model's order. `inputs` are a dict by name, or in the model's order.

        Raises InputError for too few or too many, and what the import and the build of the model raise.
        """
        if kwargs:
            raise OptionError(f"run takes no {', '.join(kwargs)}; options are those of `prepare`")
        given = self._given(inputs)
        bound, engine = self._engine(given)
        results = engine(*(given[name] for name in bound.imported.inputs))
        outputs: tuple[Any, ...] = namedtupledict("Outputs", self._outputs)(*results)
        return outputs

    def build_for(self, inputs: Any) -> tuple[Step, ...]:
        """Build for these inputs, as `run` does before it runs; what will run on the host."""
        self._engine(self._given(inputs))
        return self.steps

    def close(self) -> None:
        """Free what the builds hold on the device; the next run builds anew."""
        for _, engine in self._engines.values():
            engine.close()
        self._engines.clear()

    @property
    def steps(self) -> tuple[Step, ...]:
        """What runs on the host in the model as it was run last; nothing before."""
        if not self._engines:
            return ()
        bound, engine = next(reversed(self._engines.values()))
        return tuple(steps_on_host(bound.imported.graph, engine))

    def _given(self, inputs: Any) -> dict[str, Array]:
        names = [port.name for port in self.signature.inputs]
        for port in self.signature.inputs:
            if not port.element:
                raise InputError(f"input {port.name!r} is a {port.kind}; jitrt's engines take tensors")
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            listed = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
            given = dict(zip([*names, *(port.name for port in self.signature.defaulted)], listed))
            if len(listed) != len(given):
                raise InputError(f"the model takes {len(names)} input(s), got {len(listed)}")
        missing = [name for name in names if name not in given]
        if missing:
            raise InputError(f"input {missing[0]!r} is missing; the model takes {', '.join(names)}")
        return {name: np.asarray(given[name]) for name in names}

    def _engine(self, given: dict[str, Array]) -> tuple[Bound, Any]:
        key = self._key(given)
        if key not in self._engines:
            bound = import_bound(self.model, given, fallback=True)
            self._fixed = tuple(dict.fromkeys((*self._fixed, *bound.fixed)))
            key = self._key(given)
            self._engines[key] = bound, self._build(bound.imported.graph, self.request)
            while len(self._engines) > _KEPT:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return self._engines[key]

    def _key(self, given: Mapping[str, Array]) -> Hashable:
        shapes = tuple((name, array.shape, array.dtype.name) for name, array in given.items())
        return shapes, tuple(given[name].tobytes() for name in self._fixed)


class JitrtBackend(Backend):
    """What ONNX knows jitrt by; the module has the same functions."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the device is there. What a model needs is known once it is imported."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> JitrtRep:
        """A model on a device. Raises OptionError for an option that is none of `Request`, TargetError for a device
        that jitrt has none for."""
        return JitrtRep(model, _request(device, kwargs))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """One operator. `opset_version` is its version, by default the newest; `outputs_info` is not needed."""
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        arrays = [np.asarray(array) for array in inputs]
        names = [name for name in node.input if name]
        if len(names) != len(arrays):
            raise InputError(f"{node.op_type} takes {len(names)} input(s), got {len(arrays)}")
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], node.op_type, infos, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, opset)])
        return cls.prepare(model, device, **kwargs).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether a model can run there: "CPU" always, "CUDA" where there is an NVIDIA GPU."""
        kind = _kind_of(device)
        if kind != DeviceType.CUDA:
            return kind == DeviceType.CPU
        from jitrt.runtime.driver import cuda_driver

        try:
            cuda_driver(0)
        except TargetError:
            return False
        return True


def _kind_of(device: str) -> Any:
    try:
        found = Device(device)
    except (AttributeError, ValueError):
        return None
    return found.type if found.device_id == 0 else None


def _request(device: str, options: Mapping[str, Any]) -> Request:
    kind = _kind_of(device)
    if kind is None:
        raise TargetError(f"device is {device!r}; jitrt has 'CPU' (its reference target) and 'CUDA'")
    request = Request.of({"tune": "heuristic", **options})
    if request.outputs is not None:
        raise OptionError("outputs is given, but a backend returns what the model returns; use jitrt.compile for it")
    return replace(request, target="reference") if kind == DeviceType.CPU else request


is_compatible = JitrtBackend.is_compatible
prepare = JitrtBackend.prepare
run_model = JitrtBackend.run_model
run_node = JitrtBackend.run_node
supports_device = JitrtBackend.supports_device
