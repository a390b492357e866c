"""Batches of tasks, and the endless datasets that draw them: the meta-task h of Formula 1.3."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from meta_keras.checks import at_least, function, integer
from meta_keras.internals import constants_of_map, variant_tensor
from meta_keras.tasks.repeatable import Repeatable


class Episode(NamedTuple):
    """A batch of tasks. Every tensor has one row per task first, then one row per example.

    support_x, support_y: the few examples to learn the task from, and their labels or targets.
    query_x, query_y: the examples to be predicted, and the labels or targets that the answers are compared with.

    >>> from meta_keras import FewShot, load
    >>> episode = next(iter(FewShot(load("glyphs"), ways=5, shots=1, queries=3, meta_batch=2)))
    >>> {name: tuple(part.shape) for name, part in episode._asdict().items() if name.endswith("x")}
    {'support_x': (2, 5, 28, 28, 1), 'query_x': (2, 15, 28, 28, 1)}
    """

    support_x: tf.Tensor
    support_y: tf.Tensor
    query_x: tf.Tensor
    query_y: tf.Tensor


class Tasks(Repeatable, tf.data.Dataset):
    """An endless `tf.data.Dataset` of episodes: the base of every task distribution.

    A subclass sets what its `draw` needs, and then calls `super().__init__`. Batch number n of seed s is always the
    same batch, in whatever order and however often it is asked for.

    >>> class Slopes(Tasks):
    ...     def draw(self, seed):
    ...         x = tf.random.stateless_uniform((self.meta_batch, 6, 1), seed)
    ...         y = x * tf.random.stateless_normal((self.meta_batch, 1, 1), seed)
    ...         return Episode(x[:, :2], y[:, :2], x[:, 2:], y[:, 2:])
    >>> next(iter(Slopes(meta_batch=3, seed=0))).query_x.shape
    TensorShape([3, 4, 1])
    """

    def __init__(self, *, meta_batch: int, seed: int) -> None:
        at_least(1, meta_batch=meta_batch)
        integer(seed=seed)
        self.meta_batch, self.seed = int(meta_batch), int(seed)
        if not type(self).__module__.startswith("meta_keras."):
            self._check_repeatable()
        self._batches = self.from_batch(0)
        super().__init__(variant_tensor(self._batches))

    def from_batch(self, number: int | tf.Tensor | tf.Variable) -> tf.data.Dataset:
        """The same batches from batch `number` on. A variable is read whenever an iteration begins."""
        if not isinstance(number, tf.Tensor | tf.Variable):
            at_least(0, number=number)
        elif number.shape.rank != 0 or not number.dtype.is_integer:
            raise ValueError(f"number must be one integer; got a {number.dtype.name} tensor of shape {number.shape}.")
        batches = endless_from(tf.data.Dataset.counter, number).map(
            lambda number: self.draw(tf.stack([tf.cast(self.seed, tf.int64), number])),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return batches.prefetch(2)

    def draw(self, seed: tf.Tensor) -> Episode:
        """One batch of `meta_batch` tasks. All randomness in it comes from `seed`, two integers."""
        raise NotImplementedError(f"{type(self).__name__} must define how a batch of tasks is drawn.")

    def _check_repeatable(self) -> None:
        """Raise a ValueError if two draws from the same seed differ, before TensorFlow traces one for all batches."""
        seed = tf.constant([self.seed, 0], tf.int64)
        one, other = ([np.asarray(part) for part in tf.nest.flatten(self.draw(seed))] for _ in range(2))
        if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True)):
            raise ValueError(
                f"{type(self).__name__} must draw the same tasks from the same seed, but does not: NumPy and functions "
                "such as tf.random.normal have randomness of their own, and might even draw one batch for all. Use "
                "tf.random.stateless_normal(shape, seed) and the like."
            )

    def map(self, map_func: Callable[..., Any], *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """As `tf.data.Dataset.map`; the result still knows `from_batch`, so that training can be resumed."""
        function(map_func=map_func)
        return MappedTasks(self, map_func, args, kwargs)

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._batches]

    @property
    def element_spec(self) -> Episode:
        return self._batches.element_spec


class MappedTasks(Tasks):
    """Tasks with a function applied to every batch."""

    def __init__(
        self, tasks: Tasks, map_func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._tasks, self._map = tasks, lambda dataset: dataset.map(map_func, *args, **kwargs)
        super().__init__(meta_batch=tasks.meta_batch, seed=tasks.seed)
        if constants_of_map(self._batches) != constants_of_map(self.from_batch(0)):
            raise ValueError(
                "The function given to map() has randomness of its own, such as that of NumPy: TensorFlow traces it "
                "once and would use the same numbers for all batches. Use tf.random.normal(shape) and the like; or, so "
                "that the tasks can be repeated, draw with tf.random.stateless_normal in a subclass of Tasks."
            )

    def from_batch(self, number: int | tf.Tensor | tf.Variable) -> tf.data.Dataset:
        return self._map(self._tasks.from_batch(number))


def endless_from(batches: Callable[[Any], tf.data.Dataset], number: int | tf.Tensor | tf.Variable) -> tf.data.Dataset:
    """`batches(number)`, an endless dataset, where a variable is read only when an iteration begins."""
    begun = tf.data.Dataset.range(1).flat_map(lambda _: batches(tf.cast(number, tf.int64)))
    # A flat_map does not know that it never ends; Keras and the checks of a learner must.
    return begun.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def continued(tasks: tf.data.Dataset, number: tf.Variable) -> tf.data.Dataset:
    """The same dataset from batch `number` on, if it is endless; a finite one starts again in every epoch."""
    if isinstance(tasks, Tasks):
        return tasks.from_batch(number)
    return endless_from(tasks.skip, number) if is_endless(tasks) else tasks


def is_endless(tasks: tf.data.Dataset) -> bool:
    """Whether a dataset is known never to end."""
    return bool(tasks.cardinality() == tf.data.INFINITE_CARDINALITY)


def ways_of_tasks(tasks: Any, first: Episode) -> int:
    """The number of classes of a dataset of tasks: as it says itself, or as the labels of its first batch imply."""
    return getattr(tasks, "ways", None) or 1 + max(int(np.max(y)) for y in (first.support_y, first.query_y))
