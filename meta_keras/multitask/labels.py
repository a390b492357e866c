"""Labels that may be missing: -1 for a class, and NaN for any other target."""

from typing import Any

import tensorflow as tf

MISSING_CLASS = -1


def number_classes(labels: tf.DType) -> bool:
    """Whether labels of this type number classes: integers and booleans do."""
    return labels.is_integer or labels == tf.bool


def filled(y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The labels with 0 where they are missing, and whether each number of them is there.

    Booleans become the classes 0 and 1.

    >>> y, present = filled(tf.constant([0.5, float("nan")]))
    >>> y.numpy().tolist(), present.numpy().tolist()
    ([0.5, 0.0], [True, False])
    """
    y = tf.cast(y, tf.int32) if y.dtype == tf.bool else y
    present = y >= 0 if y.dtype.is_integer else ~tf.math.is_nan(y)
    return tf.where(present, y, tf.zeros_like(y)), present


def per_answer(present: tf.Tensor, axes: int) -> tf.Tensor:
    """Whether each answer has a label: answers have `axes` axes, and all of their targets must be there.

    >>> per_answer(tf.constant([[True, False], [True, True]]), 1).numpy()
    array([False,  True])
    """
    missing_axes = axes - (present.shape.rank or axes)
    if missing_axes > 0:
        return tf.reshape(present, tf.concat([tf.shape(present), [1] * missing_axes], axis=0))
    flat = tf.concat([tf.shape(present)[:axes], [-1]], axis=0)
    return tf.reduce_all(tf.reshape(present, flat), axis=-1)


def mean_over_labeled(values: tf.Tensor, present: tf.Tensor, weight: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean of the losses (rows, ...) over the answers that have a label, or 0, and how many rows these are.

    A row in which only some answers have a label counts as this fraction of a row.

    weight: (rows,) the weight of each row, as Keras' sample_weight.
    """
    known = weight is not None and weight.shape.rank is not None
    if known and any(size not in (1, None) for size in weight.shape[1:]):
        raise ValueError(f"sample_weight must have one number per row, (rows,); got the shape {tuple(weight.shape)}.")
    present = tf.broadcast_to(present, tf.shape(values))
    flat = tf.stack([tf.shape(values)[0], -1])
    rows = tf.reduce_mean(tf.reshape(tf.where(present, values, tf.zeros_like(values)), flat), axis=1)
    count = tf.reduce_sum(tf.reduce_mean(tf.reshape(tf.cast(present, values.dtype), flat), axis=1))
    weighted = rows if weight is None else rows * tf.reshape(tf.cast(weight, rows.dtype), tf.shape(rows))
    return tf.math.divide_no_nan(tf.reduce_sum(weighted), count), count
