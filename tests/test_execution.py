"""Several steps as one XLA program reach the same result as single steps, wherever the data end."""

import contextlib
import functools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras import MetaLearner, Sinusoids, networks
from meta_keras.execution import MOST_SHORT_STEPS, MOST_STEPS, Stacks, best_steps, counts_exactly
from meta_keras.rules import GradientDescent


def learner_of(together):
    keras.utils.set_random_seed(0)
    learner = MetaLearner(network=networks.mlp(1, hidden=()), rule=GradientDescent(0.01))
    learner.compile("adam", "mse", metrics=["mae"], steps_per_execution=together, jit_compile=together != 1)
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


@pytest.mark.parametrize(("batches", "steps", "together"), [(8, 4, 2), (10, 4, 3), (6, 4, 4), (6, 6, 4), (9, 3, 3)])
def test_finite_data_begin_again_when_all_of_them_were_used(batches, steps, together):
    several, one = (trained(learner_of(n), curves(batches), steps_per_epoch=steps) for n in (together, 1))
    assert_the_same(several, one)


def test_by_default_all_of_finite_data_are_used_however_many_steps_an_epoch_has():
    def losses_with(together):
        keras.utils.set_random_seed(0)
        learner = MetaLearner(network=networks.mlp(1, hidden=()), rule=GradientDescent(0.01))
        learner.compile(keras.optimizers.SGD(0.0), "mse", steps_per_execution=together, jit_compile=True)
        return learner.fit(curves(12), steps_per_epoch=4, epochs=3, verbose=0).history["loss"]

    wanted = losses_with(1)
    np.testing.assert_allclose(losses_with("auto"), wanted, rtol=1e-5)
    assert len(set(wanted)) == 3


def test_steps_per_call_that_would_lose_batches_are_refused():
    with pytest.raises(ValueError, match="There are 8 batches.*steps_per_epoch=4 must be a multiple of .*execution=3"):
        learner_of(3).fit(curves(8), steps_per_epoch=4, epochs=3, verbose=0)


@pytest.mark.parametrize("most", range(1, 6))
def test_counts_are_exact_where_a_simulation_of_keras_uses_every_batch(most):
    def used(per_call, steps, epochs, known):
        """The batches that are used in each epoch, by the arithmetic of Keras; `per_call` batches count for a call."""
        found, seen, place = [], 0, 0
        for _ in range(epochs):
            begin = place
            for step in range(0, steps, per_call):
                if seen >= known:
                    break
                taken = min(per_call, steps - step, known - place)
                place, seen = place + taken, seen + per_call
            found.append((begin, place))
            if seen >= known:
                place = seen = 0
        return found

    exact = [
        (steps, epochs, known)
        for steps in range(1, 8)
        for epochs in range(1, 5)
        for known in range(1, 20)
        if counts_exactly(most, steps, epochs, known)
    ]
    assert len(exact) > 80
    assert all(used(most, *case) == used(1, *case) for case in exact)


def steps_per_call(learner, tasks, **arguments):
    """Training that ends before its first step: only the steps per call are decided."""

    class DecidedError(Exception):
        pass

    def stop(logs):
        raise DecidedError

    with pytest.raises(DecidedError):
        learner.fit(tasks, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_begin=stop)], **arguments)
    return learner.steps_per_execution


@pytest.mark.parametrize(
    ("batches", "steps", "epochs", "per_call"),
    [
        *((101, None, 1, 250), (101, 101, 1, 250), (1000, 97, 1, 250), (9000, 97, 10, 250)),
        *((1000, 97, 10, 97), (900, 257, 9, 1), (900, 256, 9, 128)),
    ],
)
def test_steps_per_call_divide_those_of_an_epoch_only_where_the_data_end_within_one(batches, steps, epochs, per_call):
    learner = learner_of("auto")
    learner.compile("adam", "mse", jit_compile=True)
    assert steps_per_call(learner, curves(batches), steps_per_epoch=steps, epochs=epochs) == per_call


