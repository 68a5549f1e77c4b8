"""Engines with steps on the host: a graph is cut around what has no kernel, and every such step is named and costed.

build      the engine of a graph, cut if it must be
steps      what runs on the host, and why: ONNX operators without an importer, by ONNX's own reference
           (`jitrt.frontend.onnx.fallback`), and ops of the graph that no kernel takes, by their own `eval`
prepare    a graph without inputs and outputs that have no elements
cut        the parts, in turns on the device and on the host; each device part is an engine like any other
engine     runs them, behind the surface of an `Engine`

Between the parts values lie on the host: what a step reads is copied there, and its result back. With `strict=True` a
model that needs a step is refused, by one error that lists all of them.
"""

from jitrt.hybrid.build import build_with_fallback
from jitrt.hybrid.engine import HybridEngine
from jitrt.hybrid.steps import Step, imported_steps, steps_of, uncovered

__all__ = ["HybridEngine", "Step", "build_with_fallback", "imported_steps", "steps_of", "uncovered"]
