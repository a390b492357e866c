"""iMAML: adapt as far as you like, and find the meta-gradient from where you end, not from the way there."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.rules.base import Loss
from meta_keras.rules.descent import Descent, check_rate, repeat, slopes
from meta_keras.tasks.episodes import at_least_one

Tensors = list[tf.Tensor]


@keras.saving.register_keras_serializable(package="meta_keras")
class ImplicitGradient(Descent):
    """Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients", 2019.

        theta' = argmin L_S(theta') + strength / 2 |theta' - theta|^2             (Formula 10.8)
        meta-gradient = (I + H / strength)^-1 grad L_Q(theta')                    (Formula 10.9)

    H is the Hessian of L_S at theta'. The system is solved by conjugate gradients, which only ever need products of
    H with a vector. Memory does not grow with the steps. The formula holds at the minimum: take enough steps.

    strength: how strongly theta' is held near theta (lambda in the paper).
    conjugate_steps: steps of conjugate gradients for the meta-gradient.
    """

    def __init__(
        self,
        learning_rate: float,
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
        check_rate(strength=strength)
        at_least_one(steps=steps, conjugate_steps=conjugate_steps)
        self.strength, self.conjugate_steps = strength, conjugate_steps

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
        def slopes_at(weights: Weights) -> tuple[Tensors, Weights]:
            return slopes(self, network, weights, support_x, support_y, loss=loss, training=training)

        start = weights._replace(trainable=tuple(map(tf.stop_gradient, weights.trainable)))

        def step(_: int | tf.Tensor, weights: Weights) -> Weights:
            gradients, after = slopes_at(weights)
            trios = zip(weights.trainable, gradients, start.trainable, strict=True)
            moved = tuple(w - self.learning_rate * (g + self.strength * (w - s)) for w, g, s in trios)
            return after._replace(trainable=moved)

        end = repeat(step, start, self.steps if training else self.evaluation_steps, unroll=False)

        def product(vector: Tensors) -> Tensors:
            """(I + H / strength) times the vector."""
            with tf.GradientTape() as tape:
                tape.watch(end.trainable)
                gradients, _ = slopes_at(end)
                along = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, vector, strict=True)])
            bent = tape.gradient(along, end.trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [v + tf.convert_to_tensor(h) / self.strength for v, h in zip(vector, bent, strict=True)]

        @tf.custom_gradient
        def minimum(*_: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], Callable[..., Tensors]]:
            values = tuple(map(tf.identity, end.trainable))
            return values, lambda *slope: conjugate_gradients(product, list(slope), self.conjugate_steps)

        adapted = end._replace(trainable=tuple(minimum(*weights.trainable)))
        if self.batch_statistics == "support":  # after the minimum, so that the meta-gradient goes through them
            adapted = self.answers(network, adapted, support_x, training=training, queries=False).weights
        return Outcome((), adapted, ())

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "strength": self.strength,
            "conjugate_steps": self.conjugate_steps,
        }


def conjugate_gradients(product: Callable[[Tensors], Tensors], target: Tensors, steps: int) -> Tensors:
    """The x with product(x) = target, for a positive definite product (Hestenes and Stiefel, 1952)."""
    x, residual = [tf.zeros_like(t) for t in target], target
    direction, size = residual, _dot(residual, residual)
    for _ in range(steps):
        image = product(direction)
        far = tf.math.divide_no_nan(size, _dot(direction, image))
        x = [a + far * d for a, d in zip(x, direction, strict=True)]
        residual = [r - far * i for r, i in zip(residual, image, strict=True)]
        before, size = size, _dot(residual, residual)
        direction = [r + tf.math.divide_no_nan(size, before) * d for r, d in zip(residual, direction, strict=True)]
    return x


def _dot(a: Tensors, b: Tensors) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(one * other) for one, other in zip(a, b, strict=True)])
