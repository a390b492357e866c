"""Labels that may be missing: -1 for a class, and NaN for any other target."""

from typing import Any

import tensorflow as tf

MISSING_CLASS = -1


def is_class_label(y: tf.Tensor) -> bool:
    """Whether labels are integers, which number classes."""
    return y.dtype.is_integer or y.dtype == tf.bool


def filled(y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The labels with 0 where they are missing, and (rows,) whether each row has one.

    A row is missing if any of its numbers is. Booleans become the classes 0 and 1.

    >>> y, present = filled(tf.constant([[0.5, 0.5], [float("nan"), 1.0]]))
    >>> y.numpy().tolist(), present.numpy().tolist()
    ([[0.5, 0.5], [0.0, 1.0]], [True, False])
    """
    y = tf.cast(y, tf.int32) if y.dtype == tf.bool else y
    present = y >= 0 if y.dtype.is_integer else ~tf.math.is_nan(y)
    y = tf.where(present, y, tf.zeros_like(y))
    return y, tf.reduce_all(tf.reshape(present, (tf.shape(y)[0], -1)), axis=1)


def mean_over_labeled(rows: tf.Tensor, present: tf.Tensor, weight: Any = None) -> tf.Tensor:
    """The mean of the losses (rows, ...) over the rows that have a label; 0 if none has.

    weight: (rows,) the weight of each row, as Keras' sample_weight.
    """
    rows = tf.reduce_mean(tf.reshape(rows, (tf.shape(present)[0], -1)), axis=1)
    counted = tf.cast(present, rows.dtype)
    weighted = rows if weight is None else rows * tf.reshape(tf.cast(weight, rows.dtype), (-1,))
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(present, weighted, 0)), tf.reduce_sum(counted))
