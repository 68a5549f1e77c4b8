"""The template of a plugin that is a plain `@triton.jit` function.

The kernel's parameters say by their names what they are given:

operands    the names of the reference's tensors: pointers to dense row-major tensors
out         pointer to the result, which the kernel writes dense and row-major; or, where it has STORE, any layout
STORE, aux  `STORE(out, aux, value, index, mask)` in place of `tl.store`: finishes elements `index` (row-major numbers,
            a tile like `value` and `mask`) and stores them. What follows the plugin in the model happens there, in
            float32, and the result may be a slice of a larger tensor.
DEPENDENT   whether to wait with `tl.extra.cuda.gdc_wait()` before the first access to memory
others      compile-time constants: attributes, the entries of a configuration, and what `sizes` returns
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import register_type
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.codegen.tile import RowSpace
from jitrt.errors import PluginError
from jitrt.graph.graph import Graph
from jitrt.graph.types import TensorType, row_major
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.plugins.registry import call

if TYPE_CHECKING:
    from jitrt.plugins.registry import Plugin

Configs = Sequence[Config] | Callable[..., Sequence[Config]]
_LAUNCH = ("num_warps", "num_stages")  # entries of a configuration that are no parameters of the kernel

_FINISH = """
@triton.jit
def finish_and_store(y, aux, value, index, mask):
    if len(index.shape) == 1:
        value = value[None, :]
        index = index[None, :]
        mask = mask[None, :]
    value = apply(value.to({register}), aux, 0, index, mask, mask)
    store(y, value, 0, index, mask, mask)
"""


class FunctionTemplate(Template):
    """Launches `plugin.kernel`, `grid` programs of it, over `configs`."""

    def __init__(
        self,
        plugin: Plugin,
        configs: Configs,
        grid: Callable[..., Any],
        sizes: Callable[..., Mapping[str, Any]] | None,
        spreads: bool,
    ):
        self.name = plugin.name  # type: ignore[misc]
        self._plugin, self._configs, self._grid, self._sizes = plugin, configs, grid, sizes
        self._spreads = spreads
        self.check()

    @property
    def _parameters(self) -> list[str]:
        return list(self._plugin.kernel.arg_names)

    def check(self) -> None:
        """Raise PluginError for parameters that nothing will be given for."""
        plugin, parameters = self._plugin, self._parameters
        where = f"the kernel of {plugin.name}"
        if "out" not in parameters:
            raise PluginError(f"{where} has no parameter `out`, the pointer to its result")
        if ("STORE" in parameters) != ("aux" in parameters):
            raise PluginError(
                f"{where} needs both of `STORE` and `aux`, or neither: STORE(out, aux, value, index, mask)"
            )
        if callable(self._configs) or self._sizes is not None:
            return
        known = {"out", "aux", "STORE", "DEPENDENT", *plugin.operands, *plugin.attributes}
        for config in self._configs:
            missing = [name for name in parameters if name not in known | config.keys()]
            if missing:
                raise PluginError(
                    f"{where} has the parameters {', '.join(missing)}, for which there is neither an operand of the "
                    f"reference nor an attribute, nor an entry in {dict(config)}; return them from `sizes`"
                )

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return self._spreads

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        assert anchor is not None
        for name, value in zip(self._plugin.operands, anchor.inputs, strict=True):
            if value.is_constant:
                return f"{name} is a plain number: make it an attribute of {self.name}"
            if value not in body.inputs:
                return f"{self.name} takes no prologue"
            if not _is_row_major(value.type):
                return f"{self.name} reads dense row-major operands"
        if "STORE" in self._parameters:
            return refuse_epilogue(body, anchor)
        if len(body.nodes) > 1:
            return f"{self.name} stores its result itself: a parameter STORE would give it an epilogue"
        return None if _is_row_major(anchor.output.type) else f"{self.name} writes a dense row-major result"

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        configs = self._configs
        if callable(configs):
            configs = call(f"configs of {self.name}", configs, self._given(problem))
        if not configs:
            raise PluginError(f"{self.name} has no configurations for this problem; [{{}}] is one without choices")
        return list(configs)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        given = {**self._given(problem), **config}
        sizes = {} if self._sizes is None else call(f"sizes of {self.name}", self._sizes, given)
        if not isinstance(sizes, Mapping):
            raise PluginError(f"sizes of {self.name} gives {sizes!r}; a dict of compile-time constants is wanted")
        grid = call(f"grid of {self.name}", self._grid, {**given, **sizes})
        anchor = problem.anchor
        assert anchor is not None
        places = [problem.body.inputs.index(value) for value in anchor.inputs]
        arguments: dict[str, Any] = {n: Operand(i) for n, i in zip(self._plugin.operands, places, strict=True)}
        arguments["out"] = Result()
        constants = {**given, **sizes, "DEPENDENT": target.arch >= 90}
        if "STORE" in self._parameters:
            constants["STORE"], arguments["aux"] = _store(problem)
        unknown = [name for name in self._parameters if name not in arguments and name not in constants]
        if unknown:
            raise PluginError(f"the kernel of {self.name} has the parameters {', '.join(unknown)}; nothing gives them")
        kernel = KernelCall(
            function=self._plugin.kernel,
            arguments={name: arguments[name] for name in self._parameters if name in arguments},
            constexprs={name: constants[name] for name in self._parameters if name not in arguments},
            grid=self._programs(grid),
            **{name: config[name] for name in _LAUNCH if name in config},
        )
        return Lowered((kernel,))

    def _given(self, problem: Problem) -> dict[str, Any]:
        """What declared functions may ask for: operand types, `out`, attributes."""
        anchor = problem.anchor
        assert anchor is not None
        types = dict(zip(self._plugin.operands, (v.type for v in anchor.inputs), strict=True))
        attributes: dict[str, Any] = anchor.op.attributes  # type: ignore[attr-defined]
        return {**types, "out": anchor.output.type, **attributes}

    def _programs(self, grid: Any) -> tuple[int, int, int]:
        sizes = tuple(grid) if isinstance(grid, Iterable) else (grid,)
        if not 1 <= len(sizes) <= 3 or any(not isinstance(size, int) or size < 1 for size in sizes):
            raise PluginError(f"grid of {self.name} gives {grid!r}; one to three whole numbers, at least 1, are wanted")
        x, y, z = (*sizes, 1, 1)[:3]
        return x, y, z


def _is_row_major(type: TensorType) -> bool:
    pairs = zip(type.shape, type.strides, row_major(type.shape), strict=True)
    return all(size == 1 or stride == wanted for size, stride, wanted in pairs) or math.prod(type.shape) == 0


def _store(problem: Problem) -> tuple[Any, tuple[Operand, ...]]:
    """(the function behind STORE, the operands it reads)."""
    anchor = problem.anchor
    assert anchor is not None
    shape = problem.output.type.shape
    space = RowSpace(shape, (), tuple(range(len(shape))))
    epilogue = make_epilogue(problem.body, anchor.output, space)
    finish = _FINISH.format(register=register_type(anchor.output.type.dtype))
    source = "\n".join([epilogue.apply_source, epilogue.store_source, finish])
    return function(source, "finish_and_store"), tuple(Operand(i) for i in epilogue.operands)
