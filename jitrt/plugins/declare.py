"""The decorators that declare plugins and kernels."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jitrt.errors import PluginError
from jitrt.graph.dtype import DType
from jitrt.kernels.base import Template, offer
from jitrt.plugins import registry
from jitrt.plugins.definition import Place
from jitrt.plugins.function import Configs, FunctionTemplate
from jitrt.plugins.offered import Offered
from jitrt.plugins.op import checked_dtype, define_op
from jitrt.plugins.registry import Plugin

_Kind = TypeVar("_Kind", bound=type[Template])
_NAME = re.compile(r"[A-Za-z_]\w*::[A-Za-z_]\w*")
_ATTRIBUTES = (bool, int, float, str)


def plugin(
    name: str,
    *,
    reference: Callable[..., Any],
    shape: Callable[..., Any] | None = None,
    dtype: Callable[..., Any] | str | None = None,
    dtypes: Sequence[str] = ("f16", "bf16", "f32"),
    elementwise: bool = False,
    configs: Configs = ({},),
    grid: Callable[..., Any] | None = None,
    sizes: Callable[..., Mapping[str, Any]] | None = None,
    flops: Callable[..., int] | None = None,
    spreads_nonfinite: bool = False,
    onnx: tuple[str, str] | None = None,
) -> Callable[[Any], Plugin]:
    """Declare a custom layer "namespace::name"; decorates its kernel and returns the `Plugin`.

    `reference` says what it means: a function of torch tensors that returns one. Its parameters without a default are
    the operands, those with one (a bool, int, float or str) the attributes. It is the eager operator in PyTorch, and
    every candidate of the kernel is verified against it before it may win.

    What is decorated is one of three:

    * a `@triton.jit` kernel: `grid` gives the number of programs, `configs` the configurations worth trying, best guess
      first, `sizes` further compile-time constants. How it is given its arguments, `jitrt/plugins/function.py` says.
    * with `elementwise=True`, a `@triton.jit` device function from operands to result in registers (16-bit floats come
      as float32). It joins the kernels around it and broadcasts, like any elementwise op.
    * a `jitrt.kernels.base.Template` class, asked about regions anchored by this plugin's op, `problem.anchor`.

    `shape` gives the result's shape (of the first operand if left out, broadcast if elementwise), `dtype` its dtype
    (the first operand's, or the promotion), `dtypes` the floats its operands may be; where a model is built in another
    precision, they are cast.
    These functions, `grid`, `sizes`, `configs` and `flops` are called with what they have parameters for: operands by
    name (each a TensorType: shape, dtype, numel, strides), `out`, attributes, entries of the configuration.
    `spreads_nonfinite` says that a NaN may reach elements that do not depend on it. `onnx` is (domain, operator), by
    default (namespace, name).

    Raises PluginError for a declaration that does not hold together.
    """

    def decorate(kernel: Any) -> Plugin:
        place = Place.above(1)
        _check(name, kernel, elementwise, grid, dtypes)
        _check_functions(name, shape=shape, grid=grid, sizes=sizes, flops=flops)
        if isinstance(dtype, str):
            checked_dtype(name, dtype)
        _check_configs(name, configs)
        operands, attributes = _signature(name, reference)
        is_class = isinstance(kernel, type)
        made = Plugin(
            name=name,
            operands=operands,
            attributes=attributes,
            reference=reference,
            shape=shape,
            dtype=dtype,
            dtypes=tuple(dtypes),
            elementwise=elementwise,
            row_major=not is_class and not elementwise and "STORE" not in kernel.arg_names,
            flops=flops,
            kernel=kernel,
            onnx=onnx or _split(name),
            place=place,
        )
        template: Template | None = None
        if is_class:
            template = kernel()
        elif not elementwise:
            assert grid is not None
            template = FunctionTemplate(made, configs, grid, sizes, spreads_nonfinite)
        registry.forget(name)
        define_op(made)
        registry.add(made)
        if template is not None:
            offer(Offered(template, place, made))
        if "torch" in sys.modules:
            from jitrt.plugins.torch_op import torch_op

            torch_op(made)
        return made

    return decorate


def kernel(template: _Kind) -> _Kind:
    """Offer a Template class for layers that jitrt has: a class decorator.

    It competes with jitrt's own wherever it accepts a region; where nothing is measured `priority` decides.

    >>> @jitrt.kernel                                          # doctest: +SKIP
    ... class RowLinear(Template): ...
    """
    if not (isinstance(template, type) and issubclass(template, Template) and "name" in vars(template)):
        raise PluginError("jitrt.kernel decorates a subclass of jitrt.kernels.base.Template that has a name")
    offer(Offered(template(), Place.above(1)))
    return template


def _split(name: str) -> tuple[str, str]:
    namespace, _, own = name.partition("::")
    return namespace, own


def _check(name: str, kernel: Any, elementwise: bool, grid: object, dtypes: Sequence[str]) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"a plugin's name is 'namespace::name', not {name!r}")
    unknown = [dtype for dtype in dtypes if dtype not in {d.value for d in DType if d.is_float}]
    if unknown:
        raise PluginError(
            f"{name}: dtypes names {', '.join(map(repr, unknown))}; floats are 'f16', 'bf16', 'f32', 'f64'"
        )
    if isinstance(kernel, type):
        if not issubclass(kernel, Template):
            raise PluginError(f"{name}: {kernel.__name__} is no subclass of jitrt.kernels.base.Template")
        return
    if not hasattr(kernel, "arg_names"):
        raise PluginError(f"{name} decorates a @triton.jit function or a Template class; put @triton.jit below it")
    if elementwise == (grid is not None):
        told = "an elementwise plugin has no grid of its own" if elementwise else "a kernel needs `grid`"
        raise PluginError(f"{name}: {told}")


def _check_functions(name: str, **given: object) -> None:
    for what, function in given.items():
        if function is not None and not callable(function):
            raise PluginError(f"{name}: {what} is {function!r}; give a function, such as {what}=lambda x: ...")


def _check_configs(name: str, configs: object) -> None:
    if callable(configs):
        return
    is_list = isinstance(configs, Sequence) and len(configs) > 0
    if not is_list or not all(isinstance(config, Mapping) for config in configs):  # type: ignore[attr-defined]
        raise PluginError(f"{name}: configs is {configs!r}; give dicts, such as configs=[{{'BLOCK': 256}}]")


def _signature(name: str, reference: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """(operands, attributes with defaults) of a reference."""
    try:
        parameters = inspect.signature(reference).parameters.values()
    except (TypeError, ValueError) as error:
        raise PluginError(f"{name}: reference must be a Python function of tensors, with names: {error}") from None
    operands, attributes = [], {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(f"{name}: its reference takes *{parameter.name}; operands and attributes need names")
        if parameter.default is parameter.empty:
            operands.append(parameter.name)
        elif isinstance(parameter.default, _ATTRIBUTES):
            attributes[parameter.name] = parameter.default
        else:
            kind = type(parameter.default).__name__
            raise PluginError(
                f"{name}: the default of {parameter.name} is a {kind}; attributes are bool, int, float, str"
            )
    if not operands:
        raise PluginError(f"{name}: its reference takes no tensor; parameters without a default are tensors")
    reserved = {"out", "aux", "STORE", "DEPENDENT"} & {*operands, *attributes}
    if reserved:
        raise PluginError(f"{name}: its reference has a parameter {', '.join(sorted(reserved))}; rename it")
    return tuple(operands), attributes
