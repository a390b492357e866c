"""Layer-wise learning rates: each layer trains exactly as if it had an optimizer with its own learning rate."""

import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import meta_keras as mk
from meta_keras.transfer import LayerwiseLearningRates, fine_tune, freeze, unfreeze_gradually
from meta_keras.transfer.layers import weighted_layers

NAMES = ["sgd", "adam", "rmsprop", "adagrad", "adamw", "nadam", "lion", "adafactor", "ftrl"]
X, Y = np.random.default_rng(0).normal(size=(24, 4)).astype("float32"), np.arange(24) % 3


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="tanh", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(4, activation="tanh", name="second"),
            layers.Dense(3, name="head"),
        ]
    )


def variables(*paths, seed=0):
    """Variables of layers with these paths, "layer/weight"."""
    random, made = np.random.default_rng(seed), []
    for path in paths:
        layer, _, name = path.rpartition("/")
        with keras.name_scope(layer):
            made.append(keras.Variable(random.normal(size=3).astype("float32"), name=name))
    assert [variable.path for variable in made] == list(paths)
    return made


def gradients(steps, count, seed=1):
    return np.random.default_rng(seed).normal(size=(steps, count, 3)).astype("float32")


def compiled(optimizer, model=None):
    model = network() if model is None else model
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fitted(model, **fit):
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, **fit)
    return model.get_weights()


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_moves_as_with_an_optimizer_of_its_own_learning_rate(name):
    paths = ["low/kernel", "low/bias", "high/kernel"]
    together, apart = variables(*paths), variables(*paths)
    template = keras.optimizers.get(name)
    template.learning_rate = 0.1
    optimizer = LayerwiseLearningRates(template, 0.25)
    own = [type(template).from_config(template.get_config() | {"learning_rate": rate}) for rate in (0.025, 0.1)]
    for step in gradients(4, 3):
        optimizer.apply([tf.constant(g) for g in step], together)
        own[0].apply([tf.constant(g) for g in step[:2]], apart[:2])
        own[1].apply([tf.constant(step[2])], apart[2:])
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(optimizer.iterations) == 4


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate_of_the_layer():
    weights = variables("low/kernel", "middle/kernel", "high/kernel")
    before = [weight.numpy() for weight in weights]
    LayerwiseLearningRates(keras.optimizers.Adam(0.01), 0.5).apply([tf.ones(3)] * 3, weights)
    steps = [old - weight.numpy() for old, weight in zip(before, weights, strict=True)]
    for step, size in zip(steps, (0.0025, 0.005, 0.01), strict=True):
        np.testing.assert_allclose(step, size, rtol=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 1.0), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_the_learning_rate_falls_from_layer_to_layer(decay, sizes):
    weights = variables(*(f"layer{place}/w{number}" for place, size in enumerate(sizes) for number in range(size)))
    before = [weight.numpy() for weight in weights]
    LayerwiseLearningRates(keras.optimizers.SGD(1.0), decay).apply([tf.ones(3)] * len(weights), weights)
    depths = [len(sizes) - 1 - place for place, size in enumerate(sizes) for _ in range(size)]
    for old, weight, depth in zip(before, weights, depths, strict=True):
        np.testing.assert_allclose(old - weight.numpy(), decay**depth, rtol=1e-4, atol=1e-6)


def test_layers_of_one_name_are_different_layers():
    trunks = [keras.Sequential([keras.Input((3,)), layers.Dense(3, name="fc")], name=name) for name in ("a", "b")]
    trunks += [keras.Sequential([keras.Input((3,)), layers.Dense(3, name="fc")], name="b")]
    weights = [weight for trunk in trunks for weight in trunk.trainable_variables]
    assert weights[2].path == weights[4].path
    before = [weight.numpy() for weight in weights]
    LayerwiseLearningRates(keras.optimizers.SGD(1.0), 0.5).apply([tf.ones_like(w) for w in weights], weights)
    for old, weight, size in zip(before, weights, (0.25, 0.25, 0.5, 0.5, 1.0, 1.0), strict=True):
        np.testing.assert_allclose(old - weight.numpy(), size, rtol=1e-5)


