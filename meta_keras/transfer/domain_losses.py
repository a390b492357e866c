"""Losses that align two domains: CORAL, and gradient reversal before a domain discriminator; and a schedule for them.

The papers are cited in `domain_adaptation`, which trains with these losses.
"""

from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks


@keras.saving.register_keras_serializable(package="meta_keras")
class GradientReversal(keras.layers.Layer):
    """The identity, whose gradient is multiplied by -strength (Formula 6.4).

    In one step, the layers above it learn to decrease a loss, and the layers below it learn to increase the same loss.

    >>> x = tf.Variable(3.0)
    >>> with tf.GradientTape() as tape:
    ...     y = GradientReversal(0.5)(x) ** 2
    >>> float(y), float(tape.gradient(y, x))
    (9.0, -3.0)
    """

    def __init__(self, strength: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.nonnegative(strength=strength)
        self.strength = strength

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def reversed_gradient(x: tf.Tensor) -> Any:
            return tf.identity(x), lambda upstream: -self.strength * upstream

        return reversed_gradient(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength}


@keras.saving.register_keras_serializable(package="meta_keras")
class RisingWeight(keras.optimizers.schedules.LearningRateSchedule):
    """A weight that rises from 0 towards `weight` as training proceeds, so that the features are learned first.

    weight * (2 / (1 + exp(-10 p)) - 1), where p is the fraction of `steps` that is done

    This is the schedule of Ganin and Lempitsky, 2015. There it scales the reversed gradient alone; as the weight of
    `DomainAdaptation` it scales the whole domain loss, so the domain discriminator learns slowly at first, too.

    >>> rising = RisingWeight(2.0, steps=100)
    >>> [round(float(rising(step)), 2) for step in (0, 10, 50, 100)]
    [0.0, 0.92, 1.97, 2.0]
    """

    def __init__(self, weight: float, steps: int) -> None:
        checks.nonnegative(weight=weight)
        checks.at_least(1, steps=steps)
        self.weight, self.steps = weight, steps

    def __call__(self, step: Any) -> tf.Tensor:
        progress = tf.cast(step, tf.float32) / self.steps
        return self.weight * (2 / (1 + tf.exp(-10 * progress)) - 1)

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight, "steps": self.steps}


def coral_loss(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The squared distance between the covariances of two batches of features (Formula 6.2).

        |C_a - C_b|^2 / (4 d^2)

    a, b: (rows, d), of at least two rows each; C is their covariance, with rows - 1 in the denominator.

    >>> a = tf.constant([[1.0], [3.0]])
    >>> float(coral_loss(a, a + 5)), float(coral_loss(a, 2 * a))
    (0.0, 9.0)
    """
    for name, value in (("a", a), ("b", b)):
        if not tf.is_tensor(value) or not value.dtype.is_floating:
            raise ValueError(f"{name} must be a tensor of floats, of shape (rows, d); got {checks.shown(value)}.")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have the shapes (rows, d) with the same d; got {a.shape} and {b.shape}.")
    if {0, 1} & {a.shape[0], b.shape[0]}:
        raise ValueError(
            f"A covariance needs at least two rows from each domain; got {a.shape[0]} and {b.shape[0]}. Use a larger "
            "batch_size."
        )
    width = tf.cast(a.shape[1], a.dtype)
    return tf.reduce_sum(tf.square(_covariance(a) - _covariance(b))) / (4 * width**2)


def _covariance(rows: tf.Tensor) -> tf.Tensor:
    centred = rows - tf.reduce_mean(rows, axis=0)
    return tf.matmul(centred, centred, transpose_a=True) / tf.cast(tf.shape(rows)[0] - 1, rows.dtype)
