"""What chapter 07 reports about predicted rotations: of clothes, of Chinese characters, and of letters.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_rotations.py            (about an hour on one core)
    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_rotations.py clothes    (one part: clothes, counts, patches,
                                                                                 features, letters)
    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07_rotations.py letters --data-dir FOLDER

All networks are conv4 with 32 filters and strides, trained by Adam with cosine decay on batches of 64 images, each in
four rotations. Learning rates are selected with another seed, on images that are neither in training nor in the test; a
grid is extended while its best value is at the edge. Seeds differ in the network and the order of the images.

clothes: 200 steps on the training images of `fashion`. The rate is selected on a fifth of them, and the test images are
new. Three seeds.

counts: 800 steps on 30, 100, 300, ... characters of the training split of `hanzi`, or of `glyphs`, with three images of
each; the rate is selected for every number of characters on the validation split. Three seeds, each with other
training characters unless it is all of them. The test: all images of the test split of `hanzi`, and those of `glyphs`
that are no more similar than 0.6 to themselves after a rotation. The networks of all characters of `hanzi` are tested
on `glyphs`, too. Nearest neighbors see the same images without a network: the majority of the k most similar ones, by
the cosine of blurred pixels, aligned as in chapter 01 or not. Alignment, blur and k are selected in the same way, one
after the other.

patches: ridge regression on how often each of the 512 patterns of 3x3 pixels occurs in an image, wherever it does. The
strength is selected on the validation split.

features: 20-way 1-shot tasks with characters of the test split of `hanzi`, in which support images and queries have
different typefaces, for three seeds with 600 tasks each. The rotation networks are those of all characters; whether
features are centered, and the width of the blur, are selected on 300 validation tasks.

letters: 3,200 steps on all drawings of the letters of `glyphs` and of Omniglot that are no more similar than 0.6 to
themselves after a rotation, and such letters of other alphabets as a test (a quarter of them for Omniglot). The
validation letters of Omniglot are those of five of its thirty background alphabets. Omniglot does not come with the
project: tensorflow-datasets must have prepared it in FOLDER, or else in its own folder. Three seeds.

Results are kept in data/results/chapter_07_rotations.json; a run that is stopped continues where it was.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from chapter_01 import align_and_blur
from chapter_07 import (
    SEEDS,
    SELECTION_SEED,
    SELECTION_TASKS,
    TASKS,
    Encode,
    adam,
    asymmetric,
    batches,
    encoder,
    encoder_of,
    plain,
    raw_pixels,
)
from common import best_inside, unit
from record import Record, measure_parts

import meta_keras as mk
from meta_keras.unsupervised import Rotation, few_shot_score

COUNTS = {"hanzi": (30, 100, 300, 1000, 2903), "glyphs": (30, 100, 300, 851)}
PER_CHARACTER, STEPS, CHECKPOINTS, SIMILARITY = 3, 800, (100, 200, 400, 800, 1600, 3200), 0.6
RATES, BLURS, NEIGHBORS, STRENGTHS = (0.001, 0.003, 0.009), (0.5, 1, 2), (3, 9, 27), (1e-3, 1e-2, 1e-1)
FASHION_STEPS, WAYS, ALPHABETS_FOR_VALIDATION = 200, 20, 5


# Images


@functools.cache
def drawings(source: str, split: str) -> np.ndarray:
    """(characters, drawings or typefaces, 28, 28, 1), between 0 and 1."""
    pool = mk.load(source).split(split)
    images = pool.arrays(scaled=True)[0]
    return images.reshape(len(pool), -1, *images.shape[1:])


def training(source: str, count: int, seed: int) -> np.ndarray:
    """Three images of each of so many training characters, which depend on the seed."""
    found, rng = drawings(source, "train"), np.random.default_rng(seed)
    chosen = rng.permutation(len(found))[:count]
    which = rng.permuted(np.tile(np.arange(found.shape[1]), (count, 1)), axis=1)[:, :PER_CHARACTER]
    return found[chosen[:, None], which].reshape(-1, *found.shape[2:])


@functools.cache
def unseen(source: str, split: str) -> np.ndarray:
    """The images of other characters: "validation" or "test"."""
    images = np.concatenate(drawings(source, split))
    return images if source == "hanzi" else asymmetric(images, SIMILARITY)


@functools.cache
def clothes(split: str) -> np.ndarray:
    return mk.load("fashion").split(split).arrays(scaled=True)[0]


def turned(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All images in four rotations, and their numbers of quarter turns."""
    rotated = [np.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
    return np.concatenate(rotated), np.repeat(np.arange(4), len(images))


# Networks


def trained(
    images: np.ndarray, tests: dict[str, np.ndarray], rate: float, seed: int, steps: int = STEPS
) -> tuple[Rotation, dict[str, list[float]]]:
    """The model, and the accuracy of the rotation in each test, after each number of steps up to `steps`."""
    keras.utils.set_random_seed(seed)
    model = Rotation(encoder())
    model.compile(adam(rate, steps))
    stream = iter(batches(images, size=64, seed=seed, augmented=False))
    tests = {"training images": images[:: max(1, len(images) // 1000)]} | tests
    curves: dict[str, list[float]] = {name: [] for name in tests}
    for passed in np.diff([count for count in CHECKPOINTS if count <= steps], prepend=0):
        for _ in range(passed):
            model.train_on_batch(next(stream))
        for name, test in tests.items():
            found = model.evaluate(test, batch_size=256, verbose=0, return_dict=True)
            curves[name].append(round(float(found["accuracy"]), 4))
    return model, curves


def selected_rate(record: Record, name: str, images: np.ndarray, validation: np.ndarray, steps: int = STEPS) -> float:
    """The learning rate with the highest final accuracy on the validation images."""

    def final(rate: float) -> float:
        return trained(images, {"validation": validation}, rate, SELECTION_SEED, steps)[1]["validation"][-1]

    def measured(rate: float) -> float:
        return record.measure(f"validation: {name}, rate {rate:g}", lambda: final(rate))

    return record.measure(f"selected: {name}", lambda: {"rate": best_inside(measured, RATES)})["rate"]


def clothes_part(record: Record) -> None:
    images = clothes("train")
    held_out = np.arange(len(images)) % 5 == 0
    rate = selected_rate(record, "clothes", images[~held_out], images[held_out], FASHION_STEPS)
    for seed in SEEDS:
        curves = functools.partial(trained, images, {"test": clothes("test")}, rate, seed, FASHION_STEPS)
        record.measure(f"clothes, seed {seed}", lambda curves=curves: curves()[1])


def rate_of(record: Record, source: str, count: int) -> float:
    name = f"{source}, {count} characters"
    return selected_rate(record, name, training(source, count, SELECTION_SEED), unseen(source, "validation"))


def counts_part(record: Record) -> None:
    for source, counts in COUNTS.items():
        for count in counts:
            rate, chosen = rate_of(record, source, count), neighbors_of(record, source, count)
            tests = {"unseen": unseen(source, "test")}
            if (source, count) == ("hanzi", counts[-1]):
                tests["letters"] = unseen("glyphs", "test")
            for seed in SEEDS:
                images, key = training(source, count, seed), f"{source}, {count} characters, seed {seed}"
                record.measure(key, lambda: trained(images, tests, rate, seed)[1])  # noqa: B023
                key = f"nearest neighbors: {key}"
                record.measure(key, lambda: by_neighbors(source, "test", images, *chosen))  # noqa: B023


# Without a network


def vectors(images: np.ndarray, aligned: bool, blur: float) -> np.ndarray:
    """Vectors of length 1: blurred pixels, of images that are cropped to their ink and resized, or as they are."""
    if aligned:
        return align_and_blur(images, blur)
    blurred = keras.ops.image.gaussian_blur(images, (25, 25), (blur, blur))
    return unit(np.reshape(blurred, (len(images), -1)))


def by_neighbors(source: str, split: str, images: np.ndarray, aligned: bool, blur: float, k: float) -> float:
    """How often most of the k most similar of these images have the same rotation as an unseen one."""
    known, turns = turned(images)
    unknown, answers = turned(unseen(source, split))
    known, correct = vectors(known, aligned, blur), []
    for rows, wanted in zip(np.array_split(unknown, 20), np.array_split(answers, 20), strict=True):
        nearest = np.argpartition(-vectors(rows, aligned, blur) @ known.T, int(k) - 1, axis=1)[:, : int(k)]
        votes = (turns[nearest][:, :, None] == np.arange(4)).sum(axis=1)
        correct.append(votes.argmax(axis=1) == wanted)
    return round(float(np.concatenate(correct).mean()), 4)


def neighbors_of(record: Record, source: str, count: int) -> tuple[bool, float, float]:
    """Whether images are aligned, their blur, and the number of neighbors, selected one after the other."""
    images, name = training(source, count, SELECTION_SEED), f"nearest neighbors: {source}, {count} characters"

    def accuracy(aligned: bool, blur: float, k: float) -> float:
        key = f"validation: {name}, {'aligned' if aligned else 'as they are'}, blur {blur:g}, k {k:g}"
        return record.measure(key, lambda: by_neighbors(source, "validation", images, aligned, blur, k))

    aligned = accuracy(True, BLURS[1], NEIGHBORS[0]) > accuracy(False, BLURS[1], NEIGHBORS[0])
    blur = best_inside(lambda blur: accuracy(aligned, blur, NEIGHBORS[0]), BLURS)
    k = best_inside(lambda k: accuracy(aligned, blur, k) if k >= 1 else 0.0, NEIGHBORS)
    return tuple(record.measure(f"selected: {name}", lambda: [aligned, blur, k]))


def patterns(images: np.ndarray) -> np.ndarray:
    """(rows, 512) which fraction of an image's patches of 3x3 pixels has each pattern."""
    kernel = tf.reshape(tf.pow(2.0, tf.range(9.0)), (3, 3, 1, 1))
    codes = tf.nn.conv2d(images, kernel, 1, "SAME").numpy().round().astype(int).reshape(len(images), -1)
    return np.stack([np.bincount(row, minlength=512) for row in codes]) / codes.shape[1]


def ridge(source: str, split: str, strength: float) -> float:
    """Least squares from patterns to one output per rotation, of which the largest is the answer."""
    images, turns = turned(training(source, COUNTS[source][-1], SEEDS[0]))
    x = patterns(images)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    x = (x - mean) / scale
    penalty = strength * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (np.eye(4)[turns] - 0.25))
    unknown, answers = turned(unseen(source, split))
    found = ((patterns(unknown) - mean) / scale @ weights).argmax(axis=1)
    return round(float(np.mean(found == answers)), 4)


def patches_part(record: Record) -> None:
    for source in COUNTS:

        def measured(strength: float, source: str = source) -> float:
            key = f"validation: patches, {source}, strength {strength:g}"
            return record.measure(key, lambda: ridge(source, "validation", strength))

        strength = best_inside(measured, STRENGTHS)
        record.measure(f"patches: {source}", lambda: ridge(source, "test", strength))  # noqa: B023


# Features


def one_shot(encode: Encode, kind: str, split: str, seed: int, tasks: int) -> float:
    """The accuracy of tasks whose support images and queries have different typefaces."""
    center = np.concatenate(drawings("hanzi", "train"))[::8] if kind == "centered" else None
    pool = mk.load("hanzi").split(split)
    options = {"ways": WAYS, "shots": 1, "queries": PER_CHARACTER - 1, "center": center}
    return round(few_shot_score(encode, pool, **options, seed=seed, episodes=tasks).mean, 4)


def rotation_features(record: Record, seed: int) -> Encode:
    count = COUNTS["hanzi"][-1]
    model, _ = trained(training("hanzi", count, seed), {}, rate_of(record, "hanzi", count), seed)
    return functools.partial(model.encode, batch_size=1024)


def features_part(record: Record) -> None:
    def validated(name: str, make: Callable[[], Encode]) -> dict[str, float]:
        def both() -> dict[str, float]:
            encode, kinds = make(), ("plain", "centered")
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


# Letters


def omniglot(split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The drawings of Omniglot with bright ink, 28x28 pixels by area averaging, and their alphabets."""
    import tensorflow_datasets as tfds  # two seconds to import, and only needed here

    builder = tfds.builder("omniglot", data_dir=data_dir)
    if not (Path(builder.data_dir) / "dataset_info.json").is_file():
        raise SystemExit(
            f"Omniglot is not in {builder.data_dir}. Prepare it with tensorflow-datasets, for example by "
            'meta_keras.load("omniglot"), and name the folder that holds it with --data-dir.'
        )

    def shrink(row: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        ink = 1 - tf.cast(row["image"][..., :1], tf.float32) / 255
        return tf.image.resize(ink, (28, 28), method="area"), row["alphabet"]

    rows = builder.as_dataset(split=split, shuffle_files=False).map(shrink).batch(512)
    images, alphabets = zip(*rows.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(alphabets)


def parts_of_omniglot(data_dir: str | None) -> dict[str, np.ndarray]:
    images, alphabets = omniglot("train", data_dir)
    held_out = np.isin(alphabets, np.unique(alphabets)[-ALPHABETS_FOR_VALIDATION:])
    return {"train": images[~held_out], "validation": images[held_out], "test": omniglot("test", data_dir)[0][::4]}


def letters_part(record: Record) -> None:
    sources: dict[str, Callable[[], dict[str, Any]]] = {
        "glyphs": lambda: {
            split: np.concatenate(drawings("glyphs", split)) for split in ("train", "validation", "test")
        },
        "Omniglot": lambda: parts_of_omniglot(record.data_dir),
    }
    for source, load in sources.items():
        parts = {split: asymmetric(images, SIMILARITY) for split, images in load().items()}
        name, tests = f"{source}, all drawings", {"unseen": parts["test"]}
        rate = selected_rate(record, name, parts["train"], parts["validation"], CHECKPOINTS[-1])
        for seed in SEEDS:
            curves = functools.partial(trained, parts["train"], tests, rate, seed, CHECKPOINTS[-1])
            record.measure(f"{name}, seed {seed}", lambda curves=curves: curves()[1])


PARTS = {
    "clothes": clothes_part,
    "counts": counts_part,
    "patches": patches_part,
    "features": features_part,
    "letters": letters_part,
}


if __name__ == "__main__":
    measure_parts("chapter_07_rotations", PARTS, __doc__, prepared_data=True)
