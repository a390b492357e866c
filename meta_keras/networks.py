"""Networks: the meta-knowledge theta of Formula 1.1. They are plain Keras models, and any other can be used instead."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from meta_keras import checks

__all__ = ["conv4", "d3", "mlp"]


def conv4(
    units: int | None = None,
    *,
    input_shape: Sequence[int] = (28, 28, 1),
    filters: int = 64,
    downsample: str = "pool",
) -> keras.Model:
    """The four-block convolutional network of few-shot learning (Vinyals et al., "Matching Networks", 2016).

    Each block consists of a 3x3 convolution, batch normalization and a ReLU, and halves the height and the width.

    units: outputs of a final dense layer without activation. None leaves it out; the outputs are then embeddings.
    downsample: "pool" halves by max pooling, "stride" by convolutions of stride 2, as in MAML's network for Omniglot.

    >>> conv4(5).output_shape
    (None, 5)
    >>> conv4().output_shape
    (None, 64)
    """
    checks.one_of(("pool", "stride"), downsample=downsample)
    checks.at_least(1, filters=filters)
    if units is not None:
        checks.at_least(1, units=units)
    _check_image_shape(input_shape, smallest=16 if downsample == "pool" else 1, cure='use downsample="stride"')
    network = keras.Sequential([keras.Input(tuple(input_shape))], name="conv4")
    for _ in range(4):
        strides = 2 if downsample == "stride" else 1
        network.add(layers.Conv2D(int(filters), 3, strides=strides, padding="same", use_bias=False))
        # With Keras' default momentum of 0.99, the moving averages are usable only after about a thousand steps.
        network.add(layers.BatchNormalization(momentum=0.9))
        network.add(layers.ReLU())
        if downsample == "pool":
            network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    if units is not None:
        network.add(layers.Dense(int(units), name="head"))
    return network


def d3(num_classes: int, *, input_shape: Sequence[int] = (28, 28, 1)) -> keras.Model:
    """The network of document D3: two convolutions with pooling, a dense layer of 128 units, and a softmax.

    >>> d3(10).output_shape
    (None, 10)
    """
    checks.at_least(1, num_classes=num_classes)
    _check_image_shape(input_shape, smallest=4, cure="use networks.mlp")
    network = keras.Sequential([keras.Input(tuple(input_shape))], name="d3")
    for filters in (32, 64):
        network.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    network.add(layers.Dense(128, activation="relu"))
    network.add(layers.Dense(int(num_classes), activation="softmax", name="head"))
    return network


def mlp(
    units: int,
    *,
    input_shape: Sequence[int] = (1,),
    hidden: Sequence[int] = (40, 40),
    activation: str | Callable[[tf.Tensor], tf.Tensor] = "relu",
) -> keras.Model:
    """A multilayer perceptron; the defaults give MAML's network for sine curves (Finn et al., 2017).

    hidden: the units of each hidden layer; an empty list makes the model linear.

    >>> mlp(1).count_params()
    1761
    """
    checks.at_least(1, units=units)
    checks.shape(input_shape=input_shape)
    if not isinstance(hidden, list | tuple):
        raise ValueError(f"hidden must be a list with the units of each hidden layer; got {checks.shown(hidden)}.")
    for number, width in enumerate(hidden):
        checks.at_least(1, **{f"hidden[{number}]": width})
    _check_activation(activation)
    network = keras.Sequential([keras.Input(tuple(input_shape))], name="mlp")
    if len(input_shape) > 1:
        network.add(layers.Flatten())
    for width in hidden:
        network.add(layers.Dense(int(width), activation=activation))
    network.add(layers.Dense(int(units), name="head"))
    return network


def _check_image_shape(input_shape: Any, *, smallest: int, cure: str) -> None:
    checks.shape(input_shape=input_shape)
    if len(input_shape) != 3:
        raise ValueError(
            f"input_shape must be (height, width, channels) of an image, such as (28, 28, 1); got {tuple(input_shape)}."
        )
    if min(input_shape[:2]) < smallest:
        raise ValueError(
            f"The image must have at least {smallest} pixels on each side to be halved so often; input_shape is "
            f"{tuple(input_shape)}. Resize the images, or {cure}."
        )


def _check_activation(activation: Any) -> None:
    """Raise a ValueError unless Keras knows the activation, or it is a function of a tensor."""
    try:
        if isinstance(activation, type | layers.Layer):
            raise TypeError("A layer has its own state and shape.")
        known = tf.is_tensor(keras.activations.get(activation)(tf.zeros((1, 1))))
    except (AttributeError, KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise ValueError(
            'activation must be the name of a Keras activation, such as "relu", or a function of a tensor; '
            f"got {checks.shown(activation)}."
        )
