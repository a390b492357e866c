"""Endless batches of the rows of an array, each pass in a new order, as functions of the number of the batch."""

import tensorflow as tf


def shuffled_rows(step: tf.Tensor, count: int, batch_size: int, seed: list[int]) -> tf.Tensor:
    """The rows of batch `step`, if `count` rows are iterated over again and again, each time in a new order.

    seed: two integers.
    """
    places = step * batch_size + tf.range(batch_size, dtype=tf.int64)
    passes = places // count
    seeds = tf.stack([*(tf.fill([batch_size], tf.constant(part, tf.int64)) for part in seed), passes], axis=1)
    return tf.raw_ops.RandomIndexShuffle(index=places % count, seed=seeds, max_index=tf.constant(count - 1, tf.int64))
