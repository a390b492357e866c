import keras
import numpy as np
import pytest

import meta_keras as mk

X, Y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2


def compiled(optimizer):
    model = mk.networks.mlp(2, input_shape=(3,), hidden=(4,))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def trained(model):
    model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10)),
        lambda: keras.optimizers.Adagrad(0.1),
        lambda: keras.optimizers.Adam(0.01, use_ema=True),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0),
    ],
    ids=["momentum", "adam", "schedule", "adagrad", "average", "loss scale"],
)
def test_a_training_that_is_restarted_is_the_same_to_the_bit(optimizer):
    model = compiled(optimizer())
    start = model.get_weights()
    mk.restart(model)
    first = trained(model)
    mk.restart(model, start)
    for one, other in zip(first, trained(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_restart_the_optimizer_remembers():
    model = compiled("adam")
    start = model.get_weights()
    first = trained(model)
    model.set_weights(start)
    assert not np.array_equal(first[0], trained(model)[0])


def test_weights_stay_unless_others_are_given():
    model = compiled("adam")
    after = trained(model)
    mk.restart(model)
    np.testing.assert_array_equal(model.get_weights()[0], after[0])
    assert model.optimizer.iterations == 0


def test_a_rate_that_was_changed_stays_so():
    model = compiled(keras.optimizers.SGD(0.5))
    model.optimizer.learning_rate = 0.25
    mk.restart(model)
    assert model.optimizer.learning_rate == 0.25


def test_nothing_is_traced_again():
    traces = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    model = keras.Sequential([keras.Input((3,)), Counted(), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    y = np.eye(2)[Y]
    model.fit(X, y, batch_size=5, verbose=0)
    before = len(traces)
    mk.restart(model)
    model.fit(X, y, batch_size=5, verbose=0)
    assert len(traces) == before


def test_a_model_that_is_not_compiled_is_told_so():
    with pytest.raises(ValueError, match="'mine' has no optimizer to restart; compile it first"):
        mk.restart(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="mine"))
