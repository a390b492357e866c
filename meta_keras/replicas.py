"""Several devices or machines: the tasks of a batch are split over the replicas of a `tf.distribute` strategy.

Only the computation per task is distributed. Each replica takes its share of the tasks, and the strategy's all-reduce
gives every worker the answers and states of all tasks, and the mean loss and gradient. With these, each worker takes
the step that a single process would take. Optimizer, clipping, gradient accumulation, metrics and the check for
non-finite gradients therefore do not depend on the number of replicas.

The shares are computed as functions of the variables' values, and not by `strategy.run`: within it, Keras divides every
loss by the number of replicas, also that of an inner step, which would change the inner learning rate.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.internals import initial_epoch, own_strategy, resume_at

SUPPORTED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)

# Callbacks that write files or print, and do not change how training goes on.
WRITERS = (
    keras.callbacks.BackupAndRestore,  # the other workers receive what it restores, see `FollowChief`
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


class Replicas:
    """The replicas of a strategy that belong to this worker.

    places: their numbers among all replicas. devices: where they compute. count: the number of all replicas.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        if not isinstance(strategy, SUPPORTED):
            names = ", ".join(kind.__name__ for kind in SUPPORTED)
            raise ValueError(f"A MetaLearner supports {names}; this strategy is a {type(strategy).__name__}.")
        self.strategy, self.count = strategy, strategy.num_replicas_in_sync
        self.devices = strategy.extended.worker_devices
        self.places: list[int] = []
        numbers = tf.function(lambda: strategy.run(lambda: self.places.append(_place())), autograph=False)
        numbers.get_concrete_function()  # to call it would warn of one more trace for every learner
        self._send = tf.function(self._chiefs, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker has the first of all replicas."""
        return 0 in self.places

    @property
    def several_workers(self) -> bool:
        return len(self.places) < self.count

    def created(self, variable: keras.Variable) -> bool:
        """Whether a variable was created in the scope of this strategy."""
        return self.strategy.extended.variable_created_in_scope(variable.value)

    def check_settings(self, steps_per_execution: int, metrics: Any) -> None:
        """Raise a ValueError for settings of `compile` that are not supported with replicas."""
        if steps_per_execution > 1:
            raise ValueError(
                "With the replicas of a strategy, every call runs one step; got "
                f"steps_per_execution={steps_per_execution}. Leave it out."
            )
        for metric in keras.tree.flatten(metrics):
            if isinstance(metric, keras.Metric) and any(map(self.created, metric.variables)):
                raise ValueError(
                    f"The metric {metric.name!r} was created within strategy.scope(), where every replica would have "
                    "its own. Create it outside, or give its name."
                )

    @tf.autograph.experimental.do_not_convert
    def over_tasks(
        self,
        function: Callable[..., tuple[Any, Any]],
        tasks: Sequence[tf.Tensor],
        variables: Sequence[keras.Variable],
        *,
        jit_compile: bool = False,
    ) -> tuple[Any, Any]:
        """`function(first, *share)`, where task number `first` of the batch is the first one of a share.

        Its first result has a row per task, and those of all tasks are returned; its second one is a mean over the
        share, and that over all tasks is returned. variables: those that the function reads.
        """
        total = tasks[0].shape[0]
        if total is not None and total < self.count:
            raise ValueError(
                f"A batch of {total} tasks cannot be split over {self.count} replicas; raise meta_batch to "
                f"{self.count} or more."
            )
        total = tf.shape(tasks[0])[0] if total is None else total
        parts = []
        for index, (device, place) in enumerate(zip(self.devices, self.places, strict=True)):
            first, end = total * place // self.count, total * (place + 1) // self.count
            with tf.device(device):
                values = [self._local(variable, index) for variable in variables]
                share = [task[first:end] for task in tasks]
                rows, mean = _pure(function, variables, jit_compile)(values, first, share)
                parts.append((_placed(rows, first, total - end), _weighted(mean, end - first, total)))
        return self.sum(parts)

    def sum(self, parts: Sequence[Any]) -> Any:
        """The sum over all replicas. parts: one structure of tensors for each replica of this worker."""
        values = tf.nest.flatten(parts[0])
        kinds = list(dict.fromkeys(_summed_as(value.dtype) for value in values))

        def reduce() -> list[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            own = tf.nest.flatten(parts[self.places.index(_place())])
            # One vector for all tensors of a kind, since every all-reduce has to wait for the slowest worker.
            return [context.all_reduce(tf.distribute.ReduceOp.SUM, _vector(own, kind)) for kind in kinds]

        sums = self.strategy.run(tf.autograph.experimental.do_not_convert(reduce))
        pieces = {kind: iter(_pieces(self._first(one), values, kind)) for kind, one in zip(kinds, sums, strict=True)}
        return tf.nest.pack_sequence_as(parts[0], [next(pieces[_summed_as(value.dtype)]) for value in values])

    def from_chief(self, values: Sequence[Any]) -> list[tf.Tensor]:
        """The values that these tensors or variables have on the chief."""
        return self._send([tf.convert_to_tensor(value) for value in values])

    def callbacks(self, callbacks: Sequence[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
        """Those that this worker runs: the chief all, the others all but those that only write."""
        own = [one for one in callbacks if self.is_chief or not isinstance(one, WRITERS)]
        return [*own, FollowChief(self)] if self.several_workers else own

    def _chiefs(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return self.sum([[v if place == 0 else tf.zeros_like(v) for v in values] for place in self.places])

    def _first(self, values: Any) -> tf.Tensor:
        return self.strategy.experimental_local_results(values)[0]

    def _local(self, variable: keras.Variable, index: int) -> tf.Tensor:
        copies = self.strategy.experimental_local_results(variable.value)
        return tf.convert_to_tensor(copies[index % len(copies)])  # the optimizer's variables may have a single copy


class FollowChief(keras.callbacks.Callback):
    """Workers begin with what the chief has, such as what it restored, and follow it after every epoch.

    Their values are equal anyway, unless a device adds up numbers in an order that varies.
    """

    def __init__(self, replicas: Replicas) -> None:
        super().__init__()
        self.replicas = replicas

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        resume_at(self.model, self._follow(initial_epoch(self.model)))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.model.stop_training = bool(self._follow(int(self.model.stop_training)))

    def _follow(self, number: int) -> int:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        number, *values = self.replicas.from_chief([tf.constant(number), *variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return int(number)


def replicas_of(model: keras.Model) -> Replicas | None:
    """The replicas of the strategy in whose scope a model is created, if any.

    From then on, Keras' own `fit` treats the model as if it were on one device.
    """
    strategy = own_strategy(model)
    return None if strategy is None else Replicas(strategy)


def check_scope(replicas: Replicas | None, variables: Sequence[keras.Variable]) -> None:
    """Raise a ValueError unless these variables belong to the same strategy as their learner, or to none."""
    for variable in variables:
        of_strategy = isinstance(variable.value, tf.distribute.DistributedValues)
        wrong = of_strategy if replicas is None else not replicas.created(variable)
        if wrong:
            raise ValueError(
                f"The variable {variable.path!r} was created {'within' if of_strategy else 'outside of'} the scope of "
                "a strategy, and its learner was not created in the same way. Create the network, the rule and the "
                "learner within one strategy.scope()."
            )


def _pure(function: Callable[..., Any], variables: Sequence[keras.Variable], jit_compile: bool) -> Callable[..., Any]:
    """The function as one of the variables' values, so that it can run on any device."""

    def share(values: Sequence[tf.Tensor], first: Any, tasks: Sequence[tf.Tensor]) -> tuple[Any, Any]:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(first, *tasks)

    return tf.function(share, jit_compile=True, autograph=False) if jit_compile else share


def _place() -> int:
    """The number of the replica that is computing, among all replicas."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


def _placed(rows: Any, before: Any, after: Any) -> Any:
    """The rows of a share at their places in the batch, with zeros elsewhere."""
    return tf.nest.map_structure(lambda part: tf.pad(part, [[before, after], *[[0, 0]] * (part.shape.rank - 1)]), rows)


def _weighted(mean: Any, count: Any, total: Any) -> Any:
    """What the mean over `count` of `total` tasks adds to that of all. That of no task is NaN, and adds nothing."""
    weight = tf.cast(count, tf.float64) / tf.cast(total, tf.float64)
    return tf.nest.map_structure(lambda part: tf.math.multiply_no_nan(part, tf.cast(weight, part.dtype)), mean)


def _vector(values: Sequence[tf.Tensor], kind: tf.DType) -> tf.Tensor:
    """All numbers that are summed as this kind."""
    return tf.concat([tf.reshape(tf.cast(v, kind), [-1]) for v in values if _summed_as(v.dtype) == kind], axis=0)


def _pieces(vector: tf.Tensor, like: Sequence[tf.Tensor], kind: tf.DType) -> list[tf.Tensor]:
    """The tensors that `_vector` has joined, in the shapes and types of those of this kind."""
    like = [value for value in like if _summed_as(value.dtype) == kind]
    pieces = tf.split(vector, [tf.size(value) for value in like], num=len(like))
    shaped = [tf.cast(tf.reshape(p, tf.shape(v)), v.dtype) for p, v in zip(pieces, like, strict=True)]
    return [tf.ensure_shape(piece, value.shape) for piece, value in zip(shaped, like, strict=True)]


def _summed_as(dtype: tf.DType) -> tf.DType:
    """A type in which sums over replicas are exact, if all but one are zero, and supported everywhere."""
    return tf.float64 if dtype == tf.float64 else tf.float32 if dtype.is_floating else tf.int64
