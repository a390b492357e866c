"""Features that were learned without labels, on unseen alphabets, and the accuracy of predicted rotations.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07.py            (about 35 minutes on one core)
    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07.py features   (one part: baselines, features, rotations)
    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07.py omniglot --data-dir FOLDER               (about 6 minutes)

baselines: raw pixels, aligned and blurred pixels (chapter 01), principal components of both, and random features. This
and `features` use one protocol: 600 tasks of the six test alphabets for each of three seeds, the same for every method.
Features are taken as they are, or centered with length 1, as selected on 300 tasks of the validation alphabets; so are
the width of the blur and the number of components of raw pixels.

features: conv4 with 32 filters and strides is pretrained on the images of the training alphabets by 300 steps of Adam
with cosine decay. A step calls it on 256 images, for every method: 64 images in four rotations, two views of 128
images, or 256 images. All images are augmented as the views are. Settings were selected on the validation tasks with
another seed: the learning rate of every method, which images are rotated, the temperature of contrastive learning, and
the latent dimensions of the autoencoder.

rotations: how often the number of quarter turns is predicted correctly: for letters during training, on new drawings of
the training letters (by six of twenty writers) and on letters of the validation and the test alphabets, with one run
for each of three learning rates, none of which is selected; for clothes on new images; and for unseen letters with
reference drawings. A baseline without a network gives an image the rotation of the nearest training image, by aligned
pixels.

omniglot: the same during training on real handwriting: one run on the 30 background alphabets of Omniglot, at a
learning rate that was not selected, evaluated on training images and on the 20 other alphabets. Omniglot does not come
with the project: tensorflow-datasets must have prepared it in FOLDER, or else in its own folder.

Results are kept in data/results/chapter_07.json; a run that is stopped continues where it was.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from chapter_01 import align_and_blur
from common import best_inside
from record import Record, measure_parts

import meta_keras as mk
from meta_keras.unsupervised import VAE, Contrastive, Rotation, few_shot_score, rotation_similarity
from meta_keras.unsupervised.distances import squared_distances

STEPS, SELECTION_STEPS, INPUTS = 300, 300, 256
SEEDS, SELECTION_SEED, SELECTION_TASKS, TASKS = (0, 1, 2), 100, 300, 600
SHOTS = (1, 5)
BLUR = 1.5  # of aligned pixels, as selected by `baselines`
CLUSTERED = 64  # the components of aligned pixels that benchmarks/chapter_07_tasks.py clusters
Settings = dict[str, Any]
Encode = Callable[[np.ndarray], Any]


@functools.cache
def glyphs(split: str) -> mk.ClassPool:
    return mk.load("glyphs").split(split)


@functools.cache
def pretraining_images() -> np.ndarray:
    return glyphs("train").arrays(scaled=True)[0]


def encoder() -> keras.Model:
    return mk.networks.conv4(filters=32, downsample="stride")


def augmentation() -> keras.Sequential:
    """Small affine changes: shear and zoom, which also change the aspect ratio, rotation, and translation."""
    options = {"fill_mode": "constant", "fill_value": 0.0}
    layers = [
        keras.layers.RandomShear(0.2, 0.2, **options),
        keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), **options),
        keras.layers.RandomRotation(0.04, **options),
        keras.layers.RandomTranslation(0.1, 0.1, **options),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def batches(*arrays: np.ndarray, size: int, seed: int, augmented: bool) -> tf.data.Dataset:
    """Batches of the arrays without end, of which the first are images."""
    rows = tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])
    rows = rows.shuffle(len(rows), seed=seed).repeat().batch(size)
    if not augmented:
        return rows
    augment = augmentation()
    if len(arrays) > 1:
        return rows.map(lambda x, *others: (augment(x, training=True), *others))
    return rows.map(lambda x: augment(x, training=True))


def adam(rate: float, steps: int = STEPS) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def dense_decoder(latent: int) -> keras.Model:
    layers = [keras.layers.Dense(256, activation="relu"), keras.layers.Dense(784), keras.layers.Reshape((28, 28, 1))]
    return keras.Sequential([keras.Input((latent,)), *layers], name="decoder")


# Features


def rotation(settings: Settings) -> tuple[keras.Model, int, np.ndarray]:
    return Rotation(encoder()), INPUTS // 4, asymmetric(pretraining_images(), settings["similarity"])


def vae(settings: Settings) -> tuple[keras.Model, int, np.ndarray]:
    return VAE(encoder(), dense_decoder(int(settings["latent"]))), INPUTS, pretraining_images()


def contrastive(settings: Settings) -> tuple[keras.Model, int, np.ndarray]:
    model = Contrastive(encoder(), augmentation(), temperature=settings["temperature"])
    return model, INPUTS // 2, pretraining_images()


METHODS: dict[str, Callable[[Settings], tuple[keras.Model, int, np.ndarray]]] = {
    "contrastive": contrastive,
    "rotation": rotation,
    "VAE": vae,
}
# Where the search begins; the learning rate is searched last.
START: dict[str, Settings] = {
    "rotation": {"rate": 0.003, "augmented": True, "similarity": 0.8},
    "contrastive": {"rate": 0.003, "augmented": False, "temperature": 0.1},  # its views are augmented
    "VAE": {"rate": 0.003, "augmented": True, "latent": 16},
}
# Geometric grids, and other choices.
GRIDS = {"rate": (0.001, 0.003, 0.009), "temperature": (0.05, 0.1, 0.2), "latent": (8, 16, 32)}
CHOICES = {"similarity": (0.6, 0.8, 1.0)}


def asymmetric(images: np.ndarray, similarity: float) -> np.ndarray:
    """The images that are no more similar than this to themselves after a rotation."""
    return images[rotation_similarity(images) <= similarity]


def pretrained(method: str, settings: Settings, seed: int, steps: int = STEPS) -> tuple[keras.Model, Encode]:
    """The model, and the function that encodes images."""
    keras.utils.set_random_seed(seed)
    model, size, images = METHODS[method](settings)
    model.compile(adam(settings["rate"], steps))
    data = batches(images, size=size, seed=seed, augmented=settings["augmented"])
    model.fit(data, steps_per_epoch=steps, verbose=0)
    return model, functools.partial(model.encode, batch_size=1024)


def plain(network: keras.Model) -> Encode:
    return lambda x: network.predict(x, batch_size=1024, verbose=0)


def validated(encode: Encode) -> dict[str, float]:
    """The 1-shot accuracy on validation tasks, for features as they are and for centered features of length 1."""
    center = pretraining_images()[::4]
    options, encode = {"plain": None, "centered": center}, once(encode)
    return {name: few_shot(encode, "validation", 3, 1, SELECTION_TASKS, c) for name, c in options.items()}


def once(encode: Encode) -> Encode:
    """The same function, which encodes inputs of one number of rows only once."""
    known: dict[int, Any] = {}

    def encode_once(x: np.ndarray) -> Any:
        if len(x) not in known:
            known[len(x)] = encode(x)
        return known[len(x)]

    return encode_once


def few_shot(encode: Encode, split: str, seed: int, shots: int, tasks: int, center: np.ndarray | None) -> float:
    score = few_shot_score(encode, glyphs(split), shots=shots, seed=seed, episodes=tasks, center=center)
    return round(score.mean, 4)


def tested(encode: Encode, kind: str, seed: int) -> dict[str, float]:
    """The accuracy on the test tasks of a seed, for each number of shots."""
    center, encode = pretraining_images()[::4] if kind == "centered" else None, once(encode)
    return {f"{shots}-shot": few_shot(encode, "test", seed, shots, TASKS, center) for shots in SHOTS}


def selected(record: Record, method: str) -> Settings:
    """The settings with the highest validation accuracy, searched one after the other; or those that are stored."""
    if f"selected: {method}" in record.results:
        return record.results[f"selected: {method}"]

    def trial(settings: Settings) -> dict[str, float]:
        shown = ", ".join(f"{name} {value:g}" for name, value in settings.items())
        key = f"validation: {method}, {shown}"
        return record.measure(key, lambda: validated(pretrained(method, settings, SELECTION_SEED, SELECTION_STEPS)[1]))

    best = dict(START[method])
    for name in [*list(best)[1:], "rate"]:

        def accuracy(value: Any, name: str = name) -> float:
            return max(trial(best | {name: value}).values())

        if name in GRIDS:
            best[name] = type(best[name])(best_inside(accuracy, GRIDS[name]))
        elif name in CHOICES:
            best[name] = max(CHOICES[name], key=accuracy)
    found = trial(best)
    return record.measure(f"selected: {method}", lambda: {**best, "features": max(found, key=found.get)})


def features_part(record: Record) -> None:
    for method in START:
        settings = dict(selected(record, method))
        kind = settings.pop("features")
        for seed in SEEDS:

            def of_seed(method: str = method, settings: Settings = settings, kind: str = kind, seed: int = seed) -> Any:
                model, encode = pretrained(method, settings, seed)
                result: dict[str, Any] = tested(encode, kind, seed)
                if method == "rotation":
                    result |= {"test letters": turned_correctly(model, asymmetric_letters("test"))}
                    result |= {"with a reference": with_reference(encode, kind, seed)}
                return result

            record.measure(f"test: {method}, seed {seed}", of_seed)


# Baselines


def raw_pixels(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def aligned_pixels(x: np.ndarray) -> np.ndarray:
    return align_and_blur(x, BLUR)


def principal_components(pixels: Encode, count: int) -> Encode:
    """The leading principal components of the pixels, which are those of the training images."""
    mean, directions = axes_of(pixels)
    return lambda x: (pixels(x) - mean) @ directions[:, -count:]


@functools.cache
def axes_of(pixels: Encode) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the training images, and the directions from which it deviates, in ascending order of variance."""
    rows = pixels(pretraining_images())
    mean = rows.mean(axis=0)
    return mean, np.linalg.eigh((rows - mean).T @ (rows - mean))[1]


