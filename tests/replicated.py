"""Trains small learners with and without replicas; tests/test_replicas.py starts it in processes of its own.

    python tests/replicated.py devices FOLDER    on one device, and on two logical devices of this process
    python tests/replicated.py worker FOLDER     as one of the workers that TF_CONFIG names

Logical devices and workers must be set before TensorFlow starts. Prints one line of JSON for every check.
"""

import json
import os
import pickle
import signal
import sys
from functools import lru_cache
from pathlib import Path

import meta_keras as mk  # before Keras and TensorFlow, so that they start without their logs

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers, optimizers

from meta_keras import stepping

STEPS, TASKS = 20, 3  # of which one replica has one task, and the other one two
FIRST = "gradient descent"
rules = mk.rules

# Every rule, with the ways in which an optimizer treats gradients and keeps states.
CASES = {
    FIRST: (
        lambda: rules.GradientDescent(0.1, batch_statistics="support"),
        lambda: optimizers.Adam(0.01, global_clipnorm=0.1, gradient_accumulation_steps=3),
    ),
    "learned rates": (
        lambda: rules.GradientDescent(rules.LearnedRates(0.1, "layer")),
        lambda: optimizers.Adam(0.01, clipnorm=0.1),
    ),
    "update network": (
        lambda: rules.GradientDescent(rules.UpdateNetwork(0.1, hidden=(2,))),
        lambda: optimizers.RMSprop(0.01, clipvalue=0.01),
    ),
    "implicit": (lambda: rules.ImplicitGradient(0.1, steps=2, conjugate_steps=2), lambda: optimizers.SGD(0.1, 0.9)),
    "learned loss": (lambda: rules.LearnedLoss(0.1), lambda: optimizers.Adagrad(0.01)),
    "prototypes": (lambda: rules.Prototypes(), lambda: optimizers.Adamax(0.01)),
    "reptile": (lambda: rules.Reptile(0.1, steps=2, batch_size=2), lambda: optimizers.Adadelta(1.0)),
    "weight generator": (lambda: rules.WeightGenerator(), lambda: optimizers.Nadam(0.01)),
    "coordinate generator": (
        lambda: rules.CoordinateGenerator(code=4, components=4, hidden=4),
        lambda: optimizers.AdamW(0.01, use_ema=True),
    ),
}


