"""Few-shot learning by distance: a task is learned by placing its examples on a map."""

import keras
import tensorflow as tf

from meta_keras.copies import copy_with
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.rules.base import Loss, Rule


@keras.saving.register_keras_serializable(package="meta_keras")
class Prototypes(Rule):
    """Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", 2017.

    The network is a map: it gives each example a place. The support examples of a class are averaged into its
    prototype, and a query belongs to the class whose prototype is nearest. There is nothing to fit: the rule has
    no weights (omega is empty), and a new class costs one mean.

        prototype_k = mean of network(x) over the support examples x of class k          (Formula 1.5)
        score_k(x) = -|network(x) - prototype_k|^2                                       (Formula 1.6)
    """

    static_shapes = False  # how many classes there are, the labels say

    def adapt(
        self,
        network: PureModel,
        weights: Weights,
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        *,
        loss: Loss | None = None,
        training: bool,
    ) -> Outcome:
        outcome = self.answers(network, weights, support_x, training=training, queries=False)
        _check(outcome.outputs, support_y)
        ways = tf.reduce_max(support_y) + 1
        return outcome._replace(outputs=tf.math.unsorted_segment_mean(outcome.outputs, support_y, ways))

    def predict(self, network: PureModel, adapted: Outcome, inputs: tf.Tensor, *, training: bool) -> Outcome:
        outcome = self.answers(network, adapted.weights, inputs, training=training, queries=True)
        apart = outcome.outputs[:, None, :] - adapted.outputs[None, :, :]
        return outcome._replace(outputs=-tf.reduce_sum(tf.square(apart), axis=-1))

    def expert(self, network: PureModel, adapted: Outcome) -> keras.Model:
        """The map and a dense layer: -|x - c|^2 is 2 c.x - |c|^2, but for -|x|^2, the same for every class."""
        places, prototypes = copy_with(network, adapted.weights), adapted.outputs
        scores = keras.layers.Dense(len(prototypes), name="prototypes")
        model = keras.Model(places.inputs[0], scores(places.outputs[0]), name=f"{network.model.name}_expert")
        scores.set_weights([2 * tf.transpose(prototypes), -tf.reduce_sum(tf.square(prototypes), axis=-1)])
        return model


def _check(places: tf.Tensor, labels: tf.Tensor) -> None:
    if not tf.is_tensor(places) or places.shape.rank != 2:
        shapes = tf.nest.map_structure(lambda output: tuple(output.shape), places)
        raise ValueError(
            f"Prototypes need one row of numbers for each example; the network's outputs have shape {shapes}. "
            "End it with keras.layers.Flatten()."
        )
    if not labels.dtype.is_integer:
        raise ValueError(f"Prototypes stand for classes; these answers are {labels.dtype.name}, as of a regression.")
