"""What jitrt makes of an ONNX model, without building anything: all that is in the way, not just the first.

>>> print(examine("model.onnx").unsupported)           # doctest: +SKIP

The model is imported as for a build, with three differences: what has no importer is noted and stood in for by its
step on the host, or, where it cannot be one, by a tensor of the type its result has, so that the nodes behind it are
looked at too; dims that the model leaves open get sizes; and nothing is raised for what is found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from jitrt.errors import ImportFailure
from jitrt.frontend.onnx.bodies import standard_body
from jitrt.frontend.onnx.check import called, domain_of, operator_of
from jitrt.frontend.onnx.elements import dtype_of
from jitrt.frontend.onnx.failures import LOST
from jitrt.frontend.onnx.fallback import HostStep, host_step
from jitrt.frontend.onnx.importer import Importer, Scope
from jitrt.frontend.onnx.model import Model, read_model
from jitrt.frontend.onnx.node import Known
from jitrt.frontend.onnx.plugins import plugin_importer
from jitrt.frontend.onnx.registry import Unsupported, importer_of
from jitrt.frontend.onnx.signature import Port, Signature, shape_of
from jitrt.graph.types import TensorType

HOST, REFUSED = "host step", "refused"
_SPATIAL = 224  # what an open dim behind the first two of an image is taken for, and other open dims: 1
_OTHER = 16


@dataclass
class Finding:
    """An operator that jitrt has no ops for. `outcome` is "host step" (it would run by ONNX's reference, outside the
    kernels) or "refused" (the model cannot be built); `flops` are those of its nodes, as far as shapes are known."""

    operator: str
    reason: str
    outcome: str
    nodes: list[str] = field(default_factory=list)
    flops: int = 0


@dataclass(frozen=True)
class Checkup:
    """What was found. `operators` counts the nodes of the model by operator, those in subgraphs and functions
    included; `sizes` are the shapes the inputs were given, `guessed` those of them that the model leaves open and
    nobody said; `values` are inputs whose numbers decide what is built, each with the node that needs them; `hidden`
    nodes could not be looked at but for their operators, since they depend on what has no known type; `failure` is what
    else would end a build. `flops` are those of one run, `layers` the nodes of the graph that the model becomes."""

    name: str
    producer: str
    opsets: Mapping[str, int]
    operators: Counter[str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: int
    sizes: Mapping[str, tuple[int, ...]]
    guessed: tuple[str, ...]
    findings: tuple[Finding, ...]
    values: Mapping[str, str]
    hidden: int
    failure: str | None
    layers: int
    flops: int

    @property
    def unsupported(self) -> dict[str, int]:
        """Operators without ops of ours, and how many nodes of each."""
        counts: Counter[str] = Counter()
        for finding in self.findings:
            counts[finding.operator] += len(finding.nodes)
        return dict(counts)

    @property
    def dynamic(self) -> dict[str, list[str]]:
        """The dims of each input that the model leaves open, by name or position."""
        ports = {port.name: port for port in self.inputs if port.shape is None}
        return {name: _open_dims(port) for name, port in ports.items()}

    @property
    def host_share(self) -> float:
        """The part of the operations that would run in steps on the host, from 0 to 1."""
        return sum(f.flops for f in self.findings if f.outcome == HOST) / self.flops if self.flops else 0.0

    @property
    def builds(self) -> bool:
        """Whether a build would succeed, if need be with steps on the host."""
        return self.failure is None and all(finding.outcome == HOST for finding in self.findings)

    @property
    def supported(self) -> bool:
        """Whether all of the model is in ops of jitrt's own graph."""
        return self.failure is None and not self.findings


def examine(source: Any, shapes: Mapping[str, Any] | None = None) -> Checkup:
    """Look at a model (what `read_model` takes); `shapes` are arrays or shapes for inputs that leave theirs open.

    Raises ModelError for what is no model, OptionError for shapes that do not fit it.
    """
    model = read_model(source)
    proto, signature = model.proto, Signature.of(model.proto)
    named: dict[str, int] = {}
    guesses = {port.name: _guess(port, named) for port in signature.dynamic if port.name not in (shapes or {})}
    given = signature.given({**guesses, **(shapes or {})})
    sizes = {port.name: shape_of(given.get(port.name, port.shape)) for port in signature.inputs}
    examiner = _Examiner(model)
    failure = _failure_of(examiner, model, signature, sizes)
    if failure is not None:
        examiner.look_at_names(proto)
    for node in examiner.graph.nodes:
        flops = node.op.flops([v.type for v in node.inputs], [v.type for v in node.outputs])
        if isinstance(node.op, HostStep):
            examiner.found[node.op.title, node.op.reason].flops += flops
        examiner.flops += flops
    return Checkup(
        name=proto.graph.name,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        opsets={domain_of(entry.domain): entry.version for entry in proto.opset_import},
        operators=Counter(operator_of(node) for node in _every_node(proto)),
        inputs=signature.inputs,
        outputs=signature.outputs,
        weights=sum(_nbytes(tensor) for tensor in proto.graph.initializer),
        sizes=sizes,
        guessed=tuple(guesses),
        findings=tuple(examiner.found.values()),
        values=dict(examiner.failures.needed),
        hidden=examiner.hidden,
        failure=failure,
        layers=len(examiner.graph.nodes),
        flops=examiner.flops,
    )


