"""What every rule of adaptation answers to."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import PureModel, Weights


class Rule(keras.layers.Layer):
    """How a network is adapted to a task: the meta-policy g of Formula 1.2.

    A rule is a Keras layer, so that what it learns (omega) is tracked, saved and trained like any weight. It sees
    one task at a time and changes nothing: `adapt` returns what it found out, and `predict` answers with it.
    """

    def adapt(
        self,
        network: PureModel,
        weights: Weights,
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        *,
        training: bool,
    ) -> tuple[Any, Weights]:
        """What the rule makes of a support set, as tensors, and the weights with their state carried on."""
        raise NotImplementedError(f"{type(self).__name__} must say how it adapts.")

    def predict(
        self, network: PureModel, weights: Weights, adapted: Any, inputs: tf.Tensor, *, training: bool
    ) -> tuple[tf.Tensor, Weights]:
        """(inputs, ways) scores, the higher the likelier, and the weights with their state carried on."""
        raise NotImplementedError(f"{type(self).__name__} must say how it predicts.")