@pytest.mark.parametrize(("inner", "per_call"), [(5, MOST_SHORT_STEPS), (500, MOST_STEPS)])
def test_many_inner_steps_make_steps_long(inner, per_call):
    rule = GradientDescent(0.01, steps=inner)
    learner = MetaLearner(network=networks.mlp(1), rule=rule, parallel="vectorized")
    learner.compile("sgd", "mse", jit_compile=True)
    assert steps_per_call(learner, curves(), steps_per_epoch=1000) == per_call


class Logged(MetaLearner):
    """A learner with a log of its own."""

    def train_step(self, data):
        return super().train_step(data) | {"norm": tf.norm(self.trainable_variables[0])}


def test_logs_of_a_training_step_of_ones_own_are_kept():
    learner = Logged(network=networks.mlp(1, hidden=()), rule=GradientDescent(0.01))
    learner.compile("sgd", "mse", jit_compile=True)
    history = learner.fit(curves(), steps_per_epoch=2, verbose=0).history
    assert set(history) == {"loss", "norm"} and learner.steps_per_execution == 1


def test_a_callback_may_train_on_a_batch_of_its_own():
    *inputs, answers = next(iter(Sinusoids(shots=4, queries=3, meta_batch=2, seed=9)))

    class Replay(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.train_on_batch(inputs, answers)

    found = []
    for together in ("auto", 1):
        keras.utils.set_random_seed(0)
        learner = MetaLearner(network=networks.mlp(1, hidden=()), rule=GradientDescent(0.01))
        learner.compile("sgd", "mse", steps_per_execution=together, jit_compile=True)
        losses = learner.fit(curves(), steps_per_epoch=4, epochs=2, verbose=0, callbacks=[Replay()]).history["loss"]
        found.append([*losses, int(learner.batches_seen), *learner.network.get_weights()[0].ravel()])
    np.testing.assert_allclose(*found, rtol=1e-4)
    assert found[0][2] == 10


@pytest.mark.parametrize(("frequency", "steps"), [("epoch", MOST_STEPS), (2, 1)])
def test_callbacks_that_save_every_few_batches_count_batches(frequency, steps, tmp_path):
    path = str(tmp_path / "{batch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_freq=frequency, save_weights_only=True)
    assert best_steps(curves().element_spec, [save], work=10**6) == steps


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


on_both = pytest.mark.parametrize("device", [None, "CPU:0"])  # drawn ahead by tf.data, and by a thread that copies


@on_both
def test_the_next_stack_is_drawn_while_one_is_used(device):
    data, drawn = numbered()
    stacks = Stacks(data, most=4, steps=None, epochs=1, device=device)
    for _ in stacks.take("run", 4):
        end = time.monotonic() + 20
        while len(drawn) < 8 and time.monotonic() < end:
            time.sleep(0.01)
    assert drawn[:8] == list(range(8))
    assert numbers(stacks.take("run", 4)) == [4, 5, 6, 7]


@on_both
def test_an_error_while_the_next_stack_is_drawn_is_raised_where_it_is_asked_for(device):
    def below_four(n):
        with tf.control_dependencies([tf.debugging.assert_less(n, tf.constant(4, tf.int64))]):
            return n, 10 * n

    stacks = Stacks(tf.data.Dataset.range(9).map(below_four), most=2, steps=None, epochs=1, device=device)
    assert [numbers(stacks.take("run", 2)) for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(tf.errors.InvalidArgumentError):
        numbers(stacks.take("run", 2))


@on_both
def test_nothing_is_drawn_after_the_end(device):
    data, drawn = numbered()
    slow = data.map(lambda *parts: tf.py_function(lambda *p: time.sleep(0.03) or p, parts, [tf.int64] * 2))
    slow = slow.map(lambda *parts: tuple(tf.ensure_shape(part, ()) for part in parts))
    stacks = Stacks(slow, most=20, steps=None, epochs=1, device=device)
    assert len(numbers(stacks.take("run", 20))) == 20
    stacks.close()
    time.sleep(0.1)
    before = len(drawn)
    time.sleep(0.3)
    assert len(drawn) == before


def test_a_run_begins_after_what_was_being_drawn_for_the_one_before():
    def slowly():
        for n in range(99):
            time.sleep(0.03)
            yield n, 10 * n

    source = slowly()
    spec = (tf.TensorSpec((), tf.int64),) * 2
    data = tf.data.Dataset.from_generator(lambda: source, output_signature=spec)
    stacks = Stacks(data, most=3, steps=None, epochs=1, device="CPU:0")
    first, second = (numbers(stacks.take(run, 3)) for run in ("first", "second"))
    assert first == [0, 1, 2] and second[0] > 5 and second == list(range(second[0], second[0] + 3))


@on_both
def test_a_generator_can_be_used_again_after_a_training_that_ended_early(device, monkeypatch):
    def slowly():
        for episode in curves().as_numpy_iterator():
            time.sleep(0.02)
            yield tuple(episode)

    source = slowly()
    spec = curves().element_spec
    tasks = tf.data.Dataset.from_generator(lambda: source, output_signature=tuple(spec))
    tasks = tasks.map(lambda *parts: type(spec)(*parts))
    monkeypatch.setattr("meta_keras.stepping.on_gpu", lambda: device is not None)
    learner = learner_of(3)
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: setattr(learner, "stop_training", True))
    for _ in range(2):
        learner.fit(tasks, steps_per_epoch=3, epochs=9, verbose=0, callbacks=[stop])
    assert int(learner.batches_seen.numpy()) == 6


def test_stacks_end_with_the_data_and_begin_again_with_the_next_run():
    stacks = Stacks(numbered(5)[0], most=3, steps=None, epochs=2)
    for run in ("first", "second"):
        assert [numbers(stacks.take(run, 3)) for _ in range(2)] == [[0, 1, 2], [3, 4]]
        with pytest.raises(tf.errors.OutOfRangeError):
            numbers(stacks.take(run, 3))
    assert numbers(stacks.take("third", 2)) == [0, 1]
    assert numbers(stacks.take("fourth", 2)) == [0, 1]


def test_an_epoch_after_one_that_ended_with_the_data_begins_them_again():
    stacks = Stacks(numbered(5)[0], most=3, steps=3, epochs=4)
    assert [numbers(stacks.take("run", 3, begins_epoch=True)) for _ in range(3)] == [[0, 1, 2], [3, 4], [0, 1, 2]]
    assert numbers(stacks.take("run", 3)) == [3, 4]
    with pytest.raises(tf.errors.OutOfRangeError):  # within an epoch, it ends
        numbers(stacks.take("run", 3))


@pytest.mark.parametrize("together", ["auto", *(pytest.param(n, marks=pytest.mark.slow) for n in (7, 3))])
def test_data_of_unknown_size_are_used_again_in_the_epoch_after_their_end(together):
    seen = []
    learner = learner_of(together)
    tasks = curves(20).filter(lambda *_: True)
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(int(learner.batches_seen.numpy())))
    history = learner.fit(tasks, steps_per_epoch=7, epochs=5, verbose=0, callbacks=[watch]).history
    assert seen == [7, 14, 20, 27, 34] and min(history["loss"]) > 0


def test_epochs_that_are_skipped_use_no_data():
    learner = learner_of(4)
    learner.fit(curves(10), steps_per_epoch=6, initial_epoch=9, epochs=10, verbose=0)
    assert int(learner.batches_seen.numpy()) == 6


@pytest.mark.parametrize("xla", [True, False])
def test_an_epoch_has_as_many_steps_as_were_asked_for(xla):
    learner = learner_of(1)
    learner.compile("sgd", "mse", steps_per_execution=4, jit_compile=xla)
    with (
        contextlib.nullcontext() if xla else pytest.raises(ValueError, match="6, which is no multiple of steps_per_exe")
    ):
        learner.fit(curves(), steps_per_epoch=6, verbose=0)
        assert int(learner.batches_seen.numpy()) == 6
    learner.fit(curves(), steps_per_epoch=8, verbose=0)
    assert int(learner.batches_seen.numpy()) == (14 if xla else 8)


def test_metrics_of_ones_own_are_in_the_logs():
    class Own(MetaLearner):
        def compute_metrics(self, *arguments, **more):
            return super().compute_metrics(*arguments, **more) | {"own": tf.constant(2.0)}

    learner = Own(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.1))
    learner.compile("sgd", "mse")
    assert learner.fit(curves(), steps_per_epoch=6, verbose=0).history["own"] == [2.0]


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
