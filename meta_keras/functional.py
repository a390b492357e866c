"""Run a Keras model with external weights; every rule builds on this.

Meta-learning asks what a network *would* answer after a training step, and then differentiates that answer. So the
weights after the step must be tensors that a gradient tape can follow, and the network's own variables must stay as
they are. `PureModel` gives any built Keras model that form.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from meta_keras.batch_norm import normalizing
from meta_keras.checks import built_model, integer, shown
from meta_keras.internals import all_layers, global_seed_state, is_seed, parameters_of

__all__ = ["Outcome", "PureModel", "Weights"]

# How many random draws a model may make for one task before they overlap with the draws of the next task.
DRAWS_PER_TASK = 2**16


class Weights(NamedTuple):
    """Everything that a model computes with, as tensors.

    parameters: the weights that one of the two loops may change, in the order of `PureModel.parameters`.
    state: the rest, in the order of `PureModel.state`: frozen weights, the moving averages of batch normalization,
        the states of random generators.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    >>> weights = PureModel(model).weights()
    >>> len(weights.parameters), len(weights.state)  # kernel, bias, gamma and beta; two moving averages
    (4, 2)
    """

    parameters: tuple[tf.Tensor, ...]
    state: tuple[tf.Tensor, ...]


class Outcome(NamedTuple):
    """What a call returns: the outputs, the weights with their updated state, and the losses of the layers.

    Losses of layers are activity regularizers and what `add_loss` was given; `PureModel.penalties` has those of the
    weights.

    >>> pure = PureModel(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]))
    >>> outputs, weights, losses = pure(pure.weights(), tf.ones((4, 2)))
    >>> outputs.shape, losses
    (TensorShape([4, 3]), ())
    """

    outputs: Any
    weights: Weights
    losses: tuple[tf.Tensor, ...]


class PureModel:
    """A built Keras model as a pure function: weights and inputs in, outputs and new state out.

    adaptable: frozen variables of the model that the inner loop may change nevertheless. They count as parameters.

    The call goes through Keras' own `__call__`, so that mixed precision, masks and training arguments work as usual.
    (`keras.Model.stateless_call` skips it.)

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> pure = PureModel(model)
    >>> doubled = [2 * w for w in pure.weights().parameters]
    >>> outcome = pure(pure.weights()._replace(parameters=doubled), tf.ones((1, 2)))
    >>> bool(tf.reduce_all(outcome.outputs == 2 * model(tf.ones((1, 2)))))
    True
    """

    def __init__(self, model: keras.Model, adaptable: Sequence[keras.Variable] = ()) -> None:
        built_model(model=model)
        for layer in all_layers(model):
            if isinstance(layer.call, tf.types.experimental.PolymorphicFunction):
                raise ValueError(
                    f"The call of {layer.name!r} is wrapped in tf.function, which would keep the first weights "
                    "it was called with. Remove the decorator there; put tf.function around the training step."
                )
        if not isinstance(adaptable, list | tuple) or not all(isinstance(one, keras.Variable) for one in adaptable):
            raise TypeError(f"adaptable must be a list of Keras variables; got {shown(adaptable)}.")
        self.model, self.adaptable = model, list(adaptable)

    @property
    def parameters(self) -> list[keras.Variable]:
        """What one of the two loops may change: the trainable variables, then the frozen ones that can be adapted.

        Keras' `trainable` determines what the outer loop trains, and is read again whenever it is needed.
        """
        trainable = self.model.trainable_variables
        known = {id(variable) for variable in trainable}
        return [*trainable, *(variable for variable in self.adaptable if id(variable) not in known)]

    @property
    def state(self) -> list[keras.Variable]:
        """All other variables of the model."""
        known = {id(variable) for variable in self.adaptable}
        return [variable for variable in self.model.non_trainable_variables if id(variable) not in known]

    def weights(self) -> Weights:
        """The model's current weights. Read inside a gradient tape, they lead gradients back to the variables."""
        return Weights(
            tuple(tf.convert_to_tensor(variable) for variable in self.parameters),
            tuple(tf.convert_to_tensor(variable) for variable in self.state),
        )

    def __call__(
        self, weights: Weights, inputs: Any, *, training: bool = False, statistics: str | None = None
    ) -> Outcome:
        """What the model answers with these weights. The model's own variables are neither used nor changed.

        statistics: what batch normalization uses: "batch", "fused", "moving", or "keep", see `batch_norm.normalizing`.
            None leaves the choice to `training`, as Keras does.
        """
        parameters, state = self.parameters, self.state
        check_weights(weights)
        self._check("parameters", weights.parameters, parameters)
        self._check("state", weights.state, state)
        mapping = list(zip([*parameters, *state], [*weights.parameters, *weights.state], strict=True))
        with normalizing(statistics), carrying(mapping) as scope:
            outputs = self.model(inputs, training=training)
            after = tuple(scope.get_current_value(variable) for variable in state)
        return Outcome(outputs, Weights(tuple(weights.parameters), after), tuple(scope.losses))

    def penalties(self, weights: Weights) -> tuple[tf.Tensor, ...]:
        """The losses of the weight regularizers for these weights."""
        check_weights(weights)
        pairs = zip(self.parameters, weights.parameters, strict=True)
        return tuple(variable.regularizer(value) for variable, value in pairs if variable.regularizer is not None)

    @property
    def running(self) -> list[keras.Variable]:
        """The variables that a call may change: moving averages and random generators, but not frozen weights."""
        return running_state(self.model)

    def running_values(self, weights: Weights) -> tuple[tf.Tensor, ...]:
        """The values of `running` in these weights."""
        values = {id(variable): value for variable, value in zip(self.state, weights.state, strict=True)}
        return tuple(values[id(variable)] for variable in self.running)

    def fork(self, weights: Weights, task: tf.Tensor | int) -> Weights:
        """The same weights for task number `task` of a batch, with random draws of its own."""
        check_weights(weights)
        if not tf.is_tensor(task) or task.shape.rank:
            integer(task=task)
        return weights._replace(state=forked(self.state, weights.state, task))

    def carry_on(self, values: Sequence[tf.Tensor]) -> None:
        """Assign the `running_values` of many tasks, stacked along the first axis."""
        carry_on(self.running, values)

    def _check(self, kind: str, given: Sequence[tf.Tensor], variables: Sequence[keras.Variable]) -> None:
        if len(given) != len(variables):
            raise ValueError(
                f"The model {self.model.name!r} has {len(variables)} tensors of {kind}; {len(given)} were given."
            )
        for variable, value in zip(variables, given, strict=True):
            if not variable.shape == tuple(value.shape):
                raise ValueError(
                    f"The weight {variable.path!r} has shape {tuple(variable.shape)}; "
                    f"the tensor given for it has shape {tuple(value.shape)}."
                )


