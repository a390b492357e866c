"""What chapter 07 reports about tasks that are made without labels: CACTUs and UMTRA against supervised tasks.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_tasks.py      (about 20 minutes on one core)

Prototypes are meta-trained with the network and the images of benchmarks/chapter_07.py: conv4 with 32 filters and
strides, and the training alphabets of glyphs. Every step of Adam, with cosine decay, takes 160 images for every method:
as many tasks with one support image per class as fit.

    supervised    classes are characters, by their labels
    UMTRA         classes are single images; queries are augmented
    CACTUs        classes are clusters of the 64 leading principal components of the aligned and blurred pixels of
                  chapter 01, by ten iterations of k-means

The settings are selected on 300 tasks of the validation alphabets with one seed and 150 steps, one after the other, in
the same way for each method, and a grid is extended while its best value is at the edge: the queries per class, the
number of classes of a task (up to 80, with which a step is one task), the number of clusters, the augmentation (for
UMTRA its strength, for the others whether all images are augmented, with strength 1), the learning rate, and
whether features are centered.

The test: three new seeds with 480 steps, which see as many images as the pretraining of chapter_07.py, each with 600
tasks of the test alphabets of its own, the same for every method and the same as in benchmarks/chapter_07.py, which has
the baselines. During training, accuracy is measured on 300 of the test tasks after every 160 steps.

Results are kept in data/results/chapter_07_tasks.json; a run that is stopped continues where it was.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from chapter_07 import (
    CLUSTERED,
    SEEDS,
    SELECTION_SEED,
    TASKS,
    Settings,
    aligned_pixels,
    encoder,
    few_shot,
    glyphs,
    plain,
    pretraining_images,
    principal_components,
    validated,
)
from common import begin_again, best_inside
from record import Record

import meta_keras as mk
from meta_keras.unsupervised import UMTRA, k_means

STEPS, SELECTION_STEPS, EPOCHS, IMAGES, CURVE_TASKS = 480, 150, 3, 160, 300
GRIDS = {
    "rate": (0.003, 0.009, 0.027),
    "queries": (1, 3),
    "ways": (10, 20, 40),
    "strength": (0.5, 1.0, 2.0),
    "clusters": (500, 1000, 2000),
}
CHOICES = {"augmented": (True, False)}
# Where the search begins. The settings are searched in this order; the learning rate comes last.
START: dict[str, Settings] = {
    "supervised": {"rate": 0.009, "queries": 1, "ways": 20, "augmented": False},
    "UMTRA": {"rate": 0.009, "queries": 1, "ways": 20, "strength": 1.0},
    "CACTUs": {"rate": 0.009, "queries": 1, "ways": 20, "clusters": 1000, "augmented": True},
}


def augmentation(strength: float = 1.0) -> keras.Sequential:
    """Small affine changes; with strength 1 those of benchmarks/chapter_07.py."""
    options = {"fill_mode": "constant", "fill_value": 0.0}
    small, zoom = 0.2 * strength, (-0.2 * strength, 0.2 * strength)
    layers = [
        keras.layers.RandomShear(small, small, **options),
        keras.layers.RandomZoom(zoom, zoom, **options),
        keras.layers.RandomRotation(0.04 * strength, **options),
        keras.layers.RandomTranslation(0.1 * strength, 0.1 * strength, **options),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def images() -> np.ndarray:
    """The images of the training alphabets, as they are stored."""
    return glyphs("train").examples


# Tasks


def tasks(method: str, settings: Settings, seed: int) -> mk.Tasks:
    ways, queries = int(settings["ways"]), int(settings["queries"])
    meta_batch = IMAGES // (ways * (1 + queries))
    options = {"ways": ways, "shots": 1, "queries": queries, "meta_batch": meta_batch, "seed": seed}
    if method == "UMTRA":
        return UMTRA(images(), {"query": augmentation(settings["strength"])}, **options)
    pool = glyphs("train") if method == "supervised" else clusters(int(settings["clusters"]), seed)
    pool = pool.with_at_least(1 + queries)
    return mk.FewShot(pool, **options, augment=augmentation() if settings["augmented"] else None)


@functools.cache
def clusters(count: int, seed: int) -> mk.ClassPool:
    return mk.ClassPool(images(), k_means(components(), count, iterations=10, seed=seed).labels)


@functools.cache
def components() -> np.ndarray:
    return principal_components(aligned_pixels, CLUSTERED)(pretraining_images())


def purity(pool: mk.ClassPool) -> float:
    """How often two images of one cluster show the same character; the labels are only used to report this."""
    where = {image.tobytes(): label for image, label in zip(images(), glyphs("train").labels, strict=True)}
    truth = np.array([where[image.tobytes()] for image in pool.examples])
    pairs = [(truth[pool.labels == one][:, None] == truth[pool.labels == one]) for one in range(len(pool))]
    same = sum(pair.sum() - len(pair) for pair in pairs)
    return round(float(same / sum(len(pair) * (len(pair) - 1) for pair in pairs)), 4)


# Training


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine decay to zero, of a rate and with a number of steps that can be set between trainings."""

    def __init__(self) -> None:
        self.rate, self.steps = (tf.Variable(value, trainable=False) for value in (0.003, float(STEPS)))

    def __call__(self, step: Any) -> tf.Tensor:
        return self.rate * (1 + tf.cos(np.pi * tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0))) / 2


