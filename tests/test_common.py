"""What the measurements of several chapters share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk
from benchmarks.common import (
    AdjustableRate,
    RatePerNetwork,
    begin_again,
    best_inside,
    climb,
    first,
    halved,
    unit,
)


def test_a_grid_is_extended_until_the_best_value_is_inside():
    asked = []

    def measure(value):
        asked.append(value)
        return -abs(np.log2(value) - 5)  # best at 32

    assert best_inside(measure, (1, 2, 4)) == 32
    assert asked == [1, 2, 4, 8, 16, 32, 64]
    assert best_inside(lambda value: -abs(np.log(value * 27)), (1, 3, 9)) == 1 / 27
    assert best_inside(lambda value: -abs(value - 2), (1, 2, 4)) == 2


def test_networks_side_by_side_have_their_own_learning_rates():
    step_decay = keras.optimizers.schedules.ExponentialDecay(1.0, decay_steps=2, decay_rate=0.5, staircase=True)
    for schedule, factors in ((None, (1, 1, 1)), (step_decay, (1, 1, 0.5))):
        rates = RatePerNetwork([0.1, 0.2], schedule)
        found = [rates(step).numpy().ravel() for step in range(3)]
        np.testing.assert_allclose(found, np.outer(factors, [0.1, 0.2]), rtol=1e-6)
    weights = keras.Variable(tf.zeros((2, 1, 1, 3)))
    keras.optimizers.SGD(RatePerNetwork([0.1, 0.2])).apply([tf.ones((2, 1, 1, 3))], [weights])
    np.testing.assert_allclose(weights[:, 0, 0, 0], [-0.1, -0.2], rtol=1e-6)


def test_images_are_halved_by_the_mean_of_blocks():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(halved(images)[0, ..., 0], [[2, 4], [10, 12]])  # rounded down
    assert halved(images).dtype == np.uint8


def test_rows_have_length_1_and_rows_of_zeros_stay():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_the_first_tasks_are_those_of_the_batch():
    episode = next(iter(mk.Sinusoids(shots=2, queries=3, meta_batch=4)))
    for part, whole in zip(first(episode, 2), episode, strict=True):
        np.testing.assert_array_equal(part, whole[:2])


def test_a_climb_ends_where_no_neighbor_is_better():
    tried = []

    def measure(point):
        tried.append(point)
        return -abs(np.log2(point[0] / 8)) - abs(np.log(point[1] / 9))

    assert climb(measure, (1.0, 1.0), factors=(2, 3)) == pytest.approx((8, 9))
    assert {round(a, 6) for a, _ in tried} >= {4, 8, 16} and len(set(tried)) == len(tried)


def test_a_coordinate_with_the_factor_1_stays():
    assert climb(lambda point: point[0] - abs(point[1] - 4), (1.0, 1.0), factors=(1, 2)) == (1, 4)


def test_a_learner_begins_again_from_new_weights_and_with_an_empty_optimizer():
    def make():
        return mk.networks.mlp(1, hidden=(3,))

    rate = AdjustableRate(0.01)
    learner = mk.MetaLearner(network=make(), rule=mk.rules.GradientDescent(rate))
    learner.compile(keras.optimizers.Adam(0.01), loss="mse", run_eagerly=True)
    found = []
    for inner in (0.1, 0.1, 0.2):
        rate.rate.assign(inner)
        begin_again(learner, make, seed=3)
        assert int(learner.batches_seen) == int(learner.optimizer.iterations) == 0
        learner.optimizer.learning_rate.assign(0.01)
        learner.fit(mk.Sinusoids(shots=2, queries=2, meta_batch=2), steps_per_epoch=2, verbose=0)
        found.append(learner.network.get_weights())
    first, again, faster = found
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], faster[0])
