"""What users add from outside: custom layers (plugins), kernels for layers that exist, and rules of fusion.

>>> @jitrt.plugin("ns::scaled", reference=lambda x, alpha=1.0: x * alpha, elementwise=True)     # doctest: +SKIP
... @triton.jit
... def scaled(x, alpha):
...     return x * alpha

declare      the decorators, and what they accept
registry     what is there, by name, and installed packages that bring more
op           the op of a plugin in the graph
function     the template made of a plain `@triton.jit` function
offered      a template from outside, as the tuner and its workers see it
definition   how another process gets at what was defined here: a module to import, or the source itself
torch_op     the plugin as an operator of PyTorch
rules        rules of fusion
"""

from jitrt.plugins.declare import kernel, plugin
from jitrt.plugins.registry import Plugin, find, find_onnx, lookup, names
from jitrt.plugins.rules import fusion_rule

__all__ = ["Plugin", "find", "find_onnx", "fusion_rule", "kernel", "lookup", "names", "plugin"]
