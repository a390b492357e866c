"""Predicting rotations: by how many quarter turns was an image rotated?"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.models import ExampleModel
from meta_keras.outputs import as_metrics
from meta_keras.unsupervised.base import Unlabeled

TURNS = 4


@keras.saving.register_keras_serializable(package="meta_keras")
class Rotation(Unlabeled):
    """Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", 2018.

    Every image of a batch is rotated by 0, 90, 180 and 270 degrees, and a linear head on the encoder predicts the
    number of quarter turns (Formula 7.2). To recognize the orientation of an image, it helps to recognize its content;
    but small patterns may suffice, as chapter 07 shows for Chinese characters.

        loss = mean over images x and turns r of cross-entropy(r, head(encoder(rotate(x, r))))

    encoder: a built Keras model for square images with outputs (rows, width); `fit` trains it in place.

    Called on images it returns the logits of the four rotations, and `encode` returns the features of the encoder.

    >>> from meta_keras.networks import conv4
    >>> model = Rotation(conv4(filters=8))
    >>> model.compile()
    >>> history = model.fit(np.random.rand(8, 28, 28, 1), verbose=0)
    >>> model.predict(np.random.rand(2, 28, 28, 1), verbose=0).shape
    (2, 4)
    """

    def __init__(self, encoder: keras.Model, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        shape = self.encoder.input_shape
        if len(shape) != 4 or shape[1] != shape[2]:
            raise ValueError(f"encoder must take square images (side, side, channels) to be rotated; it takes {shape}.")
        self.head = keras.layers.Dense(TURNS, name="head")
        self.head.build(self.encoder.output_shape)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """(rows, 4) logits of the quarter turns."""
        return self.head(self.features(inputs, training))

    def compile(self, optimizer: Any = "adam", **kwargs: Any) -> None:
        """As `keras.Model.compile`; without a loss, cross-entropy of the quarter turns, and accuracy as the metric."""
        checks.one_device(self)
        if kwargs.get("loss") is None:
            kwargs["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            kwargs["metrics"] = ["accuracy"] if kwargs.get("metrics") is None else kwargs["metrics"]
        ExampleModel.compile(self, optimizer, **kwargs | {"metrics": as_metrics(kwargs.get("metrics"), None)})

    def pretext(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """All rotations of the images, counterclockwise, and by how many quarter turns each was rotated."""
        rotated = [tf.image.rot90(x, turns) for turns in range(TURNS)]
        return tf.concat(rotated, axis=0), tf.repeat(tf.range(TURNS), tf.shape(x)[0])


def rotation_similarity(images: np.ndarray) -> np.ndarray:
    """(rows,) how similar each image is to itself after a rotation, at most 1; no labels are needed.

    It is the largest correlation of the blurred image with its rotation by 90, 180 or 270 degrees. Where it is near 1,
    as for X, S or O, the rotation cannot be predicted. It is also high for small drawings in the middle of an image.

    >>> rotation_similarity(np.ones((1, 28, 28, 1)) * np.eye(28)[:, :, None]).round(3)
    array([1.], dtype=float32)
    """
    checks.examples(images=images)
    checks.numbers(images=images)
    rows = as_inputs(tf.constant(np.asarray(images))).numpy()
    if rows.ndim != 4 or rows.shape[1] != rows.shape[2]:
        raise ValueError(f"images must be squares (rows, side, side, channels); got the shape {rows.shape}.")
    rows = _blurred(rows - rows.mean(axis=(1, 2, 3), keepdims=True))  # so that nothing changes at the edges
    turned = [np.rot90(rows, turns, axes=(1, 2)) for turns in range(1, TURNS)]
    return np.max([_correlations(rows, other) for other in turned], axis=0)


def _blurred(rows: np.ndarray) -> np.ndarray:
    """The images after a Gaussian blur of two pixels, so that lines correlate where they are close."""
    weights = np.exp(-(np.arange(-6, 7) ** 2) / 8, dtype=np.float32)
    kernel = tf.reshape(np.outer(weights, weights) / weights.sum() ** 2, (13, 13, 1, 1))
    return tf.nn.depthwise_conv2d(rows, tf.repeat(kernel, rows.shape[-1], axis=2), (1, 1, 1, 1), "SAME").numpy()


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(rows,) the correlation of each image with that of the same row; 0 if one of them is constant."""
    a, b = (rows.reshape(len(rows), -1) - rows.mean(axis=(1, 2, 3))[:, None] for rows in (a, b))
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1) / np.maximum(scale, 1e-9)
