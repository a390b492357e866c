"""Networks that are trained side by side with an update, one on the support set of each task."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from meta_keras.copies import fresh_copy
from meta_keras.functional import DRAWS_PER_TASK, PureModel, Weights, carrying
from meta_keras.internals import all_layers, is_seed, mask_of, parameters_of
from meta_keras.outputs import check_unmasked
from meta_keras.parallel import over_tasks
from meta_keras.rules.base import Context
from meta_keras.rules.gradient_descent import GradientDescent
from meta_keras.rules.inner_loop import support_gradients
from meta_keras.rules.updates import Update

Tensors = list[tf.Tensor]
Losses = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # labels or targets and answers in, one loss per example out


class TrainingRuns:
    """Training runs of a network with an update. The first axis of every tensor numbers the runs.

    A run is its weights and the memory of its update, and a task its examples, their labels, and the numbers of the
    examples in each minibatch.
    """

    def __init__(self, network: PureModel, update: Update, steps: int, batch_size: int) -> None:
        self.network, self.update, self.batch_size = network, update, batch_size
        self.rule = GradientDescent(update, steps=steps, batch_statistics="moving")
        self.rule.prepare(network)
        self.has_metrics = False

    def start(self, weights: Weights, seed: tf.Tensor, runs: int) -> tuple[Weights, Any]:
        """For each run, a choice of stacked initial `weights`, with random draws of its own, and an empty memory.

        seed: (2,) integers. Other ones mean other choices, and other draws in the same run.
        """
        number = weights.parameters[0].shape[0]
        drawn = tf.random.stateless_uniform((runs,), seed, maxval=number, dtype=tf.int32)
        weights = tf.nest.map_structure(lambda stacked: tf.gather(stacked, drawn), weights)
        own = tf.random.stateless_uniform((runs,), seed + tf.constant([2, 0]), maxval=2**30, dtype=tf.int32)
        ahead = tf.stack([tf.cast(own, tf.int64), tf.range(runs, dtype=tf.int64) * DRAWS_PER_TASK], axis=1)
        state = [
            value + tf.cast(ahead, value.dtype) if is_seed(variable) else value
            for variable, value in zip(self.network.state, weights.state, strict=True)
        ]
        weights = weights._replace(state=tuple(state))
        return weights, self.update.init(list(weights.parameters))

    def minibatches(self, seed: tf.Tensor, runs: int, examples: int, steps: int) -> tf.Tensor:
        """(steps, runs, batch_size) numbers of the examples in each minibatch."""
        shape = (steps, runs, self.batch_size)
        return tf.random.stateless_uniform(shape, seed + tf.constant([1, 0]), maxval=examples, dtype=tf.int32)

    def copies(self, runs: int) -> Tensors:
        """What the update learns, once per run, so that each run has a gradient of its own."""
        return [tf.repeat(tf.convert_to_tensor(one)[None], runs, axis=0) for one in self.update.trainable_variables]

    def unroll(
        self, losses_of: Losses, omega: Tensors, task: Tensors, first: Any, run: Any, steps: int
    ) -> tuple[Any, tf.Tensor]:
        """`run` after `steps` more updates, from number `first` on, and (steps, runs) losses before each of them."""
        x, y, minibatches = task

        def body(k: tf.Tensor, run: Any, losses: tf.TensorArray) -> tuple[tf.Tensor, Any, tf.TensorArray]:
            now = minibatches[first + k]
            batch = tf.gather(x, now, batch_dims=1), tf.gather(y, now, batch_dims=1)
            (*run, loss), _ = over_tasks(
                lambda _, *parts: (self._step(losses_of, first + k, *parts), ()),
                (*batch, omega, *run),
                "vectorized",
                each=(),
                mean=(),
            )
            return k + 1, tuple(run), losses.write(k, loss)

        losses = tf.TensorArray(self.dtype, steps, element_shape=(x.shape[0],))
        start = (tf.constant(0), run, losses)
        _, run, losses = tf.while_loop(lambda k, *_: k < steps, body, start, maximum_iterations=steps)
        return run, losses.stack()

    def answers(self, weights: Weights, x: tf.Tensor) -> tf.Tensor:
        """What each network answers to its own inputs."""

        def answer(_: Any, x: tf.Tensor, weights: Weights) -> tuple[tf.Tensor, Any]:
            outputs = self.network(weights, x).outputs
            if self.has_metrics:
                check_unmasked(outputs)
            return outputs, ()

        return over_tasks(answer, (x, weights), "vectorized", each=(), mean=())[0]

    def _step(
        self, losses_of: Losses, number: Any, x: tf.Tensor, y: tf.Tensor, omega: Tensors, weights: Weights, memory: Any
    ) -> Any:
        """One update of one network: its weights and the memory after it, and the loss before it."""

        def loss_of(right: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
            values, mask = tf.reshape(tf.cast(losses_of(right, answers), self.dtype), [-1]), mask_of(answers)
            # Not tf.reduce_mean, whose gradient XLA cannot compile where runs are vectorized within a loop.
            if mask is None:
                return tf.tensordot(values, tf.ones_like(values), 1) / values.shape[0]
            counted = tf.reshape(tf.cast(mask, self.dtype), [-1])
            return tf.math.divide_no_nan(tf.tensordot(values, counted, 1), tf.tensordot(counted, counted, 1))

        with carrying(list(zip(self.update.trainable_variables, omega, strict=True))):
            context = Context(loss_of, training=True)
            return self.rule.step(
                lambda _, weights: support_gradients(self.rule, self.network, weights, x, y, context),
                number,
                weights,
                memory,
                context,
                places=range(len(weights.parameters)),
            )

    @property
    def dtype(self) -> str:
        return self.network.parameters[0].dtype


def initial_weights(network: PureModel, count: int) -> Weights:
    """The weights of `count` new copies of a network, stacked.

    Frozen weights are those of the network, and so are the moving averages of frozen layers.
    """
    models = [fresh_copy(network.model) for _ in range(count)]
    for model in models:
        for layer, copy in zip(all_layers(network.model), all_layers(model), strict=True):
            if not layer.trainable:
                copy.set_weights(layer.get_weights())
        for own, new in zip(parameters_of(network.model), parameters_of(model), strict=True):
            if not own.trainable:  # also single weights of layers that train otherwise
                new.assign(own)
    copies = [PureModel(model).weights() for model in models]
    stacked = tf.nest.map_structure(lambda *values: tf.stack(values), *copies)
    if count > 1 and all(bool(tf.reduce_all(one == one[:1])) for one in stacked.parameters):
        raise ValueError(
            f"All {count} starts have the same weights, since the initializers of {network.model.name!r} have fixed "
            "seeds or are constant. Leave out these seeds, or pass starts=1."
        )
    return stacked
