"""The cudnn-fused peer's rewriting: an eval-mode model as cuDNN's fused convolutions, by torch.fx.

    conv + batch norm          -> conv with bias (folded)
    conv + relu                -> torch.cudnn_convolution_relu
    conv + add + relu          -> torch.cudnn_convolution_add_relu; the bias of a convolution on the other side of the
                                  add moves into this one, which saves that convolution's own pass for its bias
    dropout                    -> nothing

Everything that does not match stays what it was; grouped convolutions too, for which PyTorch's own choice of kernels
(its depthwise ones among them) beats cuDNN's fused ones.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental import optimization
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

_ADDS = {operator.add, operator.iadd, torch.add}
_RELUS = {F.relu, F.relu_, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}
_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)


class ConvRelu(nn.Module):
    """relu(conv(x)) by one cuDNN call; off the GPU, by two calls that mean the same."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight = conv.weight
        self.bias = _bias(conv)
        self.geometry: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self.geometry)
        return F.relu(F.conv2d(x, self.weight, self.bias, *self.geometry))


class ConvAddRelu(ConvRelu):
    """relu(conv(x) + z) likewise."""

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if x.is_cuda:
            return torch.cudnn_convolution_add_relu(x, self.weight, z, 1.0, self.bias, *self.geometry)
        return F.relu(F.conv2d(x, self.weight, self.bias, *self.geometry) + z)


def cudnn_fused(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """A rewritten copy of `model` (eval mode, 2-d convolutions). `inputs` are run through it once to learn shapes.

    Raises torch.fx's error for a model it cannot trace.
    """
    traced = optimization.fuse(model.eval())
    assert isinstance(traced, fx.GraphModule)
    ShapeProp(traced).propagate(*inputs)
    for node in list(traced.graph.nodes):
        if _is_relu(traced, node):
            _fuse_relu(traced, node)
        elif isinstance(_module(traced, node), _DROPOUTS):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fuse_relu(traced: fx.GraphModule, relu: fx.Node) -> None:
    source = relu.args[0]
    if not isinstance(source, fx.Node) or len(source.users) != 1:
        return
    conv = _fusible_conv(traced, source)
    if conv is not None:
        _replace(traced, relu, ConvRelu(conv), (source.args[0],), source)
    elif source.op == "call_function" and source.target in _ADDS:
        _fuse_add(traced, relu, source)


def _fuse_add(traced: fx.GraphModule, relu: fx.Node, add: fx.Node) -> None:
    if len(add.all_input_nodes) != 2 or add.kwargs:
        return
    first, second = add.all_input_nodes
    for node, other in ((first, second), (second, first)):
        conv = _fusible_conv(traced, node)
        if conv is None or len(node.users) != 1 or _shape(node) != _shape(other):
            continue
        fused = ConvAddRelu(conv)
        sibling = _module(traced, other)
        if isinstance(sibling, nn.Conv2d) and sibling.bias is not None and len(other.users) == 1:
            fused.bias = nn.Parameter(fused.bias + sibling.bias, requires_grad=False)
            sibling.bias = None
        _replace(traced, relu, fused, (node.args[0], other), add)
        return


def _replace(traced: fx.GraphModule, relu: fx.Node, module: nn.Module, args: tuple[Any, ...], inner: fx.Node) -> None:
    """`relu` becomes a call of `module` on `args`; `inner`, its old operand, dies with its convolution if unread."""
    name = f"fused_{relu.name}"
    traced.add_submodule(name, module)
    with traced.graph.inserting_before(relu):
        call = traced.graph.call_module(name, args)
    call.meta = dict(relu.meta)
    relu.replace_all_uses_with(call)
    traced.graph.erase_node(relu)
    for node in (inner, *inner.all_input_nodes):
        if not node.users and node.op != "placeholder":
            traced.graph.erase_node(node)


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _fusible_conv(traced: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    conv = _module(traced, node)
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
        return None
    return None if isinstance(conv.padding, str) or conv.padding_mode != "zeros" else conv


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(_module(traced, node), nn.ReLU)
    if node.op == "call_function":
        return node.target in _RELUS
    return node.op == "call_method" and node.target in _RELU_METHODS


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if isinstance(meta, TensorMetadata) else None


def _bias(conv: nn.Conv2d) -> nn.Parameter:
    given = conv.bias
    data = conv.weight.new_zeros(conv.out_channels) if given is None else given.data
    return nn.Parameter(data, requires_grad=False)
