"""Episodic training and an ordinary classifier at three budgets of training images, and what both have to beat.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_01.py          (about 50 minutes on one core)

Both train the same conv4 on the characters of the 16 training alphabets, with equal numbers of images, and are tested
by the nearest class mean of their embeddings on 600 tasks of the test alphabets. Learning rate, batch size and
normalization of the embeddings are selected on tasks of the validation alphabets: no selected learning rate is at the
edge of its grid, and the batch size is halved or doubled for as long as that gains 0.01 in accuracy, so that the
selected one is not always the one with the highest accuracy. The middle budget selects the learning rate again, and the
largest budget has the settings of the middle one. Each method is trained with three seeds, from the same
initializations. The strongest baseline without training compares aligned and blurred images; only the width of its blur
is selected. For raw pixels and an untrained network, the normalization is selected, too. The results are in
data/results/chapter_01.json, from where the chapter reads them.
"""

import argparse
import functools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from common import best_inside, unit
from record import Record

import meta_keras as mk

FILTERS, PER_CLASS = 32, 6  # 1 shot and 5 queries
BUDGETS = (30_000, 100_000, 250_000)
SEEDS, SELECTION_SEED = (0, 1, 2), 100
TASKS, SELECTION_TASKS = 600, 1000
KINDS = ("plain", "unit", "centered unit")
PROBLEMS = {
    "5-way": {"ways": 5},
    "20-way": {"ways": 20},
    "5-way within an alphabet": {"ways": 5, "within": "alphabet"},
    "20-way within an alphabet": {"ways": 20, "within": "alphabet"},
}
CRITERION = "20-way"  # the accuracy on validation tasks by which everything is selected
BLURS, SIDE = (1, 1.5, 2, 3, 4), 24  # standard deviations of the blur, and the side of an aligned image, in pixels
SCRATCH_TASKS = {5: {"validation": 100, "test": 200}, 20: {"validation": 30, "test": 60}}  # per learning rate or seed
GAIN = 0.01  # the batch size, and steps from scratch, are changed for as long as validation accuracy gains this much


@functools.cache
def glyphs(split: str) -> mk.ClassPool:
    return mk.load("glyphs").split(split)


def train(method: str, images: int, per_step: int, learning_rate: float, seed: int) -> keras.Model:
    """conv4 after `images` training images, by episodes of one task per step or by an ordinary classifier."""
    keras.utils.set_random_seed(seed)
    network, steps = mk.networks.conv4(filters=FILTERS), images // per_step
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    if method == "prototypes":
        model = mk.MetaLearner(network=network, rule=mk.rules.Prototypes())
        data = mk.FewShot(glyphs("train"), per_step // PER_CLASS, queries=PER_CLASS - 1, meta_batch=1, seed=seed)
        model.compile(optimizer)
    else:
        model = keras.Sequential([network, keras.layers.Dense(len(glyphs("train")))])
        rows = tf.data.Dataset.from_tensor_slices(glyphs("train").arrays(scaled=True))
        data = rows.shuffle(len(rows), seed=seed).repeat().batch(per_step)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=False)  # XLA gives the same, and takes longer
    model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False)
    return network


