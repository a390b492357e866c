"""One generator for networks of several shapes: what it sees, what it shares, and that nothing is lost in a file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import assert_slopes, classification, in_float64, learner_of, regression

import meta_keras as mk
from meta_keras.rules import Context, CoordinateGenerator


@pytest.fixture
def precise():
    in_float64()


def small(**settings):
    return CoordinateGenerator(code=4, components=6, hidden=8, **settings)


def chain(*units, inputs=2):
    return mk.networks.mlp(units[-1], input_shape=(inputs,), hidden=units[:-1], activation="tanh")


def task(kind=regression, **more):
    (x, y, _), _ = kind(**more)
    return tf.cast(x[0], tf.float32), y[0] if y.dtype.is_integer else tf.cast(y[0], tf.float32)


def generated(learner, x, y, ways=None):
    start = learner.pure.weights()
    found = learner.rule.adapt(learner.pure, start, x, y, Context(learner._loss_of, ways)).weights.parameters
    return [one.numpy() for one in found]


@pytest.mark.parametrize(("units", "inputs"), [((1,), 2), ((5, 1), 2), ((7, 6, 3), 1), ((2, 9, 4, 2), 3)])
def test_one_rule_fits_every_shape(units, inputs):
    rule = small()
    first = mk.MetaLearner(network=chain(4, 1), rule=rule)
    count = len(rule.trainable_variables)
    learner = mk.MetaLearner(network=chain(*units, inputs=inputs), rule=rule)
    assert len(rule.trainable_variables) == count and learner.trainable_variables == first.trainable_variables
    made = generated(learner, *task(shape=(inputs,), targets=units[-1]))
    assert [one.shape for one in made] == [tuple(v.shape) for v in learner.network.weights]
    assert all(np.abs(one).max() > 0 for one in made)
    assert all(len(np.unique(one.round(6))) == one.size for one in made), "units of a layer differ"


@pytest.mark.parametrize("kind", [regression, classification])
def test_the_order_of_the_support_set_does_not_matter(kind):
    shape = {"shape": (2,)}
    x, y = task(kind, **shape)
    learner = mk.MetaLearner(network=chain(5, 3 if kind is classification else 1), rule=small())
    first = generated(learner, x, y, 3)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        for one, two in zip(first, generated(learner, tf.gather(x, order), tf.gather(y, order), 3), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6, rtol=0)
    other = generated(learner, x, tf.sort(y) if kind is classification else tf.roll(y, 1, axis=0), 3)
    assert all(np.abs(one - two).max() > 1e-4 for one, two in zip(first, other, strict=True)), "labels matter"


def test_what_the_network_contains_itself_does_not_matter():
    x, y = task()
    networks = [chain(5, 1), chain(5, 1)]
    rule = small()
    one, two = (generated(mk.MetaLearner(network=network, rule=rule), x, y) for network in networks)
    assert not np.array_equal(networks[0].get_weights()[0], networks[1].get_weights()[0])
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)


def test_rows_follow_the_inputs_and_columns_the_outputs():
    """The part of the coefficients that belongs to an input or an output moves with it; the places do not."""
    x, y = task(shape=(3,), targets=2)
    rule = small()
    learner = mk.MetaLearner(network=chain(5, 2, inputs=3), rule=rule)
    context = Context(learner._loss_of)
    pairs = rule.describe(x, y, 2, context).numpy()
    assert pairs.shape == (3, 2, 4)
    swapped = rule.describe(tf.gather(x, [2, 0, 1], axis=1), y[:, ::-1], 2, context).numpy()
    np.testing.assert_allclose(swapped, pairs[[2, 0, 1]][:, ::-1], atol=1e-6)


def test_gradients_agree_with_central_differences(precise):
    learner = learner_of(chain(4, 1), small())
    assert_slopes(learner, regression(), h=1e-5)  # ReLUs have kinks
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert_slopes(learner_of(chain(4, 4, 3), learner.rule, loss), classification(shape=(2,)), h=1e-5)


def test_other_layers_are_trained_by_the_outer_loop():
    network = keras.Sequential(
        [keras.Input((2,)), layers.Dense(4), layers.BatchNormalization(name="norm"), layers.ReLU(), layers.Dense(1)]
    )
    learner = mk.MetaLearner(network=network, rule=small())
    own = network.get_layer("norm").trainable_variables
    assert {*map(id, learner.trainable_variables)} == {*map(id, [*own, *learner.rule.trainable_variables])}
    x, y = task()
    np.testing.assert_array_equal(generated(learner, x, y)[2], network.get_layer("norm").gamma)


def test_saving_and_loading_preserve_everything(tmp_path):
    learner = mk.MetaLearner(network=chain(5, 1), rule=small())
    inputs = tuple(tf.cast(part, "float32") for part in regression()[0])
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert loaded.rule.get_config() == learner.rule.get_config()
    np.testing.assert_array_equal(loaded(inputs), learner(inputs))
    expert = learner.adapt(inputs[0][0], inputs[1][0])
    np.testing.assert_allclose(expert(inputs[2][0]), learner(inputs)[0], atol=1e-5)


@pytest.mark.slow
def test_learners_take_turns_in_training_it():
    keras.utils.set_random_seed(0)
    rule = CoordinateGenerator()
    tasks = dict(shots=10, queries=5, meta_batch=8, amplitude=(1, 2), phase=(0, 1), x_range=(-2, 2))
    learners = [mk.MetaLearner(network=mk.networks.mlp(1, hidden=hidden), rule=rule) for hidden in ((16,), (8, 8))]
    for learner in learners:
        learner.compile(keras.optimizers.Adam(0.003), "mse", jit_compile=False)
    new = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(12,)), rule=rule)
    new.compile(loss="mse", jit_compile=False)
    held_out = mk.Sinusoids(seed=1, **tasks)
    before = [learner.evaluate(held_out, steps=8, verbose=0) for learner in (*learners, new)]
    for _ in range(2):
        for learner in learners:
            learner.fit(mk.Sinusoids(**tasks), steps_per_epoch=60, verbose=0)
    after = [learner.evaluate(held_out, steps=8, verbose=0) for learner in (*learners, new)]
    assert all(now < 0.7 * then for now, then in zip(after, before, strict=True)), (
        "also a network it was not trained with"
    )


@pytest.mark.parametrize("settings", [{"code": 0}, {"components": 1.5}, {"hidden": None}])
def test_settings_are_checked(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1; got"):
        CoordinateGenerator(**settings)


def branched(kind):
    inputs = keras.Input((4,))
    first = layers.Dense(4, name="a")
    b = layers.Dense(4, name="b")(first(inputs))
    if kind == "shared":
        return keras.Model(inputs, layers.Dense(1, name="out")(first(first(inputs))))
    more = inputs if kind == "skip" else layers.Dense(4)(inputs)
    return keras.Model(inputs, layers.Dense(1, name="out")(layers.Add()([b, more])))


@pytest.mark.parametrize("kind", ["skip", "branch", "shared"])
def test_what_is_no_chain_is_refused(kind):
    with pytest.raises(ValueError, match="are no such chain. Use a network without branches"):
        mk.MetaLearner(network=branched(kind), rule=CoordinateGenerator())


def test_a_low_rank_update_is_trained_by_the_learner():
    network = mk.networks.mlp(1, hidden=(6,))
    network.layers[0].enable_lora(2)
    learner = mk.MetaLearner(network=network, rule=small())
    names = {variable.name for variable in learner.trainable_variables} & {"lora_kernel_a", "lora_kernel_b", "bias"}
    assert {"lora_kernel_a", "lora_kernel_b"} <= names
    learner.compile("adam", loss="mse", run_eagerly=True)
    history = learner.fit(mk.Sinusoids(shots=3, queries=3, meta_batch=2), steps_per_epoch=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_network_must_have_dense_layers_and_one_row_per_example():
    flat = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3), layers.Flatten()])
    image = keras.Sequential([keras.Input((4, 4, 1)), layers.Dense(2)])
    for network in (flat, image):
        with pytest.raises(ValueError, match="CoordinateGenerator generates the weights of dense layers for a network"):
            mk.MetaLearner(network=network, rule=CoordinateGenerator())


def test_a_network_must_have_one_output_per_class():
    learner = mk.MetaLearner(network=chain(4, 2), rule=small())
    with pytest.raises(ValueError, match="The tasks have 3 classes; the network 'mlp' has 2 outputs"):
        learner.predictor(np.zeros((3, 2)), [0, 1, 2])
