"""What chapter 07 reports about a generative adversarial network: does it collapse, and what does it cover?

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_gan.py      (about 12 minutes on one core)

data: clothes (Fashion-MNIST, 200 training images per class), resized to 16x16. A fifth of the training images is for
validation. The test images are only used for the results of the test seeds.

measures: a classifier trained with the labels says which classes are generated, and its last hidden layer gives the
features for density and coverage: 500 generated images against as many real test images (400 for validation), five
neighbors, the mean over four samples. The same is measured for real training images, which is what a perfect generator
would reach; for images drawn from a normal distribution with the mean and the covariance of the training images; and
for the mean image of each class, a generator that has collapsed within every class. Distances to the nearest training
image, compared with those of test images, say whether the training images are memorized.

GAN: the learning rate and the penalty are selected by coverage on the validation images after 500 steps, with one seed,
one after the other; a grid is extended while its best value is at the edge. Without the penalty, the learning rate is
selected again. Each is then trained for 1,000 steps with five new seeds.

Results are kept in data/results/chapter_07_gan.json; a run that is stopped continues where it was.
"""

import argparse
import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import best_inside
from record import Record

import meta_keras as mk
from meta_keras.unsupervised import GAN, density_and_coverage, effective_classes
from meta_keras.unsupervised.distances import squared_distances

SIDE, LATENT, BATCH = 16, 32, 64
STEPS, SELECTION_STEPS, EVERY = 1000, 500, 250
SELECTION_SEED, SEEDS = 100, tuple(range(5))
RATES, PENALTIES = (0.00025, 0.0005, 0.001), (0.1, 1.0, 10.0)
SAMPLES, DRAWS = 500, 4


# Data and measures


