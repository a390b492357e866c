"""Conflicting gradients: how similar the gradients of the tasks are, and what gradient surgery makes of them."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks
from meta_keras.multitask.losses import as_floats


def gradient_cosines(gradients: tf.Tensor) -> tf.Tensor:
    """(K, K) cosine similarities of the gradients of K tasks (Formula 4.4).

        cos(g_j, g_k) = g_j . g_k / (|g_j| |g_k|)

    gradients: (K, weights) one row per task. Two gradients conflict if their cosine is negative: a small step along one
    of them then increases the loss of the other task. The cosine with a gradient of zero is 0.

    >>> gradient_cosines(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().round(3)
    array([[ 1.   , -0.707],
           [-0.707,  1.   ]], dtype=float32)
    """
    unit = tf.math.l2_normalize(_rows(gradients), axis=1, epsilon=1e-30)
    return tf.matmul(unit, unit, transpose_b=True)


def project_conflicts(gradients: tf.Tensor, orders: Sequence[Sequence[int]] | tf.Tensor | None = None) -> tf.Tensor:
    """(K, weights) the gradients without their conflicting parts: gradient surgery, or PCGrad (Formula 4.5).

        g_j <- g_j - (g_j . g_k / |g_k|^2) g_k     for every other task k with g_j . g_k < 0, one after the other

    Yu et al., "Gradient Surgery for Multi-Task Learning", 2020. The g_k are the original gradients of the other tasks.

    gradients: (K, weights) one row per task.
    orders: (K, K) for each task, all tasks in the order in which conflicts with them are removed; by default
        0, 1, ..., K - 1. With three tasks or more, the result depends on it; the paper draws it at random in each step.

    >>> project_conflicts(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy()
    array([[0.5, 0.5],
           [0. , 1. ]], dtype=float32)
    """
    gradients = _rows(gradients)
    count = gradients.shape[0]
    orders = tf.tile(tf.range(count)[None], (count, 1)) if orders is None else _checked_orders(orders, count)
    squares, own = tf.reduce_sum(gradients**2, axis=1), tf.range(count)
    projected = gradients
    for place in range(count):
        others = orders[:, place]
        against = tf.gather(gradients, others)
        products = tf.reduce_sum(projected * against, axis=1)
        conflict = (products < 0) & (others != own)
        factors = tf.where(conflict, tf.math.divide_no_nan(products, tf.gather(squares, others)), 0)
        projected -= factors[:, None] * against
    return projected


def flat_gradients(tape: tf.GradientTape, losses: Sequence[tf.Tensor], variables: Sequence[Any]) -> tf.Tensor:
    """(K, weights) the gradient of each loss with respect to the variables, in one row. The tape is persistent."""
    rows = []
    for loss in losses:
        parts = zip(tape.gradient(loss, variables), variables, strict=True)
        rows.append(tf.concat([tf.reshape(_or_zeros(part, variable), (-1,)) for part, variable in parts], axis=0))
    return tf.stack(rows)


def operated_gradients(
    tape: tf.GradientTape,
    scaled: tuple[Sequence[tf.Tensor], tf.Tensor, tf.Tensor],
    shared: Sequence[Any],
    variables: Sequence[Any],
    orders: tf.Tensor,
) -> list[tf.Tensor]:
    """The gradient of each variable: for shared ones, the mean of the projected gradients of the tasks.

    scaled: the losses of the tasks, that of layers, which is not projected, and their sum, which other variables get.
    """
    losses, of_layers, whole = scaled
    projected = tf.reduce_mean(project_conflicts(flat_gradients(tape, losses, shared), orders), axis=0)
    flat = projected + flat_gradients(tape, [of_layers], shared)[0]
    parts = tf.split(flat, [math.prod(variable.shape) for variable in shared])
    found = {id(v): tf.reshape(part, v.shape) for v, part in zip(shared, parts, strict=True)}
    others = [variable for variable in variables if id(variable) not in found]
    found |= zip(map(id, others), tape.gradient(whole, others), strict=True)
    return [found[id(variable)] for variable in variables]


def _or_zeros(gradient: Any, variable: Any) -> tf.Tensor:
    """A gradient as a tensor; zeros if the loss does not depend on the variable."""
    return tf.zeros(variable.shape, variable.dtype) if gradient is None else tf.convert_to_tensor(gradient)


def random_orders(count: int, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """(count, count) a random order of all tasks for each task."""
    return tf.argsort(keras.random.uniform((count, count), seed=generator), axis=1)


def _rows(gradients: Any) -> tf.Tensor:
    gradients = as_floats("gradients", gradients)
    if gradients.shape.rank != 2 or not gradients.shape[0]:
        raise ValueError(
            f"gradients must have the shape (tasks, weights), with at least one task; got {checks.shown(gradients)}."
        )
    return gradients


def _checked_orders(orders: Any, count: int) -> tf.Tensor:
    try:
        orders = tf.convert_to_tensor(orders)
    except (TypeError, ValueError) as error:
        raise ValueError(f"orders must be integers of shape {(count, count)}; got {checks.shown(orders)}.") from error
    if not orders.dtype.is_integer or orders.shape != (count, count):
        raise ValueError(f"orders must be integers of shape {(count, count)}; got {checks.shown(orders)}.")
    if tf.executing_eagerly() and bool(tf.reduce_any(tf.sort(orders, axis=1) != tf.range(count, dtype=orders.dtype))):
        raise ValueError(f"Every row of orders must contain each of the tasks 0 to {count - 1} once.")
    return tf.cast(orders, tf.int32)
