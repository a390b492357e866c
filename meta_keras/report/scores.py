"""How well a learner does, as the mean over many tasks with its confidence interval."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.learner import MetaLearner
from meta_keras.outputs import as_metrics
from meta_keras.targets import check_not_broadcast, targets_by_name
from meta_keras.tasks.episodes import Tasks
from meta_keras.tasks.inspection import check_episodes

Predictor = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
Metric = Callable[[tf.Tensor, tf.Tensor], Any]


class Score(NamedTuple):
    """A mean over tasks or seeds, and half the width of its 95 % confidence interval.

    >>> print(Score("accuracy", 0.953, 0.004, np.zeros(600)))
    accuracy 0.953 ± 0.004 (95 % interval over 600 values)
    """

    metric: str
    mean: float
    interval: float
    values: np.ndarray

    @classmethod
    def of(cls, values: Sequence[float], metric: str = "accuracy") -> "Score":
        """The score of these values, one per task or one per seed.

        >>> print(Score.of([0.5, 0.7, 0.6]))
        accuracy 0.600 ± 0.248 (95 % interval over 3 values)
        """
        checks.text(metric=metric)
        return cls(metric, *mean_and_interval(values), np.array(values, dtype=float))

    def __str__(self) -> str:
        return f"{self.metric} {self.mean:.3f} ± {self.interval:.3f} (95 % interval over {len(self.values)} values)"


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval by Student's t (Formula 1.7).

        half width = t * s / sqrt(n)

    s is the standard deviation with n - 1 in the denominator, and t the 97.5 % point of Student's distribution
    with n - 1 degrees of freedom: 1.96 for many values, 2.78 for five.

    >>> mean_and_interval([0.5, 0.7])
    (0.6, 1.27...)
    """
    checks.numbers(values=values)
    values = np.asarray(values, dtype=float).reshape(-1)
    if len(values) < 2:
        raise ValueError(f"An interval needs at least 2 values; got {len(values)}.")
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite; {np.sum(~np.isfinite(values))} of the {len(values)} are not.")
    half = _student_t(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def _student_t(degrees: int) -> float:
    """The t that bounds 95 % of Student's distribution, found by bisection of its distribution function."""
    low, high = 1.0, 13.0
    for _ in range(60):
        t = (low + high) / 2
        x = np.float64(degrees / (degrees + t * t))
        outside = tf.math.betainc(np.float64(degrees / 2), np.float64(0.5), x)
        low, high = (t, high) if outside > 0.05 else (low, t)
    return t


def evaluate(
    learner: MetaLearner | Predictor,
    tasks: tf.data.Dataset,
    episodes: int = 600,
    *,
    metric: Metric | None = None,
    verbose: int = 0,
) -> Score:
    """The mean score over `episodes` tasks with its 95 % confidence interval. Every task has the same weight.

    learner: a MetaLearner, or any function `(support_x, support_y, query_x) -> logits` of one task.
    metric: a function `(query_y, logits) -> number` of one task, or a Keras metric, which is reset for every task. The
        default is the accuracy, and for regressions the mean squared error. If several classes share the largest
        logit of a query, it counts as a random guess among them, so a constant learner scores chance.
    verbose: 1 shows a progress bar.

    >>> from meta_keras import FewShot, load
    >>> def guess(support_x, support_y, query_x):
    ...     return tf.zeros((len(query_x), 5))
    >>> evaluate(guess, FewShot(load("glyphs"), ways=5, shots=1), episodes=4).mean
    0.2
    """
    checks.at_least(2, episodes=episodes)
    checks.one_of((0, 1, 2, False, True), verbose=verbose)
    check_episodes(tasks)
    if isinstance(learner, MetaLearner) and isinstance(metric, keras.Metric):
        loss = learner.loss if learner.compiled else None
        as_metrics(metric, learner.rule.answer_activation(learner.pure), loss=loss)  # an error if it does not fit
    name, measure = _metric_for(tasks, metric)
    progress = keras.utils.Progbar(episodes, verbose=verbose, unit_name="task")
    values: list[float] = []
    for query_y, answers in _answers(learner, tasks):
        values.append(_value(name, measure(query_y, _as_tensor(answers))))
        progress.update(len(values))
        if len(values) == episodes:
            return Score.of(values, name)
    raise ValueError(
        f"The dataset ended after {len(values)} tasks; episodes={episodes} needs more. Pass fewer episodes: the same "
        "tasks again would only make the interval too narrow."
    )


def _answers(learner: MetaLearner | Predictor, tasks: tf.data.Dataset) -> Iterator[tuple[tf.Tensor, Any]]:
    """Labels or targets of the queries and the learner's answers to them, task by task."""
    if isinstance(learner, MetaLearner):
        inspected = learner.batches_of(tasks)
        # A new graph for every evaluation, although tracing takes a second: a cached graph would not notice that
        # an attribute has changed since, such as `rule.evaluation_steps`.
        call = learner.on_replicas
        together = call if learner.run_eagerly else tf.function(call, reduce_retracing=True, autograph=False)
        with inspected.reporting():
            for inputs, query_y in _without_repetition(inspected.batches, tasks):
                yield from zip(query_y, together(inputs), strict=True)
        return
    if isinstance(learner, keras.layers.Layer | type):
        raise TypeError(
            f"learner must be a MetaLearner or a function of (support_x, support_y, query_x); got "
            f"{checks.shown(learner)}. A network becomes a learner with MetaLearner(network=..., rule=...)."
        )
    checks.function(learner=learner)
    for episode in _without_repetition(tasks, tasks):
        inputs = (as_inputs(episode.support_x, leading=2), episode.support_y, as_inputs(episode.query_x, leading=2))
        for *task, query_y in zip(*inputs, episode.query_y, strict=True):
            yield query_y, learner(*task)


def _without_repetition(batches: Iterable[Any], tasks: tf.data.Dataset) -> Iterator[Any]:
    """The batches, with a ValueError if the first one comes again.

    tasks: where they come from. `Tasks` draw each batch at random, so two of them may be the same by chance.
    """
    if isinstance(tasks, Tasks):
        yield from batches
        return
    first: list[np.ndarray] | None = None
    for batch in batches:
        parts = [np.asarray(part) for part in tf.nest.flatten(batch)]
        if first is None:
            first = parts
        elif all(map(np.array_equal, parts, first)):
            raise ValueError(
                "The first batch of tasks comes again, as of tasks.repeat(). The interval is that of different tasks, "
                "so it would be too narrow. Pass fewer episodes, or tasks that are drawn."
            )
        yield batch


def _metric_for(tasks: tf.data.Dataset, metric: Metric | None) -> tuple[str, Metric]:
    """The metric and its name."""
    if metric is None:
        labels = tasks.element_spec.query_y.dtype.is_integer
        return ("accuracy", _accuracy) if labels else ("mean squared error", _mean_squared_error)
    if not callable(metric) or isinstance(metric, type | keras.layers.Layer):
        raise ValueError(
            f"metric must be a function (query_y, logits) -> number, or a Keras metric such as "
            f"keras.metrics.MeanAbsoluteError(); got {checks.shown(metric)}."
        )
    targets = targets_by_name(metrics=[metric])
    name = str(getattr(metric, "name", None) or getattr(metric, "__name__", "score"))

    def of_one_task(query_y: tf.Tensor, answers: tf.Tensor) -> Any:
        if answers.shape.rank:
            check_not_broadcast(targets, query_y, answers.shape)
        if isinstance(metric, keras.Metric):
            metric.reset_state()
        try:
            return metric(query_y, answers)
        except Exception as error:  # of any kind, because the metric is the user's
            raise ValueError(
                f"The metric {name!r} cannot compare labels or targets of shape {tuple(query_y.shape)} with answers of "
                f"shape {tuple(answers.shape)}: {error}"
            ) from error

    return name, of_one_task


def _value(name: str, value: Any) -> float:
    """What a metric returned, as a number."""
    try:
        number = float(np.asarray(value).reshape(()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The metric {name!r} must return one number per task; got {checks.shown(value)}.") from error
    if not np.isfinite(number):
        raise ValueError(f"The metric {name!r} must return a finite number; got {number} for one of the tasks.")
    return number


def _as_tensor(answers: Any) -> tf.Tensor:
    """Answers in single precision or better, since half precision would round a mean."""
    try:
        answers = tf.convert_to_tensor(answers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The learner must return one array per task; got {checks.shown(answers)}.") from error
    if not (answers.dtype.is_floating or answers.dtype.is_integer):
        raise ValueError(f"The learner must return numbers; got {checks.shown(answers)} of {answers.dtype.name}.")
    return tf.cast(answers, tf.float32 if answers.dtype.is_floating and answers.dtype.size < 8 else tf.float64)


def _accuracy(query_y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    if query_y.shape.rank != 1:
        raise ValueError(f"Every query must have one integer as its label; a task has shape {tuple(query_y.shape)}.")
    needed = (len(query_y), int(tf.reduce_max(query_y)) + 1)
    if logits.shape.rank != 2 or len(logits) != needed[0] or logits.shape[1] < needed[1]:
        raise ValueError(
            f"{needed[0]} queries of {needed[1]} classes need logits of shape {needed}; "
            f"the learner returned shape {tuple(logits.shape)}."
        )
    largest = tf.reduce_max(logits, axis=-1, keepdims=True)
    if not np.isfinite(largest).all() or np.isnan(logits).any():
        raise ValueError(
            "The largest logit of every query must be a finite number, and none may be NaN; otherwise nothing was "
            "predicted. Logits overflow where training has diverged, and in half precision where embeddings are large."
        )
    predicted = tf.cast(logits == largest, tf.float64)
    correct = predicted * tf.one_hot(tf.cast(query_y, tf.int64), logits.shape[1], dtype=tf.float64)
    return tf.reduce_mean(tf.reduce_sum(correct, axis=-1) / tf.reduce_sum(predicted, axis=-1))


def _mean_squared_error(query_y: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
    if answers.shape != query_y.shape:
        raise ValueError(
            f"The targets have shape {tuple(query_y.shape)}; the learner returned shape {tuple(answers.shape)}."
        )
    return tf.reduce_mean(tf.square(tf.cast(query_y, tf.float64) - tf.cast(answers, tf.float64)))