def check_weights(weights: Any) -> None:
    """Raise a TypeError unless these are weights as `PureModel.weights` returns them."""
    if not isinstance(weights, Weights):
        raise TypeError(f"weights must be Weights, as PureModel.weights() returns them; got {shown(weights)}.")


@contextlib.contextmanager
def carrying(mapping: Sequence[tuple[keras.Variable, tf.Tensor]]) -> Iterator[keras.StatelessScope]:
    """A scope in which these variables have these values, and in which no variable is changed.

    Random draws from Keras' global generator would be the same in every task and step, since nothing carries
    its state on. They are therefore an error.
    """
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        yield scope
        shared = global_seed_state()
        if shared is not None and scope.get_current_value(shared) is not None:
            raise ValueError(
                "A layer draws random numbers without a seed, which would be the same in every task. Give the layer "
                "self.seed_generator = keras.random.SeedGenerator() in its __init__, and pass seed=self.seed_generator "
                "to the functions of keras.random."
            )


def forked(variables: Sequence[keras.Variable], values: Sequence[tf.Tensor], task: tf.Tensor | int) -> tuple:
    """State for task number `task` of a batch: the same values, and random draws of its own.

    Tasks that are computed side by side all start from one state. Without this, dropout would use one mask for all.
    """
    ahead = tf.stack([0, tf.cast(task, tf.int64) * DRAWS_PER_TASK])
    return tuple(
        value + tf.cast(ahead, value.dtype) if is_seed(variable) else value
        for variable, value in zip(variables, values, strict=True)
    )


def with_own_vectors(weights: Sequence[tf.Tensor], task: tf.Tensor | int) -> tuple[tf.Tensor, ...]:
    """The same weights for a task; biases and other vectors are copies, one for each of the tasks side by side.

    Their gradients are then sums over the examples of each task, which are added up. On a CPU, XLA computes these
    several times as fast as sums over all examples of all tasks. (For matrices, one large product is faster.)
    """

    def is_vector(value: tf.Tensor) -> bool:
        return value.shape.rank <= 2 and sum(side > 1 for side in value.shape) <= 1

    # What is computed from the number of a task exists once for each of them.
    return tuple(value + tf.cast(0 * task, value.dtype) if is_vector(value) else value for value in weights)


def carry_on(variables: Sequence[keras.Variable], states: Sequence[tf.Tensor]) -> None:
    """Assign one state from those of many tasks, stacked along the first axis.

    It is their mean. Random generators go on past the draws of the last task, and other integers are those of it.
    """
    for variable, stacked in zip(variables, states, strict=True):
        if is_seed(variable):
            variable.assign(stacked[-1] + tf.constant([0, DRAWS_PER_TASK], stacked.dtype))
        elif stacked.dtype.is_floating:
            # With the mean of differences, values on which all tasks agree stay exactly the same, even infinite ones.
            apart = tf.where(stacked == stacked[0], tf.zeros_like(stacked), stacked - stacked[0])
            variable.assign(stacked[0] + tf.reduce_mean(apart, axis=0))
        else:
            variable.assign(stacked[-1])


def running_state(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables of a layer that a call may change: all but the weights that train or are frozen."""
    weights = {id(variable) for variable in parameters_of(layer)}
    return [variable for variable in layer.non_trainable_variables if id(variable) not in weights]


def gradients_of(
    tape: tf.GradientTape, loss: tf.Tensor, sources: Sequence[Any], needed: Sequence[str] = ()
) -> list[tf.Tensor]:
    """The gradients, zeros where the loss does not depend on a source; an error if it depends on none.

    needed: the names of the last sources, if the loss has to depend on each of them.
    """
    gradients = tape.gradient(loss, sources)
    last = gradients[len(gradients) - len(needed) :]
    missing = [name for name, gradient in zip(needed, last, strict=True) if gradient is None]
    if missing:
        raise ValueError(
            f"The meta-loss does not depend on {', '.join(missing)} of the rule, which would never be trained. A rule "
            "of first order or without differentiated steps cannot learn what its inner steps use."
        )
    if sources and all(gradient is None for gradient in gradients):
        raise ValueError(
            "The loss depends on none of the weights that should be trained: the outputs of the network, or the loss, "
            "cannot be differentiated."
        )
    return [
        tf.zeros_like(source) if gradient is None else tf.convert_to_tensor(gradient)
        for source, gradient in zip(sources, gradients, strict=True)
    ]
