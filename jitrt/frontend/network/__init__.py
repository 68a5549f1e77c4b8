"""The Network Definition API: a model put together layer by layer, without any framework.

>>> import numpy as np
>>> import jitrt
>>> net = jitrt.Network("tiny")
>>> x = net.add_input("x", (1, 3, 8, 8))
>>> w = np.ones((4, 3, 3, 3), np.float32)
>>> y = net.add_activation(net.add_conv(x, 4, 3, weights=w, padding=1), "relu")
>>> y.shape
(1, 4, 8, 8)
>>> net.mark_output(y, "y")
>>> engine = jitrt.compile(net, target="reference")
>>> engine(np.ones((1, 3, 8, 8), np.float32)).shape
(1, 4, 8, 8)

A layer is a function in one of this package's files, which checks what it was given and builds with `frontend.layers`,
as the other front ends do; and a row in the class below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitrt.errors import NetworkError, ShapeError
from jitrt.frontend.network import (
    attention,
    conv,
    elementwise,
    index,
    linear,
    norm,
    plugin,
    pool,
    recurrent,
    reduce,
    resample,
    shape,
)
from jitrt.frontend.network.arrays import dtype_of
from jitrt.frontend.network.frame import Frame
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import Graph, TensorType, verify
from jitrt.graph.graph import live_nodes
from jitrt.graph.ops import Identity

__all__ = ["Network", "Tensor"]


class Network(Frame):
    """A model under construction. Every layer checks its operands when it is added; an error names the line that did,
    and leaves the network as it was.

    Layers take tensors of this network and keyword attributes, return tensors, and take a `name=`, by which `outputs=`
    and reports know them. Weights are numpy, torch or DLPack arrays of the input's dtype, and are copied.
    """

    # Every layer, by family. The first parameter of each is the network.
    add_constant = shape.add_constant

    add_conv = conv.add_conv
    add_conv_transpose = conv.add_conv_transpose
    add_linear = linear.add_linear
    add_matmul = linear.add_matmul

    add_attention = attention.add_attention

    add_activation = elementwise.add_activation
    add_prelu = elementwise.add_prelu
    add_glu = elementwise.add_glu
    add_elementwise = elementwise.add_elementwise
    add_scale = elementwise.add_scale
    add_cast = elementwise.add_cast

    add_pool = pool.add_pool
    add_adaptive_pool = pool.add_adaptive_pool

    add_pad = resample.add_pad
    add_resize = resample.add_resize

    add_batch_norm = norm.add_batch_norm
    add_layer_norm = norm.add_layer_norm
    add_rms_norm = norm.add_rms_norm
    add_group_norm = norm.add_group_norm
    add_instance_norm = norm.add_instance_norm
    add_lrn = norm.add_lrn

    add_reduce = reduce.add_reduce
    add_softmax = reduce.add_softmax
    add_log_softmax = reduce.add_log_softmax

    add_lstm = recurrent.add_lstm
    add_gru = recurrent.add_gru
    add_rnn = recurrent.add_rnn

    add_embedding = index.add_embedding
    add_gather = index.add_gather
    add_gather_elements = index.add_gather_elements
    add_topk = index.add_topk
    add_argmax = index.add_argmax
    add_argmin = index.add_argmin
    add_cumsum = index.add_cumsum
    add_cumprod = index.add_cumprod

    add_plugin = plugin.add_plugin

    add_reshape = shape.add_reshape
    add_flatten = shape.add_flatten
    add_permute = shape.add_permute
    add_transpose = shape.add_transpose
    add_expand = shape.add_expand
    add_slice = shape.add_slice
    add_split = shape.add_split
    add_index = shape.add_index
    add_concat = shape.add_concat
    add_stack = shape.add_stack
    add_dropout = shape.add_dropout
    add_identity = shape.add_identity

    def add_input(self, name: str, shape: Sequence[int], dtype: Any = "float32") -> Tensor:
        """An input of the network; a call gives its inputs in the order they were added.

        Raises NetworkError for a name that is taken, a size that is not positive, or an unknown dtype.
        """
        with self.adding("add_input", "input", name or "") as results:
            sizes = self.integers("shape", shape)
            if any(size < 1 for size in sizes):
                self.refuse(f"shape is {tuple(sizes)}; sizes are positive: one network has one shape")
            value = self.builder.graph.add_input(name, TensorType(dtype_of(dtype), sizes))
            results.append(value)
        return Tensor(self, value)

    def mark_output(self, tensor: Tensor, name: str | None = None) -> None:
        """Make a tensor an output, under a name of its own if one is given. A network with one output returns it, one
        with several a tuple in the order they were marked.

        Raises NetworkError for a tensor of another network, one that is an output already, or a name that is taken.
        """
        graph = self.builder.graph
        with self.adding("mark_output", None if name is None else "output", name):
            value = self.value(tensor)
            if value in graph.outputs:
                self.refuse(f"{value.name!r} is an output already")
            if name is not None and value.producer is None:
                value = graph.add(Identity(), value, loc=self.builder.loc, name=name)
            elif name is not None:
                graph.rename(value, name)
            graph.mark_output(value)

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Let every layer and output that reads `old` read `new` instead, as when a layer is put in between later.

        Raises ShapeError if they differ in shape or dtype, NetworkError if `new` is computed from what reads `old`: the
        network would have a cycle.
        """
        with self.adding("replace"):
            before, after = self.value(old), self.value(new)
            if before.type.logical() != after.type.logical():
                raise ShapeError(f"{before.name!r} is {before.type}, {after.name!r} is {after.type}; they must agree")
            readers = [node for node in before.users if node in live_nodes(self.builder.graph, [after])]
            if readers:
                result = readers[0].outputs[0].name
                self.refuse(
                    f"a cycle: {after.name!r} is computed from {result!r}, which reads {before.name!r} and would read "
                    f"{after.name!r} itself"
                )
            self.builder.graph.replace_uses(before, after)
            self.builder.graph.sort()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(Tensor(self, value) for value in self.builder.graph.inputs)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(Tensor(self, value) for value in self.builder.graph.outputs)

    @property
    def graph(self) -> Graph:
        """The finished graph, a copy. Raises NetworkError if no output is marked."""
        if not self.builder.graph.outputs:
            raise NetworkError(
                f"the network {self.builder.graph.name!r} has no output; mark one with net.mark_output(tensor)"
            )
        graph = self.builder.graph.clone()
        graph.drop_unused_constants()
        verify(graph)
        return graph

    def __str__(self) -> str:
        return str(self.builder.graph)

    def __repr__(self) -> str:
        graph = self.builder.graph
        inputs = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        return f"Network({graph.name!r}, inputs [{inputs}], {len(graph.nodes)} nodes, {len(graph.outputs)} outputs)"
