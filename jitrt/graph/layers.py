"""How many layers a network has: one rule for every model.

Every operator of the graph as imported is a layer, but for those that compute nothing at inference or that a layer is
not itself without:

* views (reshape, permute, slice, expand), copies and casts, dropout and identity;
* the addition of a bias to a convolution, linear layer or matrix product: they are one layer together;
* a concat that only goes into another one: it takes one layer to join any number of tensors.

So convolution, batch norm, activation, pool, elementwise sum, concat, linear layer and softmax are a layer each, as in
Caffe's descriptions of these networks. Table 1 of NVIDIA's "TensorRT 3: Faster TensorFlow Inference and Volta Support"
(2017) has 43 layers for VGG-19, 309 for Inception-v3 and 670 for ResNet-152. By this rule torchvision's have 43, 308
and 514; what differs is this:

* the post's networks end in a softmax, which torchvision's leave to the loss: one layer each. (VGG-19 has an adaptive
  pool instead, which changes nothing for images of 224 x 224.)
* Caffe writes a batch norm as two layers, BatchNorm and Scale. The post's ResNet-152 has them so, 155 of them; its
  Inception-v3, which comes from TensorFlow, has not.
"""

from __future__ import annotations

from collections import Counter

from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Trait
from jitrt.graph.ops import Add, Cast, Concat, Contiguous, Conv, ConvTranspose, Linear, Matmul

_BIASED = (Conv, ConvTranspose, Linear, Matmul)


def count_layers(graph: Graph) -> Counter[str]:
    """The layers of a graph as imported, by the name of their op.

    >>> from jitrt.graph import Graph, TensorType, f32
    >>> from jitrt.graph.ops import Dropout, Relu
    >>> g = Graph("demo"); x = g.add_input("x", TensorType(f32, (4,)))
    >>> g.mark_output(g.add(Relu(), g.add(Dropout(), x)))
    >>> count_layers(g)
    Counter({'relu': 1})
    """
    return Counter(node.op.name for node in graph.nodes if _is_layer(graph, node))


def _is_layer(graph: Graph, node: Node) -> bool:
    if node.has(Trait.VIEW) or node.has(Trait.IDENTITY) or isinstance(node.op, Cast | Contiguous):
        return False
    return not (_is_bias(node) or _is_nested(graph, node))


def _is_bias(node: Node) -> bool:
    """Whether a node adds a constant to what a layer that has biases computes for it alone."""
    computed = [value for value in node.inputs if not value.is_constant]
    if not isinstance(node.op, Add) or len(computed) != 1 or computed[0].producer is None:
        return False
    return isinstance(computed[0].producer.op, _BIASED) and len(computed[0].uses) == 1


def _is_nested(graph: Graph, node: Node) -> bool:
    """Whether a concat only goes into concats along the same axis."""
    if not isinstance(node.op, Concat) or node.output in graph.outputs or not node.output.uses:
        return False
    return all(user.op == node.op for user in node.output.users)
