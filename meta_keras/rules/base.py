"""What every rule of adaptation answers to."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from meta_keras.copies import copy_with
from meta_keras.functional import Outcome, PureModel, Weights

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
STATISTICS = ("episode", "support", "moving")


class Rule(keras.layers.Layer):
    """How a network is adapted to a task: the meta-policy g of Formula 1.2.

    A rule is a Keras layer, so that what it learns (omega) is tracked, saved and trained like any weight. It sees
    one task at a time and changes nothing: `adapt` returns what it found out, and `predict` answers with it.

    batch_statistics: what batch normalisation goes by. "episode": whatever batch it is given, the queries of a task
        included, so that an answer depends on the queries beside it (transductive, as MAML was published).
        "support": the support set, for the queries too. "moving": as Keras does, each batch in training and the
        moving averages in evaluation.
    """

    # Whether all shapes are known before a task is seen, as mapping by vectorisation and XLA need it.
    static_shapes = True

    def __init__(self, *, batch_statistics: str = "moving", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if batch_statistics not in STATISTICS:
            raise ValueError(f"batch_statistics is one of {STATISTICS}; {batch_statistics!r} was given.")
        self.batch_statistics = batch_statistics

    def prepare(self, network: PureModel) -> None:
        """Make what the rule learns (omega) for this network. Most rules learn nothing."""
        self.built = True

    def check_ways(self, network: PureModel, ways: int) -> None:
        """Raise a ValueError unless the network can tell `ways` classes apart by this rule."""

    def scores(self, network: PureModel, ways: int) -> int:
        """How many scores a query gets, where the tasks have so many ways."""
        return ways

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
        """The weights to answer with, and as `outputs` what else the rule made of the support set."""
        raise NotImplementedError(f"{type(self).__name__} must say how it adapts.")

    def predict(self, network: PureModel, adapted: Outcome, inputs: tf.Tensor, *, training: bool) -> Outcome:
        """As `outputs`, (inputs, ways) scores, the higher the likelier, or the answers of a regression."""
        raise NotImplementedError(f"{type(self).__name__} must say how it predicts.")

    def judge(
        self,
        network: PureModel,
        adapted: Outcome,
        query_x: tf.Tensor,
        query_y: tf.Tensor,
        *,
        loss: Loss,
        step: tf.Tensor | None = None,
        training: bool,
    ) -> tuple[tf.Tensor, Outcome]:
        """The loss on the queries, and the prediction. `step` counts the steps of meta-training, if it is that."""
        answer = self.predict(network, adapted, query_x, training=training)
        own = (*adapted.losses, *answer.losses, *network.penalties(answer.weights))
        return total(loss(query_y, answer.outputs), own), answer

    def expert(self, network: PureModel, adapted: Outcome) -> keras.Model:
        """A plain Keras model that answers as the adapted network does."""
        return copy_with(network, adapted.weights)

    def answers(
        self, network: PureModel, weights: Weights, inputs: tf.Tensor, *, training: bool, queries: bool
    ) -> Outcome:
        """The network's outputs for support examples or for queries, normalised as `batch_statistics` says."""
        statistics = {"episode": "batch", "support": "moving" if queries else "keep", "moving": None}
        return network(weights, inputs, training=training, statistics=statistics[self.batch_statistics])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"batch_statistics": self.batch_statistics}


def total(loss: tf.Tensor, more: tuple[tf.Tensor, ...]) -> tf.Tensor:
    """The sum of a loss and others, in the precision of the first."""
    return tf.add_n([loss, *(tf.cast(tf.reduce_sum(one), loss.dtype) for one in more)])
