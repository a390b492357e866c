"""Shared by the tests of `meta_keras.unsupervised`: small images and encoders."""

import keras
import numpy as np

SHAPE = (8, 8, 1)


def images(rows=12, seed=0):
    """Images with one bright corner each, so that their orientation can be seen."""
    rng = np.random.default_rng(seed)
    x = 0.7 * rng.uniform(size=(rows, *SHAPE)) ** 3
    x[:, :3, :3] = 0.8 + 0.2 * x[:, :3, :3]
    return x.astype("float32")


def encoder(width=6, **options):
    layers = keras.layers
    return keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(width, activation="relu", **options)])


def decoder(latent=2):
    layers = keras.layers
    return keras.Sequential([keras.Input((latent,)), layers.Dense(64), layers.Reshape(SHAPE)])


def compiled(model, **options):
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "run_eagerly": True, **options})
    return model
