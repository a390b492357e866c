"""Few-shot learning by distance: a task is learned by placing its examples on a map."""

import tensorflow as tf

from meta_keras.functional import PureModel, Weights
from meta_keras.rules.base import Rule


class Prototypes(Rule):
    """Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", 2017.

    The network is a map: it gives each example a place. The support examples of a class are averaged into its
    prototype, and a query belongs to the class whose prototype is nearest. There is nothing to fit: the rule has
    no weights (omega is empty), and a new class costs one mean.

        prototype_k = mean of network(x) over the support examples x of class k          (Formula 1.5)
        score_k(x) = -|network(x) - prototype_k|^2                                       (Formula 1.6)
    """

    def adapt(
        self,
        network: PureModel,
        weights: Weights,
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        *,
        training: bool,
    ) -> tuple[tf.Tensor, Weights]:
        outcome = network(weights, support_x, training=training)
        _check(outcome.outputs, support_y)
        ways = tf.reduce_max(support_y) + 1
        prototypes = tf.math.unsorted_segment_mean(outcome.outputs, support_y, ways)
        return prototypes, outcome.weights

    def predict(
        self, network: PureModel, weights: Weights, adapted: tf.Tensor, inputs: tf.Tensor, *, training: bool
    ) -> tuple[tf.Tensor, Weights]:
        outcome = network(weights, inputs, training=training)
        apart = outcome.outputs[:, None, :] - adapted[None, :, :]
        return -tf.reduce_sum(tf.square(apart), axis=-1), outcome.weights


def _check(places: tf.Tensor, labels: tf.Tensor) -> None:
    if not tf.is_tensor(places) or places.shape.rank != 2:
        shapes = tf.nest.map_structure(lambda output: tuple(output.shape), places)
        raise ValueError(
            f"Prototypes need one row of numbers for each example; the network's outputs have shape {shapes}. "
            "End it with keras.layers.Flatten()."
        )
    if not labels.dtype.is_integer:
        raise ValueError(f"Prototypes stand for classes; these answers are {labels.dtype.name}, as of a regression.")
