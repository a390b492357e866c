"""Optimizers, learning-rate schedules and training-set sizes on Fashion-MNIST, each with a selected learning rate.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_02.py          (about 2 minutes on two cores)

Of the 200 training images per class, 150 train the networks and 50 are the validation set. Every training run takes 468
steps with 32 images each, which is 10 epochs of 1,500 images; smaller training sets are repeated. A method's learning
rate is the one of nine with the highest validation accuracy, on average over five seeds, and never one at the edge of
the grid. The test accuracies are those of ten other seeds. A seed fixes the initialization, the order of the images
and, for small training sets, which images are drawn; it is the same for all methods. The networks of all seeds and
learning rates are trained side by side: their weights have two more axes, and an optimizer treats every weight alone.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from common import RatePerNetwork
from record import Record

import meta_keras as mk
from meta_keras.classical import create_model, preprocess_data

STEPS, BATCH = 468, 32
SELECTION_SEEDS, TEST_SEEDS = range(5), range(100, 110)
GRID = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)  # times the smallest learning rate of an optimizer
PER_CLASS = (1, 5, 15, 50, 150)
NEIGHBORS = (1, 3, 5, 7, 9, 15, 25)

schedules = keras.optimizers.schedules
Make = Callable[[schedules.LearningRateSchedule], keras.optimizers.Optimizer]
OPTIMIZERS: dict[str, tuple[Make, float]] = {  # each with its smallest learning rate
    "gradient descent": (keras.optimizers.SGD, 1e-3),
    "momentum": (functools.partial(keras.optimizers.SGD, momentum=0.9), 1e-4),
    "Adagrad": (keras.optimizers.Adagrad, 1e-4),
    "Adam": (keras.optimizers.Adam, 1e-5),
}
decay = functools.partial(schedules.ExponentialDecay, 1.0, decay_steps=STEPS / 5, decay_rate=0.4)
SCHEDULES = {
    "constant": functools.partial(schedules.ExponentialDecay, 1.0, decay_steps=STEPS, decay_rate=1.0),
    "step decay": functools.partial(decay, staircase=True),
    "exponential decay": decay,
    "cosine decay": functools.partial(schedules.CosineDecay, 1.0, decay_steps=STEPS),
}


class Data(NamedTuple):
    """Standardized images, flattened, and their labels."""

    x: np.ndarray
    y: np.ndarray


@functools.cache
def fashion() -> dict[str, Data]:
    """Every fourth training image is a validation image. The others give the mean and deviation of the pixels."""
    pool = mk.load("fashion")
    images, labels = pool.split("train").arrays()
    test_images, test_labels = pool.split("test").arrays()
    held_out = np.arange(len(labels)) % 4 == 3
    _, standard = preprocess_data(images[~held_out])

    def prepared(images: np.ndarray, labels: np.ndarray) -> Data:
        return Data(preprocess_data(images, standard)[0].reshape(len(images), -1), labels)

    return {
        "train": prepared(images[~held_out], labels[~held_out]),
        "validation": prepared(images[held_out], labels[held_out]),
        "test": prepared(test_images, test_labels),
    }


def drawn(per_class: int, seed: int) -> np.ndarray:
    """The rows of so many training images per class, drawn at random."""
    generator, labels = np.random.default_rng(seed), fashion()["train"].y
    rows = [generator.choice(np.flatnonzero(labels == label), per_class, replace=False) for label in range(10)]
    return np.concatenate(rows)


def batches(per_class: int, seed: int) -> np.ndarray:
    """(steps, batch) rows of training images, shuffled in every epoch."""
    rows, generator = drawn(per_class, seed), np.random.default_rng(seed)
    epochs = [generator.permutation(rows) for _ in range(-(-STEPS * BATCH // len(rows)))]
    return np.concatenate(epochs)[: STEPS * BATCH].reshape(STEPS, BATCH)


def linear_classifier() -> keras.Model:
    """Softmax regression, a network without hidden layers."""
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential(layers)


def initial_weights(network: Callable[[], keras.Model], rates: int, seeds: Sequence[int]) -> list[keras.Variable]:
    """Kernels (rates, seeds, inputs, units) and biases (rates, seeds, 1, units), the same for all learning rates."""
    models = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        models.append([np.atleast_2d(weight) for weight in network().get_weights()])
    stacked = [np.stack(weights) for weights in zip(*models, strict=True)]
    return [keras.Variable(np.stack([weight] * rates)) for weight in stacked]


def logits(weights: Sequence[keras.Variable], x: Any) -> tf.Tensor:
    """(rates, seeds, images, classes) from images (seeds, images, pixels)."""
    for layer in range(0, len(weights), 2):
        x = tf.matmul(x if layer == 0 else tf.nn.relu(x), weights[layer].value) + weights[layer + 1].value
    return x


def train(
    make: Make,
    schedule: schedules.LearningRateSchedule,
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    per_class: int = 150,
    network: Callable[[], keras.Model] = create_model,
) -> list[keras.Variable]:
    """The weights after training, for every learning rate and every seed."""
    weights = initial_weights(network, len(rates), seeds)
    optimizer = make(RatePerNetwork(rates, schedule))
    optimizer.build(weights)
    rows = tf.constant(np.stack([batches(per_class, seed) for seed in seeds], axis=1))
    data = [tf.constant(part) for part in fashion()["train"]]

    @tf.function
    def run() -> None:
        for step in tf.range(STEPS):
            x, y = (tf.gather(part, rows[step]) for part in data)
            with tf.GradientTape() as tape:
                answers = logits(weights, x)
                labels = tf.broadcast_to(y, tf.shape(answers)[:-1])
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, answers)
                loss = tf.reduce_sum(losses) / BATCH  # a sum over networks: each gets the gradient of its own mean
            optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)

    run()
    return weights


def accuracies(weights: Sequence[keras.Variable], part: str) -> np.ndarray:
    """(rates, seeds) the fraction of images classified correctly."""
    x, y = fashion()[part]
    return (logits(weights, x[None]).numpy().argmax(axis=-1) == y).mean(axis=-1)


def tune(record: Record, name: str, make: Make, smallest: float, schedule: Any = None, **options: Any) -> None:
    """Select a method's learning rate by validation accuracy, and test it with other seeds."""
    schedule = schedule or SCHEDULES["constant"]()
    grid = [float(f"{smallest * factor:.0e}") for factor in GRID]

    def validated() -> dict[str, list[float]]:
        reached = accuracies(train(make, schedule, grid, SELECTION_SEEDS, **options), "validation")
        return {str(rate): [round(value, 4) for value in row] for rate, row in zip(grid, reached.tolist(), strict=True)}

    scores = record.measure(f"{name}, validation", validated)
    means = [np.mean(scores[str(rate)]) for rate in grid]
    best = int(np.argmax(means))
    if best in (0, len(grid) - 1):
        raise ValueError(f"{name}: the best learning rate, {grid[best]}, is at the edge of the grid: {means}.")
    record.measure(f"{name}, selected", lambda: grid[best])

    def tested() -> list[float]:
        reached = accuracies(train(make, schedule, [grid[best]], TEST_SEEDS, **options), "test")
        return [round(value, 4) for value in reached[0].tolist()]

    record.measure(f"{name}, test", tested)


