"""Prototypical networks: a class is the mean of its embedded examples."""

import keras
import tensorflow as tf

from meta_keras.copies import copy_with
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.rules.base import Adaptation, Context, Rule


@keras.saving.register_keras_serializable(package="meta_keras")
class Prototypes(Rule):
    """Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", 2017.

    The network embeds each example. The embedded support examples of a class are averaged into its prototype, and a
    query belongs to the class whose prototype is nearest. There is nothing to fit: the rule has no weights (omega is
    empty), and a new class takes one mean.

        prototype_k = mean of network(x) over the support examples x of class k          (Formula 1.5)
        logit_k(x) = -|network(x) - prototype_k|^2                                       (Formula 1.6)

    A class without support examples is never the answer.

    >>> from meta_keras import MetaLearner, networks
    >>> learner = MetaLearner(network=networks.mlp(8, input_shape=(2,)), rule=Prototypes())
    >>> support = tf.constant([[0.0, 1.0], [1.0, 0.0]])
    >>> answer = learner.predictor(support, tf.constant([0, 1]))
    >>> answer(support).numpy().argmax(axis=1)
    array([0, 1])
    """

    needs_every_class = True

    def answer_activation(self, network: PureModel) -> str | None:
        """None: negative distances are logits, whatever the network ends in."""
        return None

    @property
    def second_order(self) -> bool:
        return False

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        outcome = self.run(network, weights, x, context)
        embedded = in_full_precision(outcome.outputs, y)
        return Adaptation(outcome.weights, memory=class_means(embedded, y, context.ways), losses=outcome.losses)

    def predict(self, network: PureModel, adapted: Adaptation, x: tf.Tensor, context: Context) -> Outcome:
        outcome = self.run(network, adapted.weights, x, context, queries=True)
        prototypes, known = adapted.memory
        apart = tf.cast(outcome.outputs, prototypes.dtype)[:, None, :] - prototypes[None, :, :]
        logits = -tf.reduce_sum(tf.square(apart), axis=-1)
        return outcome._replace(outputs=tf.where(known, logits, logits.dtype.min))

    def expert(self, network: PureModel, adapted: Adaptation) -> keras.Model:
        """The embedding and a dense layer: -|x - c|^2 is 2 c.x - |c|^2, but for -|x|^2, the same for every class."""
        if not getattr(network.model, "inputs", None):
            raise ValueError(
                f"{network.model.name!r} does not say what inputs it takes, so no Keras model can be built on it. Use "
                "learner.predictor, or a Sequential or functional network."
            )
        embedding, (prototypes, known) = copy_with(network, adapted.weights), adapted.memory
        logits = keras.layers.Dense(len(prototypes), dtype=prototypes.dtype.name, name="prototypes")
        model = keras.Model(embedding.inputs[0], logits(embedding.outputs[0]), name=f"{network.model.name}_expert")
        bias = tf.where(known, -tf.reduce_sum(tf.square(prototypes), axis=-1), prototypes.dtype.min)
        logits.set_weights([2 * tf.transpose(prototypes), bias])
        return model


def class_means(rows: tf.Tensor, labels: tf.Tensor, ways: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(ways, width) the mean of the rows of each class, zeros without any; and (ways,) whether it has any."""
    member = tf.one_hot(labels, ways, axis=0, dtype=rows.dtype)  # (ways, rows)
    count = tf.reduce_sum(member, axis=1, keepdims=True)
    return tf.math.divide_no_nan(member @ rows, count), count[:, 0] > 0


def in_full_precision(embedded: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Embeddings (examples, width) in float32 or more, since squared distances overflow in float16; else an error."""
    if not tf.is_tensor(embedded) or embedded.shape.rank != 2:
        shapes = tf.nest.map_structure(lambda output: tuple(output.shape), embedded)
        raise ValueError(
            f"Prototypes need one row of numbers for each example; the network's outputs have shape {shapes}. "
            "End it with keras.layers.Flatten()."
        )
    if not labels.dtype.is_integer or labels.shape.rank != 1:
        raise ValueError(
            f"Prototypes stand for classes and need one integer label per example; these labels are "
            f"{labels.dtype.name} of shape {tuple(labels.shape)}."
        )
    return tf.cast(embedded, tf.float32) if embedded.dtype.size < 4 else embedded
