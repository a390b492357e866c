"""Unsupervised domain adaptation, with all settings selected without labels of the target, and zero-shot learning.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_06.py          (about 15 minutes on one core)

Domain adaptation: the source is Fashion-MNIST, the target is the same data set seen through haze. Every network is
trained with batches of 64 source images and, if it adapts, 64 target images. The settings of every method, of those
that do not adapt as well, are selected on three draws of the training images by reverse validation (Zhong et al. 2010;
Ganin et al. 2016, Section 5.1.2), and for comparison by the accuracy on held-out target images; they are tested on ten
other draws and on the test images. Grids are extended while the best setting is at an edge. The networks of all
settings and draws are trained side by side: their weights have two more axes, and Adam treats every weight alone. One
network is trained with the library as well, to check that both agree.

Zero-shot learning: the plain and the episodic method, tuned on Braille cells held out from the seen ones.
"""

import argparse
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from common import RatePerNetwork
from record import Record

import meta_keras as mk
from meta_keras.transfer import DomainAdaptation, GradientReversal, pair_domains

BATCH, STEPS = 64, 300
SELECTION_SEEDS, TEST_SEEDS = range(1000, 1003), range(10)
RATES = (0.001, 0.003, 0.01, 0.03)
layers = keras.layers


def texture(count: int, rng: np.random.Generator, blur: Any = 2.1) -> np.ndarray:
    """Smooth noise from 0 to 1: white noise, blurred over so many pixels by its Fourier transform."""
    fine = np.fft.fft2(rng.normal(size=(count, 28, 28)))
    waves = np.fft.fftfreq(28)
    smooth = np.exp(-2 * (np.pi * np.reshape(blur, (-1, 1, 1))) ** 2 * (waves[:, None] ** 2 + waves**2))
    noise = np.fft.ifft2(fine * smooth).real
    noise -= noise.min(axis=(1, 2), keepdims=True)
    return (noise / noise.max(axis=(1, 2), keepdims=True))[..., None]


def haze(images: np.ndarray, rng: np.random.Generator, clear: Any = 0.6, blur: Any = 2.1) -> np.ndarray:
    clear = np.reshape(clear, (-1, 1, 1, 1))
    return (clear * images + (1 - clear) * texture(len(images), rng, blur)).astype("float32")


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images in haze of random strength and scale."""
    return haze(images, rng, rng.uniform(0.3, 1, len(images)), rng.uniform(1, 4, len(images)))


def normalized(x: np.ndarray) -> np.ndarray:
    """Every image with mean 0 and standard deviation 1."""
    centered = x - x.mean(axis=(1, 2, 3), keepdims=True)
    return centered / (centered.std(axis=(1, 2, 3), keepdims=True) + 1e-6)


class Draw(NamedTuple):
    """Source and target for training, and labeled images of both for validation or testing."""

    source_x: np.ndarray
    source_y: np.ndarray
    target_x: np.ndarray
    target_y: np.ndarray  # never used by methods that adapt
    source_test: tuple[np.ndarray, np.ndarray]
    target_test: tuple[np.ndarray, np.ndarray]


@functools.cache
def fashion() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pool = mk.load("fashion")
    parts = {name: pool.split(name).arrays() for name in ("train", "test")}
    return {name: (x / np.float32(255), y) for name, (x, y) in parts.items()}


def draw(seed: int, *, clear: float = 0.6, classes: Sequence[int] = range(10)) -> Draw:
    """100 source and 100 other, hazy target images per class, and the test images in haze."""
    rng = np.random.default_rng(seed)
    (x, y), (x_test, y_test) = fashion()["train"], fashion()["test"]
    rows = [rng.permutation(np.flatnonzero(y == label)) for label in range(10)]
    source = np.concatenate([members[:100] for members in rows])
    target = np.concatenate([rows[label][100:] for label in classes])
    test = np.flatnonzero(np.isin(y_test, classes))
    target_x, test_x = (haze(images, rng, clear) for images in (x[target], x_test[test]))
    return Draw(x[source], y[source], target_x, y[target], (x_test[test], y_test[test]), (test_x, y_test[test]))


def selection_draw(seed: int) -> Draw:
    """80 source and 80 target images per class for training, and 20 of each for validation."""
    full = draw(seed)
    held_out = np.arange(1000) % 5 == 4
    return Draw(
        full.source_x[~held_out],
        full.source_y[~held_out],
        full.target_x[~held_out],
        full.target_y[~held_out],
        (full.source_x[held_out], full.source_y[held_out]),
        (full.target_x[held_out], full.target_y[held_out]),
    )


def network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=4, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="features"),
            layers.Dense(10),
        ]
    )


@functools.cache
def start(seed: int, method: str | None) -> list[np.ndarray]:
    """The initial weights that the chapter's learner has for this seed."""
    keras.utils.set_random_seed(seed)
    return DomainAdaptation(network(), layer="features", method=method).get_weights()


