"""Accuracy against labels per class for twelve ways to learn a target task, on two pairs of tasks.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_03.py          (about 20 minutes on two cores)

Every method takes the same number of steps on the target, except the three nearest centroids, which take none, and
training from scratch with the steps of the source in addition. Each of the six seeds has its own source model, random
weights and labeled images, and of glyphs its own 20 characters. The learning rate of each method is selected for each
number of labels by the accuracy on validation images, from a grid that is extended until the best value is not at its
edge. Test images are used for the reported accuracy only. The results are in data/results/chapter_03.json, from where
the chapter reads them.
"""

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from common import unit
from record import Record

import meta_keras as mk
from meta_keras import transfer

SEEDS, STEPS, BATCH, SOURCE_BATCH = 6, 200, 32, 64
TRUNK, TOP = ["conv1", "conv2", "hidden"], ["conv2", "hidden", "head"]
DECAY = 1 / 2.6  # from layer to layer, as in Howard and Ruder (2018)
RANK = 4
GRID = [round(10 ** (exponent / 2), 6) for exponent in range(-10, 5)]  # 0.00001, 0.000032, 0.0001, ..., 100
tf.get_logger().setLevel("ERROR")  # TensorFlow warns about the many graphs that are traced here
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Pair(NamedTuple):
    """A source and a target, and how the images of each target class are divided."""

    source: mk.ClassPool
    target: mk.ClassPool
    classes: int  # of a target task
    labels: tuple[int, ...]  # per class
    validation: int  # images per class
    test: int  # images per class
    source_steps: int


