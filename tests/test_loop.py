"""maml_loop: short enough to read, with the same results as `MetaLearner.fit`."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, FewShot, MetaLearner, Sinusoids, load, maml_loop, networks
from meta_keras.rules import GradientDescent


def curves():
    return networks.mlp(1, hidden=(8,), activation="tanh"), Sinusoids(shots=4, queries=3, meta_batch=3), "mse"


def pictures():
    examples = np.random.default_rng(0).normal(size=(12, 6, 6, 1)).astype(np.float32)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, activation="tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(momentum=0.7),
            layers.Flatten(),
            layers.Dropout(0.3, seed=1),  # each task has its own mask
            layers.Dense(2),
        ]
    )
    tasks = FewShot(ClassPool(examples, np.arange(12) // 4), ways=2, shots=2, queries=2, meta_batch=2)
    return model, tasks, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("make", [curves, pictures])
def test_the_loop_ends_at_the_weights_and_losses_of_fit(make):
    model, tasks, loss = make()
    twin = make()[0]
    twin.set_weights(model.get_weights())
    start = model.get_weights()
    losses = maml_loop(model, tasks, loss=loss, learning_rate=0.05, steps=2, optimizer="adam", iterations=4)
    learner = MetaLearner(network=twin, rule=GradientDescent(0.05, steps=2), parallel="map")
    learner.compile(optimizer="adam", loss=loss, jit_compile=False)
    history = learner.fit(tasks, steps_per_epoch=1, epochs=4, verbose=0).history
    np.testing.assert_allclose(losses, history["loss"], rtol=1e-5, atol=1e-6)
    for one, other, before in zip(model.get_weights(), twin.get_weights(), start, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        assert not np.allclose(one, before, atol=1e-4)


def test_the_loop_takes_an_optimizer_object_and_a_function_for_a_loss():
    model, tasks, _ = curves()
    optimizer = keras.optimizers.SGD(0.01)
    losses = maml_loop(
        model, tasks, loss=lambda y, answers: (y - answers) ** 2, steps=1, optimizer=optimizer, iterations=2
    )
    assert len(losses) == 2 and int(optimizer.iterations) == 2


def test_the_loop_fits_on_a_page():
    code = len(inspect.getsource(maml_loop).splitlines()) - len(inspect.getdoc(maml_loop).splitlines())
    assert code <= 40


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "iterations must be an integer of at least 1; got 0"),
        ({"tasks": np.ones((3, 1))}, "A dataset of episodes is needed"),
        ({"network": keras.Sequential([layers.Dense(1)])}, "has no weights yet"),
    ],
    ids=["iterations", "tasks", "network"],
)
def test_the_loop_says_what_it_needs(wrong, message):
    model, tasks, loss = curves()
    with pytest.raises(ValueError, match=message):
        maml_loop(**({"network": model, "tasks": tasks, "loss": loss} | wrong))


def test_the_loop_scales_images_as_fit_does():
    pool = ClassPool(np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8), np.arange(12) // 4)
    tasks = FewShot(pool, ways=2, shots=2, queries=2, meta_batch=2)
    raw = tasks.map(lambda e: e._replace(support_x=tf.cast(255 * e.support_x, tf.uint8)))
    losses = []
    for given in (tasks, raw):
        keras.utils.set_random_seed(0)
        model = networks.mlp(2, input_shape=(4, 4, 1), hidden=())
        losses += maml_loop(model, given, loss="sparse_categorical_crossentropy", iterations=1)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_loop_does_not_scale_pixels_a_second_time():
    network = keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(ValueError, match="network must take pixels as floats"):
        maml_loop(network, FewShot(load("glyphs"), 2, 1), loss="sparse_categorical_crossentropy")
