"""What `jitrt doctor MODEL` says of an ONNX model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jitrt.cli.shapes import shape_text
from jitrt.cli.terminal import console, line, size, table
from jitrt.errors import OptionError

if TYPE_CHECKING:
    from jitrt.frontend.onnx.checkup import Checkup, Finding
    from jitrt.hybrid import Step

_SHOWN = 5  # nodes of one finding; --json has all


def look_at(path: str, shapes: Mapping[str, tuple[int, ...]], *, as_json: bool = False, kernels: bool = False) -> int:
    """Print what is found of the model at `path`; the exit status."""
    from jitrt.frontend.onnx.checkup import examine

    if not os.path.exists(path):
        raise OptionError(f"there is no file {path}; doctor takes an ONNX file, or nothing for this machine")
    found = examine(path, shapes)
    steps = _without_kernel(path, found) if kernels and found.builds and not found.values else []
    if as_json:
        print(json.dumps(to_json(found, steps), indent=2))
    else:
        _show(path, found, steps, kernels)
    return 0 if found.supported and not steps else 1


def to_json(found: Checkup, steps: Sequence[Step] = ()) -> dict[str, Any]:
    """All of it, as JSON knows it; `steps` are those for which there is no kernel."""
    return {
        "name": found.name,
        "producer": found.producer,
        "opsets": {domain or "ai.onnx": version for domain, version in found.opsets.items()},
        "nodes": found.operators.total(),
        "operators": dict(found.operators.most_common()),
        "weights_bytes": found.weights,
        "inputs": {port.name: {"type": port.kind, "dims": port.dims} for port in found.inputs},
        "outputs": {port.name: {"type": port.kind, "dims": port.dims} for port in found.outputs},
        "dynamic": found.dynamic,
        "shapes": found.sizes,
        "guessed": found.guessed,
        "supported": found.supported,
        "builds": found.builds,
        "failure": found.failure,
        "unsupported": found.unsupported,
        "findings": [vars(finding) for finding in found.findings],
        "values": found.values,
        "hidden_nodes": found.hidden,
        "layers": found.layers,
        "flops": found.flops,
        "host_share": found.host_share,
        "without_kernel": [vars(step) for step in steps],
    }


def _show(path: str, found: Checkup, steps: Sequence[Step], kernels: bool) -> None:
    out = console()
    out.print(table(None, ("", ""), _head(path, found)))
    if found.findings:
        header = ("Operator", "Nodes", "It would", "Of the work", "Why", "Where")
        rows = [_row(finding, found) for finding in found.findings]
        out.print(table("What jitrt has no ops for", header, rows, right=(1, 3)))
    if steps:
        lacking = [(step.operator, step.location, step.reason.splitlines()[0]) for step in steps]
        out.print(table("What has no kernel, and would run on the host", ("Op", "Node", "Why"), lacking))
    for text in [*_notes(found), *_verdict(path, found, steps, kernels)]:
        out.print(line(text))


def _head(path: str, found: Checkup) -> list[tuple[str, str]]:
    opsets = ", ".join(f"{domain} {version}".strip() for domain, version in found.opsets.items())
    common = ", ".join(f"{count} {name}" for name, count in found.operators.most_common(6))
    more = ", ..." if len(found.operators) > 6 else ""
    return [
        ("model", f"{path}, opset {opsets}" + (f", by {found.producer}" if found.producer else "")),
        *((f"input {port.name}", f"{port.kind} {_dims(port.dims)}") for port in found.inputs),
        *((f"output {port.name}", f"{port.kind} {_dims(port.dims)}") for port in found.outputs),
        ("weights", size(found.weights)),
        ("nodes", f"{found.operators.total()} of {len(found.operators)} operators: {common}{more}"),
        ("work", f"{_flops(found.flops)} a run, in {found.layers} nodes of the graph"),
    ]


def _flops(flops: int) -> str:
    return f"{flops / 1e9:,.2f} GFLOP" if flops >= 1e8 else f"{flops / 1e6:,.3f} MFLOP"


def _dims(dims: Sequence[int | str | None] | None) -> str:
    return "of unknown rank" if dims is None else "[" + ", ".join(str("?" if d is None else d) for d in dims) + "]"


def _row(finding: Finding, found: Checkup) -> tuple[object, ...]:
    share = f"{100 * finding.flops / found.flops:.1f}%" if finding.outcome == "host step" and found.flops else "-"
    nodes = ", ".join(finding.nodes[:_SHOWN])
    more = f" and {len(finding.nodes) - _SHOWN} more" if len(finding.nodes) > _SHOWN else ""
    does = "fall back to the host" if finding.outcome == "host step" else "be refused"
    return finding.operator, len(finding.nodes), does, share, finding.reason, nodes + more


def _notes(found: Checkup) -> list[str]:
    notes = []
    for name, dims in found.dynamic.items():
        taken = shape_text(found.sizes[name])
        how = "taken here" if name in found.guessed else "given"
        notes.append(f"input {name} leaves {', '.join(dims)} open ({how}: {taken}); a plan has one shape, --shapes")
    for name, why in found.values.items():
        notes.append(
            f"the numbers in input {name} decide what is built ({why}); jitrt.compile takes them as an example"
        )
    if found.hidden:
        notes.append(
            f"{found.hidden} node(s) behind these were looked at by name alone: what they read has no known type"
        )
    if found.failure is not None:
        guessed = [f"{name}:{shape_text(found.sizes[name])}" for name in found.guessed]
        with_these = f" (with {','.join(guessed)}; --shapes gives others)" if guessed else ""
        notes.append(f"a build would end{with_these}: {found.failure}")
    return notes


def _verdict(path: str, found: Checkup, steps: Sequence[Step], kernels: bool) -> list[str]:
    count = sum(found.unsupported.values())
    if not found.builds:
        return [f"jitrt cannot build this model: {count} of its nodes are not supported" if count else "not supported"]
    if count or steps:
        work = f", {100 * found.host_share:.1f}% of the work" if found.host_share else ""
        return [
            f"jitrt.compile and jitrt.onnx run it, {count + len(steps)} of its nodes on the host{work}; strict=True "
            "and jitrt build, whose plans run on the GPU alone, refuse it"
        ]
    asked = "and has a kernel" if kernels else "of the graph; --kernels asks for their kernels too"
    shapes = ",".join(f"{name}:{shape_text(found.sizes[name])}" for name in found.dynamic)
    said = f" --shapes {shapes}" if shapes else ""
    return [
        f"every node is an op {asked}",
        f"next: jitrt build {path} --fp16{said} -o {os.path.splitext(path)[0]}.plan",
    ]


def _without_kernel(path: str, found: Checkup) -> list[Step]:
    """The nodes that no kernel for an sm_90 takes."""
    from jitrt.compiler import Options
    from jitrt.frontend.onnx.signature import import_bound
    from jitrt.hybrid import imported_steps, steps_of, uncovered

    graph = import_bound(path, dict(found.sizes), fallback=True).imported.graph
    there = imported_steps(graph)
    return steps_of(graph, {n: why for n, why in uncovered(graph, Options(), "sm_90").items() if n not in there})
