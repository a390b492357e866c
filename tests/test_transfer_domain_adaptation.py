"""Domain adaptation: gradient reversal, the CORAL loss, pairs of batches, and the learner."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras.transfer import DomainAdaptation, GradientReversal, RisingWeight, coral_loss, pair_domains


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def two_domains(count=120, seed=0):
    """Three classes in a plane; the target is shifted and scaled, with the same classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = np.float32([[0, 3], [3, 0], [-3, -3]])[y] + rng.normal(size=(count, 2)).astype("float32")
    return x, y, 0.5 * x + 2


# Gradient reversal


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("compiled", ["eager", "function", "xla"])
def test_what_is_below_a_reversal_gets_the_gradient_turned_around(strength, compiled):
    layer = GradientReversal(strength, dtype="float64")
    x = tf.Variable(normal(4, 3))

    def slope():
        with tf.GradientTape() as tape:
            height = tf.reduce_sum(tf.sin(layer(x)))
        return height, tape.gradient(height, x)

    if compiled != "eager":
        slope = tf.function(slope, jit_compile=compiled == "xla")
    height, gradient = slope()
    np.testing.assert_allclose(height, np.sin(x.numpy()).sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient, -strength * np.cos(x.numpy()), rtol=1e-12, atol=1e-15)


def test_what_is_above_a_reversal_learns_as_ever():
    w = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        height = w * GradientReversal()(tf.constant(3.0))
    assert tape.gradient(height, w) == 3


