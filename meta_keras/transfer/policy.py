"""A strategy that is learned: how much of each layer to take from a source, before adapting to a target."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.rules.base import Loss
from meta_keras.rules.gradient import GradientDescent
from meta_keras.transfer.adapters import Frozen
from meta_keras.transfer.parts import own_weights, parts
from meta_keras.transfer.weights import pairs_of


@keras.saving.register_keras_serializable(package="meta_keras")
class Strategy(GradientDescent):
    def __init__(
        self,
        source: keras.Model,
        learning_rate: float,
        steps: int = 1,
        *,
        blend=None,
        amount: float = 0.5,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, steps, **kwargs)
        self.source, self.amount, self.blend = Frozen(source), amount, blend

    def prepare(self, network: PureModel) -> None:
        super().prepare(network)
        pairs, _ = pairs_of(self.source.model, network.model, self.blend)
        start = tf.math.log(self.amount / (1 - self.amount))
        self.layers_ = list(pairs.values())
        self.logits = self.add_weight(
            shape=(len(pairs),),
            initializer=lambda s, dtype=None: tf.fill(s, tf.cast(start, dtype or "float32")),
            name="amounts",
        )
        number = {id(v): (False, n) for n, v in enumerate(network.model.trainable_variables)}
        number |= {id(v): (True, n) for n, v in enumerate(network.model.non_trainable_variables)}
        self.places = [
            (*number[id(taken)], which, given)
            for which, (name, other) in enumerate(pairs.items())
            for given, taken in zip(
                own_weights(parts(self.source.model)[name]), own_weights(parts(network.model)[other]), strict=True
            )
        ]
        self.built = True

    def amounts(self):
        return tf.sigmoid(self.logits)

    def adapt(
        self, network: PureModel, weights: Weights, support_x, support_y, *, loss: Loss, training: bool
    ) -> Outcome:
        own = [[tf.stop_gradient(v) for v in weights.trainable], list(weights.state)]
        for kind, place, which, given in self.places:
            a = tf.cast(self.amounts()[which], given.dtype)
            own[kind][place] = a * given.value + (1 - a) * own[kind][place]
        return super().adapt(network, Weights(*map(tuple, own)), support_x, support_y, loss=loss, training=training)
