"""The statistics that batch normalization uses within PureModel, and that Keras' own behavior is restored."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import in_float64, numbers

from meta_keras.functional import PureModel

EPSILON = 0.01
MEAN, VARIANCE = np.array([0.5, -1.0, 2.0]), np.array([2.0, 0.5, 1.0])


@pytest.fixture(autouse=True)
def precise():
    in_float64()


def normalising(*more, trainable=True):
    """A model with batch norm, its pure form and a batch; the moving averages differ from those of the batch."""
    normalise = layers.BatchNormalization(momentum=0.75, epsilon=EPSILON, trainable=trainable)
    pure = PureModel(keras.Sequential([keras.Input((3,)), normalise, *more]))
    normalise.moving_mean.assign(MEAN)
    normalise.moving_variance.assign(VARIANCE)
    return normalise, pure, tf.constant(numbers(6, 3))


def normalised(x, mean, variance):
    return (x - mean) / np.sqrt(variance + EPSILON)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(
    ("statistics", "by_batch", "part_kept"), [("batch", True, 0.75), ("keep", True, 0.0), ("moving", False, 1.0)]
)
def test_statistics_say_what_is_gone_by_and_what_is_kept(statistics, by_batch, part_kept, graph, training):
    _, pure, x = normalising()

    def answer(weights, x):
        return tuple(pure(weights, x, training=training, statistics=statistics))

    outputs, weights, _ = (tf.function(answer) if graph else answer)(pure.weights(), x)
    of_batch = x.numpy().mean(axis=0), x.numpy().var(axis=0)
    wanted = normalised(x.numpy(), *(of_batch if by_batch else (MEAN, VARIANCE)))
    np.testing.assert_allclose(outputs, wanted, rtol=1e-12, atol=1e-12)
    for kept, before, now in zip(weights.state, (MEAN, VARIANCE), of_batch, strict=True):
        np.testing.assert_allclose(kept, part_kept * before + (1 - part_kept) * now, rtol=1e-12)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_without_a_word_on_statistics_training_decides(training):
    _, pure, x = normalising()
    given = pure(pure.weights(), x, training=training)
    wanted = pure(pure.weights(), x, training=training, statistics="batch" if training else "moving")
    for one, other in zip(tf.nest.flatten(tuple(given)), tf.nest.flatten(tuple(wanted)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("statistics", [None, "batch", "moving", "keep"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_frozen_batch_norm_goes_by_its_moving_averages_and_keeps_them(training, statistics):
    _, pure, x = normalising(layers.Dense(2), trainable=False)
    state = pure.weights().state
    kernel, bias = pure.weights().parameters
    outputs, weights, _ = pure(pure.weights(), x, training=training, statistics=statistics)
    wanted = normalised(x.numpy(), MEAN, VARIANCE) @ kernel.numpy() + bias.numpy()
    np.testing.assert_allclose(outputs, wanted, rtol=1e-12, atol=1e-12)
    for now, then in zip(weights.state, state, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_was_kept_of_one_batch_another_goes_by():
    _, pure, x = normalising()
    kept = pure(pure.weights(), x, statistics="keep").weights
    other = tf.constant(numbers(2, 3, seed=1))
    outputs = pure(kept, other, statistics="moving").outputs
    wanted = normalised(other.numpy(), x.numpy().mean(axis=0), x.numpy().var(axis=0))
    np.testing.assert_allclose(outputs, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_go_through_what_was_kept():
    _, pure, x = normalising()
    other = tf.constant(numbers(2, 3, seed=1))

    def total(x):
        kept = pure(pure.weights(), x, statistics="keep").weights
        return tf.reduce_sum(pure(kept, other, statistics="moving").outputs ** 3)

    with tf.GradientTape() as tape:
        tape.watch(x)
        sum_of_cubes = total(x)
    ahead, h = numbers(6, 3, seed=2), 1e-5
    slope = float(total(x + h * ahead) - total(x - h * ahead)) / (2 * h)
    assert float(tf.reduce_sum(tape.gradient(sum_of_cubes, x) * ahead)) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("statistics", ["batch", "moving", "keep"])
def test_dropout_listens_to_training_alone(statistics):
    _, pure, x = normalising(layers.Dropout(0.5))
    still, moving = (
        pure(pure.weights(), x, training=training, statistics=statistics).outputs.numpy() for training in (False, True)
    )
    assert still.all() and not moving.all()


class Fails(layers.Layer):
    fails = False

    def call(self, inputs):
        if self.fails:
            raise RuntimeError("This layer fails.")
        return inputs


@pytest.mark.parametrize("statistics", [None, "batch", "moving", "keep"])
@pytest.mark.parametrize("fails", [False, True], ids=["well", "with an error"])
def test_keras_has_its_own_back_however_the_call_ends(fails, statistics):
    failing = Fails()
    normalise, pure, x = normalising(failing)
    failing.fails = fails
    before = layers.BatchNormalization.call, tf.nn.moments
    try:
        pure(pure.weights(), x, statistics=statistics)
    except RuntimeError:
        assert fails
    assert (layers.BatchNormalization.call, tf.nn.moments) == before
    assert normalise.momentum == 0.75
    np.testing.assert_array_equal(normalise.moving_mean, MEAN)


def test_momentum_is_back_where_normalising_itself_fails():
    normalise, pure, x = normalising()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        pure(pure.weights(), tf.ones((2, 7), tf.float64), statistics="keep")
    assert normalise.momentum == 0.75
    assert pure(pure.weights(), x).outputs.shape == x.shape
