"""The variational autoencoder: the two terms of its bound, sampling, decoding, and the divergence."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras.unsupervised import VAE, gaussian_kl
from tests.unlabeled import compiled, decoder, encoder, images


def made(**options):
    return VAE(encoder(), decoder(), **options)


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_matches_its_closed_form_and_a_monte_carlo_estimate(seed):
    rng = np.random.default_rng(seed)
    mean, log_variance = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    found = gaussian_kl(mean, log_variance).numpy()
    variance = np.exp(log_variance)
    closed = 0.5 * (mean**2 + variance - np.log(variance) - 1).sum(axis=1)
    np.testing.assert_allclose(found, closed, rtol=1e-12)
    z = mean + np.sqrt(variance) * rng.normal(size=(200_000, 2, 3))
    log_q = -0.5 * ((z - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(axis=2)
    log_p = -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=2)
    sample = log_q - log_p
    error = 5 * sample.std(axis=0) / np.sqrt(len(sample))
    assert (np.abs(sample.mean(axis=0) - found) < error).all() and (error < 0.1 * (1 + found)).all()


def test_the_divergence_is_zero_for_the_prior_only_and_has_the_right_gradient():
    zero = tf.zeros((1, 2), tf.float64)
    assert gaussian_kl(zero, zero).numpy() == 0
    mean, log_variance = (tf.constant(values, tf.float64) for values in ([[0.3, -1.2]], [[0.5, -0.4]]))
    with tf.GradientTape() as tape:
        tape.watch([mean, log_variance])
        divergence = gaussian_kl(mean, log_variance)
    of_mean, of_log_variance = tape.gradient(divergence, [mean, log_variance])
    np.testing.assert_allclose(of_mean, mean)
    np.testing.assert_allclose(of_log_variance, (np.exp(log_variance) - 1) / 2)


def test_the_loss_is_the_two_terms_computed_by_hand():
    model, x = compiled(made()), images(6)
    state = model.seed_generator.state.numpy()
    logged = model.evaluate(x, verbose=0, return_dict=True)
    model.seed_generator.state.assign(state)
    outputs = {name: output.numpy() for name, output in model(x).items()}
    probability = 1 / (1 + np.exp(-outputs["logits"]))
    log_likelihood = (x * np.log(probability) + (1 - x) * np.log(1 - probability)).sum(axis=(1, 2, 3)).mean()
    divergence = gaussian_kl(outputs["mean"], outputs["log_variance"]).numpy().mean()
    assert logged["reconstruction"] == pytest.approx(-log_likelihood, rel=1e-4)
    assert logged["kl"] == pytest.approx(divergence, rel=1e-4)
    assert logged["loss"] == pytest.approx(divergence - log_likelihood, rel=1e-4)


def test_z_is_drawn_from_the_posterior_anew_in_every_call():
    model = made()
    model.decoder = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])  # so that the logits are z
    x = np.repeat(images(1), 20_000, axis=0)
    outputs = model(x)
    z, mean, log_variance = outputs["logits"].numpy(), outputs["mean"][0], outputs["log_variance"][0]
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose(z.std(axis=0), np.exp(log_variance / 2), rtol=0.05)
    assert not np.array_equal(z, model(x)["logits"])


def test_the_gradient_goes_through_the_sample_to_the_encoder():
    model, x = made(), images(4)
    with tf.GradientTape() as tape:
        logits = model(x)["logits"]
        reconstruction = tf.reduce_sum(logits**2)
    gradients = tape.gradient(reconstruction, [*model.mean.weights, *model.log_variance.weights])
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_training_improves_the_bound_and_the_reconstructions():
    model = compiled(made(), run_eagerly=False, jit_compile=False)
    x, other = images(64), images(32, seed=1)
    before = model.evaluate(other, verbose=0, return_dict=True)
    model.fit(x, batch_size=16, epochs=40, verbose=0)
    after = model.evaluate(other, verbose=0, return_dict=True)
    assert after["loss"] < before["loss"] - 3
    assert np.abs(model.reconstruct(other) - other).mean() < np.abs(other - 0.5).mean()


def test_encode_is_the_mean_and_decode_gives_probabilities():
    model, x = made(), images(3)
    mean, _ = model.posterior(x)
    np.testing.assert_allclose(model.encode(x), mean, rtol=1e-5)
    np.testing.assert_allclose(model.reconstruct(x), model.decode(mean), rtol=1e-5)
    shown = model.decode([[0.0, 0.0], [9.0, -9.0]])
    assert shown.shape == (2, 8, 8, 1) and shown.min() >= 0 and shown.max() <= 1


def test_extreme_variances_stay_finite():
    model = made()
    model.log_variance.bias.assign([1000.0, -1000.0])
    history = compiled(model).fit(images(), verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_decoder_must_return_the_images_that_the_encoder_takes():
    small = keras.Sequential([keras.Input((2,)), keras.layers.Dense(16), keras.layers.Reshape((4, 4, 1))])
    with pytest.raises(
        ValueError, match=r"logits of shape \(None, 8, 8, 1\).*it maps \(None, 2\) to \(None, 4, 4, 1\)"
    ):
        VAE(encoder(), small)
    with pytest.raises(ValueError, match=r"z must have the shape \(rows, 2\); got \(1, 3\)"):
        made().decode([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="same shape"):
        gaussian_kl(tf.zeros((2, 3)), tf.zeros((2, 2)))
