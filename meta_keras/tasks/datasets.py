"""Data sets by name: those that come with the project, and those that tensorflow-datasets provides."""

import logging
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.embedded import check_whole, embedded_folder
from meta_keras.tasks.pools import ClassPool

EMBEDDED = ("glyphs", "hanzi", "fashion", "languages")
SECONDS_TO_WAIT = 3.5


class Source(NamedTuple):
    """A data set that tensorflow-datasets prepares: where it is downloaded from, and how large the download is."""

    site: str
    megabytes: int
    size: tuple[int, int]
    grouping: tuple[str, str] | None = None


SOURCES = {
    "omniglot": Source("https://github.com", 18, (28, 28), ("alphabet", "alphabet")),
    "mnist": Source("https://storage.googleapis.com", 11, (28, 28)),
    "fashion_mnist": Source("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", 30, (28, 28)),
    "cifar10": Source("https://www.cs.toronto.edu", 162, (32, 32)),
    "cifar100": Source("https://www.cs.toronto.edu", 160, (32, 32), ("superclass", "coarse_label")),
}


def load(name: str, *, data_dir: str | Path | None = None) -> ClassPool:
    """A data set as a `ClassPool`; `.split("train")`, `.split("test")` and so on give its splits.

    "glyphs", "hanzi", "fashion" and "languages" come with the project and need no download. "omniglot", "mnist",
    "fashion_mnist", "cifar10" and "cifar100" are read from `data_dir` if tensorflow-datasets has prepared them there
    (by default in its own folder, ~/tensorflow_datasets), and downloaded to it otherwise.

    Omniglot's images are resized to 28x28, with bright ink on a dark background, and grouped by alphabet.

    >>> load("glyphs").split("test").examples.shape[1:]
    (28, 28, 1)
    """
    checks.text(name=name)
    if data_dir is not None:
        checks.path(data_dir=data_dir)
    if name in EMBEDDED:
        return _load_embedded(name, embedded_folder() if data_dir is None else Path(data_dir))
    if name in SOURCES:
        return _load_prepared(name, data_dir)
    raise ValueError(f"There is no data set {name!r}; there are {', '.join([*EMBEDDED, *SOURCES])}.")


def _load_embedded(name: str, folder: Path) -> ClassPool:
    file = folder / f"{name}.npz"
    check_whole(file)
    with np.load(file, allow_pickle=False) as stored:
        fields = dict(stored)
    if "bits" in fields:
        shape = tuple(fields["shape"])
        bits = np.unpackbits(fields["bits"], axis=1, count=int(np.prod(shape)))
        fields["examples"] = bits.reshape(-1, *shape) * np.uint8(255)
    examples = fields["examples"]
    return ClassPool(
        examples[..., None] if examples.ndim == 3 else examples,
        fields["labels"],
        names=fields["names"].tolist(),
        splits=fields["splits"],
        groupings={str(fields["grouping"]): fields["groups"].tolist()} if "groups" in fields else None,
    )


def _load_prepared(name: str, data_dir: str | Path | None) -> ClassPool:
    import tensorflow_datasets as tfds  # two seconds to import, so only when it is needed

    builder = tfds.builder(name, data_dir=data_dir)
    if not (Path(builder.data_dir) / "dataset_info.json").is_file():
        _download(name, builder)
    parts = {split: _read(builder, split, SOURCES[name], name == "omniglot") for split in ("train", "test")}
    return _pool_of(name, builder.info, parts)


def _download(name: str, builder: Any) -> None:
    """Download and prepare a data set after logging its size; raise an error at once if there is no network."""
    source, folder = SOURCES[name], builder.data_dir
    if not reachable(source.site):
        root = str(Path(folder).parents[1])
        raise ConnectionError(
            f"{name} is not in {folder}, and {source.site} cannot be reached to download it ({source.megabytes} MB). "
            f"On a machine with a network run\n    python -c \"import meta_keras; meta_keras.load('{name}')\"\n"
            f"and copy its ~/tensorflow_datasets/{name} into {root}, or name the folder that holds it with "
            "load(..., data_dir=...)."
        )
    logging.getLogger("meta_keras").warning(
        "Downloading %s: %d MB from %s, into %s", name, source.megabytes, source.site, folder
    )
    builder.download_and_prepare()


def reachable(site: str) -> bool:
    """Whether a site answers within a few seconds. The thread is there because looking up a name has no time limit."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(site, method="HEAD"), timeout=SECONDS_TO_WAIT)
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_WAIT)
    return answers == [True]


def _read(builder: Any, split: str, source: Source, dark_on_bright: bool) -> dict[str, np.ndarray]:
    """The images, labels and groups of one split, in memory."""

    def prepare(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = row["image"]
        if dark_on_bright:
            inverted = 255.0 - tf.cast(image[..., :1], tf.float32)
            image = tf.cast(tf.round(tf.image.resize(inverted, source.size, antialias=True)), tf.uint8)
        kept = {"examples": image, "labels": row["label"]}
        return {**kept, "groups": row[source.grouping[1]]} if source.grouping else kept

    try:
        rows = builder.as_dataset(split=split, shuffle_files=False).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        batches = list(rows.batch(1024).as_numpy_iterator())
    except (tf.errors.OpError, OSError) as error:
        raise ValueError(
            f"The data in {builder.data_dir} cannot be read, because files are missing, truncated or altered. "
            "Remove that folder and load the data set again, which downloads it again."
        ) from error
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def _pool_of(name: str, info: Any, parts: dict[str, dict[str, np.ndarray]]) -> ClassPool:
    joined = {key: np.concatenate([part[key] for part in parts.values()]) for key in parts["train"]}
    classes, first = np.unique(joined["labels"], return_index=True)
    groupings = None
    if SOURCES[name].grouping:
        word, feature = SOURCES[name].grouping
        groupings = {word: _words(info, feature, joined["groups"][first])}
    return ClassPool(
        joined["examples"],
        joined["labels"],
        names=_words(info, "label", classes),
        splits=np.repeat(list(parts), [len(part["labels"]) for part in parts.values()]),
        groupings=groupings,
    )


def _words(info: Any, feature: str, numbers: np.ndarray) -> list[str]:
    return [info.features[feature].int2str(int(number)) for number in numbers]
