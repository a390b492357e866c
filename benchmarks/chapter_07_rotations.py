"""Rotations of unseen Chinese characters, and the features of networks that learned to predict rotations.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_hanzi.py            (about 15 minutes on one core)
    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_hanzi.py rotations  (one part: rotations, baselines, typefaces,
                                                                             features)

The network and the training are those of benchmarks/chapter_07.py, with 800 steps of 64 images: conv4 with 32 filters
and strides, Adam with cosine decay. Characters of the test split are never seen in training; their pronunciation begins
with other letters, so that few of them share a phonetic part with training characters. No character is left out because
of its symmetry.

rotations: how often the number of quarter turns is predicted correctly, for training images and for unseen characters,
during training on 30, 100, 300, 1,000 and all 2,903 training characters in three typefaces. The learning rate is
selected for each number of characters on the validation split with another seed; then there are three seeds. The
networks of all characters are also tested on the letters of benchmarks/chapter_07.py.

baselines: the rotation of the nearest training image, by principal components of pixels, and ridge regression on all
pixels. The number of components and the strength of regularization are selected on the validation split.

typefaces: training on two typefaces and testing on the third, with known and with unseen characters.

features: 20-way 1-shot tasks of unseen characters, in which support images and queries have different typefaces, for
three seeds with 600 tasks each, with rotation features, random features, raw pixels and aligned pixels. Whether
features are centered, and the width of the blur, are selected on 300 validation tasks.

Results are kept in data/results/chapter_07_hanzi.json; a run that is stopped continues where it was.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from chapter_01 import align_and_blur
from chapter_07 import (
    SEEDS,
    SELECTION_SEED,
    SELECTION_TASKS,
    TASKS,
    Encode,
    asymmetric_letters,
    during_training,
    encoder_of,
    plain,
    raw_pixels,
    turned,
)
from common import best_inside
from record import Record, measure_parts

import meta_keras as mk
from meta_keras.unsupervised import few_shot_score
from meta_keras.unsupervised.distances import squared_distances

TYPEFACES = ("serif", "sans", "kai")  # the order of a character's images
COUNTS, CHECKPOINTS = (30, 100, 300, 1000, 2903), (100, 200, 400, 800)
RATES, COMPONENTS, STRENGTHS, BLURS = (0.001, 0.003, 0.009), (16, 32, 64), (0.01, 0.1, 1), (0.5, 1, 2)
WAYS = 20
Curves = dict[str, list[float]]


@functools.cache
def drawings(split: str) -> np.ndarray:
    """(characters, typefaces, 28, 28, 1), between 0 and 1."""
    rows = mk.load("hanzi").split(split).arrays(scaled=True)[0]
    return rows.reshape(-1, len(TYPEFACES), *rows.shape[1:])


def images(split: str, count: int | None = None, typefaces: tuple[str, ...] = TYPEFACES) -> np.ndarray:
    """The images of so many characters, evenly spaced in their order, in these typefaces."""
    found = drawings(split)
    chosen = np.linspace(0, len(found) - 1, count or len(found)).round().astype(int)
    return np.concatenate([found[chosen, TYPEFACES.index(typeface)] for typeface in typefaces])


# Rotations


def trained(training: np.ndarray, parts: dict[str, np.ndarray], rate: float, seed: int) -> tuple[keras.Model, Curves]:
    """The model, and the accuracy of the rotation for these parts and about 1,000 training images."""
    parts = {"training images": training[:: max(1, len(training) // 1000)]} | parts
    return during_training(training, parts, CHECKPOINTS, rate, seed)


def selected_rate(record: Record, count: int) -> float:
    """The learning rate with the highest final accuracy on the characters of the validation split."""

    def final(rate: float) -> float:
        parts = {"validation": images("validation")}
        return trained(images("train", count), parts, rate, SELECTION_SEED)[1]["validation"][-1]

    def measured(rate: float) -> float:
        return record.measure(f"validation: {count} characters, rate {rate:g}", lambda: final(rate))

    return record.measure(f"selected: {count} characters", lambda: {"rate": best_inside(measured, RATES)})["rate"]


def rotations_part(record: Record) -> None:
    for count in COUNTS:
        rate = selected_rate(record, count)
        parts = {"unseen characters": images("test")}
        if count == COUNTS[-1]:
            parts["letters of glyphs"] = asymmetric_letters("test")
        for seed in SEEDS:
            key = f"rotations: {count} characters, seed {seed}"
            record.measure(key, lambda: trained(images("train", count), parts, rate, seed)[1])  # noqa: B023


def typefaces_part(record: Record) -> None:
    rate = selected_rate(record, COUNTS[-1])
    for face in TYPEFACES:
        others = images("train", None, tuple(other for other in TYPEFACES if other != face))
        parts = {name: images(split, typefaces=(face,)) for name, split in (("known", "train"), ("unseen", "test"))}
        for seed in SEEDS:
            record.measure(f"typefaces: {face}, seed {seed}", lambda: trained(others, parts, rate, seed)[1])  # noqa: B023


# Baselines without a network


@functools.cache
def axes() -> tuple[np.ndarray, np.ndarray]:
    """The mean of the rotated training images, and the directions of their variance, in ascending order."""
    rows = raw_pixels(turned(images("train"))[0])
    mean = rows.mean(axis=0)
    return mean, np.linalg.eigh((rows - mean).T @ (rows - mean))[1]


def nearest_neighbor(split: str, components: float) -> float:
    mean, directions = axes()
    (known, turns), (unknown, answers) = turned(images("train")), turned(images(split))
    known, unknown = ((raw_pixels(x) - mean) @ directions[:, -int(components) :] for x in (known, unknown))
    nearest = [squared_distances(rows, known).argmin(axis=1) for rows in np.array_split(unknown, 50)]
    return round(float(np.mean(turns[np.concatenate(nearest)] == answers)), 4)


def ridge_regression(split: str, strength: float) -> float:
    """Least squares from pixels to one output per rotation, of which the largest is the answer."""
    mean, _ = axes()
    (known, turns), (unknown, answers) = turned(images("train")), turned(images(split))
    x = raw_pixels(known) - mean
    penalty = strength * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (np.eye(4)[turns] - 0.25))
    return round(float(np.mean(((raw_pixels(unknown) - mean) @ weights).argmax(axis=1) == answers)), 4)


def baselines_part(record: Record) -> None:
    for method, grid in ((nearest_neighbor, COMPONENTS), (ridge_regression, STRENGTHS)):
        name = method.__name__.replace("_", " ")

        def measured(value: float, name: str = name, method: Any = method) -> float:
            return record.measure(f"validation: {name}, {value:g}", lambda: method("validation", value))

        best = best_inside(measured, grid)
        record.measure(f"selected: {name}", lambda: {"value": best})  # noqa: B023
        record.measure(f"rotations: {name}", lambda: method("test", best))  # noqa: B023


# Features


def one_shot(encode: Encode, kind: str, split: str, seed: int, tasks: int) -> float:
    """The accuracy of tasks whose support images and queries have different typefaces."""
    center = images("train")[::8] if kind == "centered" else None
    pool = mk.load("hanzi").split(split)
    options = {"ways": WAYS, "shots": 1, "queries": len(TYPEFACES) - 1, "center": center}
    return round(few_shot_score(encode, pool, **options, seed=seed, episodes=tasks).mean, 4)


def rotation_features(record: Record, seed: int) -> Encode:
    model, _ = trained(images("train"), {}, selected_rate(record, COUNTS[-1]), seed)
    return functools.partial(model.encode, batch_size=1024)


def features_part(record: Record) -> None:
    def validated(name: str, make: Callable[[], Encode]) -> dict[str, float]:
        def both() -> dict[str, float]:
            encode = make()
            kinds = ("plain", "centered")
            return {kind: one_shot(encode, kind, "validation", SELECTION_SEED, SELECTION_TASKS) for kind in kinds}

        return record.measure(f"validation: features, {name}", both)

    def aligned(sigma: float) -> Encode:
        return functools.partial(align_and_blur, sigma=sigma)

    sigma = best_inside(
        lambda sigma: max(validated(f"aligned pixels, sigma {sigma:g}", lambda: aligned(sigma)).values()), BLURS
    )
    encoders: dict[str, Callable[[int], Encode]] = {
        "raw pixels": lambda seed: raw_pixels,
        "aligned pixels": lambda seed: aligned(sigma),
        "random": lambda seed: plain(encoder_of(seed)),
        "rotation": lambda seed: rotation_features(record, seed),
    }
    for name, make in encoders.items():
        found = validated(name, lambda: make(SELECTION_SEED))  # noqa: B023
        kind = max(found, key=found.get)
        record.measure(f"selected: features, {name}", lambda: kind)  # noqa: B023
        for seed in SEEDS:
            key = f"features: {name}, seed {seed}"
            record.measure(key, lambda: one_shot(make(seed), kind, "test", seed, TASKS))  # noqa: B023


PARTS = {
    "rotations": rotations_part,
    "baselines": baselines_part,
    "typefaces": typefaces_part,
    "features": features_part,
}


if __name__ == "__main__":
    measure_parts("chapter_07_hanzi", PARTS, __doc__)
