"""Exports a network of TensorFlow's or Keras' and saves what it says: `export_tensorflow.py NAME FOLDER`.

A program of its own, since TensorFlow and Triton bring an LLVM each and do not stand being in one process. In FOLDER it
leaves model.onnx, x.npy and y.npy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def vgg19(folder: Path) -> tuple[Any, Any]:
    """The network of the TensorRT 3 post, with random weights and, for numpy's sake, small images. By keras.export."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.VGG19(weights=None, input_shape=(32, 32, 3), classes=10)
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    signature = [keras.InputSpec(shape=x.shape, dtype="float32", name="x")]
    model.export(str(folder / "model.onnx"), format="onnx", verbose=False, input_signature=signature)
    return x, model.predict(x, verbose=0)


def spelled_out(folder: Path) -> tuple[Any, Any]:
    """Keras layers that tf2onnx has no operator for: a layer norm is a dozen nodes, a gelu eight, a swish two."""
    import keras
    import tensorflow as tf
    import tf2onnx
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 16)),
            layers.Dense(32, activation="gelu"),
            layers.LayerNormalization(),
            layers.Dense(32, activation="swish"),
            layers.LayerNormalization(epsilon=1e-3),
            layers.Dense(8, activation="hard_sigmoid"),
            layers.Dense(8, activation="softplus"),
        ]
    )
    rng = np.random.default_rng(1)
    for layer in model.layers:
        layer.set_weights([weight + rng.uniform(-0.5, 0.5, weight.shape) for weight in layer.get_weights()])
    x = np.random.default_rng(0).standard_normal((2, 12, 16)).astype(np.float32)
    call = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec(x.shape, tf.float32, name="x")])
    path = str(folder / "model.onnx")
    tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=16, output_path=path)
    return x, model.predict(x, verbose=0)


def frozen(folder: Path) -> tuple[Any, Any]:
    """A graph as TensorFlow 1 left them, a GraphDef of constants: images NHWC, hardswish spelled out, batch norm."""
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    rng = np.random.default_rng(1)

    def variable(*shape: int, low: float = -0.5) -> Any:
        return tf.Variable(rng.uniform(low, low + 1, shape).astype(np.float32))

    stem, bias, depthwise = variable(3, 3, 3, 16), variable(16), variable(3, 3, 16, 1)
    gamma, beta, mean, variance = variable(16, low=0.5), variable(16), variable(16), variable(16, low=0.5)
    pointwise, dense, offset = variable(1, 1, 16, 32), variable(32, 10), variable(10)

    @tf.function(input_signature=[tf.TensorSpec((2, 32, 32, 3), tf.float32, name="x")])
    def network(x: Any) -> Any:
        x = tf.nn.relu6(tf.nn.bias_add(tf.nn.conv2d(x, stem, 2, "SAME"), bias))
        x = tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME")
        x, _, _ = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, is_training=False)
        x = x * tf.nn.relu6(x + 3) / 6
        x = tf.nn.max_pool2d(tf.nn.silu(tf.nn.conv2d(x, pointwise, 1, "VALID")), 2, 2, "SAME")
        return tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), dense) + offset)

    graph = convert_variables_to_constants_v2(network.get_concrete_function())
    names = [[tensor.name for tensor in tensors] for tensors in (graph.inputs, graph.outputs)]
    tf2onnx.convert.from_graph_def(
        graph.graph.as_graph_def(),
        input_names=names[0],
        output_names=names[1],
        opset=17,
        output_path=str(folder / "model.onnx"),
    )
    x = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    return x, network(x).numpy()


NETWORKS: dict[str, Callable[[Path], tuple[Any, Any]]] = {"vgg19": vgg19, "spelled_out": spelled_out, "frozen": frozen}

if __name__ == "__main__":
    where = Path(sys.argv[2])
    given, said = NETWORKS[sys.argv[1]](where)
    np.save(where / "x.npy", given)
    np.save(where / "y.npy", said)