@pytest.mark.eagerly
def test_in_fine_tuning_the_depth_counts_the_layers_that_train():
    full, slowed = network(), network()
    for model, decay in ((full, 1.0), (slowed, 0.5)):
        start = {name: layer.kernel.numpy() for name, layer in weighted_layers(model).items() if name != "norm"}
        optimizer = LayerwiseLearningRates(keras.optimizers.SGD(0.1), decay)
        fine_tune(model, tf.data.Dataset.from_tensors((X, Y)), train="all", optimizer=optimizer, verbose=0)
        model.steps = {name: weighted_layers(model)[name].kernel.numpy() - old for name, old in start.items()}
        assert not optimizer.built, "the user's optimizer stays unused"
    for name, depth in (("head", 0), ("second", 1), ("first", 2)):
        np.testing.assert_allclose(slowed.steps[name], 0.5**depth * full.steps[name], rtol=1e-3, atol=1e-7)


def test_it_can_be_combined_with_gradual_unfreezing():
    model = network()
    history = unfreeze_gradually(model, (X, Y), optimizer=LayerwiseLearningRates("adam", 0.5), verbose=0)
    assert history.epoch == [0, 1, 2] and len(model.optimizer.layer_optimizers) == 3


@pytest.mark.parametrize(
    "rate",
    [lambda: 0.01, lambda: keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5)],
    ids=["number", "schedule"],
)
def test_a_compiled_model_is_saved_and_goes_on_exactly_where_it_was(rate, tmp_path):
    model = compiled(LayerwiseLearningRates(keras.optimizers.Adam(rate()), 0.3))
    fitted(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is LayerwiseLearningRates and loaded.optimizer.decay == 0.3
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 3
    for one, other in zip(fitted(model), fitted(loaded), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.eagerly
def test_the_state_is_saved_once(tmp_path):
    """Keras saves an optimizer's `variables`, and each optimizer that it has as an attribute."""
    with_matrix = {}
    for name, optimizer in (("layerwise", LayerwiseLearningRates("adam", 0.3)), ("plain", "adam")):
        model = compiled(optimizer)
        fitted(model)
        model.save(tmp_path / f"{name}.keras")
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as archive:
            archive.extract("model.weights.h5", tmp_path / name)
        with h5py.File(tmp_path / name / "model.weights.h5") as file:
            shapes = []
            file["optimizer"].visititems(lambda _, item, shapes=shapes: shapes.append(getattr(item, "shape", ())))
        with_matrix[name] = sum(len(shape) > 1 for shape in shapes)
    assert with_matrix["layerwise"] == with_matrix["plain"] == 6


@pytest.mark.parametrize("whose", ["template", "own"])
@pytest.mark.parametrize("by", ["name", "variable"])
def test_what_is_excluded_from_weight_decay_does_not_decay(whose, by):
    kernel, bias = variables("layer/kernel", "layer/bias")
    excluded = {"var_names": ["bias"]} if by == "name" else {"var_list": [bias]}
    template = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer = LayerwiseLearningRates(template, decay=1.0)
    (template if whose == "template" else optimizer).exclude_from_weight_decay(**excluded)
    before = kernel.numpy(), bias.numpy()
    optimizer.apply([keras.ops.zeros(3)] * 2, [kernel, bias])
    np.testing.assert_allclose(kernel, 0.95 * before[0], rtol=1e-6)
    np.testing.assert_array_equal(bias, before[1])


@pytest.mark.parametrize("layerwise", [False, True])
def test_fine_tuning_keeps_what_is_excluded_from_weight_decay(layerwise):
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer = LayerwiseLearningRates(optimizer, decay=1.0) if layerwise else optimizer
    model = network()
    model.layers[-1].bias.assign([1.0, 2.0, 3.0])
    kernel = model.layers[-1].kernel.numpy()
    constant = {"loss": lambda y, answers: 0.0 * keras.ops.sum(answers, axis=-1), "train": "head", "batch_size": 24}
    fine_tune(model, (X, Y), optimizer=optimizer, verbose=0, **constant)
    np.testing.assert_allclose(model.layers[-1].kernel, 0.95 * kernel, rtol=1e-5)
    np.testing.assert_array_equal(model.layers[-1].bias, [1, 2, 3])


def test_the_learning_rate_may_be_changed_while_it_trains():
    model = compiled(LayerwiseLearningRates(keras.optimizers.SGD(0.1), 0.5))
    fitted(model)
    model.optimizer.learning_rate = 0.0
    before = [weight.numpy() for weight in model.trainable_weights]
    fitted(model)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.25)
    fitted(model, callbacks=[halve])
    assert float(model.optimizer.learning_rate) == 0.25
    assert float(model.optimizer.layer_optimizers[1].learning_rate) == 0.125
    assert model.optimizer.get_config()["optimizer"]["config"]["learning_rate"] == 0.25


def test_a_restarted_training_is_the_same():
    model = compiled(LayerwiseLearningRates(keras.optimizers.Adam(0.01), 0.5))
    start = model.get_weights()
    mk.restart(model, start)
    first = fitted(model)
    mk.restart(model, start)
    for one, other in zip(first, fitted(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_trains_in_mixed_precision_with_scaled_losses():
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(LayerwiseLearningRates(keras.optimizers.Adam(0.01), 0.5))
    assert type(model.optimizer) is keras.optimizers.LossScaleOptimizer
    before = model.get_weights()
    assert not any(np.array_equal(a, b) for a, b in zip(before[:2], fitted(model)[:2], strict=True))


def test_it_trains_on_distributed_devices_too():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = network()
        start = model.layers[0].kernel.numpy()
        fine_tune(model, (X, Y), train="all", optimizer=LayerwiseLearningRates("sgd", 0.5), verbose=0)
    assert not np.array_equal(start, model.layers[0].kernel)


def test_a_layer_without_a_gradient_is_left_out_and_a_loss_without_any_is_refused():
    weights = variables("low/kernel", "high/kernel")
    before = [weight.numpy() for weight in weights]
    optimizer = LayerwiseLearningRates("sgd", 0.5)
    optimizer.apply([None, tf.ones(3)], weights)
    assert np.array_equal(before[0], weights[0]) and not np.array_equal(before[1], weights[1])
    with pytest.raises(ValueError, match="depends on none of the variables"):
        optimizer.apply([None, None], weights)


def test_it_says_that_other_layers_train_than_it_was_built_for():
    model = network()
    freeze(model, "head")
    optimizer = LayerwiseLearningRates("sgd", 0.5)
    optimizer.build(model.trainable_variables)
    freeze(model, "all")
    with pytest.raises(ValueError, match=r"without '.*first/kernel'. Compile the model again"):
        optimizer.apply([tf.ones_like(v) for v in model.trainable_variables], model.trainable_variables)
    with pytest.raises(ValueError, match="Give the variables beside their gradients"):
        optimizer.apply([tf.ones(3)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 0.0}, "decay must be a positive finite number; got 0.0"),
        ({"decay": 2.0}, "decay must be a number from 0 to 1; got 2.0"),
        ({"decay": float("nan")}, "decay must be a positive finite number; got nan"),
        ({"optimizer": None}, "optimizer must be a Keras optimizer or the name of one; got None"),
        ({"optimizer": "adamant"}, "optimizer must be a Keras optimizer or the name of one; got 'adamant'"),
        ({"optimizer": keras.optimizers.Adam(global_clipnorm=1.0)}, "with global_clipnorm needs all layers at once"),
        ({"optimizer": keras.optimizers.Adam(use_ema=True)}, "with use_ema needs all layers at once"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())}, "type LossScaleOptimizer needs"),
    ],
)
def test_errors_say_what_was_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerwiseLearningRates(**arguments)