def nearest_class_mean(per_class: int, seed: int) -> float:
    """The test accuracy of the nearest class mean of the same training images, which needs no training."""
    rows, data, test = drawn(per_class, seed), fashion()["train"], fashion()["test"]
    means = np.stack([data.x[rows[data.y[rows] == label]].mean(axis=0) for label in range(10)])
    distances = ((test.x[:, None] - means) ** 2).sum(axis=-1)
    return round(float((distances.argmin(axis=1) == test.y).mean()), 4)


def nearest_neighbors(per_class: int, seed: int, part: str) -> dict[str, float]:
    """The accuracy of a vote among the k nearest of the same training images, for every k."""
    rows, data, (x, y) = drawn(per_class, seed), fashion()["train"], fashion()[part]
    nearest = data.y[rows][((data.x[rows] ** 2).sum(axis=-1) - 2 * x @ data.x[rows].T).argsort(axis=-1, kind="stable")]
    votes = np.eye(10)[nearest[:, : max(NEIGHBORS)]].cumsum(axis=1)  # column k - 1 holds the votes of k neighbors
    kept = [k for k in NEIGHBORS if k <= len(rows)]
    return {str(k): round(float((votes[:, k - 1].argmax(axis=-1) == y).mean()), 4) for k in kept}


def tune_neighbors(record: Record, per_class: int) -> None:
    """Select k by validation accuracy, and test it with other seeds; k = 1 may be selected, as there is none below."""
    name = f"size: nearest neighbors, {per_class} per class"
    scores = record.measure(
        f"{name}, validation", lambda: [nearest_neighbors(per_class, seed, "validation") for seed in SELECTION_SEEDS]
    )
    best = max(scores[0], key=lambda k: np.mean([run[k] for run in scores]))
    if int(best) == max(NEIGHBORS):
        raise ValueError(f"{name}: the best k, {best}, is the largest: {scores}.")
    record.measure(f"{name}, selected", lambda: int(best))
    record.measure(f"{name}, test", lambda: [nearest_neighbors(per_class, seed, "test")[best] for seed in TEST_SEEDS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard the stored results")
    record = Record("chapter_02", again=parser.parse_args().again)
    for name, (make, smallest) in OPTIMIZERS.items():
        tune(record, f"optimizer: {name}", make, smallest)
    for name, schedule in SCHEDULES.items():
        tune(record, f"schedule: {name}", keras.optimizers.SGD, 1e-3, schedule())
    for per_class in PER_CLASS:
        for name, network in (("network", create_model), ("linear classifier", linear_classifier)):
            options = {"per_class": per_class, "network": network}
            tune(record, f"size: {name}, {per_class} per class", keras.optimizers.Adam, 1e-5, **options)
        record.measure(
            f"size: nearest class mean, {per_class} per class, test",
            lambda per_class=per_class: [nearest_class_mean(per_class, seed) for seed in TEST_SEEDS],
        )
        tune_neighbors(record, per_class)


if __name__ == "__main__":
    main()
