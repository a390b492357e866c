"""iMAML: adapt for as many steps as needed, and compute the meta-gradient from the last weights alone."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from meta_keras.checks import at_least, positive
from meta_keras.functional import PureModel, Weights
from meta_keras.rules.base import Adaptation, Context
from meta_keras.rules.inner_loop import Descent, Gradients, support_gradients
from meta_keras.rules.updates import Update

Tensors = list[tf.Tensor]


@keras.saving.register_keras_serializable(package="meta_keras")
class ImplicitGradient(Descent):
    """Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients", 2019.

        theta' = argmin L_S(theta') + strength / 2 |theta' - theta|^2             (Formula 10.8)
        meta-gradient = (I + H / strength)^-1 grad L_Q(theta')                    (Formula 10.9)

    H is the Hessian of L_S at theta'. The system is solved by conjugate gradients, which only need products of H with
    a vector. Memory does not grow with the steps. The formula holds at the minimum: take enough steps.

    strength: the weight of the proximal term, which keeps theta' near theta (lambda in the paper).
    conjugate_steps: steps of conjugate gradients for the meta-gradient.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> rule = ImplicitGradient(0.01, steps=5, strength=2.0, conjugate_steps=3)
    >>> learner = MetaLearner(network=networks.mlp(1, hidden=(16,)), rule=rule)
    >>> learner.compile(loss="mse")
    >>> history = learner.fit(Sinusoids(shots=10), steps_per_epoch=2, verbose=0)
    """

    def __init__(
        self,
        learning_rate: float | Update,
        steps: int = 10,
        *,
        strength: float = 2.0,
        conjugate_steps: int = 5,
        evaluation_steps: int | None = None,
        batch_statistics: str = "episode",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, steps, evaluation_steps=evaluation_steps, batch_statistics=batch_statistics, **kwargs
        )
        positive(strength=strength)
        at_least(1, steps=steps, conjugate_steps=conjugate_steps)
        self.strength, self.conjugate_steps = strength, conjugate_steps

    @property
    def second_order(self) -> bool:
        return True

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        start = weights._replace(parameters=tuple(map(tf.stop_gradient, weights.parameters)))

        def support_gradients_at(weights: Weights) -> Gradients:
            return support_gradients(self, network, weights, x, y, context)

        def proximal_gradients(_: int | tf.Tensor, weights: Weights) -> Gradients:
            gradients, loss, after = support_gradients_at(weights)
            trios = zip(gradients, weights.parameters, start.parameters, strict=True)
            return [g + self.strength * (w - s) for g, w, s in trios], loss, after

        places = self.inner_places(network)
        (end,) = self.descend(proximal_gradients, start, context, places=places, unroll=False)

        def hessian_product(vector: Tensors) -> Tensors:
            """(I + H / strength) times the vector."""
            with tf.GradientTape() as tape:
                tape.watch(end.parameters)
                gradients, _, _ = support_gradients_at(end)
                along = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, vector, strict=True)])
            products = tape.gradient(along, end.parameters, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [v + tf.convert_to_tensor(h) / self.strength for v, h in zip(vector, products, strict=True)]

        @tf.custom_gradient
        def minimum(*_: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], Callable[..., Tensors]]:
            values = tuple(map(tf.identity, end.parameters))
            return values, lambda *upstream: conjugate_gradients(hessian_product, list(upstream), self.conjugate_steps)

        adapted = end._replace(parameters=tuple(minimum(*weights.parameters)))
        # After the minimum, so that the meta-gradient includes the statistics.
        return Adaptation(self.with_support_statistics(network, adapted, x, context))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "strength": self.strength,
            "conjugate_steps": self.conjugate_steps,
        }


def conjugate_gradients(product: Callable[[Tensors], Tensors], target: Tensors, steps: int) -> Tensors:
    """The x with product(x) = target, for a positive definite product (Hestenes and Stiefel, 1952)."""
    x, residual = [tf.zeros_like(t) for t in target], target
    direction, square = residual, _dot(residual, residual)
    for _ in range(steps):
        a_direction = product(direction)
        alpha = tf.math.divide_no_nan(square, _dot(direction, a_direction))
        x = [a + alpha * d for a, d in zip(x, direction, strict=True)]
        residual = [r - alpha * ad for r, ad in zip(residual, a_direction, strict=True)]
        before, square = square, _dot(residual, residual)
        beta = tf.math.divide_no_nan(square, before)
        direction = [r + beta * d for r, d in zip(residual, direction, strict=True)]
    return x


def _dot(a: Tensors, b: Tensors) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(one * other) for one, other in zip(a, b, strict=True)])
