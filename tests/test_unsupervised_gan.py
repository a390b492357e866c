"""GAN: its losses against numbers computed by hand, which network learns from which loss, and Keras' conventions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk
from meta_keras.unsupervised import GAN, gan_losses

IMAGES = np.random.default_rng(0).random((12, 4, 4, 1), np.float32)


def encoder(width=3):
    layers = [keras.layers.Flatten(), keras.layers.Dense(width, activation="softplus")]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers])


def generator(latent=2):
    return keras.Sequential([keras.Input((latent,)), keras.layers.Dense(16), keras.layers.Reshape((4, 4, 1))])


def gan(seed=0, optimizer="adam", **settings):
    keras.utils.set_random_seed(seed)
    model = GAN(encoder(), generator(), **settings)
    model.compile(optimizer, run_eagerly=True)
    return model


def weights_of(*layers):
    return [array.copy() for layer in layers for array in layer.get_weights()]


def largest_difference(before, after):
    return max(np.abs(one - other).max() for one, other in zip(before, after, strict=True))


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, float)))


# The losses


def test_the_losses_by_hand():
    """With D(x) = 3/4 and D(G(z)) = 1/4 for logits log 3 and -log 3."""
    of_discriminator, of_generator = gan_losses(tf.constant([np.log(3.0)]), tf.constant([-np.log(3.0)]))
    assert float(of_discriminator) == pytest.approx(np.log(4 / 3), rel=1e-6)
    assert float(of_generator) == pytest.approx(np.log(4), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_losses_are_the_means_of_logarithms_of_probabilities(seed):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(7, 1)), rng.normal(size=(5, 1))
    by_hand = -(np.log(sigmoid(real)).mean() + np.log(1 - sigmoid(generated)).mean()) / 2
    losses = gan_losses(tf.constant(real), tf.constant(generated))
    np.testing.assert_allclose(losses, [by_hand, -np.log(sigmoid(generated)).mean()], rtol=1e-12)


def test_a_certain_discriminator_gives_finite_losses():
    """sigmoid(-200) is 0 in float32, and its logarithm would be infinite."""
    np.testing.assert_allclose(gan_losses(tf.constant([-200.0]), tf.constant([-200.0])), [100.0, 200.0])


def test_the_generator_has_a_gradient_where_the_discriminator_is_certain():
    """That of log(1 - D), which the generator would minimize in the saturating game, is almost zero there."""
    logit = tf.Variable(-10.0)
    with tf.GradientTape(persistent=True) as tape:
        _, non_saturating = gan_losses(tf.constant([0.0]), logit[None])
        saturating = tf.math.log_sigmoid(-logit)
    assert float(tape.gradient(non_saturating, logit)) == pytest.approx(-1, abs=1e-4)
    assert abs(tape.gradient(saturating, logit)) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_the_best_discriminator_compares_the_two_probabilities(seed):
    """On three images with known probabilities, no logits have a lower loss than those of p / (p + q)."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(3), 2)

    def loss(logits):
        return -(p @ np.log(sigmoid(logits)) + q @ np.log(1 - sigmoid(logits))) / 2

    best = np.log(p / q)
    repeated = [np.repeat(best, (1000 * part).round().astype(int)) for part in (p, q)]
    ours = float(gan_losses(*(tf.constant(part) for part in repeated))[0])
    assert ours == pytest.approx(loss(best), abs=0.02)
    for _ in range(20):
        assert loss(best) < loss(best + rng.normal(size=3))
    mixture = (p + q) / 2
    divergence = (p @ np.log(p / mixture) + q @ np.log(q / mixture)) / 2
    assert loss(best) == pytest.approx(np.log(2) - divergence)


@pytest.mark.parametrize("values", [None, 3, [0.5], np.ones(2), tf.constant([1, 2]), tf.zeros((0,))])
def test_losses_need_logits(values):
    with pytest.raises(ValueError, match="generated must"):
        gan_losses(tf.zeros(2), values)


# Training