@lru_cache
def tasks(seed=0):
    """Twenty batches, drawn once, since tracing how to draw them takes as long as tracing a step."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    drawn = mk.FewShot(mk.ClassPool(x, np.arange(40) // 5), ways=3, shots=2, queries=2, meta_batch=TASKS, seed=seed)
    batches = [np.stack(part) for part in zip(*drawn.take(STEPS).as_numpy_iterator(), strict=True)]
    return tf.data.Dataset.from_tensor_slices(mk.Episode(*batches)).repeat()


def learner_of(case, strategy=None, parallel="map"):
    """A learner in double precision; the first case has moving averages, random draws and a regularizer."""
    rule, optimizer = CASES[case]
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else keras.name_scope("one"):
        hidden = [layers.Dense(4, "tanh", kernel_regularizer="l2" if case == FIRST else None)]
        if case == FIRST:
            hidden += [layers.BatchNormalization(), layers.Dropout(0.2, seed=1)]
        network = keras.Sequential([keras.Input((3,)), *hidden, layers.Dense(3, name="head")])
        learner = mk.MetaLearner(network=network, rule=rule(), parallel=parallel)
    learner.compile(optimizer(), metrics=["accuracy"])
    return learner


def state_of(learner):
    """All that training changes: the weights, and the states of layers, generators and the optimizer."""
    metrics = {id(variable) for metric in learner.metrics for variable in metric.variables}
    variables = [*learner.variables, *learner.optimizer.variables]
    return [np.asarray(variable) for variable in variables if id(variable) not in metrics]


def trained(case, strategy=None, **more):
    """The state after training, the logs of the last epoch, and in the first case what both ways to evaluate find."""
    learner = learner_of(case, strategy, **more)
    history = learner.fit(tasks(), steps_per_epoch=STEPS // 4, epochs=4, verbose=0)
    return outcome(learner, history, evaluated=case == FIRST and strategy is None)


def outcome(learner, history, evaluated):
    found = [*state_of(learner), *(np.asarray(values[-1]) for values in history.history.values())]
    if evaluated:
        found += [np.asarray(learner.evaluate(tasks(1), steps=1, verbose=0))]
        found += [mk.evaluate(learner, tasks(2), episodes=4).values]
    return found


def difference(these, those):
    """The largest difference; `those` may have more parts at their end."""
    return max(float(np.max(np.abs(a - b), initial=0)) for a, b in zip(these, those[: len(these)], strict=True))


def say(check, **found):
    print(json.dumps({"check": check} | found), flush=True)


def on_devices(folder):
    one = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(one, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    known = {case: trained(case) for case in CASES}
    (folder / "known").write_bytes(pickle.dumps(known))
    for case in CASES:
        say(case, difference=difference(trained(case, strategy), known[case]))
    compiled = trained("prototypes", strategy, parallel="vectorized")
    say("compiled by XLA", difference=difference(compiled, known["prototypes"]))
    of_a_file(folder, strategy, known["prototypes"])
    with_a_fault(strategy)
    in_one_program_elsewhere()


def in_one_program_elsewhere():
    """A learner on the second device, as if that were a GPU: a thread copies the batches of several steps to it."""
    stepping.on_gpu, devices = lambda: True, []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: devices.append(learner._stacks._stack[1].device))
    with tf.device("CPU:1"):
        learner = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(2,)))
        learner.compile("sgd", "mse")
        learner.fit(mk.Sinusoids(), steps_per_epoch=2, verbose=0, callbacks=[note])
    say("several steps on another device", difference=float(devices != [learner.fault.device]), devices=devices)


def of_a_file(folder, strategy, known):
    """Half of the training on two devices, and the other half after loading a file; also loaded on one device."""
    half = learner_of("prototypes", strategy)
    half.fit(tasks(), steps_per_epoch=STEPS // 2, verbose=0)
    half.save(folder / "half.keras")
    alone = keras.models.load_model(folder / "half.keras")
    say("a file on one device", difference=difference(state_of(alone), state_of(half)))
    with strategy.scope():
        other = keras.models.load_model(folder / "half.keras")
    other.fit(tasks(), steps_per_epoch=STEPS // 2, verbose=0)
    say("from a file", difference=difference(state_of(other), known))


def with_a_fault(strategy):
    """A loss that is not finite in the share of the second replica alone."""
    with strategy.scope():
        learner = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(2,)), parallel="map")
    learner.compile("adam", "mse")
    huge = tf.constant([1.0, 1.0, 1e300], tf.float64)[:, None, None]
    curves = mk.Sinusoids(shots=2, queries=2, meta_batch=TASKS)
    bad = curves.map(lambda episode: episode._replace(query_y=tf.cast(episode.query_y, tf.float64) * huge))
    before = state_of(learner)
    try:
        learner.fit(bad, steps_per_epoch=2, verbose=0)
    except FloatingPointError as error:
        say("fault", message=str(error), difference=difference(before, state_of(learner)))


class Killed(keras.callbacks.Callback):
    """Kills its own process in the middle of the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.batches_seen.numpy()) == STEPS // 4 + 2:
            os.kill(os.getpid(), signal.SIGKILL)


def as_worker(folder):
    strategy, known = tf.distribute.MultiWorkerMirroredStrategy(), pickle.loads((folder / "known").read_bytes())
    number, own = strategy.cluster_resolver.task_id, folder / f"worker {strategy.cluster_resolver.task_id}"
    own.mkdir(exist_ok=True)  # the workers share no folder
    callbacks = [keras.callbacks.BackupAndRestore(own / "backup", delete_checkpoint=False), EarlyStop()]
    callbacks.append(keras.callbacks.CSVLogger(own / "log.csv", append=True))
    if "KILLED" in os.environ and number == 1:
        callbacks.append(Killed())
    learner = learner_of(FIRST, strategy)
    history = learner.fit(tasks(), steps_per_epoch=STEPS // 4, epochs=9, callbacks=callbacks, verbose=1)
    found = {"epochs": history.epoch, "files": sorted(path.name for path in own.iterdir())}
    say("resumed", difference=difference(outcome(learner, history, evaluated=True), known[FIRST]), **found)
    for case in list(CASES)[1:]:
        say(case, difference=difference(trained(case, strategy), known[case]))
    keras_alone(strategy)


class EarlyStop(keras.callbacks.Callback):
    """Lets the chief end training after the fourth epoch; the others follow."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 3 and self.model.replicas.is_chief


def keras_alone(strategy):
    """Whether Keras' own `fit` supports several workers."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    try:
        model.fit(tf.data.Dataset.from_tensors((np.ones((4, 1)), np.ones((4, 1)))), verbose=0)
        say("keras", message="supported")
    except Exception as error:  # of any kind
        say("keras", message=str(error))


if __name__ == "__main__":
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it would take longer than it saves
    {"devices": on_devices, "worker": as_worker}[sys.argv[1]](Path(sys.argv[2]))