def test_a_reversal_is_saved_with_its_strength(tmp_path):
    model = keras.Sequential([keras.Input((2,)), GradientReversal(0.25), keras.layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].strength == 0.25
    np.testing.assert_array_equal(loaded(np.ones((1, 2))), model(np.ones((1, 2))))


def test_a_reversal_refuses_to_turn_twice():
    with pytest.raises(ValueError, match="strength must be a finite number of at least 0; got -1"):
        GradientReversal(-1)


# CORAL


@pytest.mark.parametrize(("rows", "others", "width"), [(2, 2, 1), (5, 9, 3), (40, 7, 8)])
def test_coral_is_numpys_difference_of_covariances(rows, others, width):
    rng = np.random.default_rng(rows)
    a, b = rng.normal(size=(rows, width)), 1 + 2 * rng.normal(size=(others, width))
    apart = np.cov(a, rowvar=False) - np.cov(b, rowvar=False)
    expected = (apart**2).sum() / (4 * width**2)
    np.testing.assert_allclose(coral_loss(tf.constant(a), tf.constant(b)), expected, rtol=1e-10)


def test_coral_sees_how_features_vary_and_not_where_they_lie():
    a = tf.constant(normal(20, 4))
    assert float(coral_loss(a, a[::-1] + 7)) < 1e-20
    assert float(coral_loss(a, 2 * a)) > 0.1


def test_the_gradient_of_coral_is_that_of_differences():
    a, b = (tf.Variable(normal(5, 3, seed=seed)) for seed in range(2))
    with tf.GradientTape() as tape:
        loss = coral_loss(a, b)
    slopes = tape.gradient(loss, [a, b])
    step = 1e-5
    for variable, slope in zip((a, b), slopes, strict=True):
        ahead = normal(5, 3, seed=2)
        variable.assign_add(step * ahead)
        up = coral_loss(a, b)
        variable.assign_sub(2 * step * ahead)
        down = coral_loss(a, b)
        variable.assign_add(step * ahead)
        np.testing.assert_allclose((slope.numpy() * ahead).sum(), (up - down) / (2 * step), rtol=1e-7)


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 1)])
def test_coral_names_the_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(5, "):
        coral_loss(tf.zeros((4, 3)), tf.zeros(shape))
    with pytest.raises(ValueError, match=r"\(5, .* and \(4, 3\)"):
        coral_loss(tf.zeros(shape), tf.zeros((4, 3)))


# Pairs of batches


@pytest.mark.parametrize(("ours", "theirs", "batch"), [(6, 4, 2), (5, 12, 3), (3, 2, 8)])
def test_each_domain_is_gone_through_whole_before_it_begins_anew(ours, theirs, batch):
    source, target = np.arange(ours), np.arange(theirs) + 100
    pairs = pair_domains(source[:, None], 10 * source, target[:, None], batch_size=batch, seed=4)
    steps = list(pairs.take(-(-3 * ours * theirs // batch)))
    seen = np.concatenate([ours_x for (ours_x, _), _ in steps]).ravel()
    others = np.concatenate([theirs_x for (_, theirs_x), _ in steps]).ravel()
    labels = np.concatenate([labels for _, labels in steps])
    np.testing.assert_array_equal(labels, 10 * seen)
    for found, all_of_them in ((seen, source), (others, target)):
        rounds = [found[i : i + len(all_of_them)] for i in range(0, 3 * len(all_of_them), len(all_of_them))]
        assert all(sorted(one) == all_of_them.tolist() for one in rounds)
        assert len({tuple(one) for one in rounds}) > 1, "every round has its own order"


def test_pairs_are_the_same_for_the_same_seed_and_dealt_independently_in_the_two_domains():
    x = np.arange(50)[:, None]
    batches = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(len(batches))
        batches.append([part.numpy() for part in next(iter(pair_domains(x, x[:, 0], x, batch_size=50, seed=seed)))[0]])
    np.testing.assert_array_equal(batches[0], batches[1])
    assert not any(np.array_equal(one, other) for one, other in zip(batches[0], batches[2], strict=True))
    assert np.mean(batches[0][0] == batches[0][1]) < 0.2


@pytest.mark.parametrize(
    ("source", "labels", "target", "message"),
    [
        ((4, 2), 3, (5, 2), "one label per example; got 3 for 4 examples"),
        ((4, 2), 4, (0, 2), r"target_x must be an array .*; got ndarray of shape \(0, 2\)"),
        ((0, 2), 0, (5, 2), r"source_x must be an array .*; got ndarray of shape \(0, 2\)"),
        ((4, 8, 8, 1), 4, (4, 9, 8, 1), r"\(8, 8, 1\), those of the target \(9, 8, 1\)"),
    ],
)
def test_pairs_say_what_does_not_fit(source, labels, target, message):
    with pytest.raises(ValueError, match=message):
        pair_domains(np.zeros(source), np.zeros(labels), np.zeros(target))


# The learner


def losses_by_hand(learner, x, y, target):
    """The loss of the source and that of the domains, in plain operations, with no reversal."""
    (ours, scores), (theirs, _) = learner.with_features(x), learner.with_features(target)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, scores)
    if learner.method != "reversal":
        return entropy, coral_loss(ours, theirs) if learner.method else tf.constant(0.0)
    inner, inner_bias, outer, outer_bias = (variable.value for variable in learner.discriminator.trainable_variables)
    ours, theirs = (tf.nn.relu(rows @ inner + inner_bias) @ outer + outer_bias for rows in (ours, theirs))
    return entropy, tf.reduce_mean(tf.concat([tf.math.softplus(ours), tf.math.softplus(-theirs)], axis=0))


def learner_of(method, weight=0.7):
    return DomainAdaptation(small_network(), layer="dense_1", method=method, weight=weight, hidden=5)


def small_network():
    layers = [keras.layers.Dense(width, activation="tanh", name=f"dense_{n}") for n, width in enumerate((6, 4))]
    return keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(3, name="head")])


@pytest.mark.eagerly
@pytest.mark.parametrize("method", ["coral", "reversal", None])
def test_the_loss_is_that_of_the_source_and_the_weighted_loss_of_the_domains(method):
    x, y, target = two_domains(30)
    learner = learner_of(method)
    learner.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    history = learner.fit((x, target), y, batch_size=30, verbose=0).history
    ours, apart = losses_by_hand(learner, x, y, target)
    assert history["loss"][0] == pytest.approx(float(ours + 0.7 * apart), rel=1e-5)
    right = learner.predict(x, verbose=0).argmax(axis=1) == y
    assert history["accuracy"][0] == pytest.approx(right.mean())


@pytest.fixture
def double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.mark.parametrize(("method", "weight"), [("coral", 0.7), ("reversal", 0.7), ("reversal", 0.0), (None, 0.7)])
def test_a_step_goes_down_both_losses_and_reversal_takes_the_features_up_the_second(method, weight, double):
    x, y, target = two_domains(30)
    learner = learner_of(method, weight)
    variables = learner.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        entropy, apart = losses_by_hand(learner, x, y, target)
    values, zero = [variable.value for variable in variables], tf.UnconnectedGradients.ZERO
    slopes, turns = (tape.gradient(loss, values, unconnected_gradients=zero) for loss in (entropy, apart))
    features = {id(variable) for layer in learner.network.layers[:2] for variable in layer.variables}
    expected = []
    for variable, slope, turn in zip(variables, slopes, turns, strict=True):
        sign = -1 if method == "reversal" and id(variable) in features else 1
        expected.append(variable.numpy() - 0.5 * (slope + sign * weight * turn))
    learner.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    learner.fit((x, target), y, batch_size=30, verbose=0)
    assert len(variables) == 6 + 4 * (method == "reversal")
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-10, atol=1e-12, err_msg=variable.path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["coral", "reversal", None])
def test_a_learner_answers_as_its_network_and_keeps_that_through_a_file(method, tmp_path):
    x, y, target = two_domains(30)
    learner = learner_of(method, weight=0.3)
    learner.compile()
    learner.fit(pair_domains(x, y, target), steps_per_epoch=2, verbose=0)
    np.testing.assert_array_equal(learner(x), learner.network(x))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), learner.predict(x, verbose=0))
    assert (loaded.layer, loaded.method, loaded.weight, loaded.hidden) == ("dense_1", method, 0.3, 5)
    assert len(loaded.weights) == len(learner.weights) == 6 + 4 * (method == "reversal")
    loaded.fit(pair_domains(x, y, target), steps_per_epoch=1, verbose=0)


