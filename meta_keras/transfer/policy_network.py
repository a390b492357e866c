"""A strategy network (策略网络): looks at a task, and says how much of each layer to take from the source."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from meta_keras.inputs import as_inputs
from meta_keras.transfer.features import feature_extractor
from meta_keras.transfer.frozen import Frozen
from meta_keras.transfer.graph import check_graph
from meta_keras.transfer.policy import Strategy

TINY = 1e-6


@keras.saving.register_keras_serializable(package="meta_keras")
class StrategyNetwork(Strategy):
    """A strategy whose amounts differ from task to task (D5's strategy network).

        a_l = sigmoid(omega_l + n(c_l; omega))                                           (Formula 13.5)

    c_l are three numbers that compare how the source's layer l answers the support set, and how it answers a sample of
    source data (Formula 13.6; see `compare`). n is a small dense network, the same for all layers. It is 0 at first,
    so learning begins with `amount` for every task, and it learns as `Strategy` does: through the adapting.

    source: a trained Sequential or functional model. source_x: (examples, ...) of what it was trained on, a few
        hundred; they are looked at once, when the learner is made.
    hidden: units of the network's hidden layer. Further arguments are those of `Strategy`.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> rule = StrategyNetwork(networks.mlp(1), tf.ones((8, 1)), 0.01)
    >>> learner = MetaLearner(network=networks.mlp(1), rule=rule)
    >>> learner.compile("adam", loss="mse")
    >>> history = learner.fit(Sinusoids(shots=5), steps_per_epoch=2, verbose=0)
    >>> [round(amount, 1) for amount in rule.amounts(tf.zeros((5, 1)), tf.zeros((5, 1))).values()]
    [0.5, 0.5, 0.5]
    """

    def __init__(
        self,
        source: keras.Model,
        source_x: Any,
        learning_rate: float,
        steps: int = 1,
        *,
        hidden: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(source, learning_rate, steps, **kwargs)
        check_graph(source)
        self.hidden = hidden
        self.policy = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(hidden, activation="tanh"),
                keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
            ],
            name="policy",
        )
        self.policy.trainable = self.learn
        self._sample = source_x
        if source_x is not None and len(source_x) < 2:
            raise ValueError(f"source_x is a sample of source data, two examples or more; {len(source_x)} were given.")

    def amounts(self, support_x: Any = None, support_y: Any = None) -> dict[str, float]:
        """How much is taken of each source layer for the task with this support set."""
        if support_x is None or support_y is None:
            raise ValueError("The amounts depend on the task: give its support set, amounts(support_x, support_y).")
        return super().amounts(as_inputs(tf.convert_to_tensor(support_x)), tf.convert_to_tensor(support_y))

    def amounts_for(self, support_x: tf.Tensor, support_y: tf.Tensor) -> tf.Tensor:
        seen = self.compare(support_x, support_y)
        return tf.sigmoid(tf.convert_to_tensor(self.omega) + self.policy(seen)[:, 0])

    def compare(self, support_x: tf.Tensor, support_y: tf.Tensor) -> tf.Tensor:
        """(layers, 3) how each layer's answers to the support set compare with those to the source sample.

        How far apart their means are, in spreads of the source; the logarithm of the ratio of the spreads; and the
        share of the spread that lies between classes, 0 for targets that are no classes. A spread is the root of the
        mean squared distance from the mean (Formula 13.6).
        """
        rows = []
        for answers, mean, spread in zip(self._answers(support_x), self.means, tf.unstack(self.spreads), strict=True):
            centre, width = _moments(answers)
            apart = tf.norm(centre - mean) / (spread + TINY)
            wider = tf.math.log((width + TINY) / (spread + TINY))
            rows.append(tf.stack([apart, wider, _between(answers, support_y)]))
        return tf.stop_gradient(tf.stack(rows))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"source_x": None, "hidden": self.hidden}  # what was seen of it is in the weights

    def _make(self, amounts: Mapping[str, float]) -> None:
        super()._make(amounts)
        # A layer within a layer goes by what the outer one answers.
        names = [name.split("/")[0] for name in amounts]
        self.looking = Frozen(feature_extractor(self.source.model, names), name="looking")
        self.means = []
        for place, output in enumerate(self.looking.model.outputs):
            size = math.prod(output.shape[1:])
            mean = self.add_weight(shape=(size,), initializer="zeros", trainable=False, name=f"mean_{place}")
            self.means.append(mean)
        self.spreads = self.add_weight(shape=(len(names),), initializer="ones", trainable=False, name="spreads")
        if self._sample is not None:
            moments = [_moments(answers) for answers in self._answers(as_inputs(tf.convert_to_tensor(self._sample)))]
            for mean, (centre, _) in zip(self.means, moments, strict=True):
                mean.assign(centre)
            self.spreads.assign([spread for _, spread in moments])

    def _answers(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        """For each blended layer, (examples, numbers) what it answers."""
        answers = tf.nest.flatten(self.looking(inputs))
        return [tf.cast(tf.reshape(one, (tf.shape(one)[0], -1)), self.variable_dtype) for one in answers]


def _moments(answers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean answer, and the root of the mean squared distance from it."""
    mean = tf.reduce_mean(answers, axis=0)
    return mean, tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(answers - mean), axis=1)))


def _between(answers: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The share of the squared spread that the means of the classes have; the rest lies within classes."""
    if not labels.dtype.is_integer:
        return tf.zeros((), answers.dtype)
    same = tf.cast(labels[:, None] == labels[None, :], answers.dtype)
    means = same @ answers / tf.reduce_sum(same, axis=1, keepdims=True)
    return tf.square(_moments(means)[1] / (_moments(answers)[1] + TINY))
