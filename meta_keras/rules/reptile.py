"""Reptile: move the initial weights towards where training on a task ends. No second derivatives, no queries."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.rules.base import Loss
from meta_keras.rules.descent import Descent, repeat, slopes
from meta_keras.tasks.episodes import at_least_one


@keras.saving.register_keras_serializable(package="meta_keras")
class Reptile(Descent):
    """Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms", 2018.

        meta-gradient = theta - theta_K                                           (Formula 10.7)

    theta_K are the weights after K steps on the support set. With the optimizer SGD(epsilon), theta moves the part
    epsilon of the way to theta_K, as published. The loss on the queries is reported and not learned from.

    steps, evaluation_steps: steps on a task in training, and in evaluation (by default as many).
    batch_size: examples of the support set in each step, drawn in turn; None takes all of them.
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int = 5,
        *,
        evaluation_steps: int | None = None,
        batch_size: int | None = None,
        batch_statistics: str = "episode",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, steps, evaluation_steps=evaluation_steps, batch_statistics=batch_statistics, **kwargs
        )
        at_least_one(steps=steps)
        if batch_size is not None:
            at_least_one(batch_size=batch_size)
        self.batch_size = batch_size

    def adapt(
        self,
        network: PureModel,
        weights: Weights,
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        *,
        loss: Loss,
        training: bool,
    ) -> Outcome:
        def step(number: int | tf.Tensor, weights: Weights) -> Weights:
            x, y = self._batch(number, support_x, support_y)
            gradients, after = slopes(self, network, weights, x, y, loss=loss, training=training)
            pairs = zip(weights.trainable, gradients, strict=True)
            return after._replace(trainable=tuple(w - self.learning_rate * g for w, g in pairs))

        start = weights._replace(trainable=tuple(map(tf.stop_gradient, weights.trainable)))
        adapted = repeat(step, start, self.steps if training else self.evaluation_steps, unroll=False)
        if self.batch_statistics == "support":
            adapted = self.answers(network, adapted, support_x, training=training, queries=False).weights
        adapted = adapted._replace(trainable=tuple(map(tf.stop_gradient, adapted.trainable)))
        return Outcome((), adapted, (_pull(weights, adapted),) if training else ())

    def _batch(self, number: int | tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The examples of this step: the next `batch_size` of the support set, and around again."""
        if self.batch_size is None or self.batch_size >= x.shape[0]:
            return x, y
        rows = (number * self.batch_size + tf.range(self.batch_size)) % x.shape[0]
        return tf.gather(x, rows), tf.gather(y, rows)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "batch_size": self.batch_size,
        }


def _pull(start: Weights, end: Weights) -> tf.Tensor:
    """A loss of 0 whose gradient for the start is start - end, so that the learner needs no special case."""
    pairs = zip(start.trainable, end.trainable, strict=True)
    half_square = tf.add_n([tf.reduce_sum(tf.square(a - b)) / 2 for a, b in pairs])
    return half_square - tf.stop_gradient(half_square)
