"""A learned inner loss: what a few examples should teach is itself learned over many tasks."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.checks import shape
from meta_keras.functional import PureModel
from meta_keras.rules.base import Context
from meta_keras.rules.gradient_descent import GradientDescent
from meta_keras.rules.updates import Update
from meta_keras.traces import final_activation

FEATURES = 4  # of one output for one example
OWN = "Give a LearnedLoss {}: only second derivatives lead from the loss on the queries back to the learned loss."


@keras.saving.register_keras_serializable(package="meta_keras")
class LearnedLoss(GradientDescent):
    """Bechtle et al., "Meta-learning via Learned Loss" (ML^3), 2021: MAML with an inner loss that is learned.

        L_omega(S) = L(S) + mean_i [tanh(w_i) l_i + c_i]          (Formula 9.7)

    l_i is the task's loss of support example i, and L that of all. A small network gives every example a weight
    1 + tanh(w_i) between 0 and 2 and an additional term c_i. Both begin at zero, so that meta-training begins with the
    plain loss. The network sees labels and answers, one output at a time, and their mean over the outputs and over the
    support set (as a set network: Zaheer et al., "Deep Sets", 2017). It therefore fits any number of examples in any
    order, any number of classes, and regressions. The loss on the queries remains the task's loss. Related: the
    meta-critic (Sung et al., 2017), and losses without labels (Antoniou and Storkey, "Learning to Learn by
    Self-Critique", 2019).

    learning_rate, steps and further settings: those of `GradientDescent`; but not first_order.
    hidden: units of the two layers of the loss network.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> learner = MetaLearner(network=networks.mlp(1, hidden=(16,)), rule=LearnedLoss(0.01))
    >>> learner.compile(loss="mse")
    >>> history = learner.fit(Sinusoids(shots=10), steps_per_epoch=2, verbose=0)
    """

    def __init__(
        self, learning_rate: float | Update, steps: int = 1, *, hidden: Sequence[int] = (16, 16), **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, steps, **kwargs)
        shape(hidden=hidden)
        if len(hidden) != 2:
            raise ValueError(f"hidden must be two numbers, the units of the loss network; got {tuple(hidden)}.")
        if self.first_order or steps == 0:
            raise ValueError(OWN.format("first_order=False" if self.first_order else "at least one step"))
        self.hidden = tuple(int(units) for units in hidden)

    def prepare(self, network: PureModel) -> None:
        super().prepare(network)
        self._activation = final_activation(network.model)
        first, second = self.hidden
        self.kernels = [
            self.add_weight(shape=size, initializer=start, name=f"kernel_{n}")
            for n, (size, start) in enumerate(
                [((FEATURES, first), "glorot_uniform"), ((2 * first, second), "glorot_uniform"), ((second, 2), "zeros")]
            )
        ]
        self.biases = [
            self.add_weight(shape=(units,), initializer="zeros", name=f"bias_{n}")
            for n, units in enumerate((first, second, 2))
        ]

    @property
    def loss_weights(self) -> list[keras.Variable]:
        """The weights of the loss network."""
        return [*self.kernels, *self.biases]

    def support_loss(self, y: tf.Tensor, answers: tf.Tensor, context: Context) -> tf.Tensor:
        plain = context.loss(y, answers)
        losses = example_losses(y, answers, context)
        weights, terms = self.judgments(y, answers, losses)
        learned = tf.reduce_mean(tf.tanh(weights) * tf.cast(losses, weights.dtype) + terms)
        return plain + tf.cast(learned, plain.dtype)

    def judgments(self, y: tf.Tensor, answers: tf.Tensor, losses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(examples,) w_i and c_i of Formula 9.7."""
        (into, within, out), (first, second, last) = (
            [tf.convert_to_tensor(one) for one in some] for some in (self.kernels, self.biases)
        )
        features = features_of(y, answers, losses, self._activation, into.dtype)
        read = tf.reduce_mean(tf.tanh(tf.tensordot(features, into, 1) + first), axis=1)
        around = tf.broadcast_to(tf.reduce_mean(read, axis=0, keepdims=True), tf.shape(read))
        weights, terms = tf.unstack(tf.tanh(tf.concat([read, around], axis=1) @ within + second) @ out + last, axis=1)
        return weights, terms

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"hidden": self.hidden}


def example_losses(y: tf.Tensor, answers: tf.Tensor, context: Context) -> tf.Tensor:
    """(examples,) the task's loss of each support example alone."""

    def loss_of(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return context.loss(pair[0][None], pair[1][None])

    if tf.executing_eagerly():  # where vectorizing would trace a new function in every call, which takes much longer
        return tf.stack([loss_of(pair) for pair in zip(tf.unstack(y), tf.unstack(answers), strict=True)])
    return tf.vectorized_map(loss_of, (y, answers))


def features_of(
    y: tf.Tensor, answers: tf.Tensor, losses: tf.Tensor, activation: str | None, dtype: tf.DType | str
) -> tf.Tensor:
    """(examples, outputs, FEATURES) what the loss network sees: target, answer, their difference, and the loss.

    For labels, outputs are classes, the target is one-hot, and the answer a probability. Large numbers are compressed.
    """
    count = tf.shape(answers)[0]
    given = tf.cast(answers, dtype)
    if y.dtype.is_integer:
        target = tf.one_hot(y, answers.shape[-1], dtype=dtype)
        given = {"softmax": tf.identity, "log_softmax": tf.exp}.get(activation, tf.nn.softmax)(given)
    else:
        target = tf.cast(y, dtype)
    target, given = (tf.reshape(one, (count, -1)) for one in (target, given))
    own = tf.broadcast_to(tf.cast(losses, dtype)[:, None], tf.shape(given))
    return tf.math.asinh(tf.stack([target, given, target - given, own], axis=-1))