class Task(NamedTuple):
    """A target task: its labeled images, those that select learning rates, and those that are reported."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@functools.cache
def pair(name: str) -> Pair:
    pool = mk.load(name)
    if name == "glyphs":
        return Pair(pool.split("train"), pool.split("test"), 20, (1, 2, 5, 10), 3, 5, 1500)
    return Pair(pool.select([0, 3, 4, 7, 8]), pool.select([1, 2, 5, 6, 9]), 5, (2, 5, 20, 100), 30, 100, 400)


def network(units: int, shape: tuple[int, ...]) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 5, strides=4, padding="same", activation="relu", name="conv1"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(units, name="head"),
        ]
    )


def divide(pool: mk.ClassPool, validation: int, test: int) -> list[np.ndarray]:
    """The rows for training, validation and test: the last of each class are for test, those before for validation."""
    from_end = (pool.first + pool.counts)[pool.labels] - np.arange(len(pool.labels))
    return [
        np.flatnonzero(from_end > test + validation),
        np.flatnonzero((from_end > test) & (from_end <= test + validation)),
        np.flatnonzero(from_end <= test),
    ]


@functools.cache
def task(name: str, labels: int, seed: int) -> Task:
    """The task of this seed. Its labeled images are among those of the same seed with more labels."""
    chosen, random = pair(name), np.random.default_rng(seed)
    classes = random.permutation(len(chosen.target))[: chosen.classes]
    pool = chosen.target.select(np.sort(classes))
    train, *others = divide(pool, chosen.validation, chosen.test)
    train = random.permutation(train)
    train = np.concatenate([train[pool.labels[train] == label][:labels] for label in range(len(pool))])
    x, y = pool.arrays()
    return Task(*((x[rows], y[rows]) for rows in (train, *others)))


class Trainer:
    """Steps of Adam on the trainable weights of a model, in one graph that serves for all seeds and learning rates."""

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> None:
        self.model, self.optimizer = model, optimizer or keras.optimizers.Adam()
        self.variables = list(model.trainable_variables)
        self.optimizer.build(self.variables)
        self.fresh = [variable.numpy() for variable in self.optimizer.variables]

    def train(
        self, x: np.ndarray, y: np.ndarray, steps: int, learning_rate: float, seed: int, batch: int = BATCH
    ) -> None:
        for variable, value in zip(self.optimizer.variables, self.fresh, strict=True):
            variable.assign(value)
        self.optimizer.learning_rate.assign(learning_rate)
        random = np.random.default_rng(seed)
        epochs = -(-steps * batch // len(x))
        rows = np.concatenate([random.permutation(len(x)) for _ in range(epochs)])[: steps * batch]
        self._steps(tf.constant(x), tf.constant(y), tf.constant(rows.reshape(steps, batch)))

    @tf.function(reduce_retracing=True)
    def _steps(self, x: tf.Tensor, y: tf.Tensor, rows: tf.Tensor) -> None:
        for row in rows:
            with tf.GradientTape() as tape:
                loss = LOSS(tf.gather(y, row), self.model(tf.gather(x, row), training=True))
            self.optimizer.apply(tape.gradient(loss, self.variables), self.variables)


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.argmax(model(x), axis=1) == y))


@functools.cache
def source_model(name: str, seed: int, learning_rate: float = 0.003) -> tuple[keras.Model, float]:
    """A source model, trained on four fifths of each class, and its accuracy on the last fifth."""
    chosen = pair(name)
    kept, _, held_out = divide(chosen.source, 0, int(chosen.source.counts[0] / 5))
    x, y = chosen.source.arrays()
    keras.utils.set_random_seed(seed)
    model = network(len(chosen.source), x.shape[1:])
    Trainer(model).train(x[kept], y[kept], chosen.source_steps, learning_rate, seed, SOURCE_BATCH)
    return model, accuracy(model, x[held_out], y[held_out])


def source_accuracies(name: str, learning_rate: float) -> list[float]:
    return [round(source_model(name, seed, learning_rate)[1], 4) for seed in range(3)]


# The methods. Each has a model, the weights that it starts from, what it sees of an image, and stages of training.


def fresh_network(name: str, seed: int) -> keras.Model:
    keras.utils.set_random_seed(1000 + seed)
    return network(pair(name).classes, pair(name).target.examples.shape[1:])


def transferred(name: str, seed: int) -> keras.Model:
    model = fresh_network(name, seed)
    transfer.transfer_weights(source_model(name, seed)[0], model, TRUNK)
    return model


def with_low_rank(name: str, seed: int) -> keras.Model:
    return transfer.with_low_rank(transferred(name, seed), RANK, TRUNK, train=["head"])


def linear_head(name: str, seed: int) -> keras.Model:
    keras.utils.set_random_seed(1000 + seed)
    return mk.networks.mlp(pair(name).classes, input_shape=(64,), hidden=())


@functools.cache
def features(name: str, labels: int, seed: int, random: bool) -> Task:
    """The task with features in place of images: those of the source model, or of a network with random weights."""
    model = fresh_network(name, seed) if random else source_model(name, seed)[0]
    extractor = transfer.feature_extractor(model)
    return Task(*((transfer.extract_features(extractor, x), y) for x, y in task(name, labels, seed)))


def learned_features(name: str, labels: int, seed: int) -> Task:
    return features(name, labels, seed, random=False)


def normalized_features(name: str, labels: int, seed: int) -> Task:
    """The features of the source model as the nearest centroid sees them."""
    data, center = represented(name, labels, seed, "frozen features")
    return Task(*((unit(x - center), y) for x, y in data))


def random_features(name: str, labels: int, seed: int) -> Task:
    return features(name, labels, seed, random=True)


class Method(NamedTuple):
    start: Callable[[str, int], keras.Model]
    sees: Callable[[str, int, int], Task] = task
    stages: tuple[tuple[str | list[str] | None, float], ...] = (
        ("all", 1.0),
    )  # the layers that train, and the share of steps
    layerwise: bool = False
    more_steps: bool = False  # in addition as many as the source model took


METHODS = {
    "from scratch": Method(fresh_network),
    "from scratch, with the steps of the source": Method(fresh_network, more_steps=True),
    "fine-tuning": Method(transferred),
    "frozen features, linear head": Method(linear_head, learned_features),
    "normalized features, linear head": Method(linear_head, normalized_features),
    "random features, linear head": Method(linear_head, random_features),
    "head first, then all layers": Method(transferred, stages=(("head", 0.5), ("all", 0.5))),
    "gradual unfreezing": Method(transferred, stages=(("head", 0.25), (TOP[1:], 0.25), (TOP, 0.25), ("all", 0.25))),
    "layer-wise learning rates": Method(transferred, layerwise=True),
    "low-rank residuals": Method(with_low_rank, stages=((None, 1.0),)),
}


@functools.cache
def trainers(name: str, method: str) -> list[Trainer]:
    """One trainer per stage, all of one model."""
    chosen = METHODS[method]
    model, found = chosen.start(name, 0), []
    for layers, _ in chosen.stages:
        if layers is not None:
            transfer.freeze(model, layers)
        optimizer = transfer.LayerwiseLearningRates("adam", DECAY) if chosen.layerwise else None
        found.append(Trainer(model, optimizer))
    return found


@functools.cache
def start_of(name: str, method: str, seed: int) -> list[np.ndarray]:
    return METHODS[method].start(name, seed).get_weights()


def run(name: str, method: str, labels: int, seed: int, learning_rate: float, head_rate: float | None) -> list[float]:
    """Accuracy on the validation images and on the test images."""
    chosen = METHODS[method]
    data = chosen.sees(name, labels, seed)
    stages = trainers(name, method)
    model = stages[0].model
    model.set_weights(start_of(name, method, seed))
    more = pair(name).source_steps if chosen.more_steps else 0
    for number, (stage, (_, share)) in enumerate(zip(stages, chosen.stages, strict=True)):
        rate = head_rate if head_rate is not None and number == 0 else learning_rate
        stage.train(*data.train, int(share * STEPS) + more, rate, seed + 100 * number)
    return [accuracy(model, *data.validation), accuracy(model, *data.test)]


def selected(name: str, method: str, labels: int, head_rate: float | None = None) -> dict[str, Any]:
    """The learning rate with the best mean accuracy on validation images, and the test accuracies of all seeds."""
    middle = 0.031623 if "linear" in method else 0.01 if "rank" in method else 0.003162
    where = GRID.index(middle)
    tried: dict[int, list[list[float]]] = {}
    waiting = [where - 1, where, where + 1]
    while waiting:
        for place in waiting:
            tried[place] = [run(name, method, labels, seed, GRID[place], head_rate) for seed in range(SEEDS)]
        means = {place: np.mean([pair[0] for pair in runs]) for place, runs in sorted(tried.items())}
        best = max(means, key=means.get)
        waiting = [place for place in (best - 1, best + 1) if place not in tried and 0 <= place < len(GRID)]
    return {
        "learning rate": GRID[best],
        "validation": {str(GRID[place]): round(float(mean), 4) for place, mean in means.items()},
        "accuracy": [round(pair[1], 4) for pair in tried[best]],
    }


def represented(name: str, labels: int, seed: int, kind: str) -> tuple[Task, np.ndarray]:
    """The task with vectors in place of images, and the mean vector of the images of the source."""
    images = pair(name).source.arrays()[0]
    if kind == "pixels":
        data = task(name, labels, seed)
        return Task(*((flat(x), y) for x, y in data)), flat(images).mean(axis=0)
    random = kind == "random features"
    model = fresh_network(name, seed) if random else source_model(name, seed)[0]
    center = transfer.extract_features(transfer.feature_extractor(model), images).mean(axis=0)
    return features(name, labels, seed, random), center


def flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype("float32") / 255


def nearest_centroid(name: str, labels: int, kind: str) -> dict[str, Any]:
    """The class of the nearest mean of the vectors, centered and normalized (Wang et al., "SimpleShot", 2019)."""
    accuracies = []
    for seed in range(SEEDS):
        data, center = represented(name, labels, seed, kind)
        x, y = unit(data.train[0] - center), data.train[1]
        means = np.stack([x[y == label].mean(axis=0) for label in range(pair(name).classes)])
        distances = np.linalg.norm(unit(data.test[0] - center)[:, None] - means, axis=2)
        accuracies.append(round(float(np.mean(distances.argmin(axis=1) == data.test[1])), 4))
    return {"accuracy": accuracies}


def measure(record: Record, name: str) -> None:
    """All results of a pair of tasks."""
    chosen, head = pair(name), "frozen features, linear head"
    budgets = {"steps": STEPS, "batch": BATCH, "source steps": chosen.source_steps, "source batch": SOURCE_BATCH}
    record.measure(f"{name}, budgets", lambda: budgets | {"seeds": SEEDS})
    for rate in (0.001, 0.003, 0.01):
        record.measure(f"{name}, source model, learning rate {rate}", functools.partial(source_accuracies, name, rate))
    for labels in chosen.labels:
        for kind in ("frozen features", "random features", "pixels"):
            centroids = functools.partial(nearest_centroid, name, labels, kind)
            record.measure(f"{name}, {kind}, nearest centroid, {labels}", centroids)
    for labels, (method, settings) in itertools.product(chosen.labels, METHODS.items()):
        if not settings.more_steps:
            of_head = record.measure(f"{name}, {head}, {labels}", functools.partial(selected, name, head, labels))
            head_rate = of_head["learning rate"] if len(settings.stages) > 1 else None
            record.measure(f"{name}, {method}, {labels}", functools.partial(selected, name, method, labels, head_rate))


def measure_more_steps(record: Record, name: str) -> None:
    """Training from scratch with the steps of the source in addition, which takes long: of glyphs at both ends only."""
    method = "from scratch, with the steps of the source"
    for labels in (1, 10) if name == "glyphs" else pair(name).labels:
        record.measure(f"{name}, {method}, {labels}", functools.partial(selected, name, method, labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    parser.add_argument("pairs", nargs="*", default=["glyphs", "fashion"], help="of tasks: glyphs, fashion, or both")
    options = parser.parse_args()
    record = Record("chapter_03", again=options.again)
    for step, name in itertools.product((measure, measure_more_steps), options.pairs):
        step(record, name)


if __name__ == "__main__":
    main()
