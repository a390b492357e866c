"""One step down the loss on a support set, and many: what all rules that follow gradients share."""

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import tensorflow as tf

from meta_keras.functional import Outcome, PureModel, Weights, gradients_of
from meta_keras.rules.base import Loss, Rule, total


class Descent(Rule):
    """A rule that follows gradients: the weights themselves adapt, and the network answers with them as it is."""

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        *,
        evaluation_steps: int | None = None,
        batch_statistics: str = "episode",
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_statistics=batch_statistics, **kwargs)
        evaluation_steps = steps if evaluation_steps is None else evaluation_steps
        check_rate(learning_rate=learning_rate)
        check_steps(steps=steps, evaluation_steps=evaluation_steps)
        self.learning_rate, self.steps, self.evaluation_steps = learning_rate, steps, evaluation_steps

    def check_ways(self, network: PureModel, ways: int) -> None:
        units = self.scores(network, ways)
        if units < ways:
            raise ValueError(
                f"The tasks have {ways} ways; the network {network.model.name!r} has {units} outputs. "
                f"Give its last layer {ways} units."
            )

    def scores(self, network: PureModel, ways: int) -> int:
        units = getattr(network.model, "output_shape", (None,))[-1]
        return units if isinstance(units, int) else ways

    def predict(self, network: PureModel, adapted: Outcome, inputs: tf.Tensor, *, training: bool) -> Outcome:
        return self.answers(network, adapted.weights, inputs, training=training, queries=True)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "evaluation_steps": self.evaluation_steps,
        }


def slopes(
    rule: Rule,
    network: PureModel,
    weights: Weights,
    support_x: tf.Tensor,
    support_y: tf.Tensor,
    *,
    loss: Loss,
    training: bool,
    among: Sequence[int] | None = None,
) -> tuple[list[tf.Tensor], Weights]:
    """The gradients of the support loss for the weights numbered in `among` (all by default), and the state after."""
    moving = [weights.trainable[place] for place in (range(len(weights.trainable)) if among is None else among)]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(moving)
        outcome = rule.answers(network, weights, support_x, training=training, queries=False)
        check_answers(outcome.outputs, support_y)
        support_loss = total(loss(support_y, outcome.outputs), (*outcome.losses, *network.penalties(weights)))
    return gradients_of(tape, support_loss, moving), outcome.weights


def repeat(
    step: Callable[[int | tf.Tensor, Weights], Weights], weights: Weights, steps: int, *, unroll: bool
) -> Weights:
    """`step(number, weights)`, so many times. Unrolled it is faster to differentiate, in a loop faster to compile."""
    if unroll:
        for number in range(steps):
            weights = step(number, weights)
        return weights
    _, weights = tf.while_loop(
        lambda number, _: number < steps,
        lambda number, weights: (number + 1, step(number, weights)),
        (tf.constant(0), weights),
        maximum_iterations=steps,
    )
    return weights


def check_answers(answers: tf.Tensor, labels: tf.Tensor) -> None:
    """Raise a ValueError unless the network's answers can be compared with these labels or targets."""
    if not tf.is_tensor(answers):
        raise ValueError(f"A network with one output is needed; this one gives a {type(answers).__name__}.")
    if labels.dtype.is_integer and answers.shape.rank != labels.shape.rank + 1:
        raise ValueError(
            f"Labels of shape {tuple(labels.shape)} need scores of shape {(*labels.shape, 'ways')}; "
            f"the network gives {tuple(answers.shape)}."
        )
    if labels.dtype.is_floating and not answers.shape.is_compatible_with(labels.shape):
        raise ValueError(
            f"Targets have shape {tuple(labels.shape)}; the network's answers have shape {tuple(answers.shape)}. "
            "End the network with as many units as a target has numbers."
        )


def check_rate(**rates: float) -> None:
    """Raise a ValueError that names the first rate that is not a positive number."""
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, Real) or not np.isfinite(rate) or rate <= 0:
            raise ValueError(f"{name} is a number above 0; {rate!r} was given.")


def check_steps(**steps: int) -> None:
    """Raise a ValueError that names the first number of steps that is not a whole number of 0 or more."""
    for name, number in steps.items():
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise ValueError(f"{name} is a whole number of 0 or more; {number!r} was given.")
