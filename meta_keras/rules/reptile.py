"""Reptile: move the initialization toward where training on a task ends. No second derivatives, no queries."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.checks import at_least
from meta_keras.functional import PureModel, Weights
from meta_keras.rules.base import Adaptation, Context
from meta_keras.rules.inner_loop import Descent, Gradients, support_gradients
from meta_keras.rules.updates import Update


@keras.saving.register_keras_serializable(package="meta_keras")
class Reptile(Descent):
    """Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms", 2018.

        meta-gradient = theta - theta_K                                           (Formula 10.7)

    theta_K are the weights after K steps on the support set. With the optimizer SGD(epsilon), the update of theta is
    epsilon (theta_K - theta), as published. The loss on the queries is reported but not used for training.

    learning_rate: a number, or an `Update` without weights of its own; nothing would train them.
    steps, evaluation_steps: steps on a task in meta-training, and in evaluation (by default as many).
    batch_size: examples of the support set in each step, taken in turn; None takes all of them.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> learner = MetaLearner(network=networks.mlp(1), rule=Reptile(0.02, steps=5, batch_size=5))
    >>> learner.compile(keras.optimizers.SGD(0.1), loss="mse")
    >>> history = learner.fit(Sinusoids(shots=10), steps_per_epoch=2, verbose=0)
    """

    def __init__(
        self,
        learning_rate: float | Update,
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
        at_least(1, steps=steps)
        if batch_size is not None:
            at_least(1, batch_size=batch_size)
        self.batch_size = None if batch_size is None else int(batch_size)

    @property
    def second_order(self) -> bool:
        return False

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        def gradients_at(number: int | tf.Tensor, weights: Weights) -> Gradients:
            return support_gradients(self, network, weights, *self._batch(number, x, y), context)

        start = weights._replace(parameters=tuple(map(tf.stop_gradient, weights.parameters)))
        places = self.inner_places(network)
        (adapted,) = self.descend(gradients_at, start, context, places=places, unroll=False)
        adapted = self.with_support_statistics(network, adapted, x, context)
        adapted = adapted._replace(parameters=tuple(map(tf.stop_gradient, adapted.parameters)))
        return Adaptation(adapted, losses=(_pull(weights, adapted),) if context.training else ())

    def _batch(self, number: int | tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The examples of this step: the next `batch_size` of the support set, starting over at its end."""
        if self.batch_size is None:
            return x, y
        count = x.shape[0] or tf.shape(x)[0]
        size = min(self.batch_size, count) if isinstance(count, int) else tf.minimum(self.batch_size, count)
        rows = (number * size + tf.range(size)) % count
        return tf.gather(x, rows), tf.gather(y, rows)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "batch_size": self.batch_size,
        }


def _pull(start: Weights, end: Weights) -> tf.Tensor:
    """A loss of 0 whose gradient for the initialization is start - end, so that the learner needs no special case."""
    pairs = zip(start.parameters, end.parameters, strict=True)
    half_square = tf.add_n([tf.reduce_sum(tf.square(a - b)) / 2 for a, b in pairs])
    return half_square - tf.stop_gradient(half_square)
