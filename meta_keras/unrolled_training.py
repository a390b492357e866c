"""Meta-training of an update on whole training runs, differentiated in pieces."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.functional import PureModel, Weights, carrying
from meta_keras.outputs import as_loss, default_loss, final_activation
from meta_keras.parallel import over_tasks
from meta_keras.rules.base import Context
from meta_keras.rules.gradient_descent import GradientDescent
from meta_keras.rules.inner_loop import support_gradients
from meta_keras.rules.updates import Step, Update
from meta_keras.tasks.episodes import Episode
from meta_keras.tasks.inspection import Inputs
from meta_keras.training import TaskModel

Tensors = list[tf.Tensor]


@keras.saving.register_keras_serializable(package="meta_keras")
class UnrolledTraining(TaskModel):
    """Trains an update, such as `rules.UpdateNetwork`, by what becomes of networks that are trained with it.

    In every step of meta-training, one network per task is trained from new initial weights on minibatches of the
    task's support set, all networks side by side. The meta-loss is the mean loss along these training runs. Its
    gradient goes back through at most `truncation` updates (truncated backpropagation through time; Formula 11.2), so
    memory does not grow with `steps`. The gradient of each piece of each run is clipped by its norm. A run whose loss
    or gradient is not finite has diverged: from then on it no longer counts, and the logs say how many have `diverged`.

    network: what is trained, preferably a small network of dense layers. Its own weights are not used.
    steps: updates in a training run. truncation: how many of them a gradient goes back through.
    batch_size: examples in a minibatch.
    starts: from how many different initial weights, created here, a run draws.
    clipnorm: the largest norm of a gradient of one piece of one run.

    >>> import meta_keras as mk
    >>> update = mk.rules.UpdateNetwork(0.01)
    >>> training = UnrolledTraining(mk.networks.mlp(1), update, steps=4, truncation=2, batch_size=5)
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
        checks.built_model(network=network)
        checks.one_input(network=network)
        checks.at_least(1, steps=steps, truncation=truncation, batch_size=batch_size, starts=starts)
        checks.at_least(0, seed=seed)
        checks.positive(clipnorm=clipnorm)
        if not isinstance(update, Update):
            raise TypeError(f"update must be an Update, such as rules.UpdateNetwork(); got {checks.shown(update)}.")
        if steps % truncation:
            raise ValueError(f"steps must be a multiple of truncation; got {steps} and {truncation}.")
        self.network, self.pure = network, PureModel(network)
        self.steps, self.truncation, self.batch_size = int(steps), int(truncation), int(batch_size)
        self.starts, self.clipnorm, self.seed = int(starts), float(clipnorm), int(seed)
        self.rule = GradientDescent(update, steps=self.steps, batch_statistics="moving")
        self.rule.prepare(self.pure)
        self.update = update
        self.diverged = keras.metrics.Sum(name="diverged")
        self._known_curves: dict[int, Any] = {}
        self._bank = initial_weights(self.pure, self.starts)
        self.built = True

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What is trained: the weights of the update."""
        return self.update.trainable_variables

    trainable_weights = trainable_variables

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
        loss = default_loss(activation, tf.int32) if loss is None else as_loss(loss, activation, self._dtype)
        self._known_curves = {}
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **kwargs)

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
        seed = tf.stack([self.seed, tf.cast(self.batches_seen, tf.int32) if training else -1])
        task, omega = (x, y, self._rows(seed, x.shape[0], x.shape[1], self.steps)), self._copies(x.shape[0])

        def piece(number: tf.Tensor, run: Any, sums: Tensors, alive: tf.Tensor) -> tuple[Any, ...]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(omega)
                run, losses = self._unroll(omega, task, number, run, self.truncation)
                loss = tf.reduce_sum(losses, axis=0) / self.truncation
            gradients = tape.gradient(loss, omega, unconnected_gradients="zero") if training else []
            alive = tf.reduce_all([alive, tf.math.is_finite(loss), *map(all_finite, gradients)], axis=0)
            parts = [tf.ones_like(loss), loss, *clipped(gradients, self.clipnorm)]
            return (
                number + self.truncation,
                run,
                [s + total_of(alive, p) for s, p in zip(sums, parts, strict=True)],
                alive,
            )

        zeros = [tf.zeros((), self._dtype)] * 2 + [tf.zeros(one.shape[1:], one.dtype) for one in omega if training]
        _, (weights, _), (count, loss, *gradients), alive = tf.while_loop(
            lambda number, *_: number < self.steps,
            piece,
            (tf.constant(0), self._start(seed, x.shape[0]), zeros, tf.ones(x.shape[0], tf.bool)),
            maximum_iterations=self.steps // self.truncation,
        )
        count = tf.maximum(count, 1)
        gradients = [self.optimizer.scale_loss(gradient / tf.cast(count, gradient.dtype)) for gradient in gradients]
        return self._answers(weights, query_x), tf.reduce_sum(tf.cast(~alive, tf.int32)), (loss / count, gradients)

    def learning_curves(self, tasks: tf.data.Dataset, batches: int = 1, steps: int | None = None) -> np.ndarray:
        """(training runs, steps) losses on minibatches, each before the update of that step.

        steps: how many updates, by default as many as in meta-training.
        """
        checks.at_least(1, batches=batches)
        steps = self.steps if steps is None else steps
        checks.at_least(1, steps=steps)

        found = [
            self._losses_along(steps)(tf.constant(number), *inputs[:2]).numpy()
            for number, (inputs, _) in enumerate(self.batches_of(tasks).batches.take(batches))
        ]
        return np.concatenate(found)

    def ways_of(self, episode: Episode, tasks: Any = None) -> int | None:
        if not episode.support_y.dtype.is_integer:
            return None
        ways = getattr(tasks, "ways", None) or 1 + max(int(tf.reduce_max(y)) for y in (episode[1], episode[3]))
        self.rule.check_ways(self.pure, ways)
        return self.answer_width(ways)

    def answer_width(self, ways: int) -> int:
        return self.rule.answer_width(self.pure, ways)

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
                task = (x, y, self._rows(seed, runs, x.shape[1], steps))
                _, losses = self._unroll(self._copies(runs), task, 0, self._start(seed, runs), steps)
                return tf.transpose(losses)

            self._known_curves[steps] = losses_along
        return self._known_curves[steps]

    def _unroll(self, omega: Tensors, task: Tensors, first: Any, run: Any, steps: int) -> tuple[Any, tf.Tensor]:
        """`run` after `steps` more updates, and (steps, runs) losses before each of them."""
        x, y, rows = task

        def body(k: tf.Tensor, run: Any, losses: tf.TensorArray) -> tuple[tf.Tensor, Any, tf.TensorArray]:
            now = rows[first + k]
            batch = tf.gather(x, now, batch_dims=1), tf.gather(y, now, batch_dims=1)
            (*run, loss), _ = over_tasks(
                lambda _, *parts: (self._step(first + k, *parts), ()),
                (*batch, omega, *run),
                "vectorized",
                each=(),
                mean=(),
            )
            return k + 1, tuple(run), losses.write(k, loss)

        losses = tf.TensorArray(self._dtype, steps, element_shape=(x.shape[0],))
        _, run, losses = tf.while_loop(
            lambda k, *_: k < steps, body, (tf.constant(0), run, losses), maximum_iterations=steps
        )
        return run, losses.stack()

    def _step(self, number: Any, x: tf.Tensor, y: tf.Tensor, omega: Tensors, weights: Weights, memory: Any) -> Any:
        """One update of one network: its weights and the memory after it, and the loss before it."""
        with carrying(list(zip(self.update.trainable_variables, omega, strict=True))):
            context = Context(self._mean_loss, training=True)
            gradients, loss, after = support_gradients(self.rule, self.pure, weights, x, y, context)
            step = Step(number, loss, True)
            moves, memory = self.update.update(gradients, memory, list(weights.parameters), step)
        moved = tuple(w + tf.cast(move, w.dtype) for w, move in zip(weights.parameters, moves, strict=True))
        return after._replace(parameters=moved), memory, loss

    def _mean_loss(self, right: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        values = tf.reshape(tf.cast(self.loss.call(right, answers), self._dtype), [-1])
        # Not tf.reduce_mean, whose gradient XLA cannot compile where training runs are vectorized within a loop.
        return tf.tensordot(values, tf.ones_like(values), 1) / values.shape[0]

    def _start(self, seed: tf.Tensor, runs: int) -> tuple[Weights, Any]:
        """New initial weights for every run, and an empty memory."""
        drawn = tf.random.stateless_uniform((runs,), seed, maxval=self.starts, dtype=tf.int32)
        weights = tf.nest.map_structure(lambda bank: tf.gather(bank, drawn), self._bank)
        return weights, self.update.init(list(weights.parameters))

    def _rows(self, seed: tf.Tensor, runs: int, examples: int, steps: int) -> tf.Tensor:
        """(steps, runs, batch_size) numbers of the examples in each minibatch."""
        shape = (steps, runs, self.batch_size)
        return tf.random.stateless_uniform(shape, seed + tf.constant([1, 0]), maxval=examples, dtype=tf.int32)

    def _copies(self, runs: int) -> Tensors:
        """What is trained, once per run, so that each run has a gradient of its own."""
        return [tf.repeat(tf.convert_to_tensor(one)[None], runs, axis=0) for one in self.update.trainable_variables]

    def _answers(self, weights: Weights, x: tf.Tensor) -> tf.Tensor:
        answers, _ = over_tasks(
            lambda _, x, weights: (self.pure(weights, x).outputs, ()), (x, weights), "vectorized", each=(), mean=()
        )
        return answers

    @property
    def _dtype(self) -> str:
        return self.pure.parameters[0].dtype


def initial_weights(network: PureModel, count: int) -> Weights:
    """The weights of `count` new copies of a network, stacked."""
    copies = [PureModel(keras.models.clone_model(network.model)).weights() for _ in range(count)]
    return tf.nest.map_structure(lambda *values: tf.stack(values), *copies)


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
