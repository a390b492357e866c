"""MetaLearner: a network and a rule that adapts it, trained over many tasks with Keras' own `fit`."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.execution import in_one_program
from meta_keras.faults import StopAtFault
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.networks import d3, default_loss
from meta_keras.parallel import WAYS_THROUGH, best_for, gradients_over_tasks, over_tasks
from meta_keras.rules.base import Rule
from meta_keras.rules.gradient import GradientDescent
from meta_keras.tasks.episodes import Episode, Tasks, check_episodes, check_first, check_support

Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@keras.saving.register_keras_serializable(package="meta_keras")
class MetaLearner(keras.Model):
    """A Keras model whose inputs are tasks: it adapts to the support set, and answers the queries.

    network: any built Keras model, the meta-knowledge theta. rule: the meta-policy that adapts it to a task.
    num_classes: alone, it makes D3's model: D3's network with a softmax over so many classes, adapted by gradient
        descent. Called on plain inputs, a learner answers as its network does, without adapting.
    parallel: how the tasks of a batch are gone through: "vectorized", "map" or "unrolled" (see `parallel.over_tasks`).
        "auto" chooses by the network, and `learner.parallel` says what it chose.

    The loss of a network is the loss of its answers and what its layers add: regularisers, `add_loss`. It counts in
    adapting, and on the queries. What is learned is the mean over tasks of the loss on their queries (Formula 1.4).

    >>> import meta_keras as mk
    >>> learner = MetaLearner(network=mk.networks.mlp(1), rule=mk.rules.GradientDescent(0.01))
    >>> learner.compile(optimizer="adam", loss="mse")
    >>> history = learner.fit(mk.Sinusoids(shots=5), steps_per_epoch=2, epochs=1, verbose=0)
    >>> learner.parallel
    'vectorized'
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        network: keras.Model | None = None,
        rule: Rule | None = None,
        parallel: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (num_classes is None) == (network is None):
            raise ValueError("Either num_classes or network= is needed: MetaLearner(5), or MetaLearner(network=...).")
        network = d3(num_classes) if network is None else network
        rule = GradientDescent(0.1) if rule is None else rule
        if not isinstance(rule, Rule):
            raise TypeError(f"A rule is needed, such as meta_keras.rules.GradientDescent(0.01); {rule!r} was given.")
        if parallel not in WAYS_THROUGH:
            raise ValueError(f"parallel is one of {WAYS_THROUGH}; {parallel!r} was given.")
        if parallel == "vectorized" and not rule.static_shapes:
            raise ValueError(f'{type(rule).__name__} cannot be vectorized; take parallel="map".')
        self.pure = PureModel(network)
        self.network, self.rule = network, rule
        best = best_for(network) if rule.static_shapes else "map"
        self.asked_parallel, self.parallel = parallel, best if parallel == "auto" else parallel
        rule.prepare(self.pure)
        self.fault = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self.built = True

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        metrics: list[Any] | None = None,
        jit_compile: str | bool = "auto",
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`; without a loss, cross-entropy of the scores, with accuracy beside it."""
        if loss is None:
            loss = default_loss(self.network, tf.constant(0))
            metrics = ["accuracy"] if metrics is None else metrics
        elif isinstance(loss, list | tuple | dict):
            raise ValueError("A MetaLearner has one output, the answers to the queries, and so one loss.")
        if jit_compile == "auto":
            jit_compile = self.parallel == "vectorized" and not kwargs.get("run_eagerly")
        elif jit_compile and not self.rule.static_shapes:
            raise ValueError(f"{type(self.rule).__name__} cannot be compiled by XLA; leave jit_compile out.")
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does when it loads a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def fit(self, x: tf.data.Dataset, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`, on an endless dataset of episodes: say how many with `steps_per_epoch`.

        Step n of the optimizer sees batch n of the tasks, so a training that is resumed goes on where it stopped.
        """
        for name in ("y", "batch_size", "class_weight", "sample_weight", "validation_split"):
            if kwargs.get(name) is not None:
                raise ValueError(f"Episodes carry their answers, in batches of tasks; fit cannot take {name}.")
        kwargs.setdefault("shuffle", False)  # episodes are drawn by chance already
        if kwargs.get("validation_data") is not None:
            self._look_over(kwargs["validation_data"], kwargs, "validation_steps")
            kwargs["validation_data"] = _in_pairs(kwargs["validation_data"])
        callbacks = kwargs.pop("callbacks", None) or []
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        stop = StopAtFault()
        stop.set_model(self)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(stop)
        else:
            callbacks = [*callbacks, stop]
        self.fault.assign(-1)
        self._make_metrics(self._look_over(x, kwargs, "steps_per_epoch"))
        if isinstance(x, Tasks) and self.compiled:
            x = x.from_batch(self._batches_seen.value)
        return super().fit(_in_pairs(x), callbacks=callbacks, **kwargs)

    def make_train_function(self, force: bool = False) -> None:
        """As Keras does, and where XLA compiles the steps, all of an execution in one program."""
        if self.train_function is not None and not force:
            return
        self._build_optimizer()
        super().make_train_function(force)
        several = self.steps_per_execution > 1 and self.distribute_strategy.num_replicas_in_sync == 1
        if several and self.jit_compile and not self.run_eagerly:
            self.train_function = in_one_program(self, self.train_function)

    def evaluate(self, x: tf.data.Dataset, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, on `steps` batches. `meta_keras.evaluate` gives an interval too."""
        if "_use_cached_eval_dataset" not in kwargs:  # Keras' own word, where `fit` validates on what it has prepared
            self._make_metrics(self._look_over(x, kwargs, "steps"))
            x = _in_pairs(x)
        return super().evaluate(x, **kwargs)

    def predict(self, x: Any, **kwargs: Any) -> np.ndarray:
        """The answers to all queries: of `steps` batches of a dataset of episodes, or of one batch of tasks."""
        if isinstance(x, tf.data.Dataset):
            self._look_over(x, kwargs, "steps")
            x = x.map(lambda episode: (tuple(episode[:3]),))
        return super().predict(x, **kwargs)

    def call(self, inputs: Batch | tf.Tensor, task_indices: Any = None, training: bool = False) -> tf.Tensor:
        """(tasks, queries, ways) scores for `(support_x, support_y, query_x)`, all with the tasks along axis 0.

        For plain inputs, the network's own outputs; with `task_indices`, those of the rows it names, as in D3.
        """
        if not isinstance(inputs, list | tuple):
            outputs = self.network(inputs, training=training)
            return outputs if task_indices is None else tf.gather(outputs, task_indices)
        weights = self.pure.weights()

        def answer(number: tf.Tensor, support_x: tf.Tensor, support_y: tf.Tensor, query_x: tf.Tensor) -> Any:
            adapted = self._adapt(weights, number, support_x, support_y, training)
            answers = self.rule.predict(self.pure, adapted, query_x, training=training)
            return (tf.cast(answers.outputs, self.compute_dtype), answers.weights.state), ()

        dtypes = (self.compute_dtype, tuple(state.dtype for state in weights.state))
        (answers, states), _ = over_tasks(answer, tuple(inputs), self.parallel, each=dtypes, mean=())
        if training:
            self._carry_on(states)
        return answers

    def train_step(self, data: tuple[Any, ...]) -> dict[str, tf.Tensor]:
        """One step of meta-training. A step that is not finite is not taken, and `fit` ends by it."""
        inputs, query_y = _parts(data)
        self._build_optimizer()
        answers, states, (loss, gradients) = self.meta_gradients(inputs, query_y)
        finite = tf.math.is_finite(loss)
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):  # which skips such gradients itself
            finite = tf.reduce_all([finite, *(tf.reduce_all(tf.math.is_finite(g)) for g in gradients)])

        now = tf.cast(self._batches_seen, tf.int64)

        def go_on() -> tf.Tensor:
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            self._carry_on(states)
            return tf.constant(-1, tf.int64)

        fault = tf.cond(finite & (self.fault < 0), go_on, lambda: tf.where(self.fault < 0, now, self.fault))
        self.fault.assign(fault)
        self._note(loss, inputs)
        return self.compute_metrics(inputs, query_y, answers)

    def test_step(self, data: tuple[Any, ...]) -> dict[str, tf.Tensor]:
        inputs, query_y = _parts(data)
        answers, _, (loss, _) = self.meta_gradients(inputs, query_y, training=False)
        self._note(loss, inputs)
        return self.compute_metrics(inputs, query_y, answers)

    @tf.autograph.experimental.do_not_convert
    def meta_gradients(self, inputs: Batch, query_y: tf.Tensor, training: bool = True) -> tuple[Any, Any, Any]:
        """The answers, the states after each task, and the meta-loss with its gradients for what is trainable."""
        weights = self.pure.weights()
        step = self.optimizer.iterations if training else None

        def judged(number: tf.Tensor, *task: tf.Tensor) -> tuple[Any, tf.Tensor]:
            support_x, support_y, query_x, query_y = task
            adapted = self._adapt(weights, number, support_x, support_y, training)
            loss, answers = self.rule.judge(
                self.pure, adapted, query_x, query_y, loss=self._loss_of, step=step, training=training
            )
            return (tf.cast(answers.outputs, self.compute_dtype), answers.weights.state), loss

        tasks, dtypes = (*inputs, query_y), (self.compute_dtype, tuple(state.dtype for state in weights.state))
        if not training:
            start = tf.zeros((), self._loss_dtype)
            (answers, states), loss = over_tasks(judged, tasks, self.parallel, each=dtypes, mean=start)
            return answers, states, (loss, [])
        (answers, states), mean = gradients_over_tasks(
            judged,
            tasks,
            self.parallel,
            each=dtypes,
            loss=self._loss_dtype,
            sources=[*weights.trainable, *(omega.value for omega in self.rule.trainable_variables)],
            scale=self.optimizer.scale_loss,
        )
        return answers, states, mean

    def adapt(self, support_x: Any, support_y: Any) -> keras.Model:
        """An expert for one task: a plain Keras model to predict with, save, serve or train on.

        It loads where meta_keras is not installed. A plain model cannot go by the statistics of its queries, so
        unless the rule's `batch_statistics` are "moving", its batch normalisation has those of the support set.
        """
        support_x, support_y = check_support(support_x, support_y)
        self._check_labels(support_y)
        adapted = self._adapt(self.pure.weights(), tf.constant(0), support_x, support_y, training=False)
        if self.rule.batch_statistics != "moving":
            kept = self.pure(adapted.weights, support_x, statistics="keep").weights
            adapted = adapted._replace(weights=kept)
        return self.rule.expert(self.pure, adapted)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "network": keras.saving.serialize_keras_object(self.network),
            "rule": keras.saving.serialize_keras_object(self.rule),
            "parallel": self.asked_parallel,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "MetaLearner":
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in ("network", "rule")
        }
        return cls(**(config | parts))

    def _adapt(
        self, weights: Weights, number: tf.Tensor, support_x: tf.Tensor, support_y: tf.Tensor, training: bool
    ) -> Outcome:
        own = self.pure.fork(weights, number)
        return self.rule.adapt(self.pure, own, support_x, support_y, loss=self._loss_of, training=training)

    def _loss_of(self, right: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        loss = keras.losses.get(self.loss) if self.loss is not None else default_loss(self.network, right)
        return tf.cast(tf.reduce_mean(loss(right, answers)), self._loss_dtype)

    @property
    def _loss_dtype(self) -> str:
        variables = self.network.trainable_variables
        return variables[0].dtype if variables else keras.config.floatx()

    @property
    def _batches_seen(self) -> keras.Variable:
        """How many batches were trained on. `optimizer.iterations` counts fewer where gradients are accumulated."""
        return getattr(self.optimizer, "inner_optimizer", self.optimizer)._iterations

    def _build_optimizer(self) -> None:
        """Before the first step, which would be traced twice if the optimizer's variables were made within it."""
        if not self.optimizer.built:  # a LossScaleOptimizer would build itself anew
            self.optimizer.build(self.trainable_variables)

    def _carry_on(self, states: tuple[tf.Tensor, ...]) -> None:
        for variable, value in zip(self.network.non_trainable_variables, self.pure.join(states), strict=True):
            variable.assign(value)

    def _note(self, loss: tf.Tensor, inputs: Batch) -> None:
        mean = next(metric for metric in self.metrics if metric.name == "loss")
        mean.update_state(loss, sample_weight=tf.shape(inputs[0])[0])

    def _look_over(self, tasks: Any, arguments: dict[str, Any], steps: str) -> Episode:
        """The first batch, once these tasks are seen to be fit for this learner; else a ValueError."""
        check_episodes(tasks)
        if arguments.get(steps) is None and tasks.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(f"These tasks never end; say how many batches of them to take, such as {steps}=100.")
        first = check_first(tasks)
        for labels in (first.support_y, first.query_y):
            self._check_labels(labels)
        return first

    def _make_metrics(self, first: Episode) -> None:
        """Let the metrics make their variables: within the first step, that would have it traced twice."""
        if not self.compiled:
            return  # Keras says so better
        shape = list(first.query_y.shape)
        if first.query_y.dtype.is_integer:
            shape.append(self.rule.scores(self.pure, int(tf.reduce_max(first.support_y)) + 1))
        inputs = (first.support_x, first.support_y, first.query_x)
        self.compute_metrics(inputs, first.query_y, tf.zeros(shape, self.compute_dtype))
        self.reset_metrics()

    def _check_labels(self, labels: tf.Tensor) -> None:
        if labels.dtype.is_integer:
            self.rule.check_ways(self.pure, int(tf.reduce_max(labels)) + 1)
        elif isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy):
            raise ValueError(
                f"These tasks have {labels.dtype.name} targets, as of a regression; the loss is "
                'cross-entropy, for labels. Take compile(loss="mse").'
            )


def _in_pairs(tasks: tf.data.Dataset) -> tf.data.Dataset:
    """Episodes in the form that Keras trains on: what is given, and what is to be answered."""
    return tasks.map(lambda episode: (tuple(episode[:3]), episode.query_y))


def _parts(data: tuple[Any, ...]) -> tuple[Batch, tf.Tensor]:
    """What is given and what is to be answered, as `fit` and `train_on_batch` hand them on."""
    inputs, query_y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if weight is not None:
        raise ValueError("A MetaLearner counts all queries alike; leave sample_weight out.")
    return inputs, query_y
