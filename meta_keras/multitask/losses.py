"""D4's two objectives for several tasks: the average loss, and the difference between the answers to paired inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks


def average_loss(losses: Mapping[str, tf.Tensor] | Sequence[tf.Tensor]) -> tf.Tensor:
    """The mean of the losses of all tasks (Formula 4.2).

        J = 1/K * sum_k L_k

    losses: one number per task.

    >>> float(average_loss({"class": tf.constant(2.0), "position": tf.constant(0.5)}))
    1.25
    """
    return tf.reduce_mean(stacked(losses))


def difference_loss(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """How much the outputs for paired inputs differ: the mean over the pairs of the sum of absolute differences
    (Formula 4.6).

        J = 1/N * sum_i |f(x_i) - f(x_i')|

    first, second: (rows, ...) the outputs for x and for x'. Row i of both belongs to the same pair.

    A network that predicts the same for every input has a difference loss of zero, so a supervised loss must be added.

    >>> float(difference_loss(tf.constant([[0.9, 0.1]]), tf.constant([[0.5, 0.5]])))
    0.8...
    """
    first, second = (as_floats(name, value) for name, value in (("first", first), ("second", second)))
    if not first.shape.is_compatible_with(second.shape) or first.shape.rank == 0:
        raise ValueError(
            "first and second must have one shape, (rows, ...), since row i of both belongs to one pair; got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    first, second = (tf.cast(value, tf.float32) if value.dtype.size < 4 else value for value in (first, second))
    differences = tf.abs(first - tf.cast(second, first.dtype))
    return tf.reduce_mean(tf.reduce_sum(tf.reshape(differences, (tf.shape(first)[0], -1)), axis=1))


@keras.saving.register_keras_serializable(package="meta_keras")
class Difference(keras.layers.Layer):
    """A layer that returns its two inputs unchanged and adds `weight` times their difference loss (Formula 4.6).

    In a functional model, it makes the outputs for paired inputs, such as an image and a text, similar:

    >>> image, text = keras.Input((4,)), keras.Input((4,))
    >>> trunk = keras.Model([image, text], Difference(0.5)([image, text]))
    >>> outputs = trunk([tf.zeros((2, 4)), tf.ones((2, 4))])
    >>> float(trunk.losses[0])
    2.0
    """

    def __init__(self, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.nonnegative(weight=weight)
        self.weight = float(weight)

    def call(self, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        if not isinstance(inputs, list | tuple) or len(inputs) != 2:
            raise ValueError("Difference compares two tensors; call it on a list of two.")
        first, second = inputs
        if self.weight:
            self.add_loss(self.weight * difference_loss(first, second))
        return [first, second]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return list(input_shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"weight": self.weight}


def stacked(losses: Any, name: str = "losses") -> tf.Tensor:
    """(K,) one number per task, in the order of the mapping or the sequence."""
    values = list(losses.values()) if isinstance(losses, Mapping) else losses
    if isinstance(values, list | tuple):
        values = [as_floats(f"{name}[{place}]", value) for place, value in enumerate(values)]
        if not values or any(value.shape.rank != 0 for value in values):
            raise ValueError(
                f"{name} must have one number per task, and at least one task; got {checks.shown(losses)}."
            )
        return tf.stack([tf.cast(value, values[0].dtype) for value in values])
    values = as_floats(name, values)
    if values.shape.rank != 1 or values.shape[0] == 0:
        raise ValueError(f"{name} must have one number per task, and at least one task; got {checks.shown(losses)}.")
    return values


def as_floats(name: str, value: Any) -> tf.Tensor:
    """A tensor of floats; a ValueError for anything else, and for arrays that are not finite.

    What tensors hold is not checked, since training computes them: it goes on in eager mode as in a graph, where a
    LossScaleOptimizer skips steps that are not finite.
    """
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers; got {checks.shown(value)}.") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer):
        raise ValueError(f"{name} must be an array of numbers; got {checks.shown(value)}.")
    if tf.executing_eagerly() and not tf.is_tensor(value):
        checks.finite_numbers(**{name: tensor})
    return tensor if tensor.dtype.is_floating else tf.cast(tensor, tf.float32)
