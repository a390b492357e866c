"""Episodes of few-shot classification, drawn inside the graph: the meta-task h of Formula 1.3."""

from numbers import Integral
from typing import Any, NamedTuple

import tensorflow as tf

from meta_keras.inputs import as_inputs
from meta_keras.internals import variant_tensor


class Episode(NamedTuple):
    """A batch of tasks. Every tensor has one row a task first, then one row an example.

    support_x, support_y: the few examples to learn the task from, and their answers.
    query_x, query_y: the examples to be answered, and the answers they are judged by.
    """

    support_x: tf.Tensor
    support_y: tf.Tensor
    query_x: tf.Tensor
    query_y: tf.Tensor


class Tasks(tf.data.Dataset):
    """An endless `tf.data.Dataset` of episodes: the base of every task distribution.

    A subclass sets what its `draw` needs, and then calls `super().__init__`. Batch number n of seed s is always
    the same batch, whoever asks and however often.
    """

    def __init__(self, *, meta_batch: int, seed: int) -> None:
        at_least_one(meta_batch=meta_batch)
        if not isinstance(seed, Integral):
            raise ValueError(f"seed is a whole number, and stands for one sequence of tasks; {seed!r} was given.")
        self.meta_batch, self.seed = meta_batch, seed
        self._batches = self.from_batch(0)
        super().__init__(variant_tensor(self._batches))

    def from_batch(self, number: int | tf.Tensor | tf.Variable) -> tf.data.Dataset:
        """The same batches from batch `number` on. A variable is read whenever the dataset is begun."""
        if not isinstance(number, tf.Tensor | tf.Variable) and (not isinstance(number, Integral) or number < 0):
            raise ValueError(f"Batches have whole numbers from 0 up; from_batch({number!r}) was asked for.")
        counter = tf.data.Dataset.range(1).flat_map(lambda _: tf.data.Dataset.counter(start=tf.cast(number, tf.int64)))
        batches = counter.map(
            lambda number: self.draw(tf.stack([tf.cast(self.seed, tf.int64), number])),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        # A flat_map does not tell that it never ends; Keras and the checks of a learner must know.
        return batches.prefetch(2).apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    def draw(self, seed: tf.Tensor) -> Episode:
        """One batch of `meta_batch` tasks. All chance in it comes from `seed`, two integers."""
        raise NotImplementedError(f"{type(self).__name__} must say how a batch of tasks is drawn.")

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._batches]

    @property
    def element_spec(self) -> Episode:
        return self._batches.element_spec


def at_least_one(**numbers: int) -> None:
    """Raise a ValueError that names the first number that is not whole, or below 1."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
            raise ValueError(f"{name} is a whole number of 1 or more; {number!r} was given.")


def check_episodes(tasks: Any) -> None:
    """Raise a ValueError unless `tasks` is a dataset of episodes."""
    if not isinstance(getattr(tasks, "element_spec", None), Episode):
        raise ValueError(
            "A dataset of episodes is needed, such as meta_keras.FewShot or meta_keras.Sinusoids; "
            f"this is {type(tasks).__name__}."
        )


def check_first(tasks: tf.data.Dataset) -> Episode:
    """The first batch of tasks, once it is seen to be fit to learn from; else a ValueError."""
    first = next(iter(tasks), None)
    if first is None:
        raise ValueError("This dataset of episodes is empty.")
    for name, part in first._asdict().items():
        if part.shape.rank < 2 or 0 in part.shape[:2]:
            raise ValueError(f"{name} has shape {tuple(part.shape)}; at least one task with one example is needed.")
        _check_numbers(name, part)
    return first


def check_support(support_x: Any, support_y: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """A support set as tensors, once it is seen to be fit to learn from; else a ValueError."""
    if support_x is None or support_y is None:
        raise ValueError("A support set is needed: examples to learn from, and their labels or targets.")
    support_x, support_y = as_inputs(tf.convert_to_tensor(support_x)), tf.convert_to_tensor(support_y)
    if not (support_y.dtype.is_integer or support_y.dtype.is_floating):
        raise ValueError(f"Answers are labels, whole numbers from 0 up, or targets; these are {support_y.dtype.name}.")
    if 0 in (support_x.shape.rank, support_y.shape.rank):
        raise ValueError("A support set has a row for each example; a single number was given.")
    if len(support_x) == 0 or len(support_x) != len(support_y):
        raise ValueError(
            f"A support set has as many answers as examples, at least one; {len(support_x)} examples and "
            f"{len(support_y)} answers were given."
        )
    support_y = tf.cast(support_y, tf.int32 if support_y.dtype.is_integer else tf.float32)
    _check_numbers("support_x", support_x)
    _check_numbers("support_y", support_y)
    return support_x, support_y


def _check_numbers(name: str, part: tf.Tensor) -> None:
    if part.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(part))):
        raise ValueError(f"{name} has numbers that are nan or infinite. Replace them, or leave those examples out.")
    if name.endswith("_y") and part.dtype.is_integer and int(tf.reduce_min(part)) < 0:
        raise ValueError(f"{name} has the label {int(tf.reduce_min(part))}; labels are whole numbers from 0 up.")
