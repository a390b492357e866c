"""Run a Keras model with weights that are not its own. The ground floor: imports nothing of ours.

Learning to learn asks what a network *would* answer after a step of training, and then differentiates that
answer. So the weights after the step must be tensors that a gradient tape can follow, and the network's own
variables must stay as they are. `PureModel` gives any built Keras model that form.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from meta_keras.internals import all_layers, is_seed

# How many random draws a model may make for one task before it meets the draws of the next task.
DRAWS_PER_TASK = 2**16


class Weights(NamedTuple):
    """Everything that a model computes with, as tensors.

    trainable: the weights that training moves, in the order of `model.trainable_variables`.
    state: the rest, in the order of `model.non_trainable_variables`: frozen weights, the moving averages of
        batch normalisation, the states of random generators.
    """

    trainable: tuple[tf.Tensor, ...]
    state: tuple[tf.Tensor, ...]


class Outcome(NamedTuple):
    """What a call gives back: the outputs, the weights with their state carried on, and the losses of its layers.

    Losses of layers are activity regularisers and what `add_loss` was given; `PureModel.penalties` has those of
    the weights.
    """

    outputs: Any
    weights: Weights
    losses: tuple[tf.Tensor, ...]


class PureModel:
    """A built Keras model as a pure function: weights and inputs in, outputs and new state out.

    The call goes through Keras' own `__call__`, so that mixed precision, masks and training arguments work as
    they always do. (`keras.Model.stateless_call` skips it.)

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> pure = PureModel(model)
    >>> doubled = [2 * w for w in pure.weights().trainable]
    >>> outcome = pure(pure.weights()._replace(trainable=doubled), tf.ones((1, 2)))
    >>> bool(tf.reduce_all(outcome.outputs == 2 * model(tf.ones((1, 2)))))
    True
    """

    def __init__(self, model: keras.Model) -> None:
        if not isinstance(model, keras.layers.Layer):
            raise TypeError(f"A Keras model is needed; this is a {type(model).__name__}.")
        if not model.built:
            raise ValueError(
                f"The model {model.name!r} has no weights yet. Begin it with keras.Input(shape), "
                "or call it once on an example of its inputs."
            )
        for layer in all_layers(model):
            if isinstance(layer.call, tf.types.experimental.PolymorphicFunction):
                raise ValueError(
                    f"The call of {layer.name!r} is wrapped in tf.function, which would keep the first weights "
                    "it ever saw. Remove the decorator there; put tf.function around the training step."
                )
        self.model = model

    @property
    def paths(self) -> list[str]:
        """The names of the trainable weights, in their order."""
        return [variable.path for variable in self.model.trainable_variables]

    def weights(self) -> Weights:
        """The model's present weights. Read inside a gradient tape, they lead gradients back to the variables."""
        return Weights(
            tuple(tf.convert_to_tensor(variable) for variable in self.model.trainable_variables),
            tuple(tf.convert_to_tensor(variable) for variable in self.model.non_trainable_variables),
        )

    def __call__(
        self, weights: Weights, inputs: Any, *, training: bool = False, statistics: str | None = None
    ) -> Outcome:
        """What the model answers with these weights. The model's own variables are neither used nor changed.

        statistics: what batch normalisation goes by, "batch", "moving", or "keep": the batch, which then takes the
            place of the moving averages. None leaves it to `training`, as Keras does.
        """
        variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
        self._check(weights)
        borrowed = list(zip(variables, [*weights.trainable, *weights.state], strict=True))
        collecting = keras.StatelessScope(state_mapping=borrowed, collect_losses=True)
        with _exact_moments(), _normalising_by(statistics), collecting as scope:
            outputs = self.model(inputs, training=training)
            state = tuple(scope.get_current_value(v) for v in self.model.non_trainable_variables)
        return Outcome(outputs, Weights(tuple(weights.trainable), state), tuple(scope.losses))

    def penalties(self, weights: Weights) -> tuple[tf.Tensor, ...]:
        """What the weight regularisers of the model ask for these weights."""
        pairs = zip(self.model.trainable_variables, weights.trainable, strict=True)
        return tuple(variable.regularizer(value) for variable, value in pairs if variable.regularizer is not None)

    def fork(self, weights: Weights, task: tf.Tensor | int) -> Weights:
        """The same weights for task number `task` of a batch, with random draws of its own.

        Tasks that are computed side by side all start from one state. Without this, dropout would use one mask
        for all of them.
        """
        ahead = tf.stack([0, tf.cast(task, tf.int64) * DRAWS_PER_TASK])
        moved = [
            state + tf.cast(ahead, state.dtype) if is_seed(variable) else state
            for variable, state in zip(self.model.non_trainable_variables, weights.state, strict=True)
        ]
        return weights._replace(state=tuple(moved))

    def join(self, states: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """One state from those of many tasks, stacked along the first axis: the mean, and for seeds the furthest."""
        joined = []
        for variable, stacked in zip(self.model.non_trainable_variables, states, strict=True):
            if is_seed(variable):
                joined.append(stacked[-1] + tf.constant([0, DRAWS_PER_TASK], stacked.dtype))
            elif stacked.dtype.is_floating:
                # As a mean of differences, what all tasks agree on, such as a frozen weight, stays as it is to the bit.
                joined.append(stacked[0] + tf.reduce_mean(stacked - stacked[0], axis=0))
            else:
                joined.append(stacked[-1])
        return tuple(joined)

    def _check(self, weights: Weights) -> None:
        for kind, given, variables in (
            ("trainable", weights.trainable, self.model.trainable_variables),
            ("state", weights.state, self.model.non_trainable_variables),
        ):
            if len(given) != len(variables):
                raise ValueError(
                    f"The model {self.model.name!r} has {len(variables)} {kind} tensors; {len(given)} were given."
                )
            for variable, value in zip(variables, given, strict=True):
                if not variable.shape == tuple(value.shape):
                    raise ValueError(
                        f"The weight {variable.path!r} has shape {tuple(variable.shape)}; "
                        f"the tensor given for it has shape {tuple(value.shape)}."
                    )


def gradients_of(tape: tf.GradientTape, loss: tf.Tensor, sources: Sequence[Any]) -> list[tf.Tensor]:
    """The gradients, zeros where the loss does not depend on a source; an error if it depends on none."""
    gradients = tape.gradient(loss, sources)
    if sources and all(gradient is None for gradient in gradients):
        raise ValueError(
            "The loss depends on none of the weights that it should be learned with: the outputs of the network, or "
            "the loss, cannot be differentiated."
        )
    return [
        tf.zeros_like(source) if gradient is None else tf.convert_to_tensor(gradient)
        for source, gradient in zip(sources, gradients, strict=True)
    ]


@contextlib.contextmanager
def _normalising_by(statistics: str | None) -> Iterator[None]:
    """Let batch normalisation go by the statistics that are asked for, whether the model is in training or not."""
    kept = keras.layers.BatchNormalization.call

    def call(layer: keras.layers.BatchNormalization, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> Any:
        momentum, layer.momentum = layer.momentum, 0.0 if statistics == "keep" else layer.momentum
        try:
            return kept(layer, inputs, training=statistics != "moving", mask=mask)
        finally:
            layer.momentum = momentum

    if statistics is not None:
        keras.layers.BatchNormalization.call = call
    try:
        yield
    finally:
        keras.layers.BatchNormalization.call = kept


@contextlib.contextmanager
def _exact_moments() -> Iterator[None]:
    """Let normalising layers use moments with exact second derivatives.

    tf.nn.moments stops the gradient at the mean within the variance. First derivatives do not notice, but those
    of a step of training do: through batch normalisation they come out wrong by a percent or more.
    """
    kept, tf.nn.moments = tf.nn.moments, _moments
    try:
        yield
    finally:
        tf.nn.moments = kept


def _moments(x: tf.Tensor, axes: Sequence[int], keepdims: bool = False, **_: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean and the variance, as tf.nn.moments gives them."""
    centre = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - centre), axes, keepdims=keepdims)
    return (centre if keepdims else tf.squeeze(centre, axes)), variance