class Arm(NamedTuple):
    """A method and how its images are prepared."""

    method: str | None = None
    weights: Sequence[float] = (0.0,)
    rates: Sequence[float] = RATES
    scheduled: bool = False
    normalize: bool = False
    augment: bool = False


MORE_RATES = (0.0003, *RATES, 0.1)
ADVERSARIAL = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SOURCE_ONLY = Arm(rates=MORE_RATES)
NORMALIZED = Arm(rates=MORE_RATES, normalize=True)
ARMS = {
    "source only": SOURCE_ONLY,
    "contrast normalization": NORMALIZED,
    "haze augmentation": Arm(rates=MORE_RATES, augment=True),
    "CORAL": Arm("coral", (0.01, 0.1, 1, 10, 100, 1e3, 1e4, 1e5)),
    "DANN, constant weight": Arm("reversal", ADVERSARIAL),
    "DANN": Arm("reversal", ADVERSARIAL, scheduled=True),
}


def copies(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([augmented(x, rng) for _ in range(5)])


def prepared(data: Draw, arm: Arm, seed: int) -> Draw:
    if arm.augment:
        rng = np.random.default_rng(seed + 10_000)
        data = data._replace(source_x=copies(data.source_x, rng), source_y=np.tile(data.source_y, 5))
    if arm.normalize:
        tests = [(normalized(x), y) for x, y in (data.source_test, data.target_test)]
        data = Draw(normalized(data.source_x), data.source_y, normalized(data.target_x), data.target_y, *tests)
    return data


def patches(x: np.ndarray) -> tf.Tensor:
    """(images, 49, 25) what the filters of the network see."""
    parts = tf.image.extract_patches(x, [1, 5, 5, 1], [1, 4, 4, 1], [1, 1, 1, 1], "SAME")
    return tf.reshape(parts, (len(x), 49, 25))


def stacked_patches(arrays: Sequence[np.ndarray]) -> tf.Tensor:
    return tf.stack([patches(x) for x in arrays])


def features(weights: Sequence[Any], x: tf.Tensor) -> tf.Tensor:
    """(settings, seeds, images, 32) from patches (seeds, images, 49, 25)."""
    seeds, count = x.shape[0], x.shape[1]
    kernel, bias, dense, dense_bias = weights[:4]
    maps = tf.nn.relu(tf.matmul(tf.reshape(x, (1, seeds, count * 49, 25)), kernel) + bias)
    flat = tf.reshape(maps, (-1, seeds, count, 49 * 16))
    return tf.nn.relu(tf.matmul(flat, dense) + dense_bias)


def logits(weights: Sequence[Any], x: tf.Tensor) -> tf.Tensor:
    return tf.matmul(features(weights, x), weights[4]) + weights[5]


def predicted(weights: Sequence[Any], x: tf.Tensor) -> np.ndarray:
    parts = [logits(weights, x[:, first : first + 200]).numpy() for first in range(0, x.shape[1], 200)]
    return np.concatenate(parts, axis=2).argmax(axis=-1)


def covariance(x: tf.Tensor) -> tf.Tensor:
    centered = x - tf.reduce_mean(x, axis=-2, keepdims=True)
    return tf.matmul(centered, centered, transpose_a=True) / (x.shape[-2] - 1)


def domain_losses(method: str, weights: Sequence[Any], both: tf.Tensor) -> tf.Tensor:
    """(settings, seeds) Formula 6.2 or the cross-entropy of the discriminator."""
    source, target = tf.split(both, 2, axis=2)
    if method == "coral":
        apart = covariance(source) - covariance(target)
        return tf.reduce_sum(apart**2, axis=(-2, -1)) / (4 * 32**2)
    hidden = tf.nn.relu(tf.matmul(GradientReversal()(both), weights[6]) + weights[7])
    answers = (tf.matmul(hidden, weights[8]) + weights[9])[..., 0]
    domains = tf.broadcast_to(tf.repeat([0.0, 1.0], BATCH), tf.shape(answers))
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(domains, answers), axis=-1)


