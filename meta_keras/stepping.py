"""Training steps of a `MetaLearner`: how many run per call, how they are counted, and which are not applied."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks
from meta_keras.convolutions import on_gpu
from meta_keras.execution import Stacks, Steps, best_steps, can_be_stacked, counts_exactly, in_one_program
from meta_keras.faults import StopAtFault, check_callbacks
from meta_keras.internals import belong_to
from meta_keras.models import SeededModel
from meta_keras.pooling import as_maxima
from meta_keras.replicas import Replicas, replicas_of
from meta_keras.targets import targets_by_name
from meta_keras.tasks.inspection import Inputs


class StepModel(SeededModel):
    """A Keras model that trains on meta-gradients. A subclass defines `meta_gradients` and `carry_on`.

    batches_seen: how many batches it was trained on, also over several `fit` and in files.
    fault: the number of a step that was not applied because its loss was not finite, or -1.
    replicas: those that the tasks of a batch are split over, if it was created within a strategy's scope.
    """

    distributes = False  # whether tasks may be split over replicas: `meta_gradients` then takes the first task's number

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.replicas: Replicas | None = replicas_of(self) if self.distributes else None
        self.batches_seen = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="batches_seen"
        )
        self.fault = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self.auto_steps, self.metrics_made = True, False
        self.targets: dict[str, str] = {}  # of loss and metrics, as `targets_by_name` returns them
        self._steps = Steps()
        self._stacks: Stacks | None = None  # only within `fit`

    def meta_gradients(self, inputs: Inputs, query_y: tf.Tensor, training: bool = True) -> tuple[Any, Any, Any]:
        """The answers, the states after each task, and the meta-loss with its gradients for what is trained."""
        raise NotImplementedError

    def carry_on(self, states: Any) -> None:
        """Assign the states of network and rule after the tasks of a batch."""
        raise NotImplementedError

    @property
    def inner_steps(self) -> int:
        """How many updates of the inner loop a training step contains."""
        return 1

    def compile(self, *, jit_compile: bool, steps_per_execution: str | int = "auto", **kwargs: Any) -> None:
        """As `keras.Model.compile`; "auto" decides in `fit` how many steps run per call."""
        if not self.distributes:
            checks.one_device(self)
        checks.flag(jit_compile=jit_compile)
        for name, instead in (("loss_weights", "Scale the loss itself"), ("weighted_metrics", "Pass metrics")):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{type(self).__name__} has one loss, without weights, so leave {name} out. {instead}."
                )
        self.auto_steps = isinstance(steps_per_execution, str) and steps_per_execution == "auto"
        steps = 1 if self.auto_steps else steps_per_execution
        checks.at_least(1, steps_per_execution=steps)
        if self.replicas is not None:
            self.replicas.check_settings(steps, kwargs.get("metrics"))
        # With replicas, XLA compiles what each of them computes, and not the step.
        self.asked_jit = self.jit_setting = jit_compile
        jit_compile = jit_compile and self.replicas is None
        super().compile(jit_compile=jit_compile, steps_per_execution=steps, **kwargs)
        self.metrics_made = False
        self.targets = targets_by_name(loss=kwargs.get("loss"), metrics=kwargs.get("metrics"))

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does when it loads a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        steps = {"steps_per_execution": "auto"} if self.auto_steps else {}
        return config | {"jit_compile": self.jit_setting} | steps if config else config

    def train_step(self, data: tuple[Any, ...]) -> dict[str, tf.Tensor]:
        """One step of meta-training. A non-finite step is not applied, and `fit` ends with an error."""
        inputs, query_y = _parts(data)
        if not self.trainable_variables:
            raise ValueError(
                "Nothing can be trained: neither the network nor the rule has weights that the outer loop trains."
            )
        self._build_optimizer()
        answers, states, (loss, gradients) = self._over_replicas(inputs, query_y)
        finite = tf.math.is_finite(loss)
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):  # which skips such gradients itself
            finite = tf.reduce_all([finite, *(tf.reduce_all(tf.math.is_finite(g)) for g in gradients)])
        number = tf.convert_to_tensor(self.batches_seen)

        def take() -> tf.Tensor:
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            self.carry_on(states)
            self.batches_seen.assign(number + 1)
            return tf.constant(-1, tf.int64)

        fault = tf.cond(finite & (self.fault < 0), take, lambda: tf.where(self.fault < 0, number, self.fault))
        self.fault.assign(fault)
        self._note(loss, inputs)
        return self.compute_metrics(inputs, query_y, answers)

    def test_step(self, data: tuple[Any, ...]) -> dict[str, tf.Tensor]:
        inputs, query_y = _parts(data)
        answers, _, (loss, _) = self._over_replicas(inputs, query_y, training=False)
        self._note(loss, inputs)
        return self.compute_metrics(inputs, query_y, answers)

    def _prepare_steps(self, batches: tf.data.Dataset, arguments: dict[str, Any]) -> Steps:
        """The callbacks of a training run, after the number of steps per call has been decided."""
        callbacks = arguments.get("callbacks") or []
        callbacks = getattr(callbacks, "callbacks", callbacks)  # of a CallbackList
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        spec, steps, known = batches.element_spec, arguments.get("steps_per_epoch"), int(batches.cardinality())
        epochs = max(0, arguments.get("epochs", 1) - arguments.get("initial_epoch", 0))
        check_callbacks(callbacks, known, steps)
        verbose = arguments.get("verbose", "auto")
        if self.replicas is not None:
            callbacks, verbose = self.replicas.callbacks(callbacks), verbose if self.replicas.is_chief else 0
        if self.auto_steps and self.compiled:
            work = self.inner_steps * sum(math.prod(variable.shape) for variable in self.variables)
            best = best_steps(spec, callbacks, work) if self._can_be_joined() else 1
            if not counts_exactly(best, steps, epochs, known):
                best = best_steps(spec, callbacks, work, multiple_of=steps)
            if best != self.steps_per_execution:
                self.steps_per_execution = best
                self.train_function = self.test_function = self.predict_function = None
        joined = self._can_be_joined() and can_be_stacked(spec)
        most = self.steps_per_execution if joined else 1
        if not joined and steps and steps % self.steps_per_execution:
            raise ValueError(
                f"Keras would take more steps than steps_per_epoch={steps}, which is no multiple of "
                f"steps_per_execution={self.steps_per_execution}. Choose a multiple, or leave steps_per_execution out."
            )
        if not counts_exactly(most, steps, epochs, known):
            raise ValueError(
                f"There are {known} batches, which end within a later epoch. Then steps_per_epoch={steps} must be a "
                f"multiple of steps_per_execution={most}; or leave one of them out, or repeat() the tasks."
            )
        device = self.fault.device if on_gpu() else None
        self._stacks = Stacks(batches, most, steps, epochs, device) if most > 1 else None
        self._steps = Steps(
            [*callbacks, StopAtFault()],
            add_history=True,
            add_progbar=verbose != 0,
            model=self,
            verbose=verbose,
            epochs=arguments.get("epochs", 1),
            steps=steps or (known if known > 0 else None),
        )
        return self._steps

    def _end_steps(self) -> None:
        """After a training run: nothing of its data stays in memory."""
        if self._stacks is not None:
            self._stacks.close()
        self._stacks = None

    def make_train_function(self, force: bool = False) -> None:
        """As Keras does, and where XLA compiles the steps, all steps of a call in one program."""
        if self.train_function is not None and not force:
            return
        self._build_optimizer()
        super().make_train_function(force)
        if self.steps_per_execution > 1 and self._can_be_joined():
            self.train_function = in_one_program(self, self.train_function, self._take)

    def _can_be_joined(self) -> bool:
        """Whether several steps can be one program: if XLA compiles them, and their results are the metrics."""
        names = ("train_step", "compute_metrics", "get_metrics_result")
        own = all(getattr(type(self), name) is getattr(StepModel, name) for name in names)
        return own and self.compiled and self.jit_compile and not self.run_eagerly

    def _take(self, run: Any) -> Iterator[tuple[int, int, Any]] | None:
        """The batches of the next call; None if they cannot be stacked, or do not come from a dataset."""
        if self._stacks is None or not isinstance(run, tf.data.Iterator):  # as of train_on_batch in a callback
            return None
        wanted, begins = self._steps.left(self._stacks.most), self._steps.begin == 0
        return self._stacks.take(run, wanted, begins_epoch=begins)

    def _over_replicas(self, inputs: Inputs, query_y: tf.Tensor, training: bool = True) -> tuple[Any, Any, Any]:
        """The `meta_gradients` of all tasks, computed by all replicas."""
        meta_gradients = as_maxima(self.asked_jit)(self.meta_gradients)  # also in the threads of replicas
        if self.replicas is None:
            return meta_gradients(inputs, query_y, training)

        def share(first: Any, *tasks: tf.Tensor) -> tuple[Any, Any]:
            answers, states, mean = meta_gradients(tasks[:-1], tasks[-1], training, first=first)
            return (answers, states), mean

        tasks, jit_compile = (*inputs, query_y), self.asked_jit and not self.run_eagerly
        (answers, states), mean = self.replicas.over_tasks(share, tasks, self._read(), jit_compile=jit_compile)
        return answers, states, mean

    def _read(self) -> list[keras.Variable]:
        """The variables that answers and gradients depend on."""
        metrics = {id(variable) for metric in self.metrics for variable in metric.variables}
        scale = getattr(getattr(self, "optimizer", None), "dynamic_scale", None)  # of a LossScaleOptimizer
        own = [variable for variable in self.variables if id(variable) not in metrics]
        return own if scale is None else [*own, scale]

    def _build_optimizer(self) -> None:
        """Before the first step, which would be traced twice if the optimizer's variables were created within it."""
        if self.optimizer.built or not self.trainable_variables:  # a LossScaleOptimizer would build itself again
            return
        if self.replicas is not None:
            belong_to(self.optimizer, self.replicas.strategy)
        with contextlib.nullcontext() if self.replicas is None else self.replicas.strategy.scope():
            self.optimizer.build(self.trainable_variables)

    def _note(self, loss: tf.Tensor, inputs: Inputs) -> None:
        mean = next(metric for metric in self.metrics if metric.name == "loss")
        mean.update_state(loss, sample_weight=tf.shape(inputs[0])[0])


def _parts(data: tuple[Any, ...]) -> tuple[Inputs, tf.Tensor]:
    """The inputs and the labels of the queries, as `fit` and `train_on_batch` pass them on."""
    inputs, query_y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if weight is not None:
        raise ValueError("A MetaLearner weighs all queries alike; leave sample_weight out.")
    return inputs, query_y
