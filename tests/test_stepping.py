"""Steps are counted over fits, files and compilations, several run per call, and a fault is never ignored."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, FewShot, MetaLearner, Sinusoids, networks
from meta_keras.execution import MOST_SHORT_STEPS, MOST_STEPS, Steps, best_steps
from meta_keras.rules import GradientDescent, Prototypes


@functools.cache
def curves(**more):
    return Sinusoids(shots=4, queries=3, meta_batch=2, **more)


def learner_of(*inner, optimizer="sgd", parallel="auto", **compiled):
    keras.utils.set_random_seed(2)
    network = keras.Sequential([keras.Input((1,)), *inner, layers.Dense(1, "tanh")])
    learner = MetaLearner(network=network, rule=GradientDescent(0.05), parallel=parallel)
    learner.compile(optimizer, "mse", **compiled)
    return learner


def same(one, other, tolerance=1e-6):
    for here, there in zip(one.network.get_weights(), other.network.get_weights(), strict=True):
        np.testing.assert_allclose(here, there, rtol=tolerance, atol=tolerance)


def doubled(episode):
    return episode._replace(support_y=2 * episode.support_y, query_y=2 * episode.query_y)


SOURCES = {
    "tasks": curves,
    "mapped": lambda: curves().map(doubled),
    "mapped twice": lambda: curves().map(doubled).map(doubled, num_parallel_calls=2),
    "prefetched": lambda: curves().map(doubled).prefetch(3),
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_a_second_fit_sees_the_next_batches_of_any_endless_dataset(source):
    whole, parts = (learner_of(jit_compile=source == "tasks") for _ in range(2))
    whole.fit(SOURCES[source](), steps_per_epoch=5, verbose=0)
    for steps in (2, 3):
        parts.fit(SOURCES[source](), steps_per_epoch=steps, verbose=0)
    same(whole, parts)
    assert int(parts.batches_seen) == 5


def test_compiling_again_does_not_start_over():
    whole, parts = (learner_of(jit_compile=False) for _ in range(2))
    whole.fit(curves(), steps_per_epoch=4, verbose=0)
    for _ in range(2):
        parts.fit(curves(), steps_per_epoch=2, verbose=0)
        parts.compile("sgd", "mse", jit_compile=False)
    same(whole, parts)


def test_accumulated_gradients_count_every_batch():
    learner = learner_of(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), jit_compile=False)
    learner.fit(curves(), steps_per_epoch=3, verbose=0)
    assert int(learner.batches_seen) == 3


@pytest.mark.slow
@pytest.mark.parametrize("save", [False, True], ids=["weights", "whole"])
def test_dropout_goes_on_from_a_file_as_if_there_had_been_none(save, tmp_path):
    through, stopped = (learner_of(layers.Dropout(0.5, seed=1)) for _ in range(2))
    through.fit(curves(), steps_per_epoch=4, verbose=0)
    stopped.fit(curves(), steps_per_epoch=2, verbose=0)
    file = str(tmp_path / ("learner.keras" if save else "learner.weights.h5"))
    stopped.save(file) if save else stopped.save_weights(file)
    resumed = keras.models.load_model(file) if save else learner_of(layers.Dropout(0.5, seed=1))
    if not save:
        resumed.load_weights(file)
    resumed.fit(curves(), steps_per_epoch=2, verbose=0)
    same(through, resumed)


def test_a_file_without_the_states_of_generators_still_loads(tmp_path, monkeypatch):
    learner = learner_of(layers.Dropout(0.5, seed=1))
    monkeypatch.setattr(MetaLearner, "save_own_variables", keras.Model.save_own_variables)
    learner.save_weights(tmp_path / "old.weights.h5")
    monkeypatch.undo()
    learner.load_weights(tmp_path / "old.weights.h5")


@pytest.mark.parametrize("frequency", [7, 1])
def test_a_backup_that_cannot_be_resumed_exactly_is_refused(frequency, tmp_path):
    backup = keras.callbacks.BackupAndRestore(str(tmp_path), save_freq=frequency)
    with pytest.raises(ValueError, match=f'save_freq={frequency}.*would repeat the steps.*Use save_freq="epoch"'):
        learner_of().fit(curves(), steps_per_epoch=2, verbose=0, callbacks=[backup])


def test_a_backup_of_finite_data_that_end_within_an_epoch_is_refused(tmp_path):
    def fit(tasks):
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        return learner_of().fit(tasks, steps_per_epoch=4, epochs=2, verbose=0, callbacks=[backup])

    for tasks in (curves().take(12), curves().filter(lambda *_: True)):
        with pytest.raises(ValueError, match=r"cannot resume exactly where an epoch of 4 .*, or repeat\(\) the tasks"):
            fit(tasks)
    fit(curves().take(4))


@pytest.mark.slow
@pytest.mark.parametrize("again", [lambda tasks: tasks, lambda tasks: tasks.take(12).repeat()])
def test_a_backup_of_endless_data_is_accepted(again, tmp_path):
    backup = keras.callbacks.BackupAndRestore(str(tmp_path))
    learner_of().fit(again(curves()), steps_per_epoch=4, epochs=2, verbose=0, callbacks=[backup])


def test_train_on_batch_says_that_a_step_was_not_taken_and_then_learns_again():
    learner = learner_of(jit_compile=False)
    *inputs, query_y = next(iter(curves()))
    before = learner.network.get_weights()
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        learner.train_on_batch(tuple(inputs), 1e30 * tf.ones_like(query_y))
    assert all(np.array_equal(a, b) for a, b in zip(learner.network.get_weights(), before, strict=True))
    assert np.isfinite(learner.train_on_batch(tuple(inputs), query_y))
    assert not np.array_equal(learner.network.get_weights()[0], before[0]) and int(learner.batches_seen) == 1


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
def test_sample_weights_are_never_ignored(method):
    learner = learner_of(jit_compile=False)
    *inputs, query_y = next(iter(curves()))
    with pytest.raises(ValueError, match="weighs all queries alike; leave sample_weight out"):
        getattr(learner, method)(tuple(inputs), query_y, sample_weight=np.ones((2, 3)))


def test_evaluating_on_an_infinite_loss_is_an_error_and_not_an_accuracy():
    learner = learner_of(jit_compile=False)
    bad = curves().map(lambda e: e._replace(query_y=1e30 * tf.ones_like(e.query_y)))
    with pytest.raises(FloatingPointError, match="loss of these tasks is inf, so its metrics are meaningless"):
        learner.evaluate(bad, steps=1, verbose=0)


# How many steps run per call


class Count(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.ends, self.epochs = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


class EveryBatch(Count):
    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(batch)


def test_by_default_an_epoch_has_exactly_as_many_steps_as_asked_for():
    fast = learner_of(metrics=["mae"])
    slow = learner_of(metrics=["mae"], steps_per_execution=1, jit_compile=False)
    before = 0
    for steps in (1, 50, 253):
        histories = [each.fit(curves(), steps_per_epoch=steps, epochs=2, verbose=0).history for each in (fast, slow)]
        assert fast.steps_per_execution == MOST_SHORT_STEPS and slow.steps_per_execution == 1
        before += 2 * steps
        assert int(fast.batches_seen) == int(fast.optimizer.iterations) == before
        assert histories[0].keys() == histories[1].keys()
        for name, values in histories[0].items():
            np.testing.assert_allclose(values, histories[1][name], rtol=1e-3)
        same(fast, slow, 1e-4)


def test_a_callback_that_asks_for_every_batch_gets_every_batch():
    learner, watch = learner_of(), EveryBatch()
    learner.fit(curves(), steps_per_epoch=4, verbose=0, callbacks=[watch])
    assert watch.ends == [0, 1, 2, 3] and learner.steps_per_execution == 1
    learner.fit(curves(), steps_per_epoch=4, verbose=0, callbacks=[Count()])
    assert learner.steps_per_execution == MOST_SHORT_STEPS and int(learner.batches_seen) == 8


def test_the_last_batch_of_an_epoch_has_its_true_number():
    seen = []
    learner = learner_of(steps_per_execution=3)
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    learner.fit(curves(), steps_per_epoch=7, verbose=0, callbacks=[watch])
    assert seen == [2, 5, 6] and int(learner.batches_seen) == 7


def test_the_progress_bar_ends_at_the_number_of_steps(capsys):
    learner_of().fit(curves(), steps_per_epoch=253, verbose=1)
    printed = capsys.readouterr().out
    assert "253/253" in printed and "250/253" in printed


def test_convolutions_and_dropout_run_one_step_per_call():
    for learner in (learner_of(layers.Dropout(0.1)), learner_of(parallel="map")):
        learner.fit(curves(), steps_per_epoch=2, verbose=0)
        assert learner.steps_per_execution == 1


@pytest.mark.slow
def test_validation_and_evaluation_use_as_many_batches_as_asked_for():
    learner, one = learner_of(), learner_of(steps_per_execution=1, jit_compile=False)
    histories = [
        each.fit(curves(), steps_per_epoch=60, validation_data=curves(seed=5), validation_steps=3, verbose=0).history
        for each in (learner, one)
    ]
    np.testing.assert_allclose(histories[0]["val_loss"], histories[1]["val_loss"], rtol=1e-3)
    results = [each.evaluate(curves(seed=6), steps=3, verbose=0) for each in (learner, one)]
    np.testing.assert_allclose(*results, rtol=1e-3)
    assert learner.predict(curves(), steps=3, verbose=0).shape == (6, 3, 1)


def test_large_batches_run_fewer_steps_per_call():
    spec = tf.TensorSpec([32, 100, 1000], tf.float32)  # 12.8 MB
    assert best_steps(spec, [], 1) == 5
    assert best_steps(tf.TensorSpec([2, 2], tf.float32), [], 1) == MOST_SHORT_STEPS
    assert best_steps(tf.TensorSpec([None, 2], tf.float32), [], 1) == 1


@pytest.mark.parametrize(("work", "most"), [(2_500_000, MOST_SHORT_STEPS), (2_500_001, MOST_STEPS)])
def test_calls_have_more_steps_where_few_weights_meet_little_data(work, most):
    assert best_steps((tf.TensorSpec([2, 1], tf.float32), tf.TensorSpec([1], tf.int64)), [], work) == most


def test_callbacks_of_keras_know_that_a_call_may_be_several_steps(tmp_path):
    callbacks = [
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.ModelCheckpoint(tmp_path / "a.weights.h5", save_weights_only=True),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    assert best_steps(tf.TensorSpec([2], tf.float32), callbacks, 10**9) == MOST_STEPS
    assert isinstance(Steps(), keras.callbacks.CallbackList)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "five", None, True])
def test_steps_per_execution_is_auto_or_a_count(wrong):
    with pytest.raises(ValueError, match="steps_per_execution must be an integer of at least 1; got"):
        learner_of(steps_per_execution=wrong)


def test_auto_is_remembered_in_a_file(tmp_path):
    learner = learner_of()
    learner.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert loaded.auto_steps
    loaded.fit(curves(), steps_per_epoch=2, verbose=0)
    assert loaded.steps_per_execution == MOST_SHORT_STEPS


def test_what_auto_means_is_decided_where_a_file_is_loaded(tmp_path, monkeypatch):
    def saved(jit_compile):
        learner = MetaLearner(network=networks.conv4(2, input_shape=(8, 8, 1), filters=2, downsample="stride"))
        learner.compile(jit_compile=jit_compile)
        learner.save(tmp_path / f"{jit_compile}.keras")
        return learner

    monkeypatch.setattr("meta_keras.parallel.on_gpu", lambda: True)
    assert all(saved(setting).jit_compile for setting in ("auto", True))
    monkeypatch.undo()
    loaded = {setting: keras.models.load_model(tmp_path / f"{setting}.keras") for setting in ("auto", True)}
    assert (loaded["auto"].jit_compile, loaded[True].jit_compile) == (False, True)


def test_a_learner_is_not_exported():
    with pytest.raises(ValueError, match=r"Export the model for a task: learner.adapt\(support_x, support_y\).export"):
        learner_of().export("somewhere")


def test_prototypes_run_several_steps_per_call_too():
    pool = ClassPool(np.random.default_rng(0).normal(size=(40, 3)).astype("float32"), np.arange(40) // 5)
    learner = MetaLearner(network=networks.mlp(4, input_shape=(3,)), rule=Prototypes())
    learner.compile("sgd")
    learner.fit(FewShot(pool, 5, 1, 2), steps_per_epoch=60, verbose=0)
    assert learner.parallel == "vectorized" and learner.steps_per_execution == MOST_SHORT_STEPS
    assert int(learner.batches_seen) == 60


@pytest.mark.slow
def test_the_multi_step_loss_counts_batches_and_not_what_an_optimizer_counts():
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.05, 2, multi_step=4))
    learner.compile(keras.optimizers.SGD(0.0, gradient_accumulation_steps=2), "mse")
    learner.fit(curves(), steps_per_epoch=4, verbose=0)
    late = learner.meta_gradients(*one_batch())[2][0]
    learner.compile("sgd", "mse")
    assert float(late) == pytest.approx(float(learner.meta_gradients(*one_batch())[2][0]), rel=1e-5)


def one_batch():
    *inputs, query_y = next(iter(curves(seed=3)))
    return tuple(inputs), query_y


def test_a_frozen_network_with_a_rule_that_learns_nothing_is_not_trained():
    network = networks.mlp(2, input_shape=(3,))
    network.trainable = False
    learner = MetaLearner(network=network, rule=Prototypes())
    learner.compile("sgd")
    pool = ClassPool(np.random.default_rng(0).normal(size=(40, 3)).astype("float32"), np.arange(40) // 5)
    with pytest.raises(ValueError, match="Nothing can be trained"):
        learner.fit(FewShot(pool, 5, 1, 2), steps_per_epoch=1, verbose=0)
    assert np.isfinite(learner.evaluate(FewShot(pool, 5, 1, 2), steps=1, verbose=0)[0])
