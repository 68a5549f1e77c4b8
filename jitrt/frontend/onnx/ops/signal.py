"""Fourier transforms and mel filters. The windows' own bodies in the standard do for those."""

from __future__ import annotations

from jitrt.frontend.layers.spectrum import fourier, mel_weights, short_time_fourier
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.reduce import axis_in
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value


@onnx_op("DFT", since=17)
def dft(n: Call, x: Value, length: Value | None = None, axis: Value | None = None) -> Value:
    default = n.attribute("axis", 1) if n.opset < 20 else -2
    at = axis_in(n, x, default if axis is None else n.ints(axis, "along which dimension it is")[0])
    inverse, onesided = bool(n.attribute("inverse", 0)), bool(n.attribute("onesided", 0))
    if at == x.type.rank - 1 or x.type.shape[-1] not in (1, 2):
        n.refuse(f"along dimension {at} of {x.type}, whose last one must be of real numbers or pairs")
    points = 2 * (x.type.shape[at] - 1) if inverse and onesided else x.type.shape[at]
    if length is not None:
        (points,) = n.ints(length, "the length of the transform")
    try:
        return fourier(n.b, x, at, points, inverse=inverse, onesided=onesided)
    except ValueError as error:
        n.refuse(str(error))


@onnx_op("STFT", since=17)
def stft(n: Call, x: Value, step: Value, window: Value | None = None, length: Value | None = None) -> Value:
    (apart,) = n.ints(step, "the step between frames")
    size = x.type.shape[1] if window is None else window.type.shape[0]
    if length is not None:
        (size,) = n.ints(length, "the length of frames")
    if apart < 1 or size > x.type.shape[1] or (window is not None and window.type.shape != (size,)):
        n.refuse(f"frames of {size}, {apart} apart, of {x.type}, with window {window and window.type}")
    onesided = bool(n.attribute("onesided", 1)) and x.type.shape[-1] == 1
    try:
        return short_time_fourier(n.b, x, apart, size, window, onesided=onesided)
    except ValueError as error:
        n.refuse(str(error))


@onnx_op("MelWeightMatrix", since=17)
def mel_weight_matrix(n: Call, bins: Value, points: Value, rate: Value, low: Value, high: Value) -> Value:
    count, size, hertz = (n.ints(v, "the mel matrix")[0] for v in (bins, points, rate))
    edges = [float(n.need(v, "the mel matrix").reshape(())) for v in (low, high)]
    n.claim(size // 2 + 1, count)
    return n.constant(mel_weights(count, size, hertz, *edges), n.dtype(n.attribute("output_datatype", 1)))
