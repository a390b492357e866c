"""Training on several devices and in several processes is the same as on one; what is not supported is refused."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras import MetaLearner, Sinusoids, UnrolledTraining, evaluate, networks
from meta_keras.replicas import Replicas
from meta_keras.rules import UpdateNetwork

SCRIPT = Path(__file__).with_name("replicated.py")
PATIENCE = 300  # seconds; a worker whose partner is gone would otherwise wait for it


def started(mode, folder, **environment):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "TF_NUM_INTRAOP_THREADS": "1"} | environment
    command = [sys.executable, str(SCRIPT), mode, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(processes):
    """The exit statuses, the checks that each process has printed, and everything it printed."""
    try:
        printed = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    lines = [re.findall(r'\{"check".*\}', out) for out, _ in printed]
    checks = [{(found := json.loads(line)).pop("check"): found for line in each} for each in lines]
    return [process.returncode for process in processes], checks, printed


def workers(folder, **environment):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    cluster = {"worker": [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]}
    for one in sockets:
        one.close()
    configs = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": n}}) for n in range(2)]
    return finished([started("worker", folder, TF_CONFIG=config, **environment) for config in configs])


@pytest.mark.slow
def test_every_rule_trains_on_two_devices_and_in_two_processes_as_on_one_device(tmp_path):
    # One test, since the steps build on each other and starting TensorFlow takes longer than the training.
    (status,), (devices,), printed = finished([started("devices", tmp_path)])
    assert status == 0, printed[0][1]
    assert "not finite at step 0" in devices["fault"].pop("message")
    assert devices["several steps on another device"]["devices"][0].endswith("CPU:1")
    assert len(devices) == 14 and {name: found["difference"] for name, found in devices.items()} == pytest.approx(
        dict.fromkeys(devices, 0), abs=1e-8
    )
    # The second of two workers is killed in the middle of the second epoch, and the first one ends with an error.
    status, _, printed = workers(tmp_path, KILLED="yes")
    assert status[1] == -signal.SIGKILL and status[0] not in (0, -signal.SIGKILL), printed
    # Both are started again. Only the first one has a backup, of the first epoch.
    status, (chief, other), printed = workers(tmp_path)
    assert status == [0, 0], printed
    for found in (chief, other):
        message = found.pop("keras")["message"]
        assert found["resumed"]["epochs"] == [1, 2, 3]
        assert len(found) == 9 and max(result["difference"] for result in found.values()) < 1e-8
        assert "PerReplica" in message, (
            "This version of Keras supports several workers itself (keras issue 20585): see whether its `fit` trains "
            "as a single process does, with clipping and gradient accumulation, and then remove our own."
        )
    assert chief["resumed"]["files"] == ["backup", "log.csv"] and other["resumed"]["files"] == []
    assert "Epoch 2/9" in printed[0][0] and "Epoch" not in printed[1][0]


@pytest.fixture
def scope():
    return tf.distribute.MirroredStrategy(["CPU:0"]).scope


def curves():
    return Sinusoids(shots=2, queries=2, meta_batch=2)


def learner():
    return MetaLearner(network=networks.mlp(1, hidden=(2,)))


@pytest.mark.slow
def test_a_learner_may_be_compiled_within_the_scope_or_outside_of_it(scope):
    found = []
    for inside in (True, False):
        keras.utils.set_random_seed(0)
        with scope():
            trained = learner()
            if inside:
                trained.compile("adam", "mse", metrics=["mae"])
        if not inside:
            trained.compile("adam", "mse", metrics=["mae"])
        validation = {"validation_data": curves(), "validation_steps": 1}
        found.append(trained.fit(curves(), steps_per_epoch=3, verbose=0, **validation).history)
        assert list(found[-1]) == ["loss", "mae", "val_loss", "val_mae"] and trained.steps_per_execution == 1
        assert len(trained.evaluate(curves(), steps=1, verbose=0)) == 2
        # Metrics see the answers of all replicas, so that their states need not be summed in every step.
        assert not any(
            isinstance(v.value, tf.distribute.DistributedValues) for m in trained.metrics for v in m.variables
        )
        assert trained.get_compile_config()["jit_compile"]  # which is for the replicas
    assert found[0] == found[1]


def test_mixed_precision_is_trained_with_a_scaled_loss(scope):
    keras.config.set_dtype_policy("mixed_float16")
    with scope():
        trained = learner()
    trained.compile("adam", "mse", jit_compile=False)
    before = trained.get_weights()[0]
    trained.fit(curves(), steps_per_epoch=2, verbose=0)
    assert isinstance(trained.optimizer, keras.optimizers.LossScaleOptimizer)
    assert not np.array_equal(trained.get_weights()[0], before)


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict", "train_on_batch", "score"])
def test_training_and_evaluation_within_a_scope_are_refused(call, scope):
    model = learner()
    model.compile("sgd", "mse")
    *inputs, query_y = next(iter(curves()))
    calls = {
        "fit": lambda: model.fit(curves(), steps_per_epoch=1),
        "evaluate": lambda: model.evaluate(curves(), steps=1),
        "predict": lambda: model.predict(curves(), steps=1),
        "train_on_batch": lambda: model.train_on_batch(inputs, query_y),
        "score": lambda: evaluate(model, curves(), episodes=2),
    }
    with scope(), pytest.raises(ValueError, match=r"Train and evaluate outside of strategy.scope\(\)"):
        calls[call]()


@pytest.mark.parametrize("part", ["network", "learner"])
def test_network_and_learner_must_be_created_within_the_same_scope(part, scope):
    if part == "learner":
        network = networks.mlp(1)
        with scope(), pytest.raises(ValueError, match="kernel' was created outside of the scope of a strategy"):
            MetaLearner(network=network)
    else:
        with scope():
            network = networks.mlp(1)
        with pytest.raises(ValueError, match="kernel' was created within the scope of a strategy"):
            MetaLearner(network=network)


def test_a_metric_from_within_the_scope_is_refused(scope):
    with scope():
        model, metric = learner(), keras.metrics.MeanAbsoluteError()
    with pytest.raises(ValueError, match="The metric 'mean_absolute_error' was created within strategy.scope()"):
        model.compile("sgd", "mse", metrics=[metric])
    model.compile("sgd", "mse", metrics=[keras.metrics.MeanAbsoluteError()])


def test_several_steps_per_call_are_refused(scope):
    with scope(), pytest.raises(ValueError, match="every call runs one step; got steps_per_execution=2. Leave it out"):
        learner().compile("sgd", "mse", steps_per_execution=2)


def test_a_strategy_that_is_not_supported_is_refused():
    other = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"])
    with other.scope(), pytest.raises(ValueError, match="supports MirroredStrategy, .*; this strategy is a CentralSto"):
        learner()


def test_a_batch_needs_a_task_for_each_replica(scope):
    with scope():
        replicas = Replicas(tf.distribute.get_strategy())
    replicas.count = 3
    with pytest.raises(ValueError, match="A batch of 2 tasks cannot be split over 3 replicas; raise meta_batch to 3"):
        replicas.over_tasks(lambda *_: ((), ()), [tf.zeros((2, 1))], [])


def test_the_training_of_an_update_is_not_distributed(monkeypatch):
    training = UnrolledTraining(networks.mlp(1), UpdateNetwork(0.1, hidden=(2,)), steps=2, truncation=1)

    class Two:
        num_replicas_in_sync = 2

    monkeypatch.setattr(training, "_distribute_strategy", Two())
    with pytest.raises(ValueError, match="trains on one device; this strategy has 2 replicas"):
        training.compile("sgd", "mse")


def test_a_share_without_tasks_counts_as_nothing(scope):
    """As the last, smaller batch of a finite dataset may have fewer tasks than there are replicas."""
    with scope():
        replicas = Replicas(tf.distribute.get_strategy())
    replicas.count = 3  # of which only the first one is here: it has none of two tasks, as 2 // 3 is 0

    @tf.function(input_signature=[tf.TensorSpec([None, 1])], autograph=False)
    def mean(tasks):
        return replicas.over_tasks(lambda first, share: (share, tf.reduce_mean(share)), [tasks], [])

    rows, found = mean(tf.ones((2, 1)))
    np.testing.assert_array_equal(rows, [[0.0], [0.0]])
    assert float(found) == 0