@functools.cache
def learner() -> tuple[mk.MetaLearner, Cosine]:
    made, rate = mk.MetaLearner(network=encoder(), rule=mk.rules.Prototypes()), Cosine()
    made.compile(keras.optimizers.Adam(rate), jit_compile=False)  # XLA's strided convolutions are slow on a CPU
    return made, rate


def meta_trained(
    method: str,
    settings: Settings,
    seed: int,
    steps: int,
    after_each: Callable[[keras.Model], None] | None = None,
) -> keras.Model:
    """The embedding that Prototypes have learned from these tasks."""
    trained, rate = learner()
    begin_again(trained, encoder, seed)
    rate.rate.assign(settings["rate"])
    rate.steps.assign(steps)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: after_each and after_each(trained.network))
    source = tasks(method, settings, seed)
    trained.fit(source, steps_per_epoch=steps // EPOCHS, epochs=EPOCHS, callbacks=[callback], verbose=0)
    return trained.network


def selected(record: Record, method: str) -> Settings:
    """The settings with the highest validation accuracy, searched one after the other."""

    def trial(settings: Settings) -> dict[str, float]:
        shown = ", ".join(f"{name} {value:g}" for name, value in settings.items())
        key = f"validation: {method}, {shown}"
        return record.measure(
            key, lambda: validated(plain(meta_trained(method, settings, SELECTION_SEED, SELECTION_STEPS)))
        )

    best = dict(START[method])
    for name in [*list(best)[1:], "rate"]:

        def with_value(value: Any, name: str = name) -> float:
            settings = best | {name: value}
            if settings["queries"] < 1 or settings["ways"] * (1 + settings["queries"]) > IMAGES:
                return 0.0  # no such task, or more images than a step has
            return max(trial(settings).values())

        if name in GRIDS:
            best[name] = type(best[name])(best_inside(with_value, GRIDS[name]))
        else:
            best[name] = max(CHOICES[name], key=with_value)
    found = trial(best)
    return record.measure(f"selected: {method}", lambda: {**best, "features": max(found, key=found.get)})


def test(record: Record, method: str, settings: Settings) -> None:
    """The accuracy on the test tasks, and during training; for clusters also their purity."""
    settings = dict(settings)
    center = pretraining_images()[::4] if settings.pop("features") == "centered" else None

    def accuracy(network: keras.Model, seed: int, count: int) -> float:
        return few_shot(plain(network), "test", seed, 1, count, center)

    def of_seed(seed: int) -> dict[str, Any]:
        curve: list[float] = []
        network = meta_trained(
            method, settings, seed, STEPS, lambda network: curve.append(accuracy(network, seed, CURVE_TASKS))
        )
        result: dict[str, Any] = {"1-shot": accuracy(network, seed, TASKS), "curve": curve}
        if "clusters" in settings:
            result["purity"] = purity(clusters(int(settings["clusters"]), seed))
        return result

    for seed in SEEDS:
        record.measure(f"test: {method}, seed {seed}", lambda seed=seed: of_seed(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    record = Record("chapter_07_tasks", again=parser.parse_args().again)
    tf.get_logger().setLevel("ERROR")
    for method in START:
        test(record, method, selected(record, method))


if __name__ == "__main__":
    main()
