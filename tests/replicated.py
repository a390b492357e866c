"""Trains small learners with and without replicas; tests/test_replicas.py starts it in processes of its own.

    python tests/replicated.py devices FILE    on one device, and on two logical devices of this process
    python tests/replicated.py worker FILE     as one of the workers that TF_CONFIG names

Logical devices and workers must be set before TensorFlow starts. Prints one line of JSON per case: the largest
difference from the training on one device, whose weights and logs are in FILE.
"""

import json
import os
import pickle
import sys
import time
from pathlib import Path

import meta_keras as mk  # before Keras and TensorFlow, so that they start without their logs

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers, optimizers

STEPS, TASKS = 20, 3  # of which one replica has one task, and the other one two
rules = mk.rules

# Every rule, with all ways in which an optimizer treats gradients and keeps states.
CASES = {
    "gradient descent": (
        lambda: rules.GradientDescent(0.1, steps=2, batch_statistics="support"),
        lambda: optimizers.Adam(0.01, global_clipnorm=0.1),
    ),
    "learned rates": (
        lambda: rules.GradientDescent(rules.LearnedRates(0.1, "layer")),
        lambda: optimizers.Adam(0.01, gradient_accumulation_steps=3, clipnorm=0.1),
    ),
    "update network": (
        lambda: rules.GradientDescent(rules.UpdateNetwork(0.1, hidden=(4,))),
        lambda: optimizers.RMSprop(0.01, clipvalue=0.01),
    ),
    "implicit": (lambda: rules.ImplicitGradient(0.1, steps=3, conjugate_steps=2), lambda: optimizers.SGD(0.1, 0.9)),
    "learned loss": (lambda: rules.LearnedLoss(0.1), lambda: optimizers.Adagrad(0.01)),
    "prototypes": (lambda: rules.Prototypes(), lambda: optimizers.AdamW(0.01, use_ema=True)),
    "reptile": (lambda: rules.Reptile(0.1, steps=3, batch_size=2), lambda: optimizers.Adadelta(1.0)),
    "weight generator": (lambda: rules.WeightGenerator(), lambda: optimizers.Nadam(0.01)),
    "coordinate generator": (
        lambda: rules.CoordinateGenerator(code=4, components=4, hidden=4),
        lambda: optimizers.Adamax(0.01, weight_decay=0.01),
    ),
}


def tasks(seed=0):
    x = np.random.default_rng(0).normal(size=(40, 3))
    return mk.FewShot(mk.ClassPool(x, np.arange(40) // 5), ways=3, shots=2, queries=2, meta_batch=TASKS, seed=seed)


def learner_of(rule, strategy=None, **more):
    """A learner whose network has moving averages, random draws and a regularizer, in double precision."""
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else keras.name_scope("one"):
        inner = [layers.Dense(4, "tanh", kernel_regularizer="l2"), layers.BatchNormalization(), layers.Dropout(0.2, seed=1)]
        network = keras.Sequential([keras.Input((3,)), *inner, layers.Dense(3)])
        return mk.MetaLearner(network=network, rule=rule(), **more)


def trained(case, strategy=None):
    rule, optimizer = CASES[case]
    learner = learner_of(rule, strategy, parallel="map")
    learner.compile(optimizer(), metrics=["accuracy"])
    history = learner.fit(tasks(), steps_per_epoch=STEPS // 2, epochs=2, verbose=0).history
    tested = []
    if case == "gradient descent":
        tested = [learner.evaluate(tasks(1), steps=2, verbose=0), mk.evaluate(learner, tasks(2), episodes=5).values]
    metrics = {id(variable) for metric in learner.metrics for variable in metric.variables}
    variables = [v for v in [*learner.variables, *learner.optimizer.variables] if id(v) not in metrics]
    return [*(np.asarray(v) for v in variables), *map(np.asarray, history.values()), *map(np.asarray, tested)]


def difference(these, those):
    return max(float(np.max(np.abs(a - b), initial=0)) for a, b in zip(these, those, strict=True))


def main(mode, file):
    file, chosen = Path(file), os.environ.get("CASES", ",".join(CASES)).split(",")
    if mode == "devices":
        one = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(one, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        known = {case: trained(case) for case in chosen}
        file.write_bytes(pickle.dumps(known))
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        known = pickle.loads(file.read_bytes())
    for case in chosen:
        found = trained(case, strategy)
        print(json.dumps({"case": case, "difference": difference(found, known[case])}), time.process_time(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
