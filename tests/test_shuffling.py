"""Endless batches of shuffled rows."""

import numpy as np
import pytest
import tensorflow as tf

from meta_keras.tasks.shuffling import shuffled_rows


def rows(count, batch_size, batches, seed=(0, 0)):
    found = [shuffled_rows(tf.constant(step, tf.int64), count, batch_size, list(seed)) for step in range(batches)]
    return np.concatenate(found)


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (5, 5), (3, 8), (1, 2)])
def test_every_pass_has_every_row_once(count, batch_size):
    passes = rows(count, batch_size, 4 * count)[: 4 * count].reshape(-1, count)
    assert all(sorted(one) == list(range(count)) for one in passes)


def test_passes_and_seeds_have_orders_of_their_own():
    first, second = rows(20, 10, 4).reshape(2, 20)
    assert list(first) != list(second)
    assert list(first) == list(rows(20, 10, 2)) != list(rows(20, 10, 2, seed=(0, 1)))
