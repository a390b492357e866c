"""A generator of weights: what it reads, what it generates, what is trained, and that nothing is lost in a file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import adapted, assert_slopes, classification, in_float64, learner_of, numbers, regression

import meta_keras as mk
from meta_keras.functional import PureModel
from meta_keras.rules import Context, CoordinateGenerator, Prototypes, WeightGenerator


@pytest.fixture
def precise():
    in_float64()


def chain():
    names = ("low", "middle", "head")
    units = [layers.Dense(n, "tanh" if n > 1 else None, name=name) for n, name in zip((4, 3, 1), names, strict=True)]
    return keras.Sequential([keras.Input((2,)), *units])


def classifier(ways=3, normalization=True):
    norm = [layers.BatchNormalization(momentum=0.5)] if normalization else []
    hidden = [layers.Conv2D(4, 3, activation="tanh"), *norm, layers.Flatten()]
    return keras.Sequential([keras.Input((4, 4, 1)), *hidden, layers.Dense(ways, name="head")])


def at_random(rule, size=0.3):
    """Give all that is learned random values: the meta output layer begins with zeros."""
    for n, variable in enumerate(rule.trainable_variables):
        variable.assign(variable + size * numbers(*variable.shape, seed=(1, n)))
    return rule


def learned(network, settings, loss=keras.losses.mean_squared_error, **more):
    learner = learner_of(network, WeightGenerator(code=5, hidden=(6,), **settings), loss, **more)
    at_random(learner.rule)
    return learner


KINDS = {
    "head": ({"layers": "head"}, chain, regression),
    "two layers": ({"layers": ["low", "head"]}, chain, regression),
    "all": ({"layers": None}, chain, regression),
    "head, labels": ({"layers": "head"}, classifier, classification),
    "per class": ({"per_class": True, "prototypes": True}, classifier, classification),
    "per class, zero": ({"per_class": True}, classifier, classification),
}


def made(kind, **more):
    settings, build, tasks = KINDS[kind]
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = cross_entropy if tasks is classification else keras.losses.mean_squared_error
    return learned(build(), settings | more, loss), tasks()


def weights_for(learner, x, y, ways=None):
    start = learner.pure.weights()
    context = Context(learner._loss_of, ways)
    return [w.numpy() for w in learner.rule.adapt(learner.pure, start, x, y, context).weights.parameters]


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["episode", "support", "moving"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_support_set_does_not_matter(kind, statistics):
    learner, ((x, y, _), _) = made(kind, batch_statistics=statistics)
    x, y = tf.cast(x[0], tf.float32), y[0] if y.dtype.is_integer else tf.cast(y[0], tf.float32)
    orders = [np.random.default_rng(seed).permutation(len(x)) for seed in range(5)]
    first, *others = [weights_for(learner, tf.gather(x, o), tf.gather(y, o), 3) for o in [np.arange(len(x)), *orders]]
    for other in others:
        for one, two in zip(first, other, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6, rtol=1e-6)
    changed = weights_for(learner, x, tf.roll(y, 1, axis=0), 3)
    assert any(np.abs(one - two).max() > 1e-3 for one, two in zip(first, changed, strict=True)), "labels matter"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_central_differences(kind, precise):
    learner, tasks = made(kind)
    assert_slopes(learner, tasks, h=1e-5)  # ReLUs have kinks


@pytest.mark.parametrize("kind", ["head", "two layers", "all", "head, labels"])
def test_training_begins_with_the_network_as_it_is(kind):
    settings, build, tasks = KINDS[kind]
    network = build()
    learner = mk.MetaLearner(network=network, rule=WeightGenerator(**settings))
    inputs, _ = tasks()
    inputs = tuple(tf.cast(part, tf.float32) if part.dtype.is_floating else part for part in inputs)
    np.testing.assert_allclose(learner(inputs)[0], network(inputs[2][0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("statistics", ["episode", "support", "moving"])
def test_per_class_begins_as_prototypes(statistics):
    network = classifier()
    features = keras.Model(network.inputs, network.layers[-1].input)
    (x, y, queries), _ = classification()
    task = tf.cast(x, tf.float32), y, tf.cast(queries, tf.float32)
    rules = (
        WeightGenerator(per_class=True, prototypes=True, batch_statistics=statistics),
        Prototypes(batch_statistics=statistics),
    )
    generator, prototypes = (
        tf.nn.log_softmax(mk.MetaLearner(network=model, rule=rule)(task))
        for model, rule in zip((network, features), rules, strict=True)
    )
    np.testing.assert_allclose(generator, prototypes, atol=1e-4)


def test_renaming_the_classes_renames_the_answers():
    learner, ((x, y, queries), _) = made("per class")
    x, queries = tf.cast(x, tf.float32), tf.cast(queries, tf.float32)
    order = np.array([2, 0, 1])
    before, after = learner((x, y, queries)).numpy(), learner((x, tf.gather(order, y), queries)).numpy()
    np.testing.assert_allclose(after[..., order], before, atol=1e-5)
    plain, _ = made("head, labels")
    before, after = plain((x, y, queries)).numpy(), plain((x, tf.gather(order, y), queries)).numpy()
    assert np.abs(after[..., order] - before).max() > 1e-2, "columns that do not share a generator are not equivariant"


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_named_is_generated(kind):
    learner, ((x, y, _), _) = made(kind)
    task = [tf.cast(x[0], tf.float32), y[0] if y.dtype.is_integer else tf.cast(y[0], tf.float32)]
    chosen = {id(v) for v in learner.rule.generated(learner.pure)}
    for variable, value in zip(learner.pure.parameters, weights_for(learner, *task, 3), strict=True):
        assert np.array_equal(variable, value) != (id(variable) in chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_the_outer_loop_trains_all_but_a_head_that_is_replaced(kind):
    learner, tasks = made(kind)
    network, rule = learner.network, learner.rule
    replaced = set(map(id, network.layers[-1].weights)) if rule.per_class else set()
    own = [v for v in network.trainable_variables if id(v) not in replaced]
    assert [id(v) for v in learner.trainable_variables] == [id(v) for v in [*own, *rule.trainable_variables]]
    inputs, query_y = tf.nest.map_structure(lambda p: p if p.dtype.is_integer else tf.cast(p, "float32"), tasks)
    _, _, (_, gradients) = learner.meta_gradients(inputs, query_y)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_a_frozen_layer_is_generated_and_not_trained():
    network = chain()
    network.get_layer("head").trainable = False
    learner = learned(network, {"layers": "head"})
    assert not {*map(id, network.get_layer("head").weights)} & {*map(id, learner.trainable_variables)}
    (x, y, _), _ = regression()
    kernel = weights_for(learner, tf.cast(x[0], "float32"), tf.cast(y[0], "float32"))[-2]
    assert kernel.shape == (3, 1) and not np.array_equal(kernel, network.get_layer("head").kernel)


def test_normalization_layers_can_be_generated():
    network = keras.Sequential(
        [keras.Input((2,)), layers.Dense(4), layers.BatchNormalization(name="norm"), layers.ReLU(), layers.Dense(1)]
    )
    learner = learned(network, {"layers": "norm", "batch_statistics": "support"})
    (x, y, queries), _ = regression(support=6)
    task = [tf.cast(part, "float32") for part in (x, y, queries)]
    assert np.isfinite(learner(tuple(task))).all()
    assert np.allclose(learner(tuple(task))[0, :1], learner((*task[:2], task[2][:, :1]))[0], atol=1e-5)


def test_a_class_without_examples_is_never_the_answer():
    learner = mk.MetaLearner(network=classifier(), rule=WeightGenerator(per_class=True), ways=3)
    (x, _, queries), _ = classification()
    predictor = learner.predictor(tf.cast(x[0], "float32")[:2], [1, 2])  # logits begin equal: the first would win
    assert predictor.predict(tf.cast(queries[0], "float32")).argmax(axis=-1).min() > 0


def test_classes_without_examples_do_not_count_in_the_mean():
    learner, ((x, y, _), _) = made("per class, zero")
    x, y = tf.cast(x[0], tf.float32), tf.minimum(y[0], 1)
    few, many = (weights_for(learner, x, y, ways)[-2:] for ways in (2, 3))
    for one, other in zip(few, many, strict=True):  # the kernel and the bias of the head
        np.testing.assert_allclose(other[..., :2], one, atol=1e-6)


def test_an_encoder_describes_the_support_set():
    encoder = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3), layers.Dropout(0.5)])
    with pytest.raises(ValueError, match="prototypes are means of the features below the head; with encoder="):
        WeightGenerator(per_class=True, prototypes=True, encoder=encoder)
    rule = WeightGenerator(None, encoder=encoder)
    learner = mk.MetaLearner(network=classifier(), rule=rule)
    assert rule.meta_input.input_shape == (None, 3 + 3) and learner.parallel == "map"
    assert all(any(v is w for w in learner.trainable_variables) for v in encoder.trainable_variables)


def test_dropout_of_the_generator_differs_between_tasks_and_calls():
    learner = learned(chain(), {"layers": None, "dropout": 0.5})
    inputs = tuple(tf.repeat(tf.cast(part[:1], "float32"), 3, axis=0) for part in regression()[0])
    answers = [*learner(inputs, training=True).numpy(), *learner(inputs, training=True).numpy()]
    assert all(not np.allclose(answers[i], answers[j]) for i in range(6) for j in range(i))
    still = learner(inputs).numpy()
    np.testing.assert_allclose(still, np.repeat(still[:1], 3, axis=0), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_preserve_everything(kind, tmp_path):
    learner, (inputs, _) = made(kind, dropout=0.2, batch_statistics="support")
    inputs = tuple(part if part.dtype.is_integer else tf.cast(part, "float32") for part in inputs)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert loaded.rule.get_config() == learner.rule.get_config()
    np.testing.assert_array_equal(loaded(inputs), learner(inputs))
    expert = learner.adapt(inputs[0][0], inputs[1][0])
    expert.save(tmp_path / "expert.keras")
    again = keras.saving.load_model(tmp_path / "expert.keras")
    np.testing.assert_allclose(again(inputs[2][0]), learner(inputs)[0], rtol=1e-4, atol=1e-4)


def test_an_encoder_is_saved(tmp_path):
    encoder = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    learner = learned(chain(), {"layers": None, "encoder": encoder})
    inputs = tuple(tf.cast(part, "float32") for part in regression()[0])
    learner.save(tmp_path / "learner.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "learner.keras")(inputs), learner(inputs))


def test_it_learns_sine_curves():
    keras.utils.set_random_seed(0)
    tasks = dict(shots=10, queries=5, meta_batch=8, amplitude=(1, 2), phase=(0, 1), x_range=(-2, 2))
    learner = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(16,)), rule=WeightGenerator("head"))
    learner.compile(keras.optimizers.Adam(0.005), "mse", jit_compile=False)
    before = learner.evaluate(mk.Sinusoids(seed=1, **tasks), steps=8, verbose=0)
    learner.fit(mk.Sinusoids(**tasks), steps_per_epoch=150, verbose=0)
    assert learner.evaluate(mk.Sinusoids(seed=1, **tasks), steps=8, verbose=0) < 0.4 * before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "none"}, "layers='none' has no weights or is not there; those with weights"),
        ({"layers": ["low", "head"], "per_class": True}, "per_class=True generates the last layer of a classifier"),
        ({"layers": "low", "per_class": True}, "Name that layer: layers='head'"),
    ],
)
def test_layers_must_be_there(settings, message):
    with pytest.raises(ValueError, match=message):
        mk.MetaLearner(network=chain(), rule=WeightGenerator(**settings))


def test_networks_must_have_one_output():
    x = keras.Input((2,))
    two = keras.Model(x, [layers.Dense(1, name="head")(x), layers.Dense(1)(x)])
    with pytest.raises(ValueError, match="The network must have one output of a known shape"):
        mk.MetaLearner(network=two, rule=WeightGenerator())
    with pytest.raises(ValueError, match="The encoder must have one output of a known shape"):
        mk.MetaLearner(network=chain(), rule=WeightGenerator(encoder=two))


def test_a_network_must_have_one_output_per_class():
    learner = mk.MetaLearner(network=classifier(4), rule=WeightGenerator(per_class=True))
    with pytest.raises(ValueError, match="The tasks have 3 classes; the network .* has 4 outputs. Give .* 3 units"):
        learner.predictor(np.zeros((3, 4, 4, 1)), [0, 1, 2])


def test_a_network_that_hides_its_layers_needs_an_encoder():
    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1, name="head")

        def call(self, x):
            return self.dense(x)

    network = Hidden()
    network(np.zeros((1, 2), "float32"))
    with pytest.raises(ValueError, match="Pass encoder=, a Keras model for the inputs, or build"):
        mk.MetaLearner(network=network, rule=WeightGenerator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code": 0}, "code must be an integer of at least 1; got 0"),
        ({"hidden": ()}, "hidden must be"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to 0.99; got 1.0"),
        ({"per_class": "yes"}, "per_class must be True or False"),
        ({"layers": 3}, "layers must be"),
        ({"encoder": 3}, "encoder"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        WeightGenerator(**settings)


def test_a_pure_model_is_adapted_without_a_learner():
    network = PureModel(chain())
    rule = WeightGenerator(None)
    rule.prepare(network)
    (x, y, _), _ = regression()
    found = adapted(rule, network, [tf.cast(x[0], "float32"), tf.cast(y[0], "float32")])
    assert [one.shape for one in found] == [v.shape for v in network.parameters]


@pytest.mark.parametrize("make", [lambda: WeightGenerator(None), CoordinateGenerator])
def test_integer_inputs_do_not_truncate_targets(make):
    learner = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(3,)), rule=make())
    for n, variable in enumerate(learner.rule.trainable_variables):
        variable.assign(np.random.default_rng(n).normal(size=variable.shape))
    learner.compile(loss="mse")
    x = np.arange(5)[None, :, None]
    low, high = (learner.predict((x, np.full((1, 5, 1), y, "float32"), x), verbose=0) for y in (0.1, 0.9))
    assert not np.allclose(low, high)


def test_prototypes_need_a_column_for_each_class():
    with pytest.raises(ValueError, match="pass per_class=True with it"):
        WeightGenerator(prototypes=True)


def test_layers_are_frozen_before_the_learner_is_created():
    network = mk.networks.mlp(1, hidden=(3,))
    learner = mk.MetaLearner(network=network, rule=WeightGenerator(None))
    learner.compile(loss="mse")
    network.layers[0].trainable = False
    with pytest.raises(ValueError, match="made for 10 weights, and 4 are to be generated now"):
        learner.adapt(np.ones((3, 1), "float32"), np.ones((3, 1), "float32"))