def _failure_of(
    examiner: _Examiner, model: Model, signature: Signature, sizes: Mapping[str, tuple[int, ...]]
) -> str | None:
    """Walk the model; what ends that, if something does."""
    scope: Scope = Scope()
    try:
        for port in signature.inputs:
            value = examiner.graph.add_input(port.name, TensorType(dtype_of(port.element), sizes[port.name]))
            examiner.failures.inputs[value.name] = port.name
            scope[port.name] = value
        examiner.run(model.proto.graph, scope)
    except ImportFailure as error:
        return str(error)
    for missing in examiner.failures.missing.values():  # initialisers of element types jitrt does not have
        examiner.note(missing.name, missing.reason, REFUSED, missing.where)
    return None


class _Examiner(Importer):
    """An importer that notes what it cannot import and goes on."""

    def __init__(self, model: Model):
        super().__init__(model.proto, model.read, model.proto.graph.name or "onnx", model.limits)
        self.found: dict[tuple[str, str], Finding] = {}
        self.hidden = 0
        self.flops = 0
        self.types = {info.name: info for info in model.proto.graph.value_info}

    def note(self, operator: str, reason: str, outcome: str, where: str) -> Finding:
        finding = self.found.setdefault((operator, reason), Finding(operator, reason, outcome))
        finding.nodes.append(where)
        return finding

    def node(
        self, node: onnx.NodeProto, operands: Sequence[Any], scope: Scope, opsets: Mapping[str, int], loc: str
    ) -> Sequence[Any]:
        if any(operand is LOST for operand in operands):
            self.hidden += 1
            self.look_at_name(node, domain_of(node.domain), opsets.get(domain_of(node.domain), 1), loc)
        return super().node(node, operands, scope, opsets, loc)

    def instead(
        self, node: onnx.NodeProto, operands: Sequence[Any], domain: str, opset: int, refusal: Unsupported, loc: str
    ) -> Sequence[Any]:
        title = operator_of(node)
        if isinstance(refusal, Known):
            self.failures.trace(refusal, loc)
            return [LOST] * len(node.output)
        try:
            results: Sequence[Any] = host_step(self.graph, node, operands, domain, opset, str(refusal), loc)
        except Unsupported as why:
            self.note(title, f"{refusal}; no step on the host either: {why}", REFUSED, loc)
            return [self.stand_in(name) for name in node.output]
        self.note(title, str(refusal), HOST, loc)
        return results

    def stand_in(self, name: str) -> Any:
        """A tensor in place of a result, if the model says its type."""
        port = Port.of(self.types[name]) if name in self.types else None
        if port is None or port.shape is None or not port.element:
            return LOST
        return self.graph.add_input(name, TensorType(dtype_of(port.element), port.shape))

    def look_at_names(self, model: onnx.ModelProto) -> None:
        """Note the operators that nothing imports, where the walk came to an early end."""
        seen = {where for finding in self.found.values() for where in finding.nodes}
        for position, node in enumerate(model.graph.node):
            loc, domain = called(node, position), domain_of(node.domain)
            if loc not in seen:
                self.look_at_name(node, domain, self.opsets.get(domain, 1), loc)

    def look_at_name(self, node: onnx.NodeProto, domain: str, opset: int, loc: str) -> None:
        """Note a node that nothing imports, whatever its operands are."""
        known = (domain, node.op_type, node.overload) in self.functions or plugin_importer(domain, node.op_type)
        if not known and importer_of(domain, node.op_type, opset) is None and not _has_body(node, domain, opset):
            self.note(operator_of(node), "no importer; what it reads has no known type", REFUSED, loc)


def _has_body(node: onnx.NodeProto, domain: str, opset: int) -> bool:
    if not onnx.defs.has(node.op_type, opset, domain):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type, opset, domain)
    return bool(schema.has_context_dependent_function) or standard_body(node, (), domain, opset) is not None


def _every_node(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    waiting: list[Any] = [model.graph, *model.functions]
    found = []
    while waiting:
        for node in waiting.pop().node:
            found.append(node)
            for attribute in node.attribute:
                if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                    waiting += [attribute.g, *attribute.graphs]
    return found


def _nbytes(tensor: onnx.TensorProto) -> int:
    try:
        return math.prod(tensor.dims) * dtype_of(tensor.data_type).itemsize
    except ImportFailure:
        return 0


def _open_dims(port: Port) -> list[str]:
    if port.dims is None:
        return ["all of them"]
    return [dim or f"dim {i}" for i, dim in enumerate(port.dims) if not isinstance(dim, int)]


def _guess(port: Port, named: dict[str, int]) -> tuple[int, ...]:
    """A shape for an input that leaves dims open: a batch of 1, images of 224 x 224, 16 of anything else; dims of one
    name (in `named`, which grows) have one size."""
    dims = port.dims or ()
    image = len(dims) >= 4
    sizes = [1 if i == 0 else _SPATIAL if image and i > 1 else 3 if image else _OTHER for i in range(len(dims))]
    found = []
    for dim, size in zip(dims, sizes, strict=True):
        found.append(dim if isinstance(dim, int) else named.setdefault(dim, size) if dim else size)
    return tuple(found)
