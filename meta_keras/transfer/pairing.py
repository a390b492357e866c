"""Batches of two domains side by side, of whatever lengths."""

from typing import Any

import numpy as np
import tensorflow as tf


def pair_domains(
    source_x: np.ndarray, source_y: np.ndarray, target_x: np.ndarray, *, batch_size: int = 64, seed: int = 0
) -> tf.data.Dataset:
    """Endless batches ((source_x, target_x), source_y), as `DomainAdaptation.fit` takes them.

    Each domain is gone through in an order of its own, a new one in every round, so the lengths may differ. Batch n of
    seed s is always the same batch. Of the target there are no labels.

    >>> pairs = pair_domains(np.zeros((9, 2)), np.zeros(9), np.ones((5, 2)), batch_size=4)
    >>> (source, target), y = next(iter(pairs))
    >>> source.shape, target.shape, y.shape
    (TensorShape([4, 2]), TensorShape([4, 2]), TensorShape([4]))
    """
    source_x, source_y, target_x = (np.asarray(array) for array in (source_x, source_y, target_x))
    if not len(source_x) or not len(target_x) or len(source_x) != len(source_y):
        raise ValueError(
            "Examples of both domains are needed, and one label for each of the source; there are "
            f"{len(source_x)} examples with {len(source_y)} labels in the source, and {len(target_x)} in the target."
        )
    if batch_size < 1:
        raise ValueError(f"A batch_size of 1 or more is needed; {batch_size} was given.")
    check_alike(source_x.shape, target_x.shape)
    # As tensors they stay outside the graph, which would copy arrays again for every round of `fit`, and holds 2 GB.
    source_x, source_y, target_x = (tf.constant(array) for array in (source_x, source_y, target_x))

    def pair(step: tf.Tensor) -> Any:
        ours = _shuffled_rows(step, len(source_x), batch_size, [seed, 0])
        theirs = _shuffled_rows(step, len(target_x), batch_size, [seed, 1])
        return (tf.gather(source_x, ours), tf.gather(target_x, theirs)), tf.gather(source_y, ours)

    return tf.data.Dataset.counter().map(pair).prefetch(2)


def _shuffled_rows(step: tf.Tensor, count: int, batch_size: int, seed: list[int]) -> tf.Tensor:
    """The rows of batch `step`, when `count` rows are gone through again and again, each time in a new order."""
    places = step * batch_size + tf.range(batch_size, dtype=tf.int64)
    rounds = places // count
    seeds = tf.stack([*(tf.fill([batch_size], tf.constant(part, tf.int64)) for part in seed), rounds], axis=1)
    return tf.raw_ops.RandomIndexShuffle(index=places % count, seed=seeds, max_index=tf.constant(count - 1, tf.int64))


def check_alike(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Raise a ValueError unless examples of both domains have one shape."""
    if tuple(source[1:]) != tuple(target[1:]):
        raise ValueError(
            f"Examples of both domains go through one network, so they need one shape; those of the source have "
            f"{tuple(source[1:])}, those of the target {tuple(target[1:])}. Resize one of them."
        )