def test_a_rising_weight_follows_the_steps_and_is_saved(tmp_path):
    x, y, target = two_domains(30)
    rising = RisingWeight(0.7, steps=4)
    np.testing.assert_allclose(rising(0), 0)
    np.testing.assert_allclose(rising(2), 0.7 * (2 / (1 + np.exp(-5)) - 1), rtol=1e-6)
    np.testing.assert_allclose(rising(4), 0.7, rtol=1e-3)
    weights = []
    for weight in (0.0, rising):  # in the first step, the weight is 0
        keras.utils.set_random_seed(0)
        learner = learner_of("coral", weight=weight)
        learner.compile(keras.optimizers.SGD(0.1))
        learner.fit(pair_domains(x, y, target), steps_per_epoch=1, verbose=0)
        weights.append(learner.network.get_weights()[0])
        learner.fit(pair_domains(x, y, target), steps_per_epoch=1, verbose=0)
        weights.append(learner.network.get_weights()[0])
    np.testing.assert_array_equal(weights[0], weights[2])
    assert not np.allclose(weights[1], weights[3])
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert loaded.weight.get_config() == {"weight": 0.7, "steps": 4}
    with pytest.raises(ValueError, match="depends on the optimizer's step; call compile first"):
        learner_of("coral", weight=rising)((x, target), training=True)


def test_coral_lets_the_features_of_both_domains_vary_alike():
    x, y, target = two_domains(300)
    apart = []
    for method in (None, "coral"):
        learner = learner_of(method, weight=10.0)
        learner.compile(keras.optimizers.Adam(0.02), steps_per_execution=100, jit_compile=False)
        learner.fit(pair_domains(x, y, target), steps_per_epoch=200, verbose=0)
        apart.append(float(coral_loss(*(learner.with_features(rows)[0] for rows in (x, target)))))
    assert apart[1] < 0.1 * apart[0]


@pytest.mark.parametrize("method", ["coral", "reversal", None])
def test_answers_are_those_to_the_source_and_dropout_is_drawn_in_training_alone(method):
    layers = [keras.layers.Dropout(0.5), keras.layers.Dense(4, name="features"), keras.layers.Dense(3)]
    network = keras.Sequential([keras.Input((2,)), *layers])
    learner = DomainAdaptation(network, layer="features", method=method)
    x, _, target = two_domains(30)
    for inputs in (x, (x, target), [x, target]):
        np.testing.assert_array_equal(learner(inputs), network(x))
    np.testing.assert_array_equal(learner(x[:2]), network(x[:2]), err_msg="two rows are no pair of domains")
    drawn = learner((x, target), training=True)
    assert drawn.shape == (30, 3) and not np.allclose(drawn, network(x))


def test_the_discriminator_has_the_width_that_was_asked_for():
    discriminator = learner_of("reversal").discriminator
    assert [weight.shape for weight in discriminator.get_weights()] == [(4, 5), (5,), (5, 1), (1,)]


@pytest.mark.eagerly
def test_without_a_method_the_target_is_not_looked_at():
    x, y, target = two_domains(40)
    answers = []
    for others in (target, target + 50):
        keras.utils.set_random_seed(3)
        learner = learner_of(None)
        learner.compile(jit_compile=False)
        learner.fit(pair_domains(x, y, others), steps_per_epoch=3, verbose=0)
        answers.append(learner.predict(x, verbose=0))
    np.testing.assert_array_equal(*answers)


@pytest.mark.eagerly
def test_batch_normalisation_sees_both_domains_in_one_batch():
    x, y, target = two_domains(40)
    layers = [keras.layers.BatchNormalization(momentum=0.0), keras.layers.Dense(4, name="features")]
    network = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(3)])
    learner = DomainAdaptation(network, layer="features")
    learner.compile(jit_compile=False)
    learner.fit((x, target), y, batch_size=40, verbose=0)
    np.testing.assert_allclose(network.layers[0].moving_mean, np.concatenate([x, target]).mean(axis=0), atol=1e-5)