def expected_gradients(model, noise):
    """The gradients of both networks, each of its own loss, with a penalty computed from the weights of D."""
    hidden, head = model.encoder.layers[-1], model.head
    with tf.GradientTape(persistent=True) as tape:
        rows = tf.reshape(IMAGES, (12, 16))
        before = rows @ hidden.kernel + hidden.bias
        real = tf.math.softplus(before) @ head.kernel + head.bias
        slopes = (tf.sigmoid(before) * head.kernel[:, 0]) @ tf.transpose(hidden.kernel)
        images = tf.reshape(tf.sigmoid(model.generator(noise)), (12, 16))
        generated = tf.math.softplus(images @ hidden.kernel + hidden.bias) @ head.kernel + head.bias
        of_d = -tf.reduce_mean(tf.math.log(tf.sigmoid(real)) + tf.math.log(1 - tf.sigmoid(generated))) / 2
        of_d += model.penalty / 2 * tf.reduce_mean(tf.reduce_sum(slopes**2, axis=1))
        of_g = -tf.reduce_mean(tf.math.log(tf.sigmoid(generated)))
    discriminator = [hidden.kernel, hidden.bias, head.kernel, head.bias]
    found = {id(v): g for v, g in zip(discriminator, tape.gradient(of_d, discriminator), strict=True)}
    trained = model.generator.trainable_variables
    return found | {id(v): g for v, g in zip(trained, tape.gradient(of_g, trained), strict=True)}


def test_a_step_follows_the_gradient_of_each_networks_own_loss(monkeypatch):
    noise = tf.random.stateless_normal((12, 2), [1, 2])
    monkeypatch.setattr(keras.random, "normal", lambda shape, seed: noise)
    model = gan(optimizer=keras.optimizers.SGD(0.1), penalty=3.0)
    gradients = expected_gradients(model, noise)
    expected = [variable - 0.1 * gradients[id(variable)] for variable in model.trainable_variables]
    model.train_on_batch(IMAGES)
    assert len(expected) == 6
    for variable, after in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable, after, rtol=1e-4, atol=1e-6)


def test_the_penalty_of_a_linear_discriminator_is_the_squared_length_of_its_weights():
    flat = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model = GAN(flat, generator(), penalty=2.0)
    model.compile()
    logs = model.evaluate(IMAGES, verbose=0, return_dict=True)
    assert logs["gradient_penalty"] == pytest.approx(np.sum(model.head.kernel.numpy() ** 2), rel=1e-5)
    without = GAN(flat, generator(), penalty=0.0)
    without.compile()
    assert without.evaluate(IMAGES, verbose=0, return_dict=True)["gradient_penalty"] == 0


def test_the_logs_are_the_losses_and_evaluation_changes_nothing():
    model = gan()
    before = weights_of(model.encoder, model.generator, model.head)
    logs = model.evaluate(IMAGES, verbose=0, return_dict=True)
    assert set(logs) == {"discriminator_loss", "generator_loss", "gradient_penalty"}
    assert largest_difference(before, weights_of(model.encoder, model.generator, model.head)) == 0
    history = model.fit(IMAGES, validation_data=IMAGES, epochs=2, verbose=0).history
    assert set(history) == {*logs, *(f"val_{name}" for name in logs)}


def test_layers_that_add_a_loss_train_with_it():
    network = encoder()
    network.layers[-1].kernel_regularizer = keras.regularizers.L2(1e3)
    regularized = keras.models.clone_model(network)
    model = GAN(regularized, generator(), penalty=0.0)
    model.compile(keras.optimizers.SGD(1e-4), run_eagerly=True)
    before = regularized.layers[-1].kernel.numpy()
    model.fit(IMAGES, verbose=0)
    np.testing.assert_allclose(regularized.layers[-1].kernel, 0.8 * before, atol=1e-3)


def test_losses_that_layers_add_in_their_calls_are_those_of_both_batches():
    """The encoder returns its pixels, and the images are gray. Recent versions of Keras divide by the batch size."""
    probe = keras.layers.ActivityRegularization(l1=1.0)
    probe(tf.ones((12, 1)))
    divisor = 12 / float(probe.losses[0])
    activity = {"activity_regularizer": keras.regularizers.L1(1.0)}
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Activation("linear", **activity)]
    )
    makes = keras.layers.Dense(16, kernel_initializer="zeros", bias_initializer="ones", **activity)
    kernel = keras.layers.Dense(4, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L1(10.0))
    network.add(kernel)
    model = GAN(network, keras.Sequential([keras.Input((2,)), makes, keras.layers.Reshape((4, 4, 1))]))
    losses, (of_encoder, of_generator) = model._terms(tf.constant(IMAGES), training=True)
    assert float(of_generator) == pytest.approx(12 * 16 / divisor)
    of_both = (IMAGES.sum() + 12 * 16 * sigmoid(1)) / divisor
    assert float(of_encoder) == pytest.approx(of_both + 10 * 16 * 4, rel=1e-5)
    of_d, of_g = model._objectives(losses, (of_encoder, of_generator))
    assert float(of_d) == pytest.approx(float(losses[0] + losses[2] + of_encoder))
    assert float(of_g) == pytest.approx(float(losses[1] + of_generator))


