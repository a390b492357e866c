"""Two layers of Keras whose meta-gradients differ from central differences, and what is missing in each of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import assert_slopes, in_float64, learner_of, numbers, regression

from meta_keras.rules import GradientDescent

SPECTRAL = "keras.src.layers.normalization.spectral_normalization.ops.stop_gradient"


@pytest.fixture(autouse=True)
def precise():
    in_float64()


def spectral_learner():
    keras.utils.set_random_seed(0)
    hidden = layers.SpectralNormalization(layers.Dense(3, activation="tanh"))
    network = keras.Sequential([keras.Input((2,)), hidden, layers.Dense(1)])
    return learner_of(network, GradientDescent(0.1, steps=1))


def test_spectral_normalization_leaves_out_how_its_vectors_depend_on_the_weights(monkeypatch):
    """Keras stops the gradient at the singular vectors. With that gradient, the meta-gradient is exact."""
    with pytest.raises(AssertionError):
        assert_slopes(spectral_learner(), regression())
    monkeypatch.setattr(SPECTRAL, lambda values: values)
    assert_slopes(spectral_learner(), regression())


def second_derivative(resize, x):
    """Of the squared norm of the gradient of |resize(x)|^2."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = tf.reduce_sum(resize(x) ** 2)
        gradient = inner.gradient(loss, x)
        squared = tf.reduce_sum(gradient**2)
    return outer.gradient(squared, x)


def bilinear_matrix(size):
    """(2 * size, size) what bilinear upsampling by 2 multiplies one axis by."""
    rows = tf.image.resize(np.eye(size, dtype=np.float32)[..., None, None], (2 * size, 1), method="bilinear")
    return tf.cast(tf.transpose(rows[..., 0, 0]), tf.float64)


def test_tensorflow_treats_the_gradient_of_bilinear_resizing_as_a_constant():
    """It is linear in its inputs but registered as not differentiable; the version with matrices includes it."""
    x = tf.constant(numbers(1, 3, 3, 1))
    matrix = bilinear_matrix(3)

    def by_matrices(images):
        return tf.einsum("ai,nijc,bj->nabc", matrix, images, matrix)

    upsample = layers.UpSampling2D(2, interpolation="bilinear")
    np.testing.assert_allclose(by_matrices(x), upsample(x), rtol=1e-5, atol=1e-6)
    assert second_derivative(upsample, x) is None
    assert np.abs(second_derivative(by_matrices, x)).max() > 0.1
