"""How good a learner is, over many tasks, and how sure we may be of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from meta_keras.checks import at_least
from meta_keras.tasks.inspection import check_episodes

Predictor = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class Score(NamedTuple):
    """A mean over tasks or seeds, and half the width of its 95 % interval.

    >>> print(Score("accuracy", 0.953, 0.004, np.zeros(600)))
    accuracy 0.953 ± 0.004 (95 % interval over 600 values)
    """

    metric: str
    mean: float
    interval: float
    values: np.ndarray

    @classmethod
    def of(cls, values: Sequence[float], metric: str = "accuracy") -> "Score":
        """The score that these values make, one for each task or each seed.

        >>> print(Score.of([0.5, 0.7, 0.6]))
        accuracy 0.600 ± 0.248 (95 % interval over 3 values)
        """
        return cls(metric, *mean_and_interval(values), np.array(values, dtype=float))

    def __str__(self) -> str:
        return f"{self.metric} {self.mean:.3f} ± {self.interval:.3f} (95 % interval over {len(self.values)} values)"


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t (Formula 1.7).

        half width = t * s / sqrt(n)

    s is the standard deviation with n - 1 in the denominator, and t the 97.5 % point of Student's distribution
    with n - 1 degrees of freedom: 1.96 for many values, 2.78 for five.

    >>> mean_and_interval([0.5, 0.7])
    (0.6, 1.27...)
    """
    values = np.asarray(values, dtype=float).reshape(-1)
    if len(values) < 2:
        raise ValueError(f"An interval needs at least 2 values; {len(values)} given.")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.sum(~np.isfinite(values))} of the {len(values)} values are nan or infinite.")
    half = _student_t(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def _student_t(freedom: int) -> float:
    """The t that 95 % of Student's distribution lies within, by bisection of its distribution function."""
    low, high = 1.0, 13.0
    for _ in range(60):
        t = (low + high) / 2
        x = np.float64(freedom / (freedom + t * t))
        outside = tf.math.betainc(np.float64(freedom / 2), np.float64(0.5), x)
        low, high = (t, high) if outside > 0.05 else (low, t)
    return t


def evaluate(
    learner: keras.Model | Predictor,
    tasks: tf.data.Dataset,
    episodes: int = 600,
    *,
    metric: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    verbose: int = 0,
) -> Score:
    """The mean score over `episodes` tasks with its 95 % interval; every task counts the same.

    learner: a MetaLearner, or any function `(support_x, support_y, query_x) -> scores` of one task.
    metric: a function `(query_y, scores) -> number` of one task. By default the share of queries whose highest
        score is at the right label, and for regressions the mean squared error.
    verbose: 1 shows a progress bar.

    >>> from meta_keras import FewShot, load
    >>> def guess(support_x, support_y, query_x):
    ...     return tf.one_hot(tf.zeros(len(query_x), tf.int32), 5)
    >>> evaluate(guess, FewShot(load("glyphs"), ways=5, shots=1), episodes=4).mean
    0.2
    """
    at_least(1, episodes=episodes)
    check_episodes(tasks)
    if episodes < 2:
        raise ValueError(f"An interval needs at least 2 episodes; {episodes} asked for.")
    labels = tasks.element_spec.query_y.dtype.is_integer
    name = getattr(metric, "__name__", "score") if metric else "accuracy" if labels else "mean squared error"
    metric = metric or (_accuracy if labels else _mean_squared_error)
    bar = keras.utils.Progbar(episodes, verbose=verbose, unit_name="task")
    values: list[float] = []
    for query_y, scores in _answers(learner, tasks):
        values.append(float(metric(query_y, scores)))
        bar.update(len(values))
        if len(values) == episodes:
            break
    else:
        raise ValueError(f"{episodes} episodes were asked for; the dataset ended after {len(values)}.")
    return Score.of(values, name)


def _answers(learner: keras.Model | Predictor, tasks: tf.data.Dataset) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The right answers and the learner's scores, task by task."""

    def one_by_one(*batch: tf.Tensor) -> list[tf.Tensor]:
        return [learner(*task) for task in zip(*batch, strict=True)]

    @tf.function(reduce_retracing=True)
    def together(*batch: tf.Tensor) -> tf.Tensor:
        return learner(batch, training=False)

    answer = together if isinstance(learner, keras.Model) else one_by_one
    for episode in tasks:
        scores = answer(episode.support_x, episode.support_y, episode.query_x)
        yield from zip(episode.query_y, scores, strict=True)


def _accuracy(query_y: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    needed = (len(query_y), int(tf.reduce_max(query_y)) + 1)
    if len(scores.shape) != 2 or len(scores) != needed[0] or scores.shape[1] < needed[1]:
        raise ValueError(
            f"{needed[0]} queries of {needed[1]} classes need scores of shape {needed}; "
            f"the learner's have shape {tuple(scores.shape)}."
        )
    if np.isnan(scores).any():
        raise ValueError("The learner's scores hold nan, so there is no telling what it chose.")
    chosen = tf.argmax(scores, axis=-1, output_type=query_y.dtype)
    return tf.reduce_mean(tf.cast(chosen == query_y, tf.float64))


def _mean_squared_error(query_y: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
    if answers.shape != query_y.shape:
        raise ValueError(
            f"Answers of shape {tuple(query_y.shape)} are needed; the learner's have shape {tuple(answers.shape)}."
        )
    return tf.reduce_mean(tf.square(tf.cast(query_y - answers, tf.float64)))
