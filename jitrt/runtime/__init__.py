"""Loads and runs plans on a GPU. Imports numpy, safetensors and cuda-bindings, nothing heavier."""

from jitrt.runtime.context import ExecutionContext
from jitrt.runtime.engine import Engine, load

__all__ = ["Engine", "ExecutionContext", "load"]
