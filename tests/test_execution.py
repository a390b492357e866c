"""Several steps as one XLA program reach the same result as single steps, wherever the data end."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras import MetaLearner, Sinusoids, networks
from meta_keras.execution import Stacks
from meta_keras.rules import GradientDescent


def learner_of(together):
    keras.utils.set_random_seed(0)
    learner = MetaLearner(network=networks.mlp(1, hidden=()), rule=GradientDescent(0.01))
    learner.compile("adam", "mse", metrics=["mae"], steps_per_execution=together, jit_compile=together > 1)
    return learner


def trained(learner, tasks, **arguments):
    """The weights and the history after two epochs, and how many batches the callbacks were informed about."""
    calls = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: calls.append((batch, dict(logs))))
    history = learner.fit(tasks, epochs=2, verbose=0, callbacks=[watch], **arguments).history
    return [variable.numpy() for variable in learner.variables], history, calls


@functools.cache
def curves(batches=None):
    tasks = Sinusoids(shots=4, queries=3, meta_batch=2)
    return tasks if batches is None else tasks.take(batches)


def assert_the_same(one, other):
    for here, there in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    for name in one[1]:
        np.testing.assert_allclose(one[1][name], other[1][name], rtol=1e-4)


def test_an_execution_is_so_many_steps_and_callbacks_see_the_last_one():
    together = trained(learner_of(3), curves(), steps_per_epoch=6)
    assert_the_same(together, trained(learner_of(1), curves(), steps_per_epoch=6))
    calls = together[2]
    assert [batch for batch, _ in calls] == [2, 5, 2, 5]
    assert all({"loss", "mae"} <= set(logs) for _, logs in calls)


@pytest.mark.slow
def test_no_batch_is_lost_where_the_data_end_in_mid_execution():
    together, alone = learner_of(3), learner_of(1)
    for batches in (6, 7, 8, 2):
        assert_the_same(trained(together, curves(batches)), trained(alone, curves(batches)))


def test_batches_of_varying_shapes_are_taken_one_by_one():
    def uneven():
        def shortened(number, episode):
            return tf.nest.map_structure(lambda part: part[: 2 - tf.cast(number % 2, tf.int32)], episode)

        return curves(4).enumerate().map(shortened)

    assert_the_same(trained(learner_of(2), uneven()), trained(learner_of(1), uneven()))


def test_training_on_one_batch_works_beside_it():
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.01))
    learner.compile("sgd", "mse", steps_per_execution=3)
    *inputs, query_y = next(iter(curves()))
    before = learner.network.get_weights()
    assert np.isfinite(learner.train_on_batch(tuple(inputs), query_y))
    assert not np.array_equal(before[0], learner.network.get_weights()[0])


def numbered(batches=None):
    """Batches that are their own numbers, and a list of those that were drawn."""
    drawn = []

    def number(n):
        drawn.append(int(n))
        return np.int64(n)

    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False  # which would draw some in advance
    data = tf.data.Dataset.range(tf.int64.max if batches is None else batches).with_options(options)
    data = data.map(lambda n: tf.py_function(number, [n], tf.int64))
    return data.map(lambda n: (tf.ensure_shape(n, ()), 10 * tf.ensure_shape(n, ()))), drawn


def numbers(parts):
    """The numbers in parts of stacks, after a check that both components belong together."""
    found = []
    for begin, end, (ones, tens) in parts:
        np.testing.assert_array_equal(10 * ones, tens)
        found += ones[begin:end].numpy().tolist()
    return found


def test_stacks_give_every_batch_once_in_calls_of_any_size():
    data, drawn = numbered()
    stacks = Stacks(data, most=4, steps=7, epochs=2)
    assert [numbers(stacks.take("run", wanted)) for wanted in (4, 3, 4, 3)] == [
        [0, 1, 2, 3],
        [4, 5, 6],
        [7, 8, 9, 10],
        [11, 12, 13],
    ]
    assert drawn == list(range(14))  # and none that was not asked for


def test_stacks_end_with_the_data_and_begin_again_with_the_next_run():
    stacks = Stacks(numbered(5)[0], most=3, steps=None, epochs=2)
    for run in ("first", "second"):
        assert [numbers(stacks.take(run, 3)) for _ in range(2)] == [[0, 1, 2], [3, 4]]
        with pytest.raises(tf.errors.OutOfRangeError):
            numbers(stacks.take(run, 3))
    assert numbers(stacks.take("third", 2)) == [0, 1]
    assert numbers(stacks.take("fourth", 2)) == [0, 1]


def test_stacks_of_few_batches_have_the_same_shape_and_do_not_wait_for_later_epochs():
    data, drawn = numbered()
    ((begin, end, (ones, _)),) = Stacks(data, most=9, steps=2, epochs=9).take("run", 2)
    assert len(drawn) <= 6  # those of this epoch, of the next one, and the ones that are being drawn for a third
    assert (begin, end, ones.numpy().tolist()) == (0, 2, [0, 1, *[0] * 7]) and ones.shape == (9,)


def test_batches_that_are_left_after_an_epoch_are_used_in_the_next_one():
    assert_the_same(*(trained(learner_of(together), curves(), steps_per_epoch=4) for together in (3, 1)))


def test_batches_are_released_after_training_and_after_an_error():
    learner = learner_of(2)
    learner.fit(curves(), steps_per_epoch=2, verbose=0)
    assert learner._stacks is None

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise KeyError("stop")

    with pytest.raises(KeyError):
        learner.fit(curves(), steps_per_epoch=2, verbose=0, callbacks=[Stop()])
    assert learner._stacks is None