def baselines_part(record: Record) -> None:
    blur = best_inside(
        lambda sigma: max(
            record.measure(
                f"validation: aligned pixels, sigma {sigma:g}", lambda: validated(lambda x: align_and_blur(x, sigma))
            ).values()
        ),
        (1, 1.5, 2.25),
    )
    assert blur == BLUR
    components = best_inside(
        lambda count: max(
            record.measure(
                f"validation: principal components, {count:g}",
                lambda: validated(principal_components(raw_pixels, int(count))),
            ).values()
        ),
        (16, 32, 64),
    )
    record.measure("selected: number of principal components", lambda: int(components))
    random = {seed: encoder_of(seed) for seed in (SELECTION_SEED, *SEEDS)}
    for seed in SEEDS:
        record.measure(
            f"rotations: with a reference, aligned pixels, seed {seed}",
            lambda seed=seed: with_reference(aligned_pixels, "plain", seed),
        )
    encodes: dict[str, Callable[[int], Encode]] = {
        "raw pixels": lambda seed: raw_pixels,
        "aligned pixels": lambda seed: aligned_pixels,
        "principal components": lambda seed: principal_components(raw_pixels, int(components)),
        "64 components of aligned pixels": lambda seed: principal_components(aligned_pixels, CLUSTERED),
        "random": lambda seed: plain(random[seed]),
    }
    for name, make in encodes.items():
        found = record.measure(f"validation: {name}", lambda make=make: validated(make(SELECTION_SEED)))
        kind = max(found, key=found.get)
        record.measure(f"selected: {name}", lambda kind=kind: {"features": kind})
        for seed in SEEDS:
            record.measure(
                f"test: {name}, seed {seed}",
                lambda make=make, kind=kind, seed=seed: tested(make(seed), kind, seed),
            )


