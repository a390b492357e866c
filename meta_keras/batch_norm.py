"""The only switch for the statistics of batch normalization, and for moments with exact second derivatives.

Keras decides by `training` which statistics a batch-normalization layer uses, and `tf.nn.moments` stops the gradient
at the mean within the variance. Meta-learning needs a choice and exact derivatives: the stopped
gradient does not affect first derivatives, but the derivatives of a training step are wrong by a percent or more.

Both functions are replaced once, when this module is imported. They behave as before unless the calling thread is
within `normalizing`, which sets a context variable that no other thread sees.
"""

import contextlib
import functools
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

from meta_keras.convolutions import on_gpu
from meta_keras.switches import switched

STATISTICS = (None, "batch", "fused", "moving", "keep")

_switch: ContextVar[tuple[str | None] | None] = ContextVar("meta_keras_normalization", default=None)


def normalizing(statistics: str | None) -> contextlib.AbstractContextManager[None]:
    """Within this block, and in this thread alone, batch normalization uses the named statistics.

    "batch": those of the batch. "fused": the same, but one operation normalizes a batch of images, which is faster if
    only first derivatives are needed. "moving": the moving averages. "keep": those of the batch, which also replace the
    moving averages. None leaves the choice to `training`, as in Keras.
    """
    return switched(_switch, (statistics,))


def _install() -> None:
    keras_call, tf_moments = keras.layers.BatchNormalization.call, tf.nn.moments

    @functools.wraps(keras_call)
    def call(layer: keras.layers.BatchNormalization, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> Any:
        (statistics,) = _switch.get() or (None,)
        if statistics is None:
            return keras_call(layer, inputs, training=training, mask=mask)
        if getattr(layer, "renorm", False):  # it always uses the moving averages too
            raise ValueError(
                f"{layer.name!r} uses batch renormalization, for which batch_statistics={statistics!r} has no meaning. "
                'Use batch_statistics="moving", or BatchNormalization without renorm.'
            )
        if statistics == "fused" and mask is None and _can_be_fused(layer, inputs):
            return _fused(layer, inputs)
        if statistics == "keep":
            layer = _with_momentum(layer, 0.0)
        return keras_call(layer, inputs, training=statistics != "moving", mask=mask)

    @functools.wraps(tf_moments)
    def moments(x: tf.Tensor, axes: Sequence[int], *args: Any, **kwargs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if _switch.get() is None:
            return tf_moments(x, axes, *args, **kwargs)
        return exact_moments(x, axes, **kwargs)

    keras.layers.BatchNormalization.call = call
    tf.nn.moments = moments


def _with_momentum(layer: keras.layers.BatchNormalization, momentum: float) -> keras.layers.BatchNormalization:
    """The layer with another momentum and the same variables. Changing its own momentum would affect other threads."""
    twin = object.__new__(type(layer))  # Keras would build a copy with variables of its own
    twin.__dict__.update(layer.__dict__ | {"momentum": momentum})
    return twin


def _can_be_fused(layer: keras.layers.BatchNormalization, inputs: tf.Tensor) -> bool:
    """Whether TensorFlow has one operation for what this layer does to these inputs, and runs on a CPU.

    On a GPU, XLA compiles the tasks of a batch together, and fuses what normalizes them by itself.
    """
    return (
        not on_gpu()
        and type(layer).call is keras.layers.BatchNormalization.call
        and layer.trainable
        and not layer.synchronized
        and inputs.shape.rank == 4
        and layer.axis in (-1, 3)
        and inputs.dtype == layer.variable_dtype == layer.compute_dtype == "float32"
    )


def _fused(layer: keras.layers.BatchNormalization, inputs: tf.Tensor) -> tf.Tensor:
    """What the layer does in training, with its moving averages."""
    ones = tf.ones(layer.moving_mean.shape, inputs.dtype)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=tf.convert_to_tensor(layer.gamma) if layer.scale else ones,
        offset=tf.convert_to_tensor(layer.beta) if layer.center else 0 * ones,
        mean=ones,  # not used, as no variance is
        variance=ones,
        epsilon=layer.epsilon,
        is_training=True,
    )
    count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), inputs.dtype)
    for average, value in ((layer.moving_mean, mean), (layer.moving_variance, variance * (count - 1) / count)):
        average.assign(average * layer.momentum + value * (1 - layer.momentum))
    return outputs


def exact_moments(x: tf.Tensor, axes: Sequence[int], keepdims: bool = False, **_: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean and the variance, as `tf.nn.moments` gives them."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return (mean if keepdims else tf.squeeze(mean, axes)), variance


_install()
