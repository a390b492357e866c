"""MAML and its variants: adapt by a few steps of gradient descent, and differentiate through them."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.checks import at_least, flag, names
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.rules.base import Adaptation, Context
from meta_keras.rules.generated import weights_of_layers
from meta_keras.rules.inner_loop import Descent, Gradients, support_gradients
from meta_keras.rules.updates import Update

# Up to this many steps are unrolled in evaluation, too; a loop is only useful for more.
FEW = 2


@keras.saving.register_keras_serializable(package="meta_keras")
class GradientDescent(Descent):
    """Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017.

        theta_k+1 = theta_k - alpha grad L_S(theta_k),  theta_0 = theta           (Formula 10.1)
        meta-gradient = grad_theta L_Q(theta_K)                                   (Formula 10.2)

    The adapted weights are tensors on the outer gradient tape, so the meta-gradient has its second derivatives.

    learning_rate: alpha, the inner learning rate; or an `Update`, such as `LearnedRates(0.01, per="weight")` for
        Meta-SGD.
    steps, evaluation_steps: inner steps in meta-training, and in evaluation (by default as many).
    first_order: omit the second derivatives (FOMAML; Formula 10.4).
    layers: the name or names of the layers that adapt. They may be frozen, which keeps the outer loop from training
        them. Adapting the head alone is ANIL (Raghu et al., "Rapid Learning or Feature Reuse?", 2020). None adapts
        all trainable weights.
    multi_step: over this many steps of meta-training, the query loss moves from the mean over all inner steps to the
        last one alone (MAML++: Antoniou et al., "How to train your MAML", 2019; Formula 10.6). 0 uses the
        last one from the start.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> learner = MetaLearner(network=networks.mlp(1), rule=GradientDescent(0.01, steps=1, evaluation_steps=10))
    >>> learner.compile(loss="mse")
    >>> history = learner.fit(Sinusoids(shots=10), steps_per_epoch=2, verbose=0)
    """

    differentiates_steps = True

    def __init__(
        self,
        learning_rate: float | Update,
        steps: int = 1,
        *,
        evaluation_steps: int | None = None,
        first_order: bool = False,
        layers: str | Sequence[str] | None = None,
        multi_step: int = 0,
        batch_statistics: str = "episode",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, steps, evaluation_steps=evaluation_steps, batch_statistics=batch_statistics, **kwargs
        )
        at_least(0, multi_step=multi_step)
        flag(first_order=first_order)
        if layers is not None:
            names(layers=layers)
        if steps == 0 and (multi_step or isinstance(learning_rate, Update)):
            raise ValueError("With steps=0 nothing is adapted, so there are no learning rates or inner steps to learn.")
        self.first_order, self.multi_step = bool(first_order), int(multi_step)
        self.adapted_layers = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)

    @property
    def second_order(self) -> bool:
        return not self.first_order

    def adaptable(self, network: keras.Model) -> list[keras.Variable]:
        return [] if self.adapted_layers is None else weights_of_layers(network, self.adapted_layers)

    def inner_places(self, network: PureModel) -> list[int]:
        if self.adapted_layers is None:
            return super().inner_places(network)
        chosen = set(map(id, weights_of_layers(network.model, self.adapted_layers)))
        return [place for place, variable in enumerate(network.parameters) if id(variable) in chosen]

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        places = self.inner_places(network)

        def gradients_at(number: int | tf.Tensor, weights: Weights) -> Gradients:
            gradients, loss, after = support_gradients(self, network, weights, x, y, context, places)
            return list(map(tf.stop_gradient, gradients)) if self.first_order else gradients, loss, after

        unroll = context.training or self.evaluation_steps <= FEW
        *earlier, last = [
            self.with_support_statistics(network, reached, x, context)
            for reached in self.descend(gradients_at, weights, context, places=places, unroll=unroll)
        ]
        return Adaptation(last, memory=tuple(earlier) if context.training and self.multi_step else ())

    def judge(
        self, network: PureModel, adapted: Adaptation, x: tf.Tensor, y: tf.Tensor, context: Context
    ) -> tuple[tf.Tensor, Outcome]:
        last, answer = super().judge(network, adapted, x, y, context)
        if context.step is None or not adapted.memory:
            return last, answer
        # Formula 10.6: every inner step counts 1 / steps at first, and all but the last one less and less.
        early = tf.nn.relu(1 - tf.cast(context.step, last.dtype) / self.multi_step) / self.steps
        losses = [
            super(GradientDescent, self).judge(network, adapted._replace(weights=before), x, y, context)[0]
            for before in adapted.memory
        ]
        # Once they do not count, an early loss that is infinite must not count either.
        return tf.math.multiply_no_nan(tf.add_n(losses), early) + (1 - early * len(losses)) * last, answer

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "first_order": self.first_order,
            "layers": self.adapted_layers,
            "multi_step": self.multi_step,
        }
