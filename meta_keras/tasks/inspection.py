"""Checks of what a learner is given: shapes, labels and numbers, of the first batch and of every later one.

What can be read from shapes is checked before anything runs. Values are checked where batches are made, in the threads
of `tf.data`, so that training does not wait: a few operations decide whether a batch is valid, and only for an
invalid one, `check_batch` searches for the reason.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from meta_keras.inputs import as_inputs, check_pixels
from meta_keras.tasks.episodes import Episode, MappedTasks

Inputs = tuple[tf.Tensor, ...]


def check_episodes(tasks: Any) -> None:
    """Raise a ValueError unless `tasks` is a dataset of episodes whose shapes fit each other."""
    if not isinstance(getattr(tasks, "element_spec", None), Episode):
        raise ValueError(
            "A dataset of episodes is needed, such as meta_keras.FewShot or meta_keras.Sinusoids; "
            f"got {type(tasks).__name__}. A function given to map() must return an Episode."
        )
    check_shapes(tasks.element_spec)


def first_of(tasks: tf.data.Dataset) -> Episode:
    """The first batch of a dataset of episodes, or a ValueError if there is none."""
    first = next(iter(tasks), None)
    if first is None:
        raise ValueError("This dataset of episodes is empty.")
    check_shapes(first)
    check_images(first)
    return first


def check_images(episode: Episode) -> None:
    """Raise a ValueError unless images are in the range that a network expects."""
    check_pixels(episode.support_x, "The support examples", leading=2)
    check_pixels(episode.query_x, "The queries", leading=2)


def check_shapes(episode: Episode) -> None:
    """Raise a ValueError unless supports and queries have fitting shapes; each part may be a tensor or its spec."""
    for name, part in episode._asdict().items():
        if not hasattr(part, "shape") or not hasattr(part, "dtype"):
            raise ValueError(f"{name} must be one tensor; got a {type(part).__name__}. Networks take one input.")
        if part.shape.rank is not None and (part.shape.rank < 2 or 0 in part.shape[:2]):
            raise ValueError(f"{name} has shape {tuple(part.shape)}; at least one task with one example is needed.")
    support_x, support_y, query_x, query_y = (part.shape for part in episode)
    pairs = [
        ("support_x", "support_y", support_x[:2], support_y[:2], "as many labels as examples"),
        ("query_x", "query_y", query_x[:2], query_y[:2], "as many labels as examples"),
        ("support_x", "query_x", support_x[:1], query_x[:1], "the same number of tasks"),
        ("support_x", "query_x", support_x[2:], query_x[2:], "examples of the same shape"),
        ("support_y", "query_y", support_y[2:], query_y[2:], "labels or targets of the same shape"),
    ]
    for one, other, first, second, expected in pairs:
        if None not in (support_x.rank, query_x.rank) and not first.is_compatible_with(second):
            shapes = tuple(getattr(episode, one).shape), tuple(getattr(episode, other).shape)
            raise ValueError(f"{one} and {other} must have {expected}; their shapes are {shapes[0]} and {shapes[1]}.")
    if episode.support_y.dtype.is_integer != episode.query_y.dtype.is_integer:
        raise ValueError(
            f"Labels are integers, targets are floats; support_y is {episode.support_y.dtype.name} and query_y "
            f"{episode.query_y.dtype.name}."
        )


def check_batch(episode: Episode, ways: int | None, every_class: bool) -> None:
    """Raise a ValueError that says what is wrong with the values of a batch, if anything."""
    for name, part in episode._asdict().items():
        part = np.asarray(part)
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise ValueError(f"{name} has {np.sum(~np.isfinite(part))} numbers that are NaN or infinite; remove them.")
        if name.endswith("_y") and part.dtype.kind in "iu" and ways is not None:
            check_labels(name, part, ways)
    if every_class and np.asarray(episode.support_y).dtype.kind in "iu":
        for support, query in zip(np.asarray(episode.support_y), np.asarray(episode.query_y), strict=True):
            unknown = sorted(set(query.ravel().tolist()) - set(support.ravel().tolist()))
            if unknown:
                raise ValueError(
                    f"A query has the label {unknown[0]}, but its support set has no example of this "
                    f"class; it has the labels {sorted(set(support.ravel().tolist()))}."
                )


def check_labels(name: str, labels: np.ndarray, ways: int) -> None:
    """Raise a ValueError unless these integer labels are 0 ... ways - 1."""
    if labels.min() < 0 or labels.max() >= ways:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(
            f"{name} has the label {wrong}; labels of tasks with {ways} classes are integers from 0 to {ways - 1}. "
            "Number the classes of each task from 0, or make the learner with MetaLearner(..., ways=...)."
        )


def check_support(x: Any, y: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """A support set as tensors in the form that a network takes, or a ValueError that says what is wrong with it."""
    if x is None or y is None:
        raise ValueError("A support set is needed: examples to learn from, and their labels or targets.")
    x, y = as_tensor("support_x", x), as_tensor("support_y", y)
    check_pixels(x, "The support examples")
    if not (y.dtype.is_integer or y.dtype.is_floating):
        raise ValueError(f"Labels are integers from 0, and targets are floats; these are {y.dtype.name}.")
    if 0 in (x.shape.rank, y.shape.rank):
        raise ValueError("A support set has one row per example; a single number was given.")
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(
            f"A support set needs as many labels as examples, at least one; {len(x)} examples and {len(y)} labels "
            "were given."
        )
    y = tf.cast(y, tf.int32 if y.dtype.is_integer else tf.float32)
    x = as_inputs(x)
    check_batch(Episode(x, y, x, y), None, every_class=False)
    return x, y


def as_tensor(name: str, values: Any) -> tf.Tensor:
    """The values as one tensor, or a ValueError."""
    try:
        return tf.convert_to_tensor(values)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise ValueError(f"{name} must be one array of numbers; got a {type(values).__name__}.") from error


class Inspected:
    """Episodes as the batches `(inputs, query_y)` that Keras trains on, each of them checked.

    Integer images are scaled on the way. The inputs end with (tasks, ways) class numbers, which tell a rule how many
    classes there are before a task is seen; a regression has none.
    """

    def __init__(
        self, tasks: tf.data.Dataset, ways: int | None, *, every_class: bool, source: tf.data.Dataset | None = None
    ) -> None:
        """ways: None for a regression. every_class: whether queries may only ask for labels of the support set.

        source: where the batches come from, such as the same tasks from a later batch on; by default the tasks.
        """
        self.ways, self.every_class = ways, every_class
        # What the library itself draws needs no check.
        self.sound = type(tasks).__module__.startswith("meta_keras.") and not isinstance(tasks, MappedTasks)
        self.found: list[ValueError] = []
        self.batches = (tasks if source is None else source).map(self._batch)

    def _batch(self, episode: Episode) -> tuple[Inputs, tf.Tensor]:
        checks = [] if self.sound else [self._checked(episode)]
        with tf.control_dependencies(checks):
            return as_batch(episode, self.ways)

    def _checked(self, episode: Episode) -> tf.Operation:
        floats = [part for part in episode if part.dtype.is_floating]
        tests = [tf.reduce_all(tf.math.is_finite(part)) for part in floats]
        if self.ways is not None:
            support, query = (tf.reshape(y, [tf.shape(y)[0], -1]) for y in (episode.support_y, episode.query_y))
            tests += [tf.reduce_all((y >= 0) & (y < self.ways)) for y in (support, query)]
            if self.every_class:
                tests.append(tf.reduce_all(tf.reduce_any(query[:, :, None] == support[:, None, :], axis=-1)))
        return tf.cond(tf.reduce_all(tests), lambda: True, lambda: self._explained(episode))

    def _explained(self, episode: Episode) -> tf.Tensor:
        def explain(*parts: tf.Tensor) -> bool:
            try:
                check_batch(Episode(*parts), self.ways, self.every_class)
            except ValueError as error:
                self.found.append(error)
                raise
            return True

        return tf.py_function(explain, list(episode), tf.bool)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise the error that was found in a batch; TensorFlow would only report where its dataset stopped."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.found:
                raise self.found[0] from None
            raise error


def as_batch(episode: Episode, ways: int | None) -> tuple[Inputs, tf.Tensor]:
    """An episode as `(inputs, query_y)`: see `Inspected`."""
    support_x, support_y, query_x, query_y = scaled(episode)
    inputs = (support_x, support_y, query_x)
    if ways is not None:
        classes = tf.broadcast_to(tf.range(ways), [tf.shape(support_x)[0], ways])
        inputs += (classes,)
    return inputs, query_y


def scaled(episode: Episode) -> Episode:
    """The same tasks with their examples as a network takes them."""
    return episode._replace(support_x=scaled_examples(episode.support_x), query_x=scaled_examples(episode.query_x))


def scaled_examples(examples: tf.Tensor) -> tf.Tensor:
    """Examples (tasks, rows, ...) as a network takes them; floats keep the precision that they have."""
    return examples if examples.dtype.is_floating else as_inputs(examples, leading=2)


def ways_in(inputs: Inputs, named: int | None) -> int | tf.Tensor | None:
    """The number of classes of a batch: as `as_batch` recorded it, as it was given, or as the labels imply."""
    if len(inputs) > 3:
        return inputs[3].shape[-1]
    if named is not None or not inputs[1].dtype.is_integer:
        return named
    ways = tf.reduce_max(inputs[1]) + 1
    return int(ways) if tf.executing_eagerly() else ways
