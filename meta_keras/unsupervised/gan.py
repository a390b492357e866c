"""The generative adversarial network: a generator learns to make images that a discriminator takes for real ones."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.internals import added_losses, all_layers
from meta_keras.unsupervised.base import Unlabeled, images_of, inputs_of


@keras.saving.register_keras_serializable(package="meta_keras")
class GAN(Unlabeled):
    """Goodfellow et al., "Generative Adversarial Nets", 2014, with the non-saturating loss and the penalty R1 of
    Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?", 2018.

    The generator G maps noise z ~ N(0, I) to images. The discriminator D, a linear head on the encoder, gives the
    probability that an image is real. Each step updates both at once, each along the gradient of its own loss:

        loss of D = -1/2 (E[log D(x)] + E[log(1 - D(G(z)))]) + penalty/2 E[|grad_x logit D(x)|^2]
        loss of G = -E[log D(G(z))]

    These are Formulas 7.6, 7.7 (`gan_losses`) and 7.8. The penalty, on real images x, keeps D from becoming so steep
    that the two oscillate or G collapses to a few images.

    encoder: a built Keras model with outputs (rows, width), without batch normalization, which would make D judge
        whole batches. Strides halve images better than max pooling, since the penalty needs second derivatives.
    generator: a built Keras model from (rows, latent) to logits of the pixels, of the shape of the encoder's inputs.
    penalty: the weight of R1; 0 leaves it out.

    `fit` logs the losses of both, which are log 2 = 0.69 if D cannot distinguish the images, and the penalty's term.
    Called on images, the model returns the logits (rows, 1) of D, and `encode` returns the features of its encoder.

    >>> from meta_keras.networks import mlp
    >>> layers = [keras.Input((4,)), keras.layers.Dense(784), keras.layers.Reshape((28, 28, 1))]
    >>> model = GAN(mlp(16, input_shape=(28, 28, 1), hidden=(32,)), keras.Sequential(layers))
    >>> model.compile(keras.optimizers.Adam(0.001, beta_1=0.5))
    >>> history = model.fit(np.random.rand(8, 28, 28, 1), verbose=0)
    >>> model.sample(3, seed=0).shape
    (3, 28, 28, 1)
    """

    bounded = True

    def __init__(self, encoder: keras.Model, generator: keras.Model, *, penalty: float = 1.0, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        if any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in all_layers(encoder)):
            raise ValueError(
                "encoder must have no batch normalization, with which D would judge whole batches and not single "
                "images. Leave it out, or use GroupNormalization or LayerNormalization."
            )
        checks.fittable_model(generator=generator)
        checks.nonnegative(penalty=penalty)
        shape, wanted = getattr(generator, "input_shape", ()), encoder.input_shape
        if not isinstance(shape, tuple) or len(shape) != 2 or generator.output_shape != wanted:
            raise ValueError(
                f"generator must map (rows, latent) to logits of shape {wanted}, as the inputs of the encoder; it maps "
                f"{shape} to {getattr(generator, 'output_shape', None)}."
            )
        self.generator, self.latent, self.penalty = generator, shape[1], float(penalty)
        self.head = keras.layers.Dense(1, name="head")
        self.head.build(encoder.output_shape)
        self.seed_generator = keras.random.SeedGenerator()
        names = ("discriminator_loss", "generator_loss", "gradient_penalty")
        self.means = [keras.metrics.Mean(name=name) for name in names]
        self.built = True

    @property
    def metrics(self) -> list[keras.Metric]:
        """The two losses and the term of the penalty; there is no single loss."""
        return self.means

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """(rows, 1) the logits of D: above 0 if an image is more likely to be real."""
        return self.head(self.features(inputs, training))

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of the optimizer for both networks."""
        with tf.GradientTape(persistent=True) as tape:
            losses, of_layers = self._terms(inputs_of(data), training=True)
            of_discriminator, of_generator = map(self.optimizer.scale_loss, self._objectives(losses, of_layers))
        generator, variables = set(map(id, self.generator.trainable_variables)), self.trainable_variables
        discriminator = [variable for variable in variables if id(variable) not in generator]
        gradients = dict(zip(map(id, discriminator), tape.gradient(of_discriminator, discriminator), strict=True))
        trained = self.generator.trainable_variables
        gradients |= zip(map(id, trained), tape.gradient(of_generator, trained), strict=True)
        self.optimizer.apply_gradients([(gradients[id(variable)], variable) for variable in variables])
        return self._logs(losses, data)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        return self._logs(self._terms(inputs_of(data), training=False)[0], data)

    def _terms(self, x: tf.Tensor, training: bool) -> tuple[tuple[tf.Tensor, ...], tuple[Any, Any]]:
        """The two losses for a batch of images and as many generated ones with the term of the penalty, and the losses
        that the layers of the encoder and of the generator add, collected before the next call clears them."""
        x = tf.cast(as_inputs(tf.convert_to_tensor(x)), tf.float32)
        z = keras.random.normal((tf.shape(x)[0], self.latent), seed=self.seed_generator)
        generated = tf.sigmoid(tf.cast(self.generator(z, training=training), tf.float32))
        of_generator = sum(self.generator.losses)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = tf.cast(self(x, training=training), tf.float32)
            total = tf.reduce_sum(logits)
        of_encoder = sum(self.encoder.losses)
        slopes = tape.gradient(total, x) if self.penalty else tf.zeros_like(x)
        squares = tf.reduce_sum(tf.square(slopes), axis=tuple(range(1, len(x.shape))))
        losses = gan_losses(logits, tf.cast(self(generated, training=training), tf.float32))
        of_encoder += sum(added_losses(self.encoder))  # for generated images; the weights are penalized once
        return (*losses, self.penalty / 2 * tf.reduce_mean(squares)), (of_encoder, of_generator)

    def _objectives(self, losses: tuple[tf.Tensor, ...], of_layers: tuple[Any, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """What D and G minimize: their losses, and those of the layers."""
        (discriminator, generator, penalty), (of_encoder, of_generator) = losses, of_layers
        return discriminator + penalty + of_encoder, generator + of_generator

    def _logs(self, losses: tuple[tf.Tensor, ...], data: Any) -> dict[str, tf.Tensor]:
        rows = tf.shape(inputs_of(data))[0]
        for mean, loss in zip(self.means, losses, strict=True):
            mean.update_state(loss, sample_weight=rows)
        return {mean.name: mean.result() for mean in self.means}

    def generate(self, z: Any) -> np.ndarray:
        """The images (rows, ...), with pixels from 0 to 1, that the generator makes of (rows, latent) noise."""
        return images_of(self.generator, z, self.latent)

    def sample(self, count: int, *, seed: int | None = None) -> np.ndarray:
        """`count` generated images. The same seed gives the same images."""
        checks.at_least(1, count=count)
        if seed is not None:
            checks.at_least(0, seed=seed)
        return self.generate(np.random.default_rng(seed).normal(size=(count, self.latent)))

    def get_config(self) -> dict[str, Any]:
        generator = keras.saving.serialize_keras_object(self.generator)
        return {**super().get_config(), "generator": generator, "penalty": self.penalty}


def gan_losses(real: tf.Tensor, generated: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The losses of the discriminator and of the generator (Formulas 7.6 and 7.7).

        loss of D = -1/2 (mean log D(x) + mean log(1 - D(G(z)))),  loss of G = -mean log D(G(z))

    real, generated: the logits of D for real and for generated images, so that D = sigmoid(logits). Logarithms of
        probabilities are computed from the logits, because D itself is rounded to 0 or 1 where it is certain.

    >>> [round(float(loss), 4) for loss in gan_losses(tf.constant([0.0]), tf.constant([0.0]))]
    [0.6931, 0.6931]
    """
    real, generated = _logits(real=real), _logits(generated=generated)
    log_real, log_generated = tf.math.log_sigmoid(real), tf.math.log_sigmoid(-generated)
    discriminator = -(tf.reduce_mean(log_real) + tf.reduce_mean(log_generated)) / 2
    return discriminator, -tf.reduce_mean(tf.math.log_sigmoid(generated))


def _logits(**values: Any) -> tf.Tensor:
    ((name, value),) = values.items()
    if not tf.is_tensor(value) or not value.dtype.is_floating:
        raise ValueError(f"{name} must be a tensor of logits, which are floats; got {checks.shown(value)}.")
    if 0 in value.shape:
        raise ValueError(f"{name} must have at least one logit; got the shape {tuple(value.shape)}.")
    return value
