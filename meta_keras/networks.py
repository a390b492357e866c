"""Networks: the meta-knowledge theta of Formula 1.1. Plain Keras models; use any other in their place."""

from collections.abc import Sequence

import keras
from keras import layers


def conv4(
    units: int | None = None,
    *,
    input_shape: Sequence[int] = (28, 28, 1),
    filters: int = 64,
    downsample: str = "pool",
) -> keras.Model:
    """The four-block convolutional network of few-shot learning (Vinyals et al., "Matching Networks", 2016).

    Each block is a 3x3 convolution, batch normalisation, a ReLU, and a halving of both sides.

    units: outputs of a last dense layer, without activation; None leaves it out, and the network embeds its inputs.
    downsample: "pool" halves by max-pooling, "stride" by a stride of 2 in the convolution, as MAML's Omniglot network.

    >>> conv4(5).output_shape
    (None, 5)
    >>> conv4().output_shape
    (None, 64)
    """
    if downsample not in ("pool", "stride"):
        raise ValueError(f'downsample is "pool" or "stride"; {downsample!r} was given.')
    if len(input_shape) != 3:
        raise ValueError(
            f"A picture is (height, width, channels), such as (28, 28, 1); {tuple(input_shape)} was given."
        )
    if downsample == "pool" and min(input_shape[:2]) < 16:
        raise ValueError(
            f"Four halvings need sides of at least 16; the input shape is {tuple(input_shape)}. "
            'Resize the examples, or take downsample="stride".'
        )
    network = keras.Sequential([keras.Input(tuple(input_shape))], name="conv4")
    for _ in range(4):
        network.add(
            layers.Conv2D(filters, 3, strides=2 if downsample == "stride" else 1, padding="same", use_bias=False)
        )
        # Keras' own momentum of 0.99 needs a thousand steps before the moving averages can be used.
        network.add(layers.BatchNormalization(momentum=0.9))
        network.add(layers.ReLU())
        if downsample == "pool":
            network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    if units is not None:
        network.add(layers.Dense(units, name="head"))
    return network


def d3(num_classes: int, *, input_shape: Sequence[int] = (28, 28, 1)) -> keras.Model:
    """The network of document D3: two convolutions with pooling, a dense layer of 128, a softmax.

    >>> d3(10).output_shape
    (None, 10)
    """
    network = keras.Sequential([keras.Input(tuple(input_shape))], name="d3")
    for filters in (32, 64):
        network.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    network.add(layers.Dense(128, activation="relu"))
    network.add(layers.Dense(num_classes, activation="softmax", name="head"))
    return network


def mlp(
    units: int,
    *,
    input_shape: Sequence[int] = (1,),
    hidden: Sequence[int] = (40, 40),
    activation: str = "relu",
) -> keras.Model:
    """Dense layers in a row; the defaults are MAML's network for sine curves (Finn et al., 2017).

    >>> mlp(1).count_params()
    1761
    """
    network = keras.Sequential([keras.Input(tuple(input_shape))], name="mlp")
    if len(input_shape) > 1:
        network.add(layers.Flatten())
    for width in hidden:
        network.add(layers.Dense(width, activation=activation))
    network.add(layers.Dense(units, name="head"))
    return network
