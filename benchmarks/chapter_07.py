"""Features that were learned without labels, on unseen alphabets.

    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07.py            (about 25 minutes on one core)
    PYTHONPATH=. .venv/bin/python benchmarks/chapter_07.py features   (one part: baselines or features)

baselines: raw pixels, aligned and blurred pixels (chapter 01), principal components of both, and random features. This
and `features` use one protocol: 600 tasks of the six test alphabets for each of three seeds, the same for every method.
Features are taken as they are, or centered with length 1, as selected on 300 tasks of the validation alphabets; so are
the width of the blur and the number of components of raw pixels.

features: conv4 with 32 filters and strides is pretrained on the images of the training alphabets by 300 steps of Adam
with cosine decay. A step calls it on 256 images, for every method: 64 images in four rotations, two views of 128
images, or 256 images. All images are augmented as the views are. Settings were selected on the validation tasks with
another seed: the learning rate of every method, which images are rotated, the temperature of contrastive learning, and
the latent dimensions of the autoencoder.

Results are kept in data/results/chapter_07.json; a run that is stopped continues where it was.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from chapter_01 import align_and_blur
from common import best_inside
from record import Record, measure_parts

import meta_keras as mk
from meta_keras.unsupervised import VAE, Contrastive, Rotation, few_shot_score, rotation_similarity

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


def pretrained(method: str, settings: Settings, seed: int, steps: int = STEPS) -> Encode:
    """The function that encodes images."""
    keras.utils.set_random_seed(seed)
    model, size, images = METHODS[method](settings)
    model.compile(adam(settings["rate"], steps))
    data = batches(images, size=size, seed=seed, augmented=settings["augmented"])
    model.fit(data, steps_per_epoch=steps, verbose=0)
    return functools.partial(model.encode, batch_size=1024)


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
        return record.measure(key, lambda: validated(pretrained(method, settings, SELECTION_SEED, SELECTION_STEPS)))

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
            key = f"test: {method}, seed {seed}"
            record.measure(key, lambda: tested(pretrained(method, settings, seed), kind, seed))  # noqa: B023


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


PARTS = {
    "baselines": baselines_part,
    "features": features_part,
}


if __name__ == "__main__":
    measure_parts("chapter_07", PARTS, __doc__)
