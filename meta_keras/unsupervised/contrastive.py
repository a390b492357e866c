"""Contrastive learning: two views of one image are close together, and far from the views of all other images."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.tasks.augment import check_layer
from meta_keras.unsupervised.base import Unlabeled, float_matrix


@keras.saving.register_keras_serializable(package="meta_keras")
class Contrastive(Unlabeled):
    """Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual Representations"
    (SimCLR), 2020.

    Every image of a batch is augmented twice. The two views are projected to vectors z of length 1, and each view has
    to find the other one among all views of the batch (`contrastive_loss`).

    encoder: a built Keras model with outputs (rows, width); `fit` trains it in place.
    augment: a Keras preprocessing layer that draws a new view of every image. It decides what the features ignore, so
        it must not change what matters: a rotation by any angle would make 6 and 9 the same.
    temperature: lower means that the nearest of the other images count more.
    projection: the units of the two dense layers between the encoder and the loss. `encode` returns what comes before
        them, since Chen et al. found these features to be better.

    Called on images it returns their projections (rows, units), of length 1. `contrastive_accuracy` is how often the
    nearest of all views is the right one.

    >>> import numpy as np
    >>> from meta_keras.networks import conv4
    >>> model = Contrastive(conv4(filters=8), keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant"))
    >>> model.compile()
    >>> history = model.fit(np.random.rand(8, 28, 28, 1), verbose=0)
    >>> model.encode(np.random.rand(2, 28, 28, 1)).shape
    (2, 8)
    """

    smallest_batch = 2  # a single image has no other images to be distinguished from

    def __init__(
        self,
        encoder: keras.Model,
        augment: keras.layers.Layer,
        *,
        temperature: float = 0.2,
        projection: tuple[int, int] | list[int] = (64, 32),
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, **kwargs)
        if not isinstance(augment, keras.layers.Layer):
            raise ValueError(
                f"augment must be a Keras layer, such as keras.layers.RandomTranslation(0.1, 0.1); got "
                f"{checks.shown(augment)}."
            )
        check_layer(augment)
        checks.positive(temperature=temperature)
        checks.shape(projection=projection)
        if len(projection) != 2:
            raise ValueError(f"projection must be the units of two layers; got {projection}.")
        self.augment, self.temperature, self.projection = augment, float(temperature), tuple(projection)
        hidden, units = projection
        dense = [keras.layers.Dense(hidden, activation="relu"), keras.layers.Dense(units)]
        self.projector = keras.Sequential([*dense, keras.layers.UnitNormalization()], name="projector")
        self.projector.build(self.encoder.output_shape)
        self.accuracy = keras.metrics.Mean(name="contrastive_accuracy")
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.projector(self.features(inputs, training))

    def pretext(self, x: tf.Tensor) -> tuple[tf.Tensor, None]:
        """Two views of every image: all first views, and then all second views in the same order."""
        x = as_inputs(x)
        return tf.concat([self.augment(x, training=True), self.augment(x, training=True)], axis=0), None

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        logits, partners = similarities(y_pred, self.temperature)
        nearest = tf.argmax(logits, axis=1, output_type=tf.int32)
        self.accuracy.update_state(tf.cast(nearest == partners, tf.float32))
        return _cross_entropy(logits, partners) + sum(self.losses)

    def get_config(self) -> dict[str, Any]:
        augment = keras.saving.serialize_keras_object(self.augment)
        settings = {"augment": augment, "temperature": self.temperature, "projection": self.projection}
        return super().get_config() | settings


def contrastive_loss(projections: tf.Tensor, *, temperature: float = 0.2) -> tf.Tensor:
    """The normalized temperature-scaled cross-entropy, NT-Xent, of SimCLR (Formula 7.5).

        loss = mean over views i of -log( exp(z_i . z_p(i) / t) / sum over k != i of exp(z_i . z_k / t) )

    projections: (2 n, width) vectors of length 1: one view of each of n images, and then the other views in the same
        order, so that p(i) = i + n for the first half, and i - n for the second.

    >>> float(contrastive_loss(tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), temperature=1.0))
    0.5514447...
    """
    checks.positive(temperature=temperature)
    projections = float_matrix(projections=projections)
    if len(projections) < 4 or len(projections) % 2:
        raise ValueError(
            f"projections must have the shape (2 n, width), with two views of n >= 2 images; got {projections.shape}."
        )
    return _cross_entropy(*similarities(projections, temperature))


def similarities(z: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """(views, views) logits, where no view can choose itself, and (views,) the index of the other view."""
    z = tf.cast(z, tf.float32) if z.dtype.size < 4 else z
    views = tf.shape(z)[0]
    logits = tf.matmul(z, z, transpose_b=True) / temperature
    logits = tf.linalg.set_diag(logits, tf.fill([views], logits.dtype.min))
    return logits, (tf.range(views) + views // 2) % views


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
