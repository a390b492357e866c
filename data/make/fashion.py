"""Make data/fashion.npz: the first 200 training and 50 test images of each class of Fashion-MNIST.

Run `.venv/bin/python data/make/fashion.py`, optionally followed by the folder of the four idx files.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from pack import describe, save

FOLDER = Path("/usr/share/datasets/fashion-mnist")
NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PER_CLASS = {"train": 200, "test": 50}
FILE_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped idx file of bytes: a magic number, the sizes of the axes, then the values."""
    if not path.exists():
        raise SystemExit(
            f"{path} is missing. Fix: `apt install dataset-fashion-mnist`, or take the four .gz files from "
            "https://github.com/zalandoresearch/fashion-mnist (folder data/fashion) and name their folder:\n"
            "    .venv/bin/python data/make/fashion.py FOLDER"
        )
    content = gzip.decompress(path.read_bytes())
    element_type, axes = content[2], content[3]
    if content[:2] != b"\0\0" or element_type != 8:
        raise SystemExit(f"{path} is not an idx file of unsigned bytes")
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def first_of_each_class(folder: Path, split: str) -> np.ndarray:
    """uint8 (classes, per class, 28, 28): the first images of each class, in file order."""
    pictures = read_idx(folder / f"{FILE_PREFIX[split]}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{FILE_PREFIX[split]}-labels-idx1-ubyte.gz")
    count = PER_CLASS[split]
    return np.stack([pictures[np.flatnonzero(labels == label)[:count]] for label in range(len(NAMES))])


def main() -> None:
    parser = argparse.ArgumentParser(description="Make data/fashion.npz from the files of Fashion-MNIST.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: %(default)s")
    folder = parser.parse_args().folder

    pictures = np.concatenate([first_of_each_class(folder, split) for split in PER_CLASS], axis=1)
    classes, per_class = pictures.shape[:2]
    splits = np.repeat(list(PER_CLASS), list(PER_CLASS.values()))
    path = save(
        "fashion",
        examples=pictures.reshape(-1, 28, 28),
        labels=np.repeat(np.arange(classes, dtype=np.int32), per_class),
        names=np.array(NAMES),
        splits=np.tile(splits, classes),
    )
    print(describe(path))


if __name__ == "__main__":
    main()
