"""Folders of images: which classes they hold, and which splits and groups the classes belong to."""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from meta_keras.internals import READS_WEBP

READABLE = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", *([".webp"] if READS_WEBP else [])}
# Images in formats that TensorFlow does not read, or not in every supported version. They are reported, never skipped.
UNREADABLE = {
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".ico", ".psd", ".tga", ".dng"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *([] if READS_WEBP else [".webp"]),
}
NOT_CLASSES = {"__MACOSX", "__pycache__", "@eaDir"}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


class ImageFolder(NamedTuple):
    """The images below a folder: one path and one label per image, one name per class.

    splits: the split of each image, or None. groupings: {"folder": the outer folder of each class}, or empty.
    """

    paths: list[str]
    labels: np.ndarray
    names: list[str]
    splits: list[str] | None
    groupings: dict[str, list[str]]


def scan(root: str | Path, *, shared_classes: bool = False) -> ImageFolder:
    """Find the classes below `root`, one folder per class, without opening an image.

    shared_classes: whether a class may be in more than one of the folders train, validation and test.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}.")
    found = _images_by_folder(root)
    loose = found.pop("", [])
    if not found:
        raise ValueError(f"There are no images in folders below {str(root)!r}; one folder per class is needed.")
    if loose:
        warnings.warn(
            f"{len(loose)} images directly in {str(root)!r} belong to no class and are left out.", stacklevel=3
        )
    tops = _split_folders(root, found)
    _check_nesting(root, found)
    split_of = {folder: SPLITS[folder.partition("/")[0].lower()] for folder in found} if tops else {}
    class_of = {folder: folder.partition("/")[2] if tops else folder for folder in found}
    if tops and not shared_classes:
        _check_disjoint(root, class_of, split_of)
    names = sorted(set(class_of.values()))
    number = {name: label for label, name in enumerate(names)}
    sizes = [len(paths) for paths in found.values()]
    nested = all("/" in name for name in names)
    return ImageFolder(
        paths=[path for paths in found.values() for path in paths],
        labels=np.repeat([number[class_of[folder]] for folder in found], sizes),
        names=names,
        splits=np.repeat([split_of[folder] for folder in found], sizes).tolist() if tops else None,
        groupings={"folder": [name.rpartition("/")[0] for name in names]} if nested else {},
    )


def _images_by_folder(root: Path) -> dict[str, list[str]]:
    """The image files below `root`, by the folder that holds them, relative to `root`. ("" is `root` itself.)"""
    found: dict[str, list[str]] = {}
    problems: list[str] = []
    for folder, names in _walk(root, problems):
        relative = Path(folder).relative_to(root).as_posix()
        images = []
        for name in names:
            path = os.path.join(folder, name)
            suffix = os.path.splitext(name)[1].lower()
            if os.path.islink(path) and not os.path.exists(path):
                problems.append(f"{path} (a broken link)")
            elif suffix in UNREADABLE:
                problems.append(f"{path} (the format {suffix} is not supported)")
            elif suffix in READABLE:
                images.append(path)
        if images:
            found["" if relative == "." else relative] = images
    if problems:
        raise ValueError(
            f"{len(problems)} entries below {str(root)!r} cannot be read: {_few(problems)}. Convert images to PNG or "
            "JPEG, and repair or remove the rest."
        )
    return found


def _walk(root: Path, problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every folder below `root` with its files, both sorted; links are followed, hidden entries are left out."""
    for folder, folders, files in os.walk(root, followlinks=True):
        for name in list(folders):
            inner = os.path.join(folder, name)
            if name.startswith(".") or name in NOT_CLASSES:
                folders.remove(name)
            elif os.path.islink(inner) and Path(folder).resolve().is_relative_to(Path(inner).resolve()):
                problems.append(f"{inner} (a link to a folder that contains it)")
                folders.remove(name)
        folders.sort()
        yield folder, sorted(name for name in files if not name.startswith("."))


def _split_folders(root: Path, found: dict[str, list[str]]) -> set[str]:
    """The folders train, validation and test directly below `root`, if that is how the classes are split.

    A single such name is a class or a group like any other: a pool of vehicles has a class "train".
    """
    tops = {folder.partition("/")[0] for folder in found}
    splits = {top for top in tops if top.lower() in SPLITS}
    if "train" not in {SPLITS[top.lower()] for top in splits} or len(splits) < 2:
        return set()
    flat, others = sorted(splits & set(found)), sorted(tops - splits)
    if not flat and not others and len({SPLITS[top.lower()] for top in splits}) == len(splits):
        return splits
    if len(flat) == len(splits) and others:
        return set()  # classes that happen to be called "train" and "test"
    reason = f"{_few(flat)} holds images itself" if flat else f"there is also {_few(others or sorted(splits))}"
    raise ValueError(
        f"{str(root)!r} has the folders {_few(sorted(splits))}, but {reason}. For a pool with splits, the folders "
        "must be train, test and, if you like, validation, and nothing else, each with one folder per class."
    )


def _check_nesting(root: Path, found: dict[str, list[str]]) -> None:
    """Raise a ValueError if a folder with images is within another one, or if splits are one level too deep."""
    for folder in found:
        outer = [other for other in found if folder.startswith(f"{other}/")]
        if outer:
            raise ValueError(
                f"In {str(root)!r}, {folder!r} is within {outer[0]!r}, and both hold images. Give every class one "
                "folder, and no folder of a class another one."
            )
    second = {folder.split("/")[1].lower() for folder in found if folder.count("/") > 1}
    if {SPLITS.get(name) for name in second} >= {"train", "test"}:
        raise ValueError(
            f"{str(root)!r} has folders {_few(sorted(second))} one level further down. Read the folder that holds them."
        )


def _check_disjoint(root: Path, class_of: dict[str, str], split_of: dict[str, str]) -> None:
    splits: dict[str, list[str]] = {}
    for folder, name in class_of.items():
        splits.setdefault(name, []).append(split_of[folder])
    shared = [f"{name!r} (in {' and '.join(there)})" for name, there in splits.items() if len(there) > 1]
    if shared:
        raise ValueError(
            f"{len(shared)} classes in {str(root)!r} are in more than one split: {_few(shared)}. Few-shot tasks drawn "
            "from the test split would then consist of training classes. Read one of the folders and use "
            "pool.split_classes(), or, for ordinary classification, pass shared_classes=True."
        )


def _few(words: Sequence[str], most: int = 5) -> str:
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
