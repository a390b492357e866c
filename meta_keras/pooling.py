"""Max pooling as the maximum of slices, whose second derivatives XLA computes in full precision.

For the second derivative of TensorFlow's own max pooling, XLA rounds numbers to bfloat16, and it has none for half
precision. Within `as_maxima`, max pooling layers therefore compare slices of their inputs, along one axis after the
other, so that a window of 14 x 14 needs 28 slices and not 196, which XLA would compile for minutes. Values and
derivatives are the same: of equal numbers, the first one gets the gradient. (Only TensorFlow's pooling of volumes does
otherwise.)
"""

import contextlib
import functools
from collections.abc import Sequence
from contextvars import ContextVar

import keras
import tensorflow as tf

from meta_keras.convolutions import windows
from meta_keras.switches import switched

# What a trace contains where max pooling has not been replaced, because it is no layer or the size is not known.
KINDS = frozenset({"MaxPool", "MaxPoolV2", "MaxPool3D"})
LAYERS = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D)

_switch: ContextVar[bool] = ContextVar("meta_keras_pooling", default=False)


def as_maxima(active: bool = True) -> contextlib.AbstractContextManager[None]:
    """Within this block, and in this thread alone, max pooling layers compare slices, if `active`."""
    return switched(_switch, active)


def max_pooling(inputs: tf.Tensor, size: Sequence[int], strides: Sequence[int], padding: str) -> tf.Tensor:
    """As `keras.ops.max_pool` with channels last. All axes between rows and channels must have a known size."""
    # Beginning with the last axis, the first of equal numbers is the first one row by row, as for TensorFlow.
    for axis in reversed(range(len(size))):
        of_axis = [(size[axis], strides[axis]) if one == axis else (1, 1) for one in range(len(size))]
        slices = windows(inputs, *zip(*of_axis, strict=True), padding, margin=inputs.dtype.min)
        inputs = functools.reduce(tf.maximum, slices)
    return inputs


def _install(layer_class: type[keras.layers.Layer]) -> None:
    keras_call = layer_class.call

    @functools.wraps(keras_call)
    def call(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
        unknown = layer.data_format != "channels_last" or None in inputs.shape[1:-1]
        if not _switch.get() or unknown or 0 in layer.strides:
            return keras_call(layer, inputs)
        return max_pooling(inputs, layer.pool_size, layer.strides, layer.padding)

    layer_class.call = call


for _one in LAYERS:
    _install(_one)