@functools.cache
def clothes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels for training, validation and test."""
    pool = mk.load("fashion")
    (x, y), (test_x, test_y) = (pool.split(name).arrays(scaled=True) for name in ("train", "test"))
    held_out = np.arange(len(y)) % 5 == 0
    parts = {
        "training": (x[~held_out], y[~held_out]),
        "validation": (x[held_out], y[held_out]),
        "test": (test_x, test_y),
    }
    return {name: (tf.image.resize(x, (SIDE, SIDE), antialias=True).numpy(), y) for name, (x, y) in parts.items()}


@functools.cache
def classifier() -> keras.Model:
    keras.utils.set_random_seed(SELECTION_SEED)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            keras.layers.Conv2D(32, 3, 2, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, 2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="features"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
    model.fit(*clothes()["training"], batch_size=64, epochs=15, verbose=0)
    return model


@functools.cache
def features() -> keras.Model:
    return mk.transfer.feature_extractor(classifier(), "features")


def measured(images: np.ndarray, part: str) -> dict[str, float]:
    """What the classifier says about the images, and their density and coverage, in its features and in pixels."""
    real = clothes()[part][0]
    answers = classifier()(images).numpy().argmax(axis=1)
    shares = np.bincount(answers, minlength=10) / len(answers)
    embedded, of_real = (features()(x).numpy() for x in (images, real))
    draws = [slice(start, start + SAMPLES) for start in range(0, len(images), SAMPLES)]
    found = np.mean([density_and_coverage(of_real, embedded[draw]) for draw in draws], axis=0)
    pixels = np.mean([density_and_coverage(real, images[draw]) for draw in draws], axis=0)
    return {
        "classes": round(effective_classes(answers), 3),
        "smallest share": round(float(shares.min()), 4),
        "density": round(found[0], 4),
        "coverage": round(found[1], 4),
        "coverage of pixels": round(pixels[1], 4),
        "distance to training images": round(nearest(images), 3),
    }


def nearest(images: np.ndarray) -> float:
    """The mean distance, in pixels, to the nearest training image."""
    x, rows = (part.reshape(-1, SIDE * SIDE).astype(float) for part in (clothes()["training"][0], images[:SAMPLES]))
    return float(np.sqrt(squared_distances(rows, x).min(axis=1)).mean())


# Generators


def encoder() -> keras.Model:
    """The discriminator without its head: strides instead of pooling, and no batch normalization."""
    layers = [keras.Input((SIDE, SIDE, 1))]
    for filters in (32, 64):
        layers += [keras.layers.Conv2D(filters, 3, 2, padding="same"), keras.layers.LeakyReLU(0.2)]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(64), keras.layers.LeakyReLU(0.2)])


def generator() -> keras.Model:
    """Noise to logits of pixels, by transposed convolutions."""
    layers = [
        keras.Input((LATENT,)),
        keras.layers.Dense(SIDE // 4 * (SIDE // 4) * 32, activation="relu"),
        keras.layers.Reshape((SIDE // 4, SIDE // 4, 32)),
    ]
    for _ in range(2):
        layers.append(keras.layers.Conv2DTranspose(32, 3, strides=2, padding="same", use_bias=False))
        layers += [keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Conv2D(1, 3, padding="same")])


def gan(rate: float, penalty: float, seed: int) -> GAN:
    keras.utils.set_random_seed(seed)
    model = GAN(encoder(), generator(), penalty=penalty)
    # Without XLA, whose transposed convolutions are slower on a CPU.
    model.compile(keras.optimizers.Adam(rate, beta_1=0.5), jit_compile=False)
    return model


def trained(rate: float, penalty: float, seed: int, part: str, steps: int = STEPS) -> dict[str, Any]:
    """The measures after training, and coverage, the number of classes and the logs during it."""
    model, x = gan(rate, penalty, seed), clothes()["training"][0]
    curve: list[dict[str, float]] = []

    def measure(epoch: int, logs: dict[str, float]) -> None:
        losses = {name: round(float(value), 4) for name, value in logs.items()}
        curve.append(measured(model.sample(SAMPLES * DRAWS, seed=seed), part) | losses)

    batches = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=seed).repeat().batch(BATCH)
    after_each = keras.callbacks.LambdaCallback(on_epoch_end=measure)
    model.fit(batches, steps_per_epoch=EVERY, epochs=steps // EVERY, callbacks=[after_each], verbose=0)
    kept = ("coverage", "classes", "discriminator_loss", "generator_loss")
    return curve[-1] | {"curve": {name: [point[name] for point in curve] for name in kept}}


def normal(seed: int) -> np.ndarray:
    """Images drawn from the normal distribution with the mean and the covariance of the training images."""
    x = clothes()["training"][0].reshape(-1, SIDE * SIDE)
    drawn = np.random.default_rng(seed).multivariate_normal(x.mean(axis=0), np.cov(x.T), SAMPLES * DRAWS)
    return np.clip(drawn, 0, 1).reshape(-1, SIDE, SIDE, 1).astype(np.float32)


def real(seed: int) -> np.ndarray:
    x = clothes()["training"][0]
    order = np.concatenate([np.random.default_rng(seed + n).permutation(len(x))[:SAMPLES] for n in range(DRAWS)])
    return x[order]


def collapsed() -> np.ndarray:
    x, y = clothes()["training"]
    means = np.stack([x[y == label].mean(axis=0) for label in range(10)])
    return np.repeat(means, SAMPLES * DRAWS // 10, axis=0)[np.random.default_rng(0).permutation(SAMPLES * DRAWS)]


# The design


def selected(record: Record, name: str, penalties: tuple[float, ...]) -> dict[str, float]:
    """The learning rate at the first penalty, and then the penalty at this rate, with the highest coverage."""

    def coverage(rate: float, penalty: float) -> float:
        key = f"validation: rate {rate:g}, penalty {penalty:g}"
        return record.measure(key, lambda: trained(rate, penalty, SELECTION_SEED, "validation", SELECTION_STEPS))[
            "coverage"
        ]

    penalty = penalties[len(penalties) // 2]
    rate = best_inside(lambda rate: coverage(rate, penalty), RATES)
    if len(penalties) > 1:
        penalty = best_inside(lambda penalty: coverage(rate, penalty), penalties)
    return record.measure(f"selected: {name}", lambda: {"rate": rate, "penalty": penalty})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    record = Record("chapter_07_gan", again=parser.parse_args().again)
    record.measure("accuracy of the classifier", lambda: classifier().evaluate(*clothes()["test"], verbose=0)[1])
    test_images = clothes()["test"][0]
    record.measure("distance of test images to training images", lambda: round(nearest(test_images), 3))
    for seed in SEEDS:
        record.measure(f"test: real images, seed {seed}", lambda seed=seed: measured(real(seed), "test"))
        record.measure(f"test: normal distribution, seed {seed}", lambda seed=seed: measured(normal(seed), "test"))
    record.measure("test: mean image of each class", lambda: measured(collapsed(), "test"))
    for name, penalties in (("GAN", PENALTIES), ("GAN without penalty", (0.0,))):
        chosen = selected(record, name, penalties)
        for seed in SEEDS:
            record.measure(
                f"test: {name}, seed {seed}", lambda seed=seed, c=chosen: trained(**c, seed=seed, part="test")
            )


if __name__ == "__main__":
    main()
