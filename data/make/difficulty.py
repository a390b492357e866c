"""Measure how hard data/glyphs.npz is: the nearest neighbor in pixel space, a baseline without training.

Run `.venv/bin/python data/make/difficulty.py`. With `--omniglot FOLDER` it measures real Omniglot in the same way, in
gray-scale and at one bit per pixel; FOLDER is where tensorflow-datasets has prepared it.

Each task draws its classes, one support drawing and five query drawings of each, all distinct. A query gets
the class of the support drawing that is nearest in Euclidean distance.
"""

from __future__ import annotations

import argparse

import numpy as np
from pack import DATA_FOLDER

TASKS = 1000
QUERIES = 5
SEED = 0


def load_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """The drawings as float (classes, writers, pixels), and the alphabet of each class."""
    with np.load(DATA_FOLDER / "glyphs.npz") as archive:
        pixels = np.unpackbits(archive["bits"], axis=1, count=int(np.prod(archive["shape"])))
        groups = archive["groups"]
    return pixels.reshape(len(groups), -1, pixels.shape[1]).astype(np.float32), groups


def load_omniglot(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Real Omniglot, all 1,623 characters at 28 x 28 in gray-scale from 0 to 1, and the alphabet of each."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def shrink(example: dict) -> tuple:
        ink = 1 - tf.cast(example["image"][..., :1], tf.float32) / 255
        return tf.image.resize(ink, (28, 28), method="area"), example["label"], example["alphabet"]

    drawings: dict[tuple, list[np.ndarray]] = {}
    for split in ("train", "test"):
        rows = tfds.load("omniglot", data_dir=folder, split=split, download=False).map(shrink)
        for drawing, label, alphabet in rows.as_numpy_iterator():
            drawings.setdefault((split, int(alphabet), int(label)), []).append(drawing.ravel())
    groups = np.array([f"{split} {alphabet}" for split, alphabet, _ in drawings])
    return np.stack([np.stack(rows) for rows in drawings.values()]), groups


def task_accuracy(classes: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> float:
    """The fraction of one task's queries that the nearest support drawing classifies correctly."""
    writers = [rng.permutation(classes.shape[1])[: 1 + QUERIES] for _ in chosen]
    drawings = np.stack([classes[label, row] for label, row in zip(chosen, writers, strict=True)])
    support, queries = drawings[:, 0], drawings[:, 1:].reshape(-1, classes.shape[2])
    distance = (support**2).sum(1) - 2 * queries @ support.T
    truth = np.repeat(np.arange(len(chosen)), QUERIES)
    return float((distance.argmin(1) == truth).mean())


def measure(classes: np.ndarray, pools: list[np.ndarray], ways: int) -> tuple[float, float]:
    """Mean accuracy in percent over the tasks, and half the width of its 95 % interval.

    Each task takes its classes from one of the `pools`, drawn at random.
    """
    rng = np.random.default_rng(SEED)
    scores = []
    for _ in range(TASKS):
        pool = pools[rng.integers(len(pools))]
        scores.append(task_accuracy(classes, rng.permutation(pool)[:ways], rng))
    return 100 * float(np.mean(scores)), 196 * float(np.std(scores, ddof=1)) / TASKS**0.5


def report(title: str, classes: np.ndarray, groups: np.ndarray) -> None:
    """Print the accuracies across all alphabets and within one."""
    print(f"{title}: nearest neighbor in pixel space, {TASKS:,} tasks, seed {SEED}")
    alphabets = [np.flatnonzero(groups == name) for name in dict.fromkeys(groups)]
    for where, pools in (
        ("across all alphabets", [np.arange(len(groups))]),
        ("within one alphabet", alphabets),
    ):
        for ways in (5, 20):
            large_enough = [pool for pool in pools if len(pool) >= ways]
            mean, half_width = measure(classes, large_enough, ways)
            print(f"  {ways:>2}-way 1-shot {where}: {mean:.1f} +- {half_width:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how hard data/glyphs.npz is.")
    parser.add_argument("--omniglot", metavar="FOLDER", help="the data_dir of tensorflow-datasets")
    folder = parser.parse_args().omniglot

    report("glyphs (synthetic)", *load_glyphs())
    if folder:
        greys, groups = load_omniglot(folder)
        report("real Omniglot, gray-scale", greys, groups)
        report("real Omniglot, one bit per pixel", (greys >= 0.5).astype(np.float32), groups)


if __name__ == "__main__":
    main()
