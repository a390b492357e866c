"""What chapter 07 reports about tasks that are made without labels: CACTUs and UMTRA against supervised tasks.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_tasks.py      (about 5 minutes on one core)

Prototypes are meta-trained with the network and the images of benchmarks/chapter_07.py: conv4 with 32 filters and
strides, and the training alphabets of glyphs. All methods take 200 steps of Adam with cosine decay; a step is one task
of 20 classes with one support image and five queries each, which is 120 images.

    supervised    classes are characters, by their labels
    UMTRA         classes are single images; queries are augmented as the views in benchmarks/chapter_07.py
    CACTUs        classes are 500 clusters of the aligned and blurred pixels of chapter 01

The learning rate was selected for supervised tasks on 300 tasks of the validation alphabets with another seed, and all
methods use it. (The stored selection took steps of 16 five-way tasks with one query per class.) The other settings of
UMTRA and CACTUs were not selected.

The test: three new seeds, each with 600 tasks of the test alphabets of its own, the same for every method and the same
as in benchmarks/chapter_07.py, which has the baselines. During training, accuracy is measured on 200 of the test tasks
after every 100 steps.

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
from chapter_07 import SEEDS, SELECTION_SEED, SELECTION_TASKS, TASKS, encoder, few_shot, glyphs, plain
from common import begin_again, best_inside
from record import Record

import meta_keras as mk
from meta_keras.unsupervised import UMTRA, cluster_classes

STEPS, EVERY, META_BATCH, QUERIES, WAYS, CURVE_TASKS = 200, 100, 1, 5, 20, 200
RATES = (0.001, 0.003, 0.009, 0.027)
METHODS = ("supervised", "UMTRA", "CACTUs")
STRENGTH, CLUSTERS = 1.0, 500


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


def tasks(method: str, seed: int) -> mk.Tasks:
    options = {"ways": WAYS, "shots": 1, "queries": QUERIES, "meta_batch": META_BATCH, "seed": seed}
    if method == "UMTRA":
        return UMTRA(images(), {"query": augmentation(STRENGTH)}, **options)
    pool = glyphs("train") if method == "supervised" else clusters(CLUSTERS, seed)
    return mk.FewShot(pool, **options)


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
    method: str, chosen_rate: float, seed: int, after_each: Callable[[keras.Model], None] | None = None
) -> keras.Model:
    """The embedding that Prototypes have learned from these tasks."""
    trained, rate = learner()
    begin_again(trained, encoder, seed)
    rate.rate.assign(chosen_rate)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: after_each and after_each(trained.network))
    source = tasks(method, seed)
    trained.fit(source, steps_per_epoch=EVERY, epochs=STEPS // EVERY, callbacks=[callback], verbose=0)
    return trained.network


def accuracy(network: keras.Model, split: str, seed: int, shots: int, count: int) -> float:
    return few_shot(plain(network), split, seed, shots, count, None)


def selected(record: Record) -> float:
    """The learning rate with the highest validation accuracy of supervised tasks, which all methods then use."""
    if "selected" in record.results:
        return record.results["selected"]["rate"]

    def trial(rate: float) -> float:
        network = meta_trained("supervised", rate, SELECTION_SEED)
        return accuracy(network, "validation", 3, 1, SELECTION_TASKS)

    rate = best_inside(
        lambda rate: record.measure(f"validation: supervised, rate {rate:g}", lambda: trial(rate)), RATES
    )
    return record.measure("selected", lambda: {"rate": rate})["rate"]


def of_seed(method: str, rate: float, seed: int) -> dict[str, Any]:
    """The accuracy on the test tasks, and during training; for clusters also their purity."""
    curve: list[float] = []
    network = meta_trained(
        method, rate, seed, lambda network: curve.append(accuracy(network, "test", seed, 1, CURVE_TASKS))
    )
    result: dict[str, Any] = {f"{shots}-shot": accuracy(network, "test", seed, shots, TASKS) for shots in (1, 5)}
    if method == "CACTUs":
        result["purity"] = purity(clusters(CLUSTERS, seed))
    return result | {"curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="discard what was measured before")
    record = Record("chapter_07_tasks", again=parser.parse_args().again)
    tf.get_logger().setLevel("ERROR")
    rate = selected(record)
    for seed in SEEDS:
        for method in METHODS:
            record.measure(f"test: {method}, seed {seed}", lambda method=method, seed=seed: of_seed(method, rate, seed))


if __name__ == "__main__":
    main()