def align_and_blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Vectors of length 1 for the cosine: images cropped to their ink, resized, and blurred by a Gaussian."""
    resized = []
    for image in images:
        rows, columns, _ = np.nonzero(image)
        cropped = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        resized.append(tf.image.resize(cropped, (SIDE, SIDE)))
    blurred = keras.ops.image.gaussian_blur(np.float32(resized), (25, 25), (sigma, sigma))
    return unit(np.reshape(blurred, (len(images), -1)))


def embeddings(network: keras.Model, pool: mk.ClassPool, kind: str) -> mk.ClassPool:
    """The pool with embeddings in place of images: plain, of unit length, or of unit length around the mean."""

    def embed(pixels: np.ndarray) -> np.ndarray:
        return network.predict(pixels / np.float32(255), batch_size=256, verbose=0)

    if kind == "plain":
        return pool.map(embed)
    mean = embed(glyphs("train").examples[::8]).mean(axis=0) if kind == "centered unit" else 0
    return pool.map(lambda pixels: unit(embed(pixels) - mean))


def nearest_class_mean(pool: mk.ClassPool, problem: str, tasks: int, seed: int) -> mk.Score:
    """The accuracy of the nearest class mean on tasks of a pool of vectors."""
    identity = keras.Sequential([keras.Input(pool.examples.shape[1:]), keras.layers.Flatten()])
    learner = mk.MetaLearner(network=identity, rule=mk.rules.Prototypes())
    drawn = mk.FewShot(pool, shots=1, queries=5, meta_batch=20, seed=seed, **PROBLEMS[problem])
    return mk.evaluate(learner, drawn, tasks)


def validated(network: keras.Model, kinds: Sequence[str]) -> dict[str, float]:
    """The accuracy on validation tasks for each normalization of the embeddings."""
    pools = {kind: embeddings(network, glyphs("validation"), kind) for kind in kinds}
    return {kind: nearest_class_mean(p, CRITERION, SELECTION_TASKS, 3).mean for kind, p in pools.items()}


def tested(pool: mk.ClassPool) -> dict[str, list[float]]:
    """Mean and half width of the 95 % interval over the test tasks of each problem."""
    return {problem: list(nearest_class_mean(pool, problem, TASKS, 2)[1:3]) for problem in PROBLEMS}


def from_scratch(split: str, ways: int, steps: int, rate: float, seed: int) -> mk.Score:
    """The accuracy of conv4 with a head that is trained on the support set of each task, from weights of this seed."""
    keras.utils.set_random_seed(seed)
    rule = mk.rules.GradientDescent(rate, evaluation_steps=steps, batch_statistics="support")
    learner = mk.MetaLearner(network=mk.networks.conv4(ways, filters=FILTERS), rule=rule)
    tasks = mk.FewShot(glyphs(split), ways, 1, queries=5, seed=2 if split == "test" else 3)
    return mk.evaluate(learner, tasks, SCRATCH_TASKS[ways][split])


class Measurements:
    """The measurements of this script, each under a key of its own."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def select(
        self, method: str, images: int, per_step: int, grid: Sequence[float], kinds: Sequence[str] = KINDS
    ) -> dict[str, object]:
        """Learning rate and normalization with the highest accuracy on the validation tasks."""

        def trial(rate: float) -> dict[str, float]:
            key = f"validation: {method}, {images} images, {per_step} per step, learning rate {rate:g}"
            return self.record.measure(
                key, lambda: validated(train(method, images, per_step, rate, SELECTION_SEED), kinds)
            )

        rate = best_inside(lambda rate: max(trial(rate).values()), grid)
        scores = trial(rate)
        kind = max(scores, key=scores.get)
        return {"learning_rate": rate, "per_step": per_step, "embeddings": kind, "accuracy": scores[kind]}

    def selected(self, method: str, images: int) -> dict[str, object]:
        """All settings for the smallest budget, a new learning rate for the middle one, the same for the largest."""
        small, middle, _ = BUDGETS
        if images == small:
            best = self._per_step(method, small)
        elif images == middle:
            first = self.selected(method, small)
            rate = first["learning_rate"]
            rates = (rate / 4, rate / 2, rate)  # longer training needs smaller ones
            best = self.select(method, middle, first["per_step"], rates, [first["embeddings"]])
        else:
            best = self.selected(method, middle)
        return self.record.measure(f"selected: {method}, {images} images", lambda: best)

    def _per_step(self, method: str, images: int) -> dict[str, object]:
        """The settings with the better batch size of 60 and 120, or a further one for as long as that gains 0.01."""
        fewer, more = (self.select(method, images, per_step, (0.002, 0.004)) for per_step in (60, 120))
        best, factor = (fewer, 0.5) if fewer["accuracy"] > more["accuracy"] else (more, 2)
        while True:
            further = self.select(method, images, int(best["per_step"] * factor), (0.002, 0.004))
            if further["accuracy"] < best["accuracy"] + GAIN:
                return best
            best = further

    def test(self, method: str, images: int, seed: int) -> None:
        settings = self.selected(method, images)
        per_step, rate, kind = (settings[name] for name in ("per_step", "learning_rate", "embeddings"))
        self.record.measure(
            f"{method}, {images} images, seed {seed}",
            lambda: tested(embeddings(train(method, images, per_step, rate, seed), glyphs("test"), kind)),
        )

    def aligned(self) -> None:
        """The nearest class mean of aligned and blurred images, which needs no training."""

        def vectors(split: str, sigma: float) -> mk.ClassPool:
            return glyphs(split).map(lambda images: align_and_blur(images, sigma))

        def accuracy(sigma: float) -> float:
            return nearest_class_mean(vectors("validation", sigma), CRITERION, SELECTION_TASKS, 3).mean

        trials = {s: self.record.measure(f"validation: aligned, sigma {s:g}", lambda s=s: accuracy(s)) for s in BLURS}
        sigma = self.record.measure("selected: aligned", lambda: {"sigma": max(trials, key=trials.get)})["sigma"]
        self.record.measure("aligned", lambda: tested(vectors("test", sigma)))

    def without_training(self, name: str, seed: int) -> None:
        """Raw pixels, or the network with random weights, with the best normalization."""

        def network(seed: int) -> keras.Model:
            keras.utils.set_random_seed(seed)
            flatten = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
            return flatten if name == "pixels" else mk.networks.conv4(filters=FILTERS)

        trials = self.record.measure(f"validation: {name}", lambda: validated(network(SELECTION_SEED), KINDS))
        best = max(trials, key=trials.get)
        kind = self.record.measure(f"selected: {name}", lambda: {"embeddings": best, "accuracy": trials[best]})
        key = name if name == "pixels" else f"{name}, seed {seed}"
        self.record.measure(key, lambda: tested(embeddings(network(seed), glyphs("test"), kind["embeddings"])))

    def from_scratch(self, ways: int, seed: int) -> None:
        """conv4 with a head, trained on the support set of each task by gradient descent."""
        settings = self.selected_from_scratch(ways)
        steps, rate = settings["steps"], settings["learning_rate"]
        self.record.measure(
            f"from scratch, {ways}-way, seed {seed}",
            lambda: list(from_scratch("test", ways, steps, rate, seed)[1:3]),
        )

    def selected_from_scratch(self, ways: int) -> dict[str, object]:
        """Learning rate and steps; the steps, which 20-way tasks adopt, are doubled for as long as that gains 0.01."""
        if ways == 5:
            steps, before = 20, 0.0
            while (reached := self._best_from_scratch(ways, steps)[1]) >= before + GAIN:
                steps, before = 2 * steps, reached
            for further in (2 * steps, 4 * steps):  # the chapter reports what more steps would reach
                self._best_from_scratch(ways, further)
        else:
            steps = self.selected_from_scratch(5)["steps"]
        best = {"learning_rate": self._best_from_scratch(ways, steps)[0], "steps": steps}
        return self.record.measure(f"selected: from scratch, {ways}-way", lambda: best)

    def _best_from_scratch(self, ways: int, steps: int) -> tuple[float, float]:
        """The best learning rate for this number of steps, and its accuracy on validation tasks."""

        def trial(rate: float) -> float:
            key = f"validation: from scratch, {ways}-way, {steps} steps, learning rate {rate:g}"
            return self.record.measure(key, lambda: from_scratch("validation", ways, steps, rate, SELECTION_SEED).mean)

        best = best_inside(trial, (0.1, 0.2, 0.4))
        return best, trial(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    measurements = Measurements(Record("chapter_01", again=parser.parse_args().again))
    measurements.aligned()
    measurements.without_training("pixels", 0)
    for seed in SEEDS:
        measurements.without_training("untrained", seed)
        for images in BUDGETS:
            for method in ("prototypes", "classifier"):
                measurements.test(method, images, seed)
        for ways in SCRATCH_TASKS:
            measurements.from_scratch(ways, seed)


if __name__ == "__main__":
    main()