def test_it_learns_a_distribution_of_two_images():
    """Black and white images: the generator has to make both, and nothing between."""
    images = np.repeat(np.float32([0, 1]), 32)[:, None] * np.ones((64, 4), np.float32)
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    network = keras.Sequential([keras.Input((4,)), dense(32, activation="relu")])
    model = GAN(network, keras.Sequential([keras.Input((2,)), dense(32, activation="relu"), dense(4)]), penalty=0.1)
    model.compile(keras.optimizers.Adam(0.01, beta_1=0.5), jit_compile=False)
    rows = tf.data.Dataset.from_tensor_slices(images).shuffle(64, seed=0).repeat().batch(32)
    model.fit(rows, steps_per_epoch=400, verbose=0)
    means = model.sample(500, seed=0).mean(axis=1)
    assert np.mean((means < 0.2) | (means > 0.8)) > 0.8
    assert 0.25 < np.mean(means > 0.5) < 0.75


# Keras' conventions


def test_it_continues_after_saving_where_it_was(tmp_path):
    model = gan(penalty=2.5)
    model.fit(IMAGES, verbose=0)
    model.save(tmp_path / "gan.keras")
    restored = keras.models.load_model(tmp_path / "gan.keras")
    assert restored.penalty == 2.5
    np.testing.assert_array_equal(restored.sample(3, seed=1), model.sample(3, seed=1))
    np.testing.assert_array_equal(restored.encode(IMAGES), model.encode(IMAGES))
    for one in (model, restored):
        one.fit(IMAGES, shuffle=False, verbose=0)
    np.testing.assert_allclose(restored.sample(3, seed=1), model.sample(3, seed=1), rtol=1e-5)


def test_features_are_those_of_the_encoder_and_logits_those_of_the_head():
    model = gan()
    features = model.encode(IMAGES)
    np.testing.assert_allclose(features, model.encoder(IMAGES), rtol=1e-6)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), features @ model.head.kernel, rtol=1e-5, atol=1e-6)


def test_samples_are_images_that_a_seed_determines():
    model = gan()
    one, again, other = model.sample(4, seed=0), model.sample(4, seed=0), model.sample(4, seed=1)
    assert one.shape == (4, 4, 4, 1) and one.min() >= 0 and one.max() <= 1
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    z = np.random.default_rng(0).normal(size=(4, 2))
    np.testing.assert_array_equal(model.generate(z), one)
    np.testing.assert_allclose(one, sigmoid(model.generator(z.astype("float32"))), rtol=1e-5)


def test_integer_images_are_scaled_as_everywhere():
    pixels = (IMAGES * 255).round().astype(np.uint8)
    one, other = (gan().evaluate(x, verbose=0) for x in (pixels, (pixels / 255).astype(np.float32)))
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GAN(encoder(), encoder()), "generator must map"),
        (lambda: GAN(encoder(), generator(), penalty=-1), "penalty must be"),
        (lambda: GAN(mk.networks.conv4(), generator()), "encoder must have no batch normalization"),
        (lambda: GAN(encoder(), generator()).compile(loss="mse"), "Leave it out"),
        (lambda: GAN(encoder(), generator()).compile(metrics=["mae"]), "Leave it out"),
        (lambda: gan().generate(np.zeros((2, 3))), "z must have the shape"),
        (lambda: gan().generate(np.full((2, 2), np.nan)), "z must be finite"),
        (lambda: gan().sample(0), "count must be"),
        (lambda: gan().sample(1, seed=-1), "seed must be"),
        (lambda: gan().fit(IMAGES, np.zeros(12)), "learns without labels"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_it_trains_the_library_s_own_networks():
    model = GAN(mk.networks.mlp(8, input_shape=(16,), hidden=(16,)), mk.networks.mlp(16, input_shape=(4,)))
    model.compile()
    history = model.fit(np.random.default_rng(0).random((8, 16), np.float32), verbose=0).history
    assert np.isfinite(list(history.values())).all()
