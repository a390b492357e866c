"""MetaLearner: a network and a rule that adapts it, trained over many tasks with Keras' own `fit`."""

import functools
from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks
from meta_keras.functional import PureModel
from meta_keras.inputs import as_inputs, is_pixels
from meta_keras.networks import d3
from meta_keras.outputs import as_loss, as_metrics, last_axis_of
from meta_keras.parallel import PARALLEL, best_for, gains_from_xla, gradients_over_tasks, over_tasks
from meta_keras.per_task import PerTask
from meta_keras.predictors import Predictor, Predictors, rescaled
from meta_keras.replicas import check_scope
from meta_keras.rules.base import Context, Rule
from meta_keras.rules.gradient_descent import GradientDescent
from meta_keras.scaling import check_task_network
from meta_keras.tasks.episodes import Episode, ways_of_tasks
from meta_keras.tasks.inspection import Inputs, as_tensor, check_labels, check_support, scaled_examples, ways_in
from meta_keras.traces import checked_jit
from meta_keras.training import TaskModel


@keras.saving.register_keras_serializable(package="meta_keras")
class MetaLearner(TaskModel):
    """A Keras model whose inputs are tasks: it adapts to the support set, and answers the queries.

    network: any built Keras model with one input and one output, the meta-knowledge theta.
    rule: the meta-policy that adapts it to a task, by default one step of gradient descent.
    num_classes: creates D3's model instead of passing a network; only this one also answers inputs without adapting.
    ways: the number of classes of a task. By default it is taken from the tasks, or from the labels of the first batch.
    parallel: how the tasks of a batch are processed: "vectorized", "map" or "unrolled" (see `parallel.over_tasks`).
        "auto" chooses depending on the network, and `learner.parallel` is the choice.

    The loss of a network is the loss of its answers plus what its layers add: regularizers, `add_loss`. It is minimized
    during adaptation, and measured on the queries. The outer loop minimizes the mean of the query loss over tasks
    (Formula 1.4).

    >>> import meta_keras as mk
    >>> learner = MetaLearner(network=mk.networks.mlp(1), rule=mk.rules.GradientDescent(0.01))
    >>> learner.compile(optimizer="adam", loss="mse")
    >>> history = learner.fit(mk.Sinusoids(shots=5), steps_per_epoch=2, epochs=1, verbose=0)
    >>> learner.parallel
    'vectorized'
    """

    distributes = True

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        network: keras.Model | None = None,
        rule: Rule | None = None,
        ways: int | None = None,
        parallel: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (num_classes is None) == (network is None):
            raise ValueError("Pass either num_classes or network=: MetaLearner(5), or MetaLearner(network=...).")
        given = {name: number for name, number in (("num_classes", num_classes), ("ways", ways)) if number is not None}
        checks.at_least(2, **given)
        self.num_classes, self.ways, self.asked_parallel = num_classes, ways, parallel
        network = d3(num_classes) if network is None else network
        rule = GradientDescent(0.1) if rule is None else rule
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a rule, such as meta_keras.rules.GradientDescent(0.01); got {rule!r}.")
        if rule.built and rule.trainable_variables and not rule.reusable:
            raise ValueError("The rule has weights that already belong to another learner. Create a new rule.")
        checks.one_of(PARALLEL, parallel=parallel)
        check_task_network(network=network, twice=rule.second_order)
        self.network, self.rule, self.needs_every_class = network, rule, rule.needs_every_class
        self.pure = PureModel(network, rule.adaptable(network))
        rule.prepare(self.pure)
        check_scope(self.replicas, [*network.variables, *rule.variables])
        self.per_task = PerTask(self.pure, rule, self._loss_dtype)
        self.parallel = best_for(network, rule) if parallel == "auto" else parallel
        self.predictors, self.built = Predictors(self.per_task), True

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What the outer loop trains: the network's variables, as far as its rule allows, and those of the rule."""
        return [*self.rule.meta_variables(self.pure), *self.rule.trainable_variables]

    trainable_weights = trainable_variables

    @property
    def inner_steps(self) -> int:
        return max(1, getattr(self.rule, "steps", 1))

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        metrics: list[Any] | None = None,
        jit_compile: str | bool = "auto",
        steps_per_execution: str | int = "auto",
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`; without a loss, the cross-entropy that fits the rule's answers, and accuracy.

        steps_per_execution: "auto" runs up to 50 steps per call, or 250 short ones, where XLA compiles them, no
            callback asks for every batch, and their data fit into 64 MB. Logs, steps and batches stay the same, but
            batches of several calls are drawn ahead. If tasks read a `tf.Variable` that a callback changes, as in a
            curriculum, pass 1: then only a few batches are.
        """
        answers = self.rule.answer_activation(self.pure)
        if loss is not None:
            loss = as_loss(loss, answers, self._loss_dtype)
        else:
            loss, metrics = self.rule.default_loss(self.pure, tf.int32), ["accuracy"] if metrics is None else metrics
        fast = gains_from_xla(self.parallel, self.network, self.rule) and not kwargs.get("run_eagerly")
        by_xla = checked_jit(self.network, jit_compile, fast, twice=self.rule.second_order)
        kwargs |= {"jit_compile": by_xla, "steps_per_execution": steps_per_execution}
        lazily, width = self.replicas is not None, last_axis_of(self.network)
        metrics = as_metrics(metrics, answers, loss=loss, width=width, lazily=lazily)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        self.jit_setting = jit_compile  # "auto" may mean something else on the machine that loads a file
        self.predictors, self.per_task.has_metrics = Predictors(self.per_task), bool(metrics)

    def call(self, inputs: Inputs | tf.Tensor, task_indices: Any = None, training: bool = False) -> tf.Tensor:
        """(tasks, queries, ways) answers to `(support_x, support_y, query_x)`, all with the tasks along axis 0.

        D3's model also takes plain inputs and then answers as its network does; `task_indices` picks rows of them.
        """
        if not isinstance(inputs, list | tuple):
            return self._without_adapting(inputs, task_indices, training)
        answers, *states = self._answered(0, *inputs, training=training)[0]
        if training:
            self.carry_on(states)
        return answers

    def on_replicas(self, inputs: Inputs) -> tf.Tensor:
        """The answers of a call, to be scored, computed by all replicas of the strategy, if there is one."""
        answered = functools.partial(self._answered, scored=True)
        if self.replicas is None:
            return answered(0, *inputs)[0][0]
        return self.replicas.over_tasks(answered, inputs, self._read())[0][0]

    def _answered(self, first: Any, *inputs: tf.Tensor, training: bool = False, scored: bool = False) -> Any:
        """As `over_tasks`: the answers to the queries, and the states after each task. first: that of the first."""
        inputs = (scaled_examples(inputs[0]), inputs[1], scaled_examples(inputs[2]), *inputs[3:])
        context = Context(self._loss_of, ways_in(inputs, self.ways), training)
        answered = functools.partial(self.per_task.to_be_scored(scored), context, self.pure.weights(), first)
        return over_tasks(answered, inputs[:3], self.parallel, each=self.per_task.dtypes, mean=())

    @tf.autograph.experimental.do_not_convert
    def meta_gradients(
        self, inputs: Inputs, query_y: tf.Tensor, training: bool = True, first: Any = 0
    ) -> tuple[Any, Any, Any]:
        """As `StepModel.meta_gradients`. first: the number of the first of these tasks in their batch."""
        inputs, query_y = tf.nest.map_structure(tf.convert_to_tensor, (tuple(inputs), query_y))
        step = tf.convert_to_tensor(self.batches_seen) if training else None
        context = Context(self._loss_of, ways_in(inputs, self.ways), training, step)
        weights, tasks = self.pure.weights(), (*inputs[:3], query_y)
        judged = functools.partial(self.per_task, context, weights, first)
        if not training:
            start = tf.zeros((), self._loss_dtype)
            (answers, *states), loss = over_tasks(judged, tasks, self.parallel, each=self.per_task.dtypes, mean=start)
            return answers, states, (loss, [])
        places = {id(variable): place for place, variable in enumerate(self.pure.parameters)}
        sources = [weights.parameters[places[id(variable)]] for variable in self.rule.meta_variables(self.pure)]
        (answers, *states), mean = gradients_over_tasks(
            judged,
            tasks,
            self.parallel,
            each=self.per_task.dtypes,
            loss=self._loss_dtype,
            sources=[*sources, *(omega.value for omega in self.rule.trainable_variables)],
            needed=[omega.path for omega in self.rule.trainable_variables],
            scale=self.optimizer.scale_loss,
        )
        return answers, states, mean

    def adapt(self, support_x: Any, support_y: Any) -> keras.Model:
        """An expert for one task: a plain Keras model to predict with, save, serve or train on.

        It takes inputs in the form of the support set: pixels, if that is integer images. It loads where meta_keras is
        not installed. A plain model cannot use the statistics of its queries, so unless the rule's `batch_statistics`
        are "moving", its batch normalization has those of the support set. For many tasks, see `predictor`.
        """
        x, y, ways = self._support(support_x, support_y)
        adapted = self.per_task.adapt(Context(self._loss_of, ways), x, y)
        if self.rule.batch_statistics != "moving":
            adapted = adapted._replace(weights=self.pure(adapted.weights, x, statistics="keep").weights)
        expert = self.rule.expert(self.pure, adapted)
        return rescaled(expert, x.shape[1:]) if is_pixels(as_tensor("support_x", support_x)) else expert

    def predictor(self, support_x: Any, support_y: Any) -> Predictor:
        """The learner adapted to one task, to predict with: much cheaper than `adapt`, which creates a model.

        >>> import meta_keras as mk
        >>> learner = MetaLearner(network=mk.networks.mlp(8, input_shape=(2,)), rule=mk.rules.Prototypes())
        >>> predictor = learner.predictor([[0.0, 0.0], [1.0, 1.0]], [0, 1])
        >>> predictor.predict([[0.9, 1.0]]).argmax(axis=-1)
        array([1])
        """
        x, y, ways = self._support(support_x, support_y)
        return self.predictors(Context(self._loss_of, ways), x, y)

    def ways_of(self, episode: Episode, tasks: Any = None) -> int | None:
        if episode.support_y.dtype.is_integer:
            ways = self.ways or ways_of_tasks(tasks, episode)
            self.rule.check_ways(self.pure, ways)
            return self.answer_width(ways)
        self.check_regression(episode.support_y)
        return None

    def answer_width(self, ways: int) -> int:
        return self.rule.answer_width(self.pure, ways)

    def carry_on(self, states: Any) -> None:
        self.per_task.carry_on(states)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "num_classes": self.num_classes,
            "network": None if self.num_classes else keras.saving.serialize_keras_object(self.network),
            "rule": keras.saving.serialize_keras_object(self.rule),
            "ways": self.ways,
            "parallel": self.asked_parallel,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "MetaLearner":
        load = keras.saving.deserialize_keras_object
        return cls(**(config | {name: load(config[name], custom_objects) for name in ("network", "rule")}))

    def _without_adapting(self, inputs: tf.Tensor, task_indices: Any, training: bool) -> tf.Tensor:
        if self.num_classes is None and task_indices is None:
            raise ValueError(
                "Inputs are tasks: (support_x, support_y, query_x). To answer without a support set call "
                "learner.network, and to adapt to one task learner.adapt(support_x, support_y)."
            )
        outputs = self.network(as_inputs(tf.convert_to_tensor(inputs)), training=training)
        return outputs if task_indices is None else tf.gather(outputs, task_indices)

    def _support(self, support_x: Any, support_y: Any) -> tuple[tf.Tensor, tf.Tensor, int | None]:
        x, y = check_support(support_x, support_y)
        self._check_examples(x, "support_x")
        ways = self.ways_of(Episode(x, y, x, y))
        if ways is not None:
            check_labels("support_y", y.numpy(), ways)
        return x, y, ways

    def _loss_of(self, right: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        loss = self.loss if self.loss is not None else self.rule.default_loss(self.pure, right.dtype)
        return tf.cast(tf.reduce_mean(loss(right, answers)), self._loss_dtype)

    @property
    def _loss_dtype(self) -> str:
        return next((variable.dtype for variable in self.pure.parameters), keras.config.floatx())