def encoder_of(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return encoder()


# Rotations

LETTERS, CHECKPOINTS, LETTER_RATES = 0.6, (50, 100, 200, 400, 800, 1600), (0.003, 0.009, 0.027)
WRITERS, HELD_OUT = 20, 6
FASHION_STEPS, FASHION_RATES = 200, (0.001, 0.003, 0.009)


def asymmetric_letters(split: str) -> np.ndarray:
    return asymmetric(glyphs(split).arrays(scaled=True)[0], LETTERS)


def turned_correctly(model: keras.Model, images: np.ndarray) -> float:
    """How often the number of quarter turns is predicted correctly."""
    return round(float(model.evaluate(images, batch_size=256, verbose=0, return_dict=True)["accuracy"]), 4)


def with_reference(encode: Encode, kind: str, seed: int) -> dict[str, float]:
    """Which of four quarter turns shows an unseen letter? The support set has drawings of it in each of the four."""
    images, labels = glyphs("test").arrays(scaled=True)
    keep = rotation_similarity(images) <= LETTERS
    images, labels = images[keep], labels[keep]
    rotated, turns = turned(images)
    classes = 4 * np.tile(labels, 4) + turns
    letter = [str(number // 4) for number in np.unique(classes)]
    pool = mk.ClassPool.from_arrays(rotated, classes, groupings={"letter": letter}).with_at_least(7)
    center = pretraining_images()[::4] if kind == "centered" else None
    encode = once(encode)
    return {
        f"{shots} drawings": round(
            few_shot_score(
                encode, pool, ways=4, shots=shots, queries=2, within="letter", seed=seed, episodes=TASKS, center=center
            ).mean,
            4,
        )
        for shots in SHOTS
    }


@functools.cache
def letters() -> dict[str, np.ndarray]:
    """Images for training, new drawings of the same letters by other writers, and letters of other alphabets."""
    images = pretraining_images()
    held_out = np.arange(len(images)) % WRITERS < HELD_OUT
    return {
        "training images": asymmetric(images[~held_out], LETTERS),
        "new drawings": asymmetric(images[held_out], LETTERS),
        "validation letters": asymmetric_letters("validation"),
        "test letters": asymmetric_letters("test"),
    }


def letters_during_training(rate: float, seed: int) -> dict[str, list[float]]:
    """The accuracy of the rotation for each part of the images, after each number of steps."""
    training = letters()["training images"]
    parts = letters() | {"training images": training[::3]}
    return during_training(training, parts, CHECKPOINTS, rate, seed)[1]


def during_training(
    training: np.ndarray, parts: dict[str, np.ndarray], checkpoints: tuple[int, ...], rate: float, seed: int
) -> tuple[Rotation, dict[str, list[float]]]:
    """The trained model, and the accuracy of the rotation for each of these parts, after each number of steps."""
    keras.utils.set_random_seed(seed)
    model = Rotation(encoder())
    model.compile(adam(rate, checkpoints[-1]))
    stream = iter(batches(training, size=64, seed=seed, augmented=False))
    curves: dict[str, list[float]] = {name: [] for name in parts}
    for steps in np.diff(checkpoints, prepend=0):
        for _ in range(steps):
            model.train_on_batch(next(stream))
        for name, part in parts.items():
            curves[name].append(turned_correctly(model, part))
    return model, curves


def by_nearest_neighbor() -> dict[str, float]:
    """How often the nearest training image, by the leading components of aligned pixels, has the same rotation."""
    encode = principal_components(aligned_pixels, CLUSTERED)
    images, turns = turned(letters()["training images"])
    known = encode(images)

    def accuracy(part: str) -> float:
        images, answers = turned(letters()[part])
        nearest = [squared_distances(rows, known).argmin(axis=1) for rows in np.array_split(encode(images), 20)]
        return round(float(np.mean(turns[np.concatenate(nearest)] == answers)), 4)

    return {part: accuracy(part) for part in ("new drawings", "test letters")}


def turned(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All images in four rotations, and their numbers of quarter turns."""
    rotated = [np.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
    return np.concatenate(rotated), np.repeat(np.arange(4), len(images))


@functools.cache
def clothes(split: str) -> tuple[np.ndarray, np.ndarray]:
    return mk.load("fashion").split(split).arrays(scaled=True)


def rotation_of_clothes(x: np.ndarray, rate: float, seed: int) -> Rotation:
    keras.utils.set_random_seed(seed)
    model = Rotation(encoder())
    model.compile(adam(rate, FASHION_STEPS))
    model.fit(batches(x, size=64, seed=seed, augmented=False), steps_per_epoch=FASHION_STEPS, verbose=0)
    return model


def clothes_accuracy(rate: float) -> float:
    """Trained on four of five training images, and evaluated on the fifth."""
    x, _ = clothes("train")
    held_out = np.arange(len(x)) % 5 == 0
    return turned_correctly(rotation_of_clothes(x[~held_out], rate, SELECTION_SEED), x[held_out])


def rotations_part(record: Record) -> None:
    record.measure("rotations: nearest neighbor", by_nearest_neighbor)
    for rate in LETTER_RATES:
        record.measure(
            f"rotations: letters, rate {rate:g}", lambda rate=rate: letters_during_training(rate, SELECTION_SEED)
        )
    rate = best_inside(
        lambda rate: record.measure(f"validation: clothes, rate {rate:g}", lambda: clothes_accuracy(rate)),
        FASHION_RATES,
    )
    record.measure("selected: clothes", lambda: {"rate": rate})
    for seed in SEEDS:
        record.measure(
            f"rotations: clothes, seed {seed}",
            lambda seed=seed: turned_correctly(
                rotation_of_clothes(clothes("train")[0], rate, seed), clothes("test")[0]
            ),
        )


# Rotations of real handwriting

OMNIGLOT_CHECKPOINTS, OMNIGLOT_RATE, OMNIGLOT_SEED = (100, 200, 400, 800, 1000, 2000, 3000, 4000), 0.003, 0


def omniglot_images(split: str, data_dir: str | None) -> np.ndarray:
    """The drawings of Omniglot with bright ink, 28x28 pixels by area averaging; split: "train" or "test"."""
    import tensorflow_datasets as tfds  # two seconds to import, and only needed here

    builder = tfds.builder("omniglot", data_dir=data_dir)
    if not (Path(builder.data_dir) / "dataset_info.json").is_file():
        raise SystemExit(
            f"Omniglot is not in {builder.data_dir}. Prepare it with tensorflow-datasets, for example by "
            'meta_keras.load("omniglot"), and name the folder that holds it with --data-dir.'
        )

    def shrink(row: dict[str, tf.Tensor]) -> tf.Tensor:
        ink = 1 - tf.cast(row["image"][..., :1], tf.float32) / 255
        return tf.image.resize(ink, (28, 28), method="area")

    rows = builder.as_dataset(split=split, shuffle_files=False).map(shrink).batch(512)
    return np.concatenate(list(rows.as_numpy_iterator()))


def omniglot_during_training(data_dir: str | None) -> dict[str, list[float]]:
    """The accuracy of the rotation, after each number of steps, on every eighth and fourth image."""
    training, unseen = (asymmetric(omniglot_images(split, data_dir), LETTERS) for split in ("train", "test"))
    parts = {"training images": training[::8], "unseen alphabets": unseen[::4]}
    return during_training(training, parts, OMNIGLOT_CHECKPOINTS, OMNIGLOT_RATE, OMNIGLOT_SEED)[1]


def omniglot_part(record: Record) -> None:
    record.measure("rotations: Omniglot", lambda: omniglot_during_training(record.data_dir))


PARTS = {
    "baselines": baselines_part,
    "features": features_part,
    "rotations": rotations_part,
    "omniglot": omniglot_part,
}


if __name__ == "__main__":
    measure_parts("chapter_07", PARTS, __doc__, prepared_data=True)
