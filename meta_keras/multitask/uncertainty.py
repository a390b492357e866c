"""Uncertainty weighting: the weight of each task is learned from the size of its loss."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.multitask.losses import as_floats, stacked


def uncertainty_loss(
    losses: Mapping[str, tf.Tensor] | Sequence[tf.Tensor],
    log_variances: tf.Tensor,
    *,
    regression: Sequence[bool],
    labeled: Sequence[bool] | None = None,
) -> tf.Tensor:
    """The losses of all tasks, weighted by variances that are trained with the network (Formula 4.3).

        J = sum_k c_k * exp(-s_k) * L_k + s_k / 2,     c_k = 1/2 for regression and 1 for classification

    Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
    2018. s_k is the logarithm of the variance of task k. With the best s_k, which is log(2 c_k L_k), the gradient of
    each task is divided by twice its loss, so the units of a loss do not matter.

    losses: one number per task. log_variances: (K,) the s_k. regression: which of the tasks are regression tasks.
    labeled: which of the tasks have labels in this batch; the others contribute nothing, by default none.

    >>> float(uncertainty_loss([1.0, 4.0], tf.constant([0.0, 0.0]), regression=[False, True]))
    3.0
    """
    losses, log_variances = stacked(losses), as_floats("log_variances", log_variances)
    labeled = [True] * losses.shape[0] if labeled is None else labeled
    for name, values in (("log_variances", log_variances), ("regression", regression), ("labeled", labeled)):
        _check_one_per_task(name, values, losses.shape[0])
    log_variances = tf.cast(log_variances, losses.dtype)
    factors = tf.constant([0.5 if one else 1.0 for one in regression], losses.dtype)
    terms = factors * tf.exp(-log_variances) * losses + log_variances / 2
    return tf.reduce_sum(tf.where(_conditions(labeled), terms, tf.zeros_like(terms)))


def _conditions(labeled: Any) -> tf.Tensor:
    """(K,) whether each task has labels."""
    with contextlib.suppress(TypeError, ValueError):  # not a tensor at all
        values = tf.convert_to_tensor(labeled)
        if values.dtype == tf.bool:
            return values
    raise ValueError(f"labeled must be True or False for each task; got {checks.shown(labeled)}.")


def _check_one_per_task(name: str, values: Any, count: int) -> None:
    shape = tuple(values.shape) if isinstance(values, tf.Tensor | tf.Variable | np.ndarray) else None
    listed = isinstance(values, list | tuple) and len(values) == count
    if not (listed or shape == (count,)):
        raise ValueError(f"{name} must have one entry for each of the {count} tasks; got {values!r}.")