def batch_rows(count: int, others: int, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps, 64) the rows that `pair_domains` takes of either domain."""
    numbers = [np.arange(n, dtype="float32")[:, None] for n in (count, others)]
    pairs = pair_domains(numbers[0], np.zeros(count), numbers[1], batch_size=BATCH, seed=seed)
    (source, target), _ = next(iter(pairs.batch(steps)))
    return tuple(part.numpy()[:, :, 0].astype(int) for part in (source, target))


def train(
    weights: Sequence[np.ndarray],
    rates: Sequence[float],
    x: tf.Tensor,
    y: np.ndarray,
    target: tf.Tensor,
    seeds: Sequence[int],
    *,
    arm: Arm = SOURCE_ONLY,
    strengths: Sequence[float] = (0.0,),
    checkpoints: Sequence[int] | None = None,
) -> Iterator[list[np.ndarray]]:
    """The weights (settings, seeds, ...) at the checkpoints.

    x, target: patches (seeds, images, 49, 25). y: labels (settings or 1, seeds, images).
    """
    weights = [keras.Variable(weight) for weight in weights]
    optimizer = keras.optimizers.Adam(RatePerNetwork(rates))
    optimizer.build(weights)
    checkpoints = checkpoints or (STEPS,)
    steps = checkpoints[-1]
    both_rows = [batch_rows(x.shape[1], target.shape[1], seed, max(steps, 1)) for seed in seeds]
    rows, other_rows = (tf.constant(np.stack(part, axis=1)) for part in zip(*both_rows, strict=True))
    y, strengths = tf.constant(y, tf.int32), tf.constant(strengths, tf.float32)[:, None]

    @tf.function
    def run(first: tf.Tensor, last: tf.Tensor) -> None:
        for step in tf.range(first, last):
            batch = tf.gather(x, rows[step], batch_dims=1)
            labels = tf.gather(y, tf.broadcast_to(rows[step], (y.shape[0], *rows.shape[1:])), batch_dims=2)
            if arm.method:
                batch = tf.concat([batch, tf.gather(target, other_rows[step], batch_dims=1)], axis=1)
            with tf.GradientTape() as tape:
                seen = features(weights, batch)
                answers = tf.matmul(seen[:, :, :BATCH], weights[4]) + weights[5]
                labels = tf.broadcast_to(labels, tf.shape(answers)[:-1])
                loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, answers)) / BATCH
                if arm.method:
                    ramp = 2 / (1 + tf.exp(-10 * tf.cast(step, tf.float32) / steps)) - 1 if arm.scheduled else 1.0
                    loss += tf.reduce_sum(ramp * strengths * domain_losses(arm.method, weights, seen))
            trained = [weight.value for weight in weights]
            optimizer.apply(tape.gradient(loss, trained), weights)

    for first, last in zip((0, *checkpoints), checkpoints, strict=False):
        run(tf.constant(first), tf.constant(last))
        yield [weight.numpy() for weight in weights]


def initial(seeds: Sequence[int], method: str | None, settings: int) -> list[np.ndarray]:
    """(settings, seeds, inputs, units): kernels of the convolution as matrices, and biases as rows."""
    parts = zip(*(start(seed, method) for seed in seeds), strict=True)
    matrices = [np.stack([w.reshape(-1, w.shape[-1]) for w in part]) for part in parts]
    return [np.broadcast_to(w, (settings, *w.shape)) for w in matrices]


def shown(values: Any) -> list[float]:
    return [round(float(value), 4) for value in np.ravel(values)]


class Data:
    """The draws of all seeds as patches (seeds, ...), prepared for an arm."""

    def __init__(self, draws: Sequence[Draw], arm: Arm, seeds: Sequence[int]) -> None:
        draws = [prepared(data, arm, seed) for data, seed in zip(draws, seeds, strict=True)]
        self.source_x, self.target_x = (stacked_patches([data[n] for data in draws]) for n in (0, 2))
        self.source_y, self.target_y = (np.stack([data[n] for data in draws])[None] for n in (1, 3))
        self.tests = [(stacked_patches([d[n][0] for d in draws]), np.stack([d[n][1] for d in draws])) for n in (4, 5)]

    def accuracies(self, weights: Sequence[Any]) -> list[np.ndarray]:
        """(settings, seeds) accuracies on the held-out source and target images."""
        return [(predicted(weights, x) == y).mean(axis=-1) for x, y in self.tests]


def last(iterator: Iterator[Any]) -> Any:
    return list(iterator)[-1]


def validated(arm: Arm, grid: Sequence[tuple[float, float]]) -> dict[str, dict[str, list[float]]]:
    """For each setting (learning rate, weight), accuracies on three draws.

    source, target: on held-out images of either domain (the labels of the target are used for comparison only).
    reverse: reverse validation. The trained network labels the target images; a reverse classifier, which begins with
        its weights and with a new discriminator, is trained on them by the same method, with the source as its
        unlabeled target; and it is evaluated on held-out source images, whose labels are known.
    """
    seeds = SELECTION_SEEDS
    draws = [selection_draw(seed) for seed in seeds]
    data = Data(draws, arm, seeds)
    options = {"arm": arm, "strengths": [weight for _, weight in grid]}
    rates = [rate for rate, _ in grid]
    begun = initial(seeds, arm.method, len(grid))
    weights = last(train(begun, rates, data.source_x, data.source_y, data.target_x, seeds, **options))
    scores = dict(zip(("source", "target"), data.accuracies(weights), strict=True))
    x, labels = data.target_x, predicted(weights, data.target_x)
    if arm.augment:  # the same method augments what the reverse classifier is trained on
        x = stacked_patches([copies(d.target_x, np.random.default_rng(s)) for d, s in zip(draws, seeds, strict=True)])
        labels = np.tile(labels, 5)
    weights = [*weights[:6], *begun[6:]]
    weights = last(train(weights, rates, x, labels, data.source_x, seeds, **options))
    scores["reverse"] = data.accuracies(weights)[0]
    return {
        f"{rate}, {weight}": {name: shown(values[n]) for name, values in scores.items()}
        for n, (rate, weight) in enumerate(grid)
    }


def further(values: Sequence[float], best: float) -> list[float]:
    """The next value of a grid (1, 3, 10, ... or 1, 10, 100, ...) whose best value is at its edge, or nothing."""
    if len(values) < 2 or best not in (values[0], values[-1]):
        return []
    first = best == values[0]
    near = values[1] if first else values[-2]
    factor = 10 if 0.2 < near / best < 5 else 100
    return [float(f"{near / factor if first else near * factor:.1g}")]


def validated_inside(arm: Arm) -> dict[str, dict[str, list[float]]]:
    """Accuracies for a grid of settings, which is extended at most three times while the best is at an edge."""
    rates, weights, scores = list(arm.rates), list(arm.weights), {}
    for _ in range(4):
        grid = [(rate, weight) for rate in rates for weight in weights if f"{rate}, {weight}" not in scores]
        scores |= validated(arm, grid)
        rate, weight = select(scores, "reverse")
        more = further(rates, rate), further(weights, weight)
        if not any(more):
            break
        rates, weights = sorted(rates + more[0]), sorted(weights + more[1])
    return scores


def select(scores: dict[str, dict[str, list[float]]], criterion: str) -> tuple[float, float]:
    best = max(scores, key=lambda setting: np.mean(scores[setting][criterion]))
    return tuple(float(number) for number in best.split(", "))


def trained(arm: Arm, setting: tuple[float, float], draws: Sequence[Draw]) -> tuple[Data, list[np.ndarray]]:
    data = Data(draws, arm, TEST_SEEDS)
    begun = initial(TEST_SEEDS, arm.method, 1)
    options = {"arm": arm, "strengths": [setting[1]]}
    return data, last(train(begun, [setting[0]], data.source_x, data.source_y, data.target_x, TEST_SEEDS, **options))


def tested(arm: Arm, setting: tuple[float, float]) -> dict[str, list[float]]:
    data, weights = trained(arm, setting, [draw(seed) for seed in TEST_SEEDS])
    return dict(zip(("source", "target"), map(shown, data.accuracies(weights)), strict=True))


def with_library(arm: Arm, setting: tuple[float, float], seed: int) -> float:
    """The test accuracy of one network trained by `DomainAdaptation.fit`."""
    data = prepared(draw(seed), arm, seed)
    learner = DomainAdaptation(network(), layer="features", method=arm.method, weight=setting[1])
    learner.set_weights(start(seed, arm.method))
    learner.compile(keras.optimizers.Adam(setting[0]))
    pairs = pair_domains(data.source_x, data.source_y, data.target_x, batch_size=BATCH, seed=seed)
    learner.fit(pairs, steps_per_epoch=STEPS, verbose=0)
    x, y = data.target_test
    return round(float((learner(x).numpy().argmax(axis=1) == y).mean()), 4)


LABELS, LABEL_RATES = (5, 20), (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
CHECKPOINTS = (0, 3, 6, 12, 25, 50, 100, 200, 400, 800)  # fine-tuning for no step leaves the network as it is


def with_labels(
    draws: Sequence[Draw],
    seeds: Sequence[int],
    arm: Arm,
    source: tuple[float, float] | None,
    count: int,
    rates: Sequence[float],
    checkpoints: Sequence[int],
) -> dict[int, np.ndarray]:
    """For each number of steps, (rates, seeds) target accuracies after training on `count` labeled images per class.

    source: the settings of the network whose weights are fine-tuned, or None to train from scratch.
    """
    data = Data(draws, arm, seeds)
    each = data.target_x.shape[1] // 10
    few = np.arange(10 * each).reshape(10, each)[:, : min(count, each)].ravel()
    begun = initial(seeds, None, 1)
    if source:
        begun = last(train(begun, [source[0]], data.source_x, data.source_y, data.target_x, seeds))
    begun = [np.repeat(weight, len(rates), axis=0) for weight in begun]
    x, y = tf.gather(data.target_x, few, axis=1), data.target_y[:, :, few]
    runs = train(begun, rates, x, y, data.target_x, seeds, checkpoints=checkpoints)
    return {steps: data.accuracies(weights)[1] for steps, weights in zip(checkpoints, runs, strict=True)}


def validated_labels(arm: Arm, source: tuple[float, float] | None, count: int) -> dict[str, list[float]]:
    """For each learning rate and number of steps, accuracies on held-out target images of three draws."""
    draws = [selection_draw(seed) for seed in SELECTION_SEEDS]
    reached = with_labels(draws, SELECTION_SEEDS, arm, source, count, LABEL_RATES, CHECKPOINTS)
    return {
        f"{rate}, {steps}": shown(values[n]) for n, rate in enumerate(LABEL_RATES) for steps, values in reached.items()
    }


def tested_labels(arm: Arm, source: tuple[float, float] | None, count: int, rate: float, steps: int) -> list[float]:
    draws = [draw(seed) for seed in TEST_SEEDS]
    return shown(with_labels(draws, TEST_SEEDS, arm, source, count, [rate], [steps])[steps])


def measure_labels(record: Record) -> None:
    for of, arm in (("source only", SOURCE_ONLY), ("contrast normalization", NORMALIZED)):
        source = tuple(record.results[f"{of}, selected"])
        for count in LABELS:
            for name, begun in (("from scratch", None), ("fine-tuned", source)):
                key = f"{count} labels, {name}" + (", contrast normalization" if arm.normalize else "")
                case = (arm, begun, count)
                scores = record.measure(f"{key}, validation", lambda case=case: validated_labels(*case))
                rate, steps = max(scores, key=lambda setting: np.mean(scores[setting])).split(", ")
                best = [float(rate), int(steps)]
                record.measure(f"{key}, selected", lambda best=best: best)
                record.measure(f"{key}, test", lambda case=case, best=best: tested_labels(*case, *best))


def some_classes(count: int, seed: int) -> list[int]:
    """The classes of the target; each class is used once if the target has only one."""
    order = np.random.default_rng(seed).permutation(10)
    return [seed % 10] if count == 1 else sorted(order[:count].tolist())


def with_fewer_classes(arm: Arm, setting: tuple[float, float], count: int, clear: float) -> list[float]:
    """Target accuracies if the target has only some of the classes of the source."""
    draws = [draw(seed, clear=clear, classes=some_classes(count, seed)) for seed in TEST_SEEDS]
    data, weights = trained(arm, setting, draws)
    return shown(data.accuracies(weights)[1])


def measure_adaptation(record: Record) -> dict[str, tuple[float, float]]:
    """The settings of each method that reverse validation selects."""
    settings = {}
    for name, arm in ARMS.items():
        scores = record.measure(f"{name}, validation", lambda arm=arm: validated_inside(arm))
        for criterion, words in (("reverse", ""), ("target", " with labels")):
            setting = select(scores, criterion)
            record.measure(f"{name}, selected{words}", lambda setting=setting: list(setting))
            record.measure(f"{name}, test" + (words and f", selected{words}"), lambda a=(arm, setting): tested(*a))
        settings[name] = select(scores, "reverse")
    for name in ("CORAL", "DANN, constant weight"):
        record.measure(f"{name}, test, seed 0 with fit", lambda name=name: with_library(ARMS[name], settings[name], 0))
    return settings


def measure_proportions(record: Record, settings: dict[str, tuple[float, float]]) -> None:
    """Targets with some of the classes: each method, and the same training without adaptation."""
    chosen = {
        "CORAL": settings["CORAL"],
        "CORAL, selected with labels": tuple(record.results["CORAL, selected with labels"]),
        "DANN": settings["DANN"],
    }
    runs = {name: (ARMS[name.split(",")[0]], setting) for name, setting in chosen.items()}
    runs |= {f"no adaptation, rate {rate}": (SOURCE_ONLY, (rate, 0.0)) for rate, _ in chosen.values()}
    for clear in (0.6, 1.0):
        for count in (1, 2, 5, 10):
            for name, (arm, setting) in runs.items():
                key = f"{count} target classes, clear {clear}, {name}"
                record.measure(key, lambda *_, a=(arm, setting, count, clear): with_fewer_classes(*a))


ZERO_SHOT_STEPS, ZERO_SHOT_RATES, SPLITS = 100, (0.0003, 0.001, 0.003, 0.01, 0.03), range(10)
SIZE = 28 * 28


@functools.cache
def braille() -> tuple[np.ndarray, np.ndarray]:
    """(cells, drawings, 28, 28, 1) images, and (cells, 8) their dots."""
    glyphs = mk.load("glyphs")
    cells = glyphs.select(np.flatnonzero(np.array(glyphs.groupings["alphabet"]) == "Braille"))
    images = np.stack([cells.examples[cells.labels == cell] for cell in range(len(cells))])
    numbers = np.array([ord(name) - 0x2800 for name in cells.names])
    return images / np.float32(255), (numbers[:, None] >> np.arange(8) & 1).astype("float32")


def split(unseen: int, seed: int, cells: Sequence[int] = range(26)) -> tuple[np.ndarray, np.ndarray]:
    """Seen and unseen cells, so that every dot of these cells occurs among the seen ones."""
    rng, dots = np.random.default_rng(seed), braille()[1]
    while True:
        order = rng.permutation(cells)
        seen, new = np.sort(order[unseen:]), np.sort(order[:unseen])
        if (dots[seen].any(axis=0) == dots[list(cells)].any(axis=0)).all():
            return seen, new


def encoder() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=4, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
        ]
    )


def joint_embedding() -> keras.Model:
    """One embedding space for images and for descriptions: an example is an image, a description, or both."""
    inputs = keras.Input((SIZE + 8,))
    images = encoder()(layers.Reshape((28, 28, 1))(inputs[:, :SIZE]))
    embedded = layers.Dense(32)(images) + layers.Dense(32, use_bias=False)(inputs[:, SIZE:])
    return keras.Model(inputs, embedded)


IMAGE = np.repeat([1.0, 0.0], [SIZE, 8]).astype("float32")


def described(task: mk.Episode) -> mk.Episode:
    """A zero-shot task: the support set has only descriptions, and the queries have only images."""
    return task._replace(support_x=task.support_x * (1 - IMAGE), query_x=task.query_x * IMAGE)


class Plain:
    """`ZeroShot`, or an ordinary classifier if the descriptions are one-hot vectors."""

    def __init__(self, descriptions: np.ndarray) -> None:
        self.learner = mk.transfer.ZeroShot(encoder(), descriptions)
        self.learner.compile(keras.optimizers.Adam(), steps_per_execution=50)

    def begin(self, cells: np.ndarray, drawings: int, descriptions: np.ndarray, rate: float, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        mk.restart(self.learner, mk.transfer.ZeroShot(encoder(), descriptions).get_weights())
        self.learner.optimizer.learning_rate = rate
        self.x = braille()[0][cells, :drawings].reshape(-1, 28, 28, 1)
        self.y = np.arange(len(cells)).repeat(drawings)
        self.rows = np.random.default_rng(seed).integers(len(self.x), size=32 * ZERO_SHOT_STEPS)

    def fit(self) -> None:
        self.learner.fit(self.x[self.rows], self.y[self.rows], batch_size=32, shuffle=False, verbose=0)

    def classify(self, x: np.ndarray, descriptions: np.ndarray) -> np.ndarray:
        return self.learner.classify(x, descriptions)


class Episodic:
    """Prototypical networks whose prototypes are embedded descriptions, on tasks of so many cells."""

    def __init__(self, ways: int, queries: int) -> None:
        self.ways, self.queries = ways, queries
        self.learner = mk.MetaLearner(network=joint_embedding(), rule=mk.rules.Prototypes(), parallel="unrolled")
        self.learner.compile(keras.optimizers.Adam(), jit_compile=False, steps_per_execution=25)

    def begin(self, cells: np.ndarray, drawings: int, descriptions: np.ndarray, rate: float, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        mk.restart(self.learner, [np.zeros(()), *joint_embedding().get_weights()])  # no batches seen
        self.learner.optimizer.learning_rate = rate
        images = braille()[0][cells, :drawings].reshape(-1, SIZE)
        labels = np.arange(len(cells)).repeat(drawings)
        pool = mk.ClassPool.from_arrays(np.concatenate([images, descriptions[labels]], axis=1), labels)
        ways = min(self.ways, len(cells))
        tasks = mk.FewShot(pool, ways=ways, shots=1, queries=self.queries, meta_batch=1, seed=seed)
        self.tasks = tasks.map(described)

    def fit(self) -> None:
        self.learner.fit(self.tasks, steps_per_epoch=ZERO_SHOT_STEPS, verbose=0)

    def classify(self, x: np.ndarray, descriptions: np.ndarray) -> np.ndarray:
        support = np.concatenate([np.zeros((len(descriptions), SIZE)), descriptions], axis=1)
        query = np.concatenate([x.reshape(-1, SIZE), np.zeros((len(x), 8))], axis=1)
        inputs = [part[None].astype("float32") for part in (support, query)]
        return self.learner((inputs[0], np.arange(len(descriptions))[None], inputs[1])).numpy()[0].argmax(axis=-1)


def zero_shot_accuracy(
    learner: Any, kind: str, cells: tuple[np.ndarray, np.ndarray], rate: float, seed: int, first: int = 15
) -> float:
    """The accuracy on the drawings of each new cell, from the first one on."""
    (images, dots), (seen, new) = braille(), cells
    x, y = images[new, first:].reshape(-1, 28, 28, 1), np.arange(len(new)).repeat(20 - first)
    if kind == "zero-shot":
        learner.begin(seen, 15, dots[seen], rate, seed)
        descriptions = dots[new]
    else:
        learner.begin(new, int(kind.split()[0]), np.eye(len(new)), rate, seed)
        descriptions = np.eye(len(new))
    learner.fit()
    return round(float((learner.classify(x, descriptions) == y).mean()), 4)


def validation_accuracies(learner: Any, kind: str, rate: float) -> list[float]:
    """Accuracies on cells held out from the seen ones of five splits."""
    held_out, first = (5, 0) if kind == "zero-shot" else (8, 15)
    inner = {seed: split(held_out, seed, split(8, seed)[0]) for seed in SPLITS[:5]}
    return [zero_shot_accuracy(learner, kind, inner[seed], rate, seed, first) for seed in inner]


def measure_zero_shot(record: Record) -> None:
    dots = braille()[1]
    makers = {  # for the test and for the validation, in which five of the 18 seen cells are held out
        "zero-shot, plain": (lambda: Plain(dots[:18]), lambda: Plain(dots[:13])),
        "zero-shot, episodic": (lambda: Episodic(8, 4), lambda: Episodic(8, 4)),
        "5 labels": (lambda: Plain(np.eye(8)), lambda: Plain(np.eye(8))),
        "15 labels": (lambda: Plain(np.eye(8)), lambda: Plain(np.eye(8))),
    }
    for name, makes in makers.items():
        kind = name.split(",")[0]
        for_test, for_validation = (functools.cache(make) for make in makes)
        scores = {}
        for rate in ZERO_SHOT_RATES:
            scores[rate] = record.measure(
                f"braille, {name}, validation, {rate}",
                lambda *_, a=(for_validation, kind, rate): validation_accuracies(a[0](), *a[1:]),
            )
        best = max(scores, key=lambda rate: np.mean(scores[rate]))
        record.measure(f"braille, {name}, selected", lambda best=best: best)
        record.measure(
            f"braille, {name}, test",
            lambda *_, a=(for_test, kind, best): [
                zero_shot_accuracy(a[0](), a[1], split(8, seed), a[2], seed) for seed in SPLITS
            ],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard the stored results")
    record = Record("chapter_06", again=parser.parse_args().again)
    settings = measure_adaptation(record)
    measure_labels(record)
    measure_proportions(record, settings)
    measure_zero_shot(record)


if __name__ == "__main__":
    main()
