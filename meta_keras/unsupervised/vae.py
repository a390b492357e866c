"""The variational autoencoder: inputs are encoded as distributions of latent variables, and decoded from samples."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.unsupervised.base import Unlabeled, float_matrix, images_of

# exp of half of it must be finite, and its square must not vanish.
LOG_VARIANCES = (-20.0, 20.0)


@keras.saving.register_keras_serializable(package="meta_keras")
class VAE(Unlabeled):
    """Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.

    The encoder maps an image x to a normal distribution q(z|x) of latent variables, and the decoder maps a sample z of
    it to a probability of ink for every pixel. The loss is the negative evidence lower bound (ELBO), in nats per image:

        log p(x) >= ELBO = E_q[log p(x|z)] - KL(q(z|x) || N(0, I))          (Formula 7.3)
        z = mean + exp(log_variance / 2) * noise,  noise ~ N(0, I)

    encoder: a built Keras model with outputs (rows, width); two dense layers turn them into mean and log-variance.
    decoder: a built Keras model from (rows, latent) to logits of the pixels, of the shape of the encoder's inputs.

    Pixels are from 0 to 1, and log p(x|z) is the negative binary cross-entropy: exact for black and white images, and
    for gray values the usual surrogate, which is no log-likelihood. `fit` logs the two terms, `reconstruction` (the
    first one, negated) and `kl`.

    Called on images it returns a dictionary with the logits of their reconstructions from a random z, and with the
    means and log-variances that z was drawn from. `reconstruct` uses the mean of z, and so does `encode`, which returns
    it.

    >>> from meta_keras.networks import conv4
    >>> pixels = [keras.layers.Dense(784), keras.layers.Reshape((28, 28, 1))]
    >>> model = VAE(conv4(filters=8), keras.Sequential([keras.Input((2,)), *pixels]))
    >>> model.compile()
    >>> history = model.fit(np.random.rand(8, 28, 28, 1), verbose=0)
    >>> model.decode(np.zeros((3, 2))).shape
    (3, 28, 28, 1)
    """

    bounded = True

    def __init__(self, encoder: keras.Model, decoder: keras.Model, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        checks.fittable_model(decoder=decoder)
        shape, wanted = getattr(decoder, "input_shape", ()), encoder.input_shape
        if len(shape) != 2 or decoder.output_shape != wanted:
            raise ValueError(
                f"decoder must map (rows, latent) to logits of shape {wanted}, as the inputs of the encoder; it maps "
                f"{shape} to {decoder.output_shape}."
            )
        self.decoder, self.latent = decoder, shape[1]
        self.mean = keras.layers.Dense(self.latent, name="mean")
        self.log_variance = keras.layers.Dense(self.latent, name="log_variance")
        for layer in (self.mean, self.log_variance):
            layer.build(encoder.output_shape)
        self.seed_generator = keras.random.SeedGenerator()
        self.reconstruction, self.kl = keras.metrics.Mean(name="reconstruction"), keras.metrics.Mean(name="kl")
        self.built = True

    def posterior(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """(rows, latent) the means of q(z|x), and the logarithms of its variances."""
        features = super().encode(x)
        return tuple(part.numpy() for part in self._posterior(features))

    def _posterior(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.mean(features), tf.clip_by_value(self.log_variance(features), *LOG_VARIANCES)

    def call(self, inputs: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The logits of a random reconstruction, and the means and log-variances that it was drawn from."""
        mean, log_variance = self._posterior(self.features(inputs, training))
        noise = keras.random.normal(tf.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        z = mean + tf.exp(log_variance / 2) * noise
        return {"logits": self.decoder(z, training=training), "mean": mean, "log_variance": log_variance}

    def pretext(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The images, to be reconstructed."""
        x = as_inputs(x)
        return x, x

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """The mean negative ELBO per image, and the losses of the layers."""
        outputs = {name: tf.cast(output, tf.float32) for name, output in y_pred.items()}
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(y, tf.float32), outputs["logits"])
        reconstruction = tf.reduce_sum(cross_entropy, axis=tuple(range(1, len(y.shape))))
        divergence = gaussian_kl(outputs["mean"], outputs["log_variance"])
        self.reconstruction.update_state(reconstruction)
        self.kl.update_state(divergence)
        return tf.reduce_mean(reconstruction + divergence) + sum(self.losses)

    def encode(self, x: Any, *, batch_size: int = 256) -> np.ndarray:
        """(rows, latent) the means of q(z|x)."""
        return self.mean(super().encode(x, batch_size=batch_size)).numpy()

    def decode(self, z: Any) -> np.ndarray:
        """The images, as probabilities of ink, of (rows, latent) latent variables."""
        return images_of(self.decoder, z, self.latent)

    def reconstruct(self, x: Any) -> np.ndarray:
        """The images that are decoded from the means of their latent variables, as probabilities of ink."""
        return self.decode(self.encode(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decoder": keras.saving.serialize_keras_object(self.decoder)}


def gaussian_kl(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """(rows,) the divergence KL(N(mean, variance) || N(0, I)) of diagonal normal distributions (Formula 7.4).

        KL = 1/2 sum over dimensions of (mean^2 + variance - log variance - 1)

    >>> gaussian_kl(tf.constant([[0.0, 1.0]]), tf.constant([[0.0, 0.0]])).numpy()
    array([0.5], dtype=float32)
    """
    mean, log_variance = float_matrix(mean=mean), float_matrix(log_variance=log_variance)
    if mean.shape != log_variance.shape:
        raise ValueError(
            f"mean and log_variance must have the same shape (rows, width); got {mean.shape} and {log_variance.shape}."
        )
    return tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - log_variance - 1, axis=1) / 2
