"""What every `add_` method of a Network stands on: the graph, names, lines, and what to say when something is wrong."""

from __future__ import annotations

import difflib
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast, overload

import numpy as np

from jitrt.errors import GraphError, NetworkError, OptionError, PluginError, ShapeError
from jitrt.frontend.builder import Builder, Number
from jitrt.frontend.lines import callers_line
from jitrt.frontend.network.arrays import as_array, is_array
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import DType, Graph, Value
from jitrt.graph.graph import is_name
from jitrt.graph.op import Array
from jitrt.graph.ops import Identity

if TYPE_CHECKING:
    from jitrt.frontend.network import Network

Sizes = int | Sequence[int]
_Net = TypeVar("_Net", bound="Frame")
_P = ParamSpec("_P")


class Frame:
    """A graph under construction. Layers are functions decorated by `layer`; these methods are for them."""

    def __init__(self, name: str = "network"):
        self.builder = Builder(Graph(name))
        # The layer that is being added: its name, its kind, and whether the name is the user's.
        self._layer, self._kind, self._named = "", "", False
        self._names: dict[str, str] = {}  # of inputs, constants and layers: what has the name

    # -- what a layer was given ----------------------------------------------------------------------------------

    def value(self, tensor: Any) -> Value:
        """The graph's value of a tensor. Raises NetworkError for anything but a tensor of this network."""
        if not isinstance(tensor, Tensor):
            self.refuse(f"got a {type(tensor).__name__} for a tensor; net.add_constant makes one of an array")
        if tensor.network is not self:
            self.refuse(
                f"{tensor.name!r} belongs to the network {tensor.network.builder.graph.name!r}; a layer reads tensors "
                "of its own network only"
            )
        return tensor.value

    def number_or_value(self, x: Any) -> Value | Number:
        """An operand of an elementwise layer: a tensor, a number, or an array, which becomes a constant."""
        if isinstance(x, bool | int | float):
            return x
        return self.parameter("operand", x)

    def floating(self, tensor: Any) -> Value:
        """The value of a tensor of floats. Raises NetworkError for another."""
        value = self.value(tensor)
        if not value.type.dtype.is_float:
            self.refuse(f"x is {value.type.dtype.numpy}; cast it first with net.add_cast(x, 'float32')")
        return value

    def parameter(self, what: str, given: Any, dtype: DType | None = None) -> Value:
        """A tensor, or an array that becomes the constant `<layer>.<what>`, of whatever shape. Raises NetworkError
        unless it has the dtype, if one is given."""
        value = self._constant(what, as_array(given)) if is_array(given) else self.value(given)
        if dtype is not None and value.type.dtype != dtype:
            self.refuse(f"{what} is {value.type.dtype.numpy}, expected {dtype.numpy} as x; cast one of the two")
        return value

    def weights(self, what: str, given: Any, shape: Sequence[int], dtype: DType, meaning: str = "") -> Value:
        """A parameter of the layer's: a tensor of the network, or an array that becomes the constant `<layer>.<what>`.

        Raises ShapeError unless it has this shape and dtype; `meaning` says what the sizes are.
        """
        value = self.parameter(what, given, dtype)
        if value.type.shape != tuple(shape):
            meaning = f": {meaning}" if meaning else ""
            raise ShapeError(f"{what}: shape {value.type.shape}, expected {tuple(shape)}{meaning}")
        return value

    def optional_weights(
        self, what: str, given: Any, shape: Sequence[int], dtype: DType, meaning: str = ""
    ) -> Value | None:
        return None if given is None else self.weights(what, given, shape, dtype, meaning)

    def sizes(self, what: str, given: Any, count: int, *, least: int = 1) -> tuple[int, ...]:
        """`count` whole numbers, of which one may stand for all. Raises NetworkError for anything else, or one below
        `least`."""
        numbers = self.integers(what, given)
        if isinstance(given, int) or (len(numbers) == 1 != count):
            numbers = numbers * count
        if len(numbers) != count:
            self.refuse(f"{what} is {given!r}; give one number or {count}, one a dimension")
        if any(number < least for number in numbers):
            self.refuse(f"{what} is {given!r}; it cannot be below {least}")
        return numbers

    def integers(self, what: str, given: Any) -> tuple[int, ...]:
        """Whole numbers. Raises NetworkError for anything else."""
        items = tuple(given) if isinstance(given, Iterable) else (given,)
        if any(isinstance(item, bool) or not hasattr(item, "__index__") or np.ndim(item) for item in items):
            self.refuse(f"{what} is {given!r}; give whole numbers")
        return tuple(operator.index(item) for item in items)

    def number(self, what: str, given: Any, *, least: float = -math.inf) -> float:
        """A number. Raises NetworkError for anything else, one below `least`, or none at all (NaN)."""
        if isinstance(given, bool) or not isinstance(given, Real) or not float(given) >= least:
            self.refuse(f"{what} is {given!r}; give a number{f' of {least:g} or more' if least > -math.inf else ''}")
        return float(given)

    def axis(self, axis: int, rank: int, what: str = "axis", of: str = "dimensions") -> int:
        """A dimension (or element) counted from the front. Raises NetworkError for one that is not there."""
        (number,) = self.integers(what, (axis,))
        if not -rank <= number < rank:
            self.refuse(f"{what} is {number}; there are {rank} {of}")
        return number % rank

    def choose(self, what: str, given: str, table: Iterable[str]) -> str:
        """One of the names in `table`. Raises NetworkError naming the nearest for another."""
        known = sorted(table)
        if given not in known:
            close = difflib.get_close_matches(str(given), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            self.refuse(f"unknown {what} {given!r}; {hint}")
        return given

    def refuse(self, text: str) -> NoReturn:
        """Raise NetworkError; whoever adds the layer puts the line before it."""
        raise NetworkError(text)

    def call(self, kind: str) -> None:
        """Let the layer that is being added be of a more telling kind than its method, as "relu" for an activation."""
        self._kind = kind
        if not self._named:
            self._layer = self._free_name(kind)

    # -- putting a layer in --------------------------------------------------------------------------------------

    @contextmanager
    def adding(self, what: str, kind: str | None = None, name: str | None = None) -> Iterator[list[Value]]:
        """Adds one layer: takes a name (none without a kind), marks what is added with the caller's line, and puts that
        line and `what` before any error, after which the network is as it was. The values appended to the list are the
        layer's results, and bear its name."""
        graph, loc = self.builder.graph, callers_line()
        nodes, constants, results = len(graph.nodes), set(graph.constants), list[Value]()
        self.builder.loc = loc
        try:
            self._kind, self._named = kind or "", name is not None
            self._layer = self._free_name(self._kind) if name is None else self._checked_name(name)
            yield results
            self._name_results(results)
        except Exception as error:
            for node in reversed(graph.nodes[nodes:]):
                graph.erase(node)
            if isinstance(error, GraphError | OptionError | PluginError):
                raise _located(error, f"{loc}: {what}: {error}") from None
            raise
        finally:
            made = [value for key, value in graph.constants.items() if key not in constants]
            self.builder.finish(among=[value for value in made if value not in results])
        if kind is not None:
            self._names[self._layer] = f"{self._kind} at {loc}"

    def _free_name(self, kind: str) -> str:
        name, number = kind, 0
        while name in self._names:
            number += 1
            name = f"{kind}_{number}"
        return name

    def _checked_name(self, name: str) -> str:
        if not isinstance(name, str) or not is_name(name) or name.isdigit():
            self.refuse(f"the name is {name!r}; give letters, digits, dots and underscores, or leave it out")
        if name in self._names:
            self.refuse(f"the name {name!r} is taken by the {self._names[name]}; give another")
        for value in self.builder.graph.values():
            if value.name == name:  # a constant inside another layer, whose name nobody has seen
                self.builder.graph.rename(value, f"{name}.inner")
                break
        return name

    def _name_results(self, results: list[Value]) -> None:
        """Give results that have but a number the layer's name. A result that was there before keeps its own, unless
        the user gave one: then an identity bears it, as the second of two results that are one value."""
        graph = self.builder.graph
        for index, value in enumerate(results):
            name = self._layer if len(results) == 1 else f"{self._layer}.{index}"
            if value.name.isdigit():
                graph.rename(value, name)
            elif (self._named and value.name != name) or value in results[:index]:
                results[index] = graph.add(Identity(), value, loc=self.builder.loc, name=name)

    def _constant(self, what: str, data: Array) -> Value:
        return self.builder.graph.add_constant(data, f"{self._layer}.{what}")

    def constant(self, data: Any) -> Value:
        """A constant that is the layer itself."""
        array = as_array(data)
        if array.size == 0:
            self.refuse(f"an array of shape {array.shape} has no elements")
        return self.builder.graph.add_constant(array, self._layer)


def _located(error: Exception, text: str) -> Exception:
    kinds = (NetworkError, ShapeError, OptionError, PluginError)
    return next((kind for kind in kinds if isinstance(error, kind)), GraphError)(text)


@overload
def layer(function: Callable[Concatenate[_Net, _P], Value]) -> Callable[Concatenate[_Net, _P], Tensor]: ...
@overload
def layer(
    function: Callable[Concatenate[_Net, _P], tuple[Value, ...]],
) -> Callable[Concatenate[_Net, _P], tuple[Tensor, ...]]: ...
def layer(function: Any) -> Any:
    """Make `add_kind(net, ..., name=None)`, which returns a Value or several, a method that returns Tensors.

    The layer and its results are called `name`, or by its kind; its nodes have the caller's line, and so has every
    error. The function itself may ignore `name`.
    """
    kind = function.__name__.removeprefix("add_")

    @functools.wraps(function)
    def add(net: Frame, *args: Any, **kwargs: Any) -> Any:
        with net.adding(function.__name__, kind, kwargs.get("name")) as results:
            made = function(net, *args, **kwargs)
            results.extend(made if isinstance(made, tuple) else (made,))
        tensors = tuple(Tensor(cast("Network", net), value) for value in results)
        return tensors if isinstance(made, tuple) else tensors[0]

    add.__annotations__ = {**function.__annotations__, "return": _returns(function)}
    return add


def _returns(function: Any) -> str:
    return "tuple[Tensor, ...]" if "tuple" in str(function.__annotations__.get("return")) else "Tensor"
