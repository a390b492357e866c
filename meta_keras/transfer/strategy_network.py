"""Strategy networks (策略网络): a network that chooses, for every task, how much of each layer to take."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs, check_inputs, check_pixels
from meta_keras.rules.updates import Update
from meta_keras.tasks.inspection import check_support
from meta_keras.transfer.features import feature_extractor
from meta_keras.transfer.freezing import Frozen
from meta_keras.transfer.layers import check_graph
from meta_keras.transfer.strategy import Strategy

EPSILON = 1e-6
IN_FILE = object()  # in place of source_x where a learner is loaded: the statistics are in its file


@keras.saving.register_keras_serializable(package="meta_keras")
class StrategyNetwork(Strategy):
    """A strategy whose mixing coefficients differ from task to task (D5's strategy network).

    Guo et al. (SpotTune, 2019) call the network that chooses what to transfer a policy network.

        a_l = sigmoid(omega_l + n(v_l; omega))                                           (Formula 13.5)

    v_l are three numbers that compare the outputs of the source's layer l for the support set with those for a sample
    of source data (Formula 13.6; see `compare`). n is a small dense network, the same for all layers. It is initially
    0, so that training starts from `coefficient` for every task. Like `Strategy`, it is trained through the adaptation.

    source: a trained Sequential or functional model. source_x: (examples, ...) of its training data, a few hundred;
        they are used once, when the learner is created.
    hidden: units of the network's hidden layer. Further arguments are those of `Strategy`.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> rule = StrategyNetwork(networks.mlp(1), tf.ones((8, 1)), 0.01)
    >>> learner = MetaLearner(network=networks.mlp(1), rule=rule)
    >>> learner.compile("adam", loss="mse")
    >>> history = learner.fit(Sinusoids(shots=5), steps_per_epoch=2, verbose=0)
    >>> [round(coefficient, 1) for coefficient in rule.coefficients(tf.zeros((5, 1)), tf.zeros((5, 1))).values()]
    [0.5, 0.5, 0.5]
    """

    def __init__(
        self,
        source: keras.Model,
        source_x: Any,
        learning_rate: float | Update,
        steps: int = 1,
        *,
        hidden: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(source, learning_rate, steps, **kwargs)
        check_graph(source, name="source")
        checks.at_least(1, hidden=hidden)
        if source_x is not IN_FILE:
            check_inputs(source, source_x, "source_x")
            checks.finite_numbers(source_x=source_x)
            check_pixels(np.asarray(source_x), "The examples in source_x")
            if len(source_x) < 2:
                raise ValueError(f"source_x must be at least two examples of source data; got {len(source_x)}.")
        self.hidden = hidden
        self.network = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(hidden, activation="tanh"),
                keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
            ],
            name="network",
        )
        self.network.trainable = self.learn
        self._sample = source_x

    def coefficients(self, support_x: Any = None, support_y: Any = None) -> dict[str, float]:
        """The mixing coefficient of each source layer for the task with this support set."""
        if support_x is None or support_y is None:
            raise ValueError("Mixing coefficients depend on the task; pass its support set: (support_x, support_y).")
        support_x, support_y = check_support(support_x, support_y)
        check_inputs(self.source.model, support_x, "support_x")
        return super().coefficients(support_x, support_y)

    def coefficients_for(self, support_x: tf.Tensor, support_y: tf.Tensor) -> tf.Tensor:
        """(layers,) the mixing coefficients for this task, as a tensor that can be differentiated."""
        compared = self.compare(support_x, support_y)
        return tf.sigmoid(tf.convert_to_tensor(self.omega) + self.network(compared)[:, 0])

    def compare(self, support_x: tf.Tensor, support_y: tf.Tensor) -> tf.Tensor:
        """(layers, 3) how each layer's outputs for the support set compare with those for the source sample.

        The distance of their means, divided by the spread of the source; the logarithm of the ratio of the spreads;
        and the fraction of the spread that is between classes, 0 unless each example has one class. The spread is the
        root of the mean squared distance from the mean (Formula 13.6).
        """
        rows = []
        statistics = zip(self._outputs(support_x), self.means, tf.unstack(self.spreads), strict=True)
        for outputs, source_mean, source_spread in statistics:
            mean, spread = _moments(outputs)
            distance = tf.norm(mean - source_mean) / (source_spread + EPSILON)
            ratio = tf.math.log((spread + EPSILON) / (source_spread + EPSILON))
            rows.append(tf.stack([distance, ratio, _between_classes(outputs, support_y)]))
        return tf.stop_gradient(tf.stack(rows))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"source_x": None, "hidden": self.hidden}  # its statistics are weights

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StrategyNetwork":
        """As a file has it. The statistics of source data are NaN until the weights in the file are loaded."""
        return super().from_config(config | {"source_x": IN_FILE})

    def _make(self, coefficients: Mapping[str, float]) -> None:
        super()._make(coefficients)
        # A layer within a layer is represented by the outputs of the outer one.
        names = [name.split("/")[0] for name in coefficients]
        self.extractor = Frozen(feature_extractor(self.source.model, names), name="extractor")
        self.means, unknown = [], keras.initializers.Constant(np.nan)
        for place, output in enumerate(self.extractor.model.outputs):
            size = math.prod(output.shape[1:])
            mean = self.add_weight(shape=(size,), initializer=unknown, trainable=False, name=f"mean_{place}")
            self.means.append(mean)
        self.spreads = self.add_weight(shape=(len(names),), initializer=unknown, trainable=False, name="spreads")
        if self._sample is not IN_FILE:
            moments = [_moments(outputs) for outputs in self._outputs(as_inputs(tf.convert_to_tensor(self._sample)))]
            for variable, (mean, _) in zip(self.means, moments, strict=True):
                variable.assign(mean)
            self.spreads.assign([spread for _, spread in moments])

    def _outputs(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        """For each blended layer, its outputs (examples, numbers)."""
        outputs = tf.nest.flatten(self.extractor(inputs))
        return [tf.cast(tf.reshape(one, (tf.shape(one)[0], -1)), self.variable_dtype) for one in outputs]


def _moments(outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean of the outputs, and the root of the mean squared distance from it."""
    mean = tf.reduce_mean(outputs, axis=0)
    return mean, tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(outputs - mean), axis=1)))


def _between_classes(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The fraction of the squared spread that the means of the classes have; the rest is within classes."""
    if not labels.dtype.is_integer or labels.shape.rank != 1:
        return tf.zeros((), outputs.dtype)
    same = tf.cast(labels[:, None] == labels[None, :], outputs.dtype)
    means = same @ outputs / tf.reduce_sum(same, axis=1, keepdims=True)
    return tf.square(_moments(means)[1] / (_moments(outputs)[1] + EPSILON))
