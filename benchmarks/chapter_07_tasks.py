"""What chapter 07 reports about tasks that are made without labels: CACTUs and UMTRA against supervised tasks.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_tasks.py      (about 6 minutes on one core)

Prototypes are meta-trained with the network and the images of benchmarks/chapter_07.py: conv4 with 32 filters and
strides, and the training alphabets of glyphs. All methods take 200 steps of Adam with cosine decay; a step has 16 tasks
of five classes with one support image and one query each, which is 160 images.

    supervised    classes are characters, by their labels
    UMTRA         classes are single images; queries are augmented
    CACTUs        classes are clusters of the aligned and blurred pixels of chapter 01; all images are augmented

The settings are selected on 300 tasks of the validation alphabets with one seed, one after the other, and a grid is
extended while its best value is at the edge: the learning rate, the strength of the augmentation of UMTRA, the number
of clusters, and whether images of supervised tasks are augmented (with strength 1, as those of clusters).

The test: three new seeds, each with 600 tasks of the test alphabets of its own, the same for every method and the same
as in benchmarks/chapter_07.py, which has the baselines. During training, accuracy is measured on 300 of the test tasks
after every 50 steps.

Results are kept in data/results/chapter_07_tasks.json; a run that is stopped continues where it was.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from chapter_01 import align_and_blur
from chapter_07 import SEEDS, SELECTION_SEED, SELECTION_TASKS, TASKS, Settings, encoder, few_shot, glyphs, plain
from common import begin_again, best_inside
from record import Record

import meta_keras as mk
from meta_keras.unsupervised import UMTRA, cluster_classes

STEPS, EVERY, META_BATCH, QUERIES, WAYS, CURVE_TASKS = 200, 50, 16, 1, 5, 300
GRIDS = {"rate": (0.001, 0.003, 0.009), "strength": (0.5, 1.0, 2.0), "clusters": (250, 500, 1000)}
CHOICES = {"augmented": (True, False)}
# The first setting of each is where the search begins; "rate" is searched last.
START: dict[str, Settings] = {
    "supervised": {"rate": 0.003, "augmented": True},
    "UMTRA": {"rate": 0.003, "strength": 1.0},
    "CACTUs": {"rate": 0.003, "clusters": 500},
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
    options = {"ways": WAYS, "shots": 1, "queries": QUERIES, "meta_batch": META_BATCH, "seed": seed}
    if method == "UMTRA":
        return UMTRA(images(), {"query": augmentation(settings["strength"])}, **options)
    pool = glyphs("train") if method == "supervised" else clusters(int(settings["clusters"]), seed)
    return mk.FewShot(pool, **options, augment=augmentation() if settings.get("augmented", True) else None)


@functools.lru_cache(maxsize=1)
def clusters(count: int, seed: int) -> mk.ClassPool:
    return cluster_classes(images(), aligned(), clusters=count, seed=seed).with_at_least(1 + QUERIES)


@functools.cache
def aligned() -> np.ndarray:
    """The 64 leading principal components of aligned and blurred pixels."""
    rows = align_and_blur(glyphs("train").arrays(scaled=True)[0], 1.5)
    rows = rows - rows.mean(axis=0)
    _, directions = np.linalg.eigh(rows.T @ rows)  # in ascending order of the variance
    return rows @ directions[:, -64:]


def purity(pool: mk.ClassPool) -> float:
    """How often two images of one cluster show the same character; the labels are only used to report this."""
    where = {image.tobytes(): label for image, label in zip(images(), glyphs("train").labels, strict=True)}
    truth = np.array([where[image.tobytes()] for image in pool.examples])
    pairs = [(truth[pool.labels == one][:, None] == truth[pool.labels == one]) for one in range(len(pool))]
    same = sum(pair.sum() - len(pair) for pair in pairs)
    return round(float(same / sum(len(pair) * (len(pair) - 1) for pair in pairs)), 4)


# Training


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine decay to zero from a rate that can be set between trainings, so that all share one compiled program."""

    def __init__(self) -> None:
        self.rate = tf.Variable(0.003, trainable=False)

    def __call__(self, step: Any) -> tf.Tensor:
        return self.rate * (1 + tf.cos(np.pi * tf.minimum(tf.cast(step, tf.float32) / STEPS, 1.0))) / 2


@functools.cache
def learner() -> tuple[mk.MetaLearner, Cosine]:
    made, rate = mk.MetaLearner(network=encoder(), rule=mk.rules.Prototypes()), Cosine()
    made.compile(keras.optimizers.Adam(rate), jit_compile=False)  # XLA's strided convolutions are slow on a CPU
    return made, rate


def meta_trained(
    method: str, settings: Settings, seed: int, after_each: Callable[[keras.Model], None] | None = None
) -> keras.Model:
    """The embedding that Prototypes have learned from these tasks."""
    trained, rate = learner()
    begin_again(trained, encoder, seed)
    rate.rate.assign(settings["rate"])
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: after_each and after_each(trained.network))
    source = tasks(method, settings, seed)
    trained.fit(source, steps_per_epoch=EVERY, epochs=STEPS // EVERY, callbacks=[callback], verbose=0)
    return trained.network


def accuracy(network: keras.Model, split: str, seed: int, count: int) -> float:
    return few_shot(plain(network), split, seed, 1, count, None)


def selected(record: Record, method: str) -> Settings:
    """The settings with the highest validation accuracy, searched one after the other."""

    def trial(settings: Settings) -> float:
        shown = ", ".join(f"{name} {value:g}" for name, value in settings.items())
        key = f"validation: {method}, {shown}"
        return record.measure(
            key, lambda: accuracy(meta_trained(method, settings, SELECTION_SEED), "validation", 3, SELECTION_TASKS)
        )

    best = dict(START[method])
    for name in [*list(best)[1:], "rate"]:

        def with_value(value: Any, name: str = name) -> float:
            return trial(best | {name: value})

        best[name] = best_inside(with_value, GRIDS[name]) if name in GRIDS else max(CHOICES[name], key=with_value)
    return record.measure(f"selected: {method}", lambda: best)


def test(record: Record, method: str, settings: Settings) -> None:
    """The accuracy on the test tasks, and during training; for clusters also their purity."""

    def of_seed(seed: int) -> dict[str, Any]:
        curve: list[float] = []
        network = meta_trained(
            method, settings, seed, lambda network: curve.append(accuracy(network, "test", seed, CURVE_TASKS))
        )
        result: dict[str, Any] = {"1-shot": accuracy(network, "test", seed, TASKS), "curve": curve}
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
