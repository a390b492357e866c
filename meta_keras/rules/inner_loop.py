"""The inner loop: gradients of the loss on a support set, and steps along them. All gradient-based rules share it."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.checks import at_least, unconstrained
from meta_keras.functional import PureModel, Weights, carrying, gradients_of, running_state
from meta_keras.internals import all_layers
from meta_keras.rules.base import Context, NetworkRule, Rule, check_answers, total
from meta_keras.rules.updates import FixedRate, Step, Update, as_update

# In float16 the smallest gradients would vanish; the loss is multiplied by this, and the gradients divided by it.
HALF_PRECISION_SCALE = 2.0**10

Gradients = tuple[list[tf.Tensor], tf.Tensor, Weights]


class Descent(NetworkRule):
    """A gradient-based rule: the weights themselves adapt, and the network then answers with them.

    learning_rate: a number, for plain gradient descent at this rate, or an `Update` such as `LearnedRates`.
    steps, evaluation_steps: inner steps in meta-training, and in evaluation (by default as many).
    """

    # Whether the meta-gradient goes back through the steps, so that the outer loop can train an `Update`.
    differentiates_steps = False

    def __init__(
        self,
        learning_rate: float | Update,
        steps: int,
        *,
        evaluation_steps: int | None = None,
        batch_statistics: str = "episode",
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_statistics=batch_statistics, **kwargs)
        self.transform = as_update(learning_rate)
        evaluation_steps = steps if evaluation_steps is None else evaluation_steps
        at_least(0, steps=steps, evaluation_steps=evaluation_steps)
        self.steps, self.evaluation_steps = int(steps), int(evaluation_steps)

    def prepare(self, network: PureModel) -> None:
        variables = network.parameters
        inner = [variables[place] for place in self.inner_places(network)]
        if not inner:
            raise ValueError(
                f"The network {network.model.name!r} has no trainable weights, so nothing could adapt. Unfreeze some "
                "layers, or name frozen ones that the inner loop may change: GradientDescent(..., layers=...)."
            )
        unconstrained(inner)
        self.transform.prepare(network, inner, self.steps)
        if self.transform.trainable_variables and not self.differentiates_steps:
            raise ValueError(
                f"{type(self).__name__} does not differentiate its inner steps, so nothing would train the weights of "
                f"{type(self.transform).__name__}. Use GradientDescent, or an Update without weights."
            )
        self.built = True

    def inner_places(self, network: PureModel) -> list[int]:
        """The numbers of the parameters that the inner loop changes: all of them."""
        return list(range(len(network.parameters)))

    def support_loss(self, y: tf.Tensor, answers: tf.Tensor, context: Context) -> tf.Tensor:
        """The loss that the inner loop minimizes: that of the learner. A subclass can replace it by a learned loss."""
        return context.loss(y, answers)

    def descend(
        self,
        gradients_at: Callable[[int | tf.Tensor, Weights], Gradients],
        weights: Weights,
        context: Context,
        *,
        places: Sequence[int],
        unroll: bool,
    ) -> list[Weights]:
        """The weights after each step; after the last one alone, if the loop is not unrolled.

        gradients_at: `(step, weights) -> (gradients for places, loss, weights with the state after)`.
        """
        on_the_way: list[Weights] = []

        def step(number: int | tf.Tensor, weights: Weights, memory: Any) -> tuple[Weights, Any]:
            weights, memory, _ = self.step(gradients_at, number, weights, memory, context, places)
            on_the_way.append(weights)
            return weights, memory

        steps = self.steps if context.training else self.evaluation_steps
        start = (weights, self.transform.init([weights.parameters[place] for place in places]))
        last, _ = repeat(step, start, steps, unroll=unroll, layer=self)
        return on_the_way if unroll and on_the_way else [last]

    def step(
        self,
        gradients_at: Callable[[int | tf.Tensor, Weights], Gradients],
        number: int | tf.Tensor,
        weights: Weights,
        memory: Any,
        context: Context,
        places: Sequence[int],
    ) -> tuple[Weights, Any, tf.Tensor]:
        """The weights after inner step `number`, what the update remembers next, and the loss before the step."""
        gradients, loss, after = gradients_at(number, weights)
        moving = [weights.parameters[place] for place in places]
        updates, memory = self.transform.update(gradients, memory, moving, Step(number, loss, context.training))
        moved = list(weights.parameters)
        for place, update in zip(places, updates, strict=True):
            moved[place] += tf.cast(update, moved[place].dtype)
        return after._replace(parameters=tuple(moved)), memory, loss

    def with_support_statistics(self, network: PureModel, weights: Weights, x: tf.Tensor, context: Context) -> Weights:
        """The weights with the statistics of the support set under them, if these normalize the queries."""
        if self.batch_statistics != "support":
            return weights
        return self.run(network, weights, x, context).weights

    def get_config(self) -> dict[str, Any]:
        rate = self.transform
        rate = rate.learning_rate if isinstance(rate, FixedRate) else keras.saving.serialize_keras_object(rate)
        return super().get_config() | {
            "learning_rate": rate,
            "steps": self.steps,
            "evaluation_steps": self.evaluation_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Descent":
        rate = config["learning_rate"]
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate)
        return cls(**(config | {"learning_rate": rate}))


def support_gradients(
    rule: Descent,
    network: PureModel,
    weights: Weights,
    x: tf.Tensor,
    y: tf.Tensor,
    context: Context,
    places: Sequence[int] | None = None,
) -> Gradients:
    """The gradients of the support loss for the parameters in `places` (by default all), the loss, and the state after.

    What layers add to the loss counts too: regularizers, `add_loss`.
    """
    places = range(len(weights.parameters)) if places is None else places
    moving = [weights.parameters[place] for place in places]
    scale = HALF_PRECISION_SCALE if computes_in_half_precision(network.model) else None
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(moving)
        outcome = rule.run(network, weights, x, context)
        check_answers(outcome.outputs, y)
        own = (*outcome.losses, *network.penalties(weights))
        loss = total(rule.support_loss(y, outcome.outputs, context), own)
        scaled = loss if scale is None else loss * scale
    gradients = gradients_of(tape, scaled, moving)
    gradients = gradients if scale is None else [gradient / scale for gradient in gradients]
    return gradients, loss, outcome.weights


def computes_in_half_precision(model: keras.Model) -> bool:
    """Whether some layer computes in float16, whose smallest number is 6e-8."""
    return any(layer.compute_dtype == "float16" for layer in all_layers(model))


def repeat(
    step: Callable[..., tuple[Any, ...]], carried: tuple[Any, ...], steps: int, *, unroll: bool, layer: Rule
) -> tuple[Any, ...]:
    """`carried = step(number, *carried)`, `steps` times. Unrolling differentiates faster, a loop compiles faster.

    layer: the rule whose layers are called within a step. A loop passes their state from step to step.
    """
    if unroll:
        for number in range(steps):
            carried = step(number, *carried)
        return carried
    running, added_losses = running_state(layer), []
    values = [(variable, tf.convert_to_tensor(variable)) for variable in layer.variables]  # outside of the loop

    def body(number: tf.Tensor, carried: Any, states: Any, added: tf.Tensor) -> tuple[tf.Tensor, Any, Any, tf.Tensor]:
        # A scope does not see the values of the scope around it.
        with carrying([*values, *zip(running, states, strict=True)]) as scope:
            moved = tf.nest.pack_sequence_as(carried, tf.nest.flatten(step(number, *carried)))
            added_losses.extend(scope.losses)
            losses = tf.add_n([added, *(tf.cast(tf.reduce_sum(loss), added.dtype) for loss in scope.losses)])
            return number + 1, moved, tuple(scope.get_current_value(variable) for variable in running), losses

    start = tuple(tf.convert_to_tensor(variable) for variable in running)
    loop = (tf.constant(0), carried, start, tf.zeros((), layer.variable_dtype))
    _, carried, states, losses = tf.while_loop(lambda number, *_: number < steps, body, loop, maximum_iterations=steps)
    for variable, value in zip(running, states, strict=True):
        variable.assign(value)  # the learner calls rules within a scope that keeps it separate
    if added_losses:
        layer.add_loss(tf.stop_gradient(losses))  # a loop is not differentiated
    return carried
