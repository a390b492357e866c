"""The learned optimizer: the same updates as the rule, and everything that Keras' optimizers can do."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_rules_update_network import at_random, built

from meta_keras import LearnedOptimizer
from meta_keras.rules import Step


def model(*more):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh", use_bias=False), *more, layers.Dense(1)])


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def trained(optimizer, epochs=2, network=None, **compiled):
    network = network or model()
    network.compile(optimizer, "mse", jit_compile=False, **compiled)
    network.fit(*data(), epochs=epochs, batch_size=8, shuffle=False, verbose=0)
    return network


def test_its_updates_are_those_of_the_rule_to_the_bit():
    update = at_random(built(), 0.5)
    variables = [keras.Variable(np.random.default_rng(n).normal(size=(4, 3)), dtype="float32") for n in range(2)]
    parameters = [tf.identity(v.value) for v in variables]
    optimizer, state = LearnedOptimizer(update), update.init(parameters)
    for number in range(5):
        gradients = [tf.sin(one) for one in parameters]
        changes, state = update.update(gradients, state, parameters, Step(number, tf.constant(0.0), False))
        parameters = [one + change for one, change in zip(parameters, changes, strict=True)]
        optimizer.apply(gradients, variables)
        for variable, one in zip(variables, parameters, strict=True):
            np.testing.assert_array_equal(variable, one)


def test_it_trains_a_model_and_stays_as_it_is():
    update = at_random(built(learning_rate=0.02), 0.1)
    before = [v.copy() for v in update.get_weights()]
    network = model()
    network.compile(LearnedOptimizer(update), "mse")
    losses = network.fit(*data(), epochs=20, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    assert all(np.array_equal(a, b) for a, b in zip(update.get_weights(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_a_saved_model_goes_on_exactly_where_it_was(jit, tmp_path):
    update = at_random(built(learning_rate=0.02), 0.1)
    through, stopped = model(), model()
    for network in (through, stopped):
        network.compile(LearnedOptimizer(update, learning_rate=0.5), "mse", jit_compile=jit)
    through.fit(*data(), epochs=2, batch_size=8, shuffle=False, verbose=0)
    stopped.fit(*data(), epochs=1, batch_size=8, shuffle=False, verbose=0)
    stopped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, LearnedOptimizer) and float(loaded.optimizer.learning_rate) == 0.5
    loaded.fit(*data(), epochs=1, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(loaded.get_weights(), through.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@functools.cache
def plain_weights():
    """The weights after training without any of the settings below."""
    return trained(LearnedOptimizer(built(learning_rate=0.05))).get_weights()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"clipnorm": 0.1},
        {"global_clipnorm": 0.1},
        {"clipvalue": 0.01},
        {"weight_decay": 0.1},
        {"use_ema": True, "ema_momentum": 0.5},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_settings_of_keras_take_effect_as_they_do_for_adam(settings):
    """As it begins as Adam, the same settings lead to the same weights."""
    learned = trained(LearnedOptimizer(built(learning_rate=0.05), **settings))
    rate = {"weight_decay": settings["weight_decay"] * 1.0 / 0.05} if "weight_decay" in settings else {}
    adam = trained(keras.optimizers.Adam(0.05, **(settings | rate)))
    for one, other in zip(learned.get_weights(), adam.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert not all(np.allclose(a, b) for a, b in zip(learned.get_weights(), plain_weights(), strict=True))


def test_frozen_layers_stay():
    network = model()
    network.layers[0].trainable = False
    before = network.layers[0].get_weights()
    trained(LearnedOptimizer(built()), network=network)
    assert all(np.array_equal(a, b) for a, b in zip(network.layers[0].get_weights(), before, strict=True))


def test_an_embedding_with_sparse_gradients_trains_like_a_dense_layer():
    """A row that occurs twice in a batch has the sum of both gradients; rows that do not occur keep their momentum."""
    x, y = np.int32([[1, 2], [3, 4], [1, 1], [5, 2]] * 2), np.ones((8, 1), "float32")
    embedding = keras.Sequential(
        [keras.Input((2,), dtype="int32"), layers.Embedding(9, 3), layers.Flatten(), layers.Dense(1)]
    )
    dense = keras.Sequential([keras.Input((2, 9)), layers.Dense(3, use_bias=False), layers.Flatten(), layers.Dense(1)])
    dense.set_weights(embedding.get_weights())
    update = at_random(built(learning_rate=0.05), 0.1)
    for network, inputs in ((embedding, x), (dense, np.eye(9, dtype="float32")[x])):
        network.compile(LearnedOptimizer(update), "mse", jit_compile=False)
        network.fit(inputs, y, epochs=3, batch_size=2, shuffle=False, verbose=0)
    for one, other in zip(embedding.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_it_trains_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    network = model()
    network.compile(LearnedOptimizer(built(learning_rate=0.02)), "mse")
    losses = network.fit(*data(), epochs=20, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0] and isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer)


def test_something_else_than_an_update_network_is_refused():
    with pytest.raises(TypeError, match="update must be an UpdateNetwork; got 'adam'"):
        LearnedOptimizer("adam")


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), "1", None])
def test_a_learning_rate_is_a_positive_number(rate):
    with pytest.raises(ValueError, match="learning_rate must be"):
        LearnedOptimizer(built(), learning_rate=rate)


@pytest.mark.slow
def test_a_schedule_scales_the_updates():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([8], [1.0, 1e-9])
    through = trained(LearnedOptimizer(built(learning_rate=0.05)), epochs=2)
    stopped = trained(LearnedOptimizer(built(learning_rate=0.05), learning_rate=schedule), epochs=20)
    for one, other in zip(through.get_weights(), stopped.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.2, atol=0.06)
