"""Meta-training of an update on whole training runs, differentiated in segments."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.functional import PureModel, Weights
from meta_keras.outputs import as_loss, as_metrics, default_loss, last_axis_of
from meta_keras.rules.updates import Update
from meta_keras.scaling import check_task_network
from meta_keras.tasks.episodes import Episode, ways_of_tasks
from meta_keras.tasks.inspection import Inputs
from meta_keras.traces import checked_jit, final_activation
from meta_keras.training import TaskModel
from meta_keras.training_runs import Tensors, TrainingRuns, initial_weights

LARGEST_SEED = 2**31 - 3  # two are added, in 32 bits


@keras.saving.register_keras_serializable(package="meta_keras")
class UnrolledTraining(TaskModel):
    """Trains an update, such as `rules.UpdateNetwork`, by what becomes of networks that are trained with it.

    In every step of meta-training, one network per task is trained on minibatches of the task's support set, all
    networks side by side. Each begins with one of `starts` random initializations. The meta-loss is the mean loss along
    these training runs. Its gradient goes back through at most `truncation` updates (truncated backpropagation through
    time; Formula 11.2), so memory does not grow with `steps`. The gradient of each segment of each run is clipped by
    its norm. A run whose loss or gradient is not finite has diverged: from then on it no longer counts, and the logs
    say how many have `diverged`.

    network: what is trained, preferably a small network of dense layers. Its own weights are not used.
    steps: updates in a training run. truncation: how many of them a gradient goes back through.
    batch_size: examples in a minibatch.
    starts: how many initial weights the runs draw from. clipnorm: the largest norm of the gradient of one segment.

    >>> import meta_keras as mk
    >>> network, update = mk.networks.mlp(1, hidden=(4,)), mk.rules.UpdateNetwork(0.01, hidden=(2,))
    >>> training = UnrolledTraining(network, update, steps=2, truncation=1, batch_size=5)
    >>> training.compile(keras.optimizers.Adam(0.003), loss="mse")
    >>> history = training.fit(mk.Sinusoids(shots=10), steps_per_epoch=1, verbose=0)
    >>> sorted(history.history)
    ['diverged', 'loss']
    """

    def __init__(
        self,
        network: keras.Model,
        update: Update,
        *,
        steps: int = 100,
        truncation: int = 20,
        batch_size: int = 32,
        starts: int = 64,
        clipnorm: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_task_network(network=network, twice=True)
        checks.at_least(1, steps=steps, truncation=truncation, batch_size=batch_size, starts=starts)
        checks.between(0, LARGEST_SEED, seed=seed)
        checks.integer(seed=seed)
        checks.positive(clipnorm=clipnorm)
        if not isinstance(update, Update):
            raise TypeError(f"update must be an Update, such as rules.UpdateNetwork(); got {checks.shown(update)}.")
        if steps % truncation:
            raise ValueError(f"steps must be a multiple of truncation; got {steps} and {truncation}.")
        self.network, self.pure = network, PureModel(network)
        self.steps, self.truncation, self.batch_size = int(steps), int(truncation), int(batch_size)
        self.starts, self.clipnorm, self.seed = int(starts), float(clipnorm), int(seed)
        self.runs, self.update = TrainingRuns(self.pure, update, self.steps, self.batch_size), update
        self.diverged = Diverged(name="diverged")
        self._known_curves: dict[int, Any] = {}
        drawn = initial_weights(self.pure, self.starts)
        # Variables, so that a training that is loaded from a file goes on with the same ones.
        flat = [keras.Variable(value, dtype=value.dtype.name, trainable=False) for value in tf.nest.flatten(drawn)]
        self.initial_weights, self._structure = flat, tf.nest.map_structure(lambda _: 0, drawn)
        self.built = True

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What is trained: the weights of the update."""
        return self.update.trainable_variables

    trainable_weights = trainable_variables

    @property
    def inner_steps(self) -> int:
        return self.steps

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`; without a loss, the cross-entropy that fits the network's outputs.

        jit_compile: True lets XLA compile the training runs, which is about twice as fast. It can do so for dense
            networks and cross-entropy, but not where layers or losses average over an axis.
        """
        activation = final_activation(self.network)
        loss = default_loss(activation, tf.int32) if loss is None else as_loss(loss, activation, self.runs.dtype)
        if loss.reduction not in ("sum_over_batch_size", "mean"):
            raise ValueError(
                f"A training run has the mean loss of each minibatch; {loss.name!r} has reduction={loss.reduction!r}. "
                "Leave reduction out."
            )
        kwargs["metrics"] = as_metrics(kwargs.get("metrics"), activation, loss=loss, width=last_axis_of(self.network))
        self._known_curves, self.runs.has_metrics = {}, bool(kwargs["metrics"])
        super().compile(optimizer=optimizer, loss=loss, jit_compile=checked_jit(self.network, jit_compile), **kwargs)

    def call(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        """There are no answers without training: see `evaluate` and `learning_curves`."""
        raise ValueError(
            "An UnrolledTraining trains an update and predicts nothing. Use evaluate or learning_curves, or train a "
            "model with LearnedOptimizer(update)."
        )

    @tf.autograph.experimental.do_not_convert
    def meta_gradients(self, inputs: Inputs, query_y: tf.Tensor, training: bool = True) -> tuple[Any, Any, Any]:
        """The answers to the queries, the number of diverged runs, and the meta-loss with its gradients."""
        x, y, query_x = inputs[:3]
        if None in x.shape[:2]:
            raise ValueError(
                f"All batches must have as many tasks and examples; the support examples have shape {x.shape}. Batch "
                "tasks with drop_remainder=True."
            )
        number = tf.convert_to_tensor(self.batches_seen) if training else -1 - self.diverged.batches
        seed = tf.stack([self.seed, tf.cast(number, tf.int32)])
        count, omega = x.shape[0], self.runs.copies(x.shape[0])
        task = (x, y, self.runs.minibatches(seed, count, x.shape[1], self.steps))
        zeros = [tf.zeros((), self.runs.dtype)] * 2 + [tf.zeros(one.shape[1:], one.dtype) for one in omega if training]
        _, (weights, _), (counted, loss, *gradients), alive = tf.while_loop(
            lambda number, *_: number < self.steps,
            lambda *so_far: self._segment(omega, task, training, *so_far),
            (tf.constant(0), self._start(seed, count), zeros, tf.ones(count, tf.bool)),
            maximum_iterations=self.steps // self.truncation,
        )
        diverged = tf.reduce_sum(tf.cast(~alive, tf.int32))
        if not training:
            self.carry_on(diverged)  # in training, `train_step` does it
        loss = tf.where(counted > 0, loss / counted, np.inf)  # where no run counts, nothing may look like success
        gradients = [self.optimizer.scale_loss(g / tf.cast(tf.maximum(counted, 1), g.dtype)) for g in gradients]
        return self.runs.answers(weights, query_x), diverged, (loss, gradients)

    def _segment(
        self, omega: Tensors, task: Tensors, training: bool, number: Any, run: Any, sums: Tensors, alive: tf.Tensor
    ) -> tuple[Any, ...]:
        """`truncation` more steps of all runs; sums over runs and segments: how many, their losses and gradients."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(omega)
            run, losses = self.runs.unroll(self.loss.call, omega, task, number, run, self.truncation)
            loss = tf.reduce_sum(losses, axis=0) / self.truncation
        gradients = tape.gradient(loss, omega, unconnected_gradients="zero") if training else []
        alive = tf.reduce_all([alive, tf.math.is_finite(loss), *map(all_finite, gradients)], axis=0)
        parts = [tf.ones_like(loss), loss, *clipped(gradients, self.clipnorm)]
        sums = [before + total_of(alive, part) for before, part in zip(sums, parts, strict=True)]
        return number + self.truncation, run, sums, alive

    def _start(self, seed: tf.Tensor, count: int) -> tuple[Weights, Any]:
        """Initial weights for every run, drawn from all of them, and an empty memory."""
        values = [tf.convert_to_tensor(variable) for variable in self.initial_weights]
        return self.runs.start(tf.nest.pack_sequence_as(self._structure, values), seed, count)

    def learning_curves(self, tasks: tf.data.Dataset, batches: int = 1, steps: int | None = None) -> np.ndarray:
        """(training runs, steps) losses on minibatches, each before the update of that step.

        steps: how many updates, by default as many as in meta-training.
        """
        checks.at_least(1, batches=batches)
        steps = self.steps if steps is None else steps
        checks.at_least(1, steps=steps)
        if not self.compiled:
            raise ValueError("Compile this training first; learning curves need its loss.")
        found = [
            self._losses_along(steps)(tf.constant(number), *inputs[:2]).numpy()
            for number, (inputs, _) in enumerate(self.batches_of(tasks).batches.take(batches))
        ]
        return np.concatenate(found)

    def ways_of(self, episode: Episode, tasks: Any = None) -> int | None:
        if not episode.support_y.dtype.is_integer:
            self.check_regression(episode.support_y)
            return None
        ways = ways_of_tasks(tasks, episode)
        self.runs.rule.check_ways(self.pure, ways)
        return self.answer_width(ways)

    def answer_width(self, ways: int) -> int:
        return self.runs.rule.answer_width(self.pure, ways)

    def carry_on(self, states: tf.Tensor) -> None:
        self.diverged.update_state(states)

    def get_config(self) -> dict[str, Any]:
        names = ("steps", "truncation", "batch_size", "starts", "clipnorm", "seed")
        return super().get_config() | {
            "network": keras.saving.serialize_keras_object(self.network),
            "update": keras.saving.serialize_keras_object(self.update),
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "UnrolledTraining":
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in ("network", "update")
        }
        return cls(**(config | parts))

    def _losses_along(self, steps: int) -> Any:
        """A compiled function that trains networks from their start and returns (runs, steps) losses."""
        if steps not in self._known_curves:

            @tf.function(jit_compile=self.jit_compile, autograph=False)
            def losses_along(number: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
                seed, runs = tf.stack([self.seed, -1 - number]), x.shape[0]
                task = (x, y, self.runs.minibatches(seed, runs, x.shape[1], steps))
                omega, start = self.runs.copies(runs), self._start(seed, runs)
                _, losses = self.runs.unroll(self.loss.call, omega, task, 0, start, steps)
                return tf.transpose(losses)

            self._known_curves[steps] = losses_along
        return self._known_curves[steps]


class Diverged(keras.metrics.Sum):
    """How many runs have diverged, and in how many batches, so that those of an evaluation differ in what they draw."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batches = self.add_variable((), initializer="zeros", dtype="int64", name="batches")

    def update_state(self, values: tf.Tensor, sample_weight: Any = None) -> None:
        super().update_state(values, sample_weight)
        self.batches.assign_add(1)

    def reset_state(self) -> None:
        super().reset_state()
        self.batches.assign(0)


def clipped(gradients: Tensors, norm: float) -> Tensors:
    """Gradients of several runs, those of each run scaled to have at most this norm together."""
    if not gradients:
        return []
    squares = [tf.reduce_sum(tf.square(tf.reshape(g, (g.shape[0], -1))), axis=1) for g in gradients]
    total = tf.maximum(tf.add_n(squares), 1e-30)  # of a gradient of zero, any multiple is the same
    factor = tf.minimum(tf.ones_like(total), norm * tf.math.rsqrt(total))
    return [g * tf.reshape(factor, (-1, *[1] * (g.shape.rank - 1))) for g in gradients]


def all_finite(gradient: tf.Tensor) -> tf.Tensor:
    """For each run, whether its gradient is finite."""
    return tf.reduce_all(tf.math.is_finite(tf.reshape(gradient, (gradient.shape[0], -1))), axis=1)


def total_of(alive: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """The sum over the runs that are alive."""
    mask = tf.reshape(alive, (-1, *[1] * (values.shape.rank - 1)))
    return tf.reduce_sum(tf.where(mask, values, tf.zeros_like(values)), axis=0)
