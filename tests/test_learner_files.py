"""What remains after training: files, backups after a kill, and the experts that `adapt` creates."""

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, FewShot, MetaLearner, Sinusoids
from meta_keras.rules import GradientDescent, LearnedRates, Prototypes

ROOT = Path(__file__).resolve().parents[1]


def learner_of(rule=None, loss="mse", inputs=1, units=1, **compiled):
    model = keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(4, "tanh"), layers.BatchNormalization(), layers.Dense(units)]
    )
    learner = MetaLearner(network=model, rule=rule or GradientDescent(0.05), parallel="map")
    learner.compile(**({"loss": loss, "jit_compile": False} | compiled))
    return learner


@functools.cache
def curves(**more):
    return Sinusoids(shots=4, queries=3, meta_batch=2, **more)


@functools.cache
def classes():
    examples = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    return FewShot(ClassPool(examples, np.arange(24) // 6), ways=3, shots=2, queries=3, meta_batch=2)


def first_task(tasks):
    return [part[0].numpy() for part in next(iter(tasks))]


def values(model):
    variables = [*model.weights, *(model.optimizer.variables if getattr(model, "optimizer", None) else [])]
    return [variable.numpy() for variable in variables]


def same(one, other, tolerance=0.0):
    return len(one) == len(other) and all(
        np.allclose(here, there, rtol=tolerance, atol=tolerance) for here, there in zip(one, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        lambda: GradientDescent(LearnedRates(0.05, "layer-step"), steps=2, evaluation_steps=3, multi_step=10),
        lambda: GradientDescent(LearnedRates(0.05, "step", logarithmic=True), steps=2),
        lambda: GradientDescent(LearnedRates(0.05, "weight"), first_order=True, batch_statistics="support"),
    ],
    ids=["layer-step", "step", "weight"],
)
def test_a_saved_learner_goes_on_as_if_it_had_never_stopped(rule, tmp_path):
    learner = learner_of(rule(), optimizer=keras.optimizers.Adam(0.01), metrics=["mae"])
    learner.fit(curves(), steps_per_epoch=3, verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert same(values(loaded), values(learner)) and loaded.rule.get_config() == learner.rule.get_config()
    assert (loaded.parallel, loaded.jit_compile, loaded.loss.name) == ("map", False, "mean_squared_error")
    rates = [rate.numpy() for rate in loaded.rule.transform.rates]
    assert rates and not all(np.array_equal(rate, np.full_like(rate, 0.05)) for rate in rates)
    histories = [each.fit(curves(), steps_per_epoch=3, verbose=0).history for each in (loaded, learner)]
    assert set(histories[0]) == set(histories[1]) == {"loss", "mae"}
    assert all(histories[0][name] == pytest.approx(histories[1][name], rel=1e-5) for name in histories[0])
    assert same(values(loaded), values(learner), 1e-5)


def test_a_learner_compiled_with_the_default_loss_loads_with_it(tmp_path):
    learner = learner_of(Prototypes(), loss=None, inputs=3)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    reports = [each.evaluate(classes(), steps=2, verbose=0, return_dict=True) for each in (loaded, learner)]
    assert reports[0] == pytest.approx(reports[1], rel=1e-6) and set(reports[0]) == {"loss", "accuracy"}


def test_the_model_of_d3_survives_a_file(tmp_path):
    learner = MetaLearner(2)
    learner.save(tmp_path / "d3.keras")
    loaded = keras.models.load_model(tmp_path / "d3.keras")
    pictures = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(loaded(pictures), learner(pictures))


def test_weights_survive_a_file(tmp_path):
    inputs = tuple(next(iter(curves())))[:3]
    trained, other = (learner_of(GradientDescent(LearnedRates(0.05, "layer"))) for _ in range(2))
    trained.fit(curves(), steps_per_epoch=3, verbose=0)
    trained.save_weights(tmp_path / "learner.weights.h5")
    assert not np.allclose(other(inputs), trained(inputs))
    other.load_weights(tmp_path / "learner.weights.h5")
    np.testing.assert_array_equal(other(inputs), trained(inputs))


BACKED_UP = """
import os, signal, sys
import keras
import tensorflow as tf
import test_learner_files as here

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # as tests/conftest.py does

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

here.train_with_backup(sys.argv[1], Kill())
"""


def train_with_backup(folder, *callbacks):
    """Three epochs of three steps, in which the moving averages and Adam accumulate state."""
    keras.utils.set_random_seed(3)
    learner = learner_of(optimizer=keras.optimizers.Adam(0.01))
    if folder is not None:
        callbacks = [keras.callbacks.BackupAndRestore(str(folder), save_freq="epoch"), *callbacks]
    history = learner.fit(curves(), steps_per_epoch=3, epochs=3, verbose=0, callbacks=[*callbacks])
    return learner, history.epoch


@pytest.mark.slow
def test_a_training_killed_in_an_epoch_and_resumed_ends_at_the_weights_of_one_that_ran_through(tmp_path):
    paths = [str(ROOT), str(ROOT / "tests")]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{BACKED_UP}", str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed, epochs = train_with_backup(tmp_path)
    through, all_epochs = train_with_backup(None)
    assert (epochs, all_epochs) == ([1, 2], [0, 1, 2])
    assert int(resumed.optimizer.iterations) == 9 and same(values(resumed), values(through), 1e-6)


@pytest.mark.parametrize("statistics", ["support", "moving"])
def test_an_expert_of_gradient_descent_answers_as_the_learner(statistics):
    learner = learner_of(GradientDescent(0.1, steps=2, batch_statistics=statistics))
    learner.fit(curves(), steps_per_epoch=2, verbose=0)
    support_x, support_y, query_x, _ = first_task(curves(seed=1))
    before = values(learner)
    expert = learner.adapt(support_x, support_y)
    wanted = learner((support_x[None], support_y[None], query_x[None]))[0]
    np.testing.assert_allclose(expert(query_x), wanted, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expert(query_x), learner.network(query_x), atol=1e-3)
    assert same(values(learner), before)


def test_an_expert_of_a_transductive_rule_goes_by_its_support_set():
    learner = learner_of(GradientDescent(0.1, batch_statistics="episode"))
    support_x, support_y, _, _ = first_task(curves())
    wanted = learner((support_x[None], support_y[None], support_x[None]))[0]  # the support set as its own queries
    np.testing.assert_allclose(learner.adapt(support_x, support_y)(support_x), wanted, rtol=1e-5, atol=1e-6)


def test_an_expert_of_prototypes_gives_the_chances_of_the_learner():
    learner = learner_of(Prototypes(), loss=None, inputs=3, units=5)
    support_x, support_y, query_x, _ = first_task(classes())
    chances = tf.nn.softmax(learner.adapt(support_x, support_y)(query_x))
    wanted = tf.nn.softmax(learner((support_x[None], support_y[None], query_x[None]))[0])
    np.testing.assert_allclose(chances, wanted, rtol=1e-4, atol=1e-6)


def test_an_expert_is_a_plain_model_that_can_be_trained_on():
    learner = learner_of()
    support_x, support_y, *_ = first_task(curves())
    expert = learner.adapt(support_x, support_y)
    assert not any(type(layer).__module__.startswith("meta_keras") for layer in [expert, *expert.layers])
    before = values(learner.network)
    expert.compile("adam", "mse")
    losses = expert.fit(support_x, support_y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and same(values(learner.network), before)


WITHOUT_US = """
import json, sys
sys.modules["meta_keras"] = None  # so that an import of it fails
import keras, numpy as np
expert = keras.models.load_model(sys.argv[1])
assert not [name for name in sys.modules if name.startswith("meta_keras.")]
print(json.dumps(expert.predict(np.array(json.loads(sys.argv[2]), "float32"), verbose=0).tolist()))
"""


@pytest.mark.slow
def test_a_saved_expert_loads_where_the_library_is_not(tmp_path):
    support_x, support_y, query_x, _ = first_task(classes())
    expert = learner_of(Prototypes(), loss=None, inputs=3).adapt(support_x, support_y)
    expert.save(tmp_path / "expert.keras")
    command = [sys.executable, "-I", "-c", WITHOUT_US, "expert.keras", json.dumps(query_x.tolist())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(answers, expert.predict(query_x, verbose=0), rtol=1e-5, atol=1e-6)