@pytest.mark.eagerly
@pytest.mark.parametrize("make", ["functional", "softmax"])
def test_the_loss_fits_what_the_network_gives(make):
    x, y, target = two_domains(20)
    network = small_network()
    if make == "softmax":
        network.add(keras.layers.Softmax())
    else:
        network = keras.Model(network.inputs[0], network.outputs[0])
    learner = DomainAdaptation(network, layer="dense_1", weight=0.0)
    learner.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    loss = learner.fit((x, target), y, batch_size=20, verbose=0).history["loss"][0]
    chances = network(x) if make == "softmax" else tf.nn.softmax(network(x))
    assert loss == pytest.approx(-np.log(chances.numpy()[np.arange(20), y]).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "dense"}, "no 'dense' among its layers 'dense_0', 'dense_1', 'head'"),
        ({"layer": "dense_1", "method": "mmd"}, "one of 'coral', 'reversal', None; got 'mmd'"),
        ({"layer": "dense_1", "weight": -1.0}, "weight must be a finite number of at least 0; got -1.0"),
    ],
)
def test_a_learner_says_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        DomainAdaptation(small_network(), **options)


def test_a_learner_says_which_networks_and_features_it_takes():
    pictures = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, name="conv"), keras.layers.Flatten()]
    )
    with pytest.raises(ValueError, match=r"'conv' have the shape \(None, 6, 6, 2\). Choose a layer after a Flatten"):
        DomainAdaptation(pictures, layer="conv")
    with pytest.raises(ValueError, match="network must have its weights"):
        DomainAdaptation(keras.Sequential([keras.layers.Dense(1, name="dense")]), layer="dense")
    inputs = [keras.Input((2,)), keras.Input((2,))]
    with pytest.raises(ValueError, match="network must have one input and one output"):
        DomainAdaptation(keras.Model(inputs, keras.layers.Add(name="sum")(inputs)), layer="sum")


def test_training_needs_pairs_of_one_shape():
    x, y, _ = two_domains(20)
    learner = learner_of("coral")
    learner.compile()
    with pytest.raises(ValueError, match="pair_domains returns such batches"):
        learner.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="pair_domains returns such batches"):
        learner(x[:2], training=True)
    with pytest.raises(ValueError, match=r"source have \(2,\), those of the target \(3,\)"):
        learner.fit((x, np.zeros((20, 3), "float32")), y, verbose=0)


@pytest.mark.parametrize("method", ["coral", "reversal"])
def test_domains_are_joined_in_mixed_precision_too(method):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        learner = learner_of(method)
        learner.compile()
        history = learner.fit(pair_domains(*two_domains(20), batch_size=8), steps_per_epoch=1, verbose=0)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(history.history["loss"]).all()


def test_a_single_row_does_not_vary():
    with pytest.raises(ValueError, match="Use a larger batch_size"):
        coral_loss(tf.ones((1, 2)), tf.ones((5, 2)))


def test_pairs_come_in_batches_of_one_row_or_more():
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1; got 0"):
        pair_domains(*two_domains(20), batch_size=0)


@pytest.mark.parametrize("training", [False, True])
def test_pixels_are_refused_in_each_domain(training):
    features = keras.layers.Dense(2, name="features")
    network = keras.Sequential([keras.Input((3,)), features, keras.layers.Dense(3)])
    learner = DomainAdaptation(network, layer="features")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3), "uint8")
    floats = pixels.astype("float32") / 255
    for pair in ((pixels, floats), (floats, pixels)):
        with pytest.raises(ValueError, match="x must be floats: these are pixels"):
            learner(pair, training=training)
    learner((floats, floats), training=training)


@pytest.mark.parametrize("end", [None, "softmax"])
def test_a_cross_entropy_by_name_and_as_a_metric_is_that_of_the_answers(end):
    x, y, target = two_domains()

    def compiled(**settings):
        keras.utils.set_random_seed(0)
        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="body"), keras.layers.Dense(3, end)])
        model = DomainAdaptation(network, layer="body", method="coral")
        model.compile(**settings)
        return model.evaluate(x, y, verbose=0, return_dict=True)

    name = "sparse_categorical_crossentropy"
    wanted, found = compiled(), compiled(loss=name, metrics=[name])
    np.testing.assert_allclose([found["loss"], found[name]], [wanted["loss"]] * 2, rtol=1e-5)
