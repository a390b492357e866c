"""Batches for tasks that have different numbers of examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.multitask.labels import MISSING_CLASS, number_classes
from meta_keras.tasks.shuffling import shuffled_rows


def mix_tasks(
    data: Mapping[str, tuple[np.ndarray, np.ndarray]], *, rows: int | Mapping[str, int] = 16, seed: int = 0
) -> tf.data.Dataset:
    """Endless batches (x, {task: y}) of tasks that have examples of their own, as `MultiTask.fit` takes them.

    Every batch has the same number of rows of each task, however many examples the task has, and their labels for all
    other tasks are missing (-1 for classes, NaN for other targets). Each task is iterated over in its own shuffled
    order, which is drawn again for every pass. Batch n for a seed is always the same batch.

    data: for each task its examples and their labels; the examples of all tasks have one shape.
    rows: how many rows per task; a mapping {task: rows} makes some tasks more frequent than others.

    >>> large, small = (np.zeros((50, 4)), np.arange(50) % 3), (np.ones((5, 4)), np.linspace(0, 1, 5))
    >>> x, y = next(iter(mix_tasks({"large": large, "small": small}, rows=2)))
    >>> x.shape, y["small"].numpy()[:2]
    (TensorShape([4, 4]), array([nan, nan]))
    """
    checks.mapping(data=data)
    if not data:
        raise ValueError("data must have at least one task, {task: (x, y)}; got {}.")
    checks.integer(seed=seed)
    counts = rows if isinstance(rows, Mapping) else dict.fromkeys(data, rows)
    if set(counts) != set(data):
        raise ValueError(f"rows must have the tasks of data, {list(data)}; got {list(counts)}.")
    for task, count in counts.items():
        checks.text(task=task)
        checks.at_least(1, **{f"rows[{task!r}]" if isinstance(rows, Mapping) else "rows": count})
    # As tensors they stay outside the graph, which would copy arrays again for every call of `fit`, and holds 2 GB.
    tensors = {task: _checked(task, pair) for task, pair in data.items()}
    _check_one_shape({task: x for task, (x, _) in tensors.items()})

    def batch(step: tf.Tensor) -> Any:
        xs, ys = [], {task: [] for task in tensors}
        for number, (task, (x, y)) in enumerate(tensors.items()):
            chosen = shuffled_rows(step, len(x), counts[task], [seed, number])
            xs.append(tf.gather(x, chosen))
            for other, (_, like) in tensors.items():
                ys[other].append(tf.gather(y, chosen) if other == task else _missing(like, counts[task]))
        return tf.concat(xs, axis=0), {task: tf.concat(parts, axis=0) for task, parts in ys.items()}

    return tf.data.Dataset.counter().map(batch).prefetch(2)


def _missing(like: tf.Tensor, count: int) -> tf.Tensor:
    """Labels of this shape and type that say that there are none."""
    value = MISSING_CLASS if number_classes(like.dtype) else np.nan
    return tf.fill((count, *like.shape[1:]), tf.constant(value, like.dtype))


def _checked(task: str, pair: Any) -> tuple[tf.Tensor, tf.Tensor]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"data[{task!r}] must be a pair (examples, labels); got {checks.shown(pair)}.")
    x, y = pair
    checks.examples(**{f"the examples of {task!r}": x, f"the labels of {task!r}": y})
    checks.finite_numbers(**{f"the examples of {task!r}": x})
    checks.numbers(**{f"the labels of {task!r}": y})
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y):
        raise ValueError(f"Task {task!r} must have one label per example; got {len(y)} for {len(x)} examples.")
    signed = {"u": np.int64, "b": np.int32}.get(y.dtype.kind)  # unsigned numbers could not say that a label is missing
    return tf.constant(x), tf.constant(y if signed is None else y.astype(signed))


def _check_one_shape(examples: Mapping[str, tf.Tensor]) -> None:
    kinds = {task: (tuple(x.shape[1:]), x.dtype.name) for task, x in examples.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"The examples of all tasks must have one shape and type, since one trunk takes them: {kinds}."
        )
