"""Examples grouped by class: what few-shot tasks are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

PICTURES = {".png", ".jpg", ".jpeg"}


class ClassPool:
    """Examples of many classes, the rows of a class side by side.

    examples: (rows, ...) pictures, numbers or strings. labels: (rows,) the class of each, 0 ... classes - 1.
    names: the name of each class. splits: (rows,) the part that each row belongs to, such as "train".
    groupings: for a word such as "alphabet", the group of each class.

    Make one with `from_arrays`, `from_folder` or `meta_keras.load`.
    """

    def __init__(
        self,
        examples: np.ndarray,
        labels: np.ndarray,
        *,
        names: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        groupings: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        examples, labels = np.asarray(examples), np.asarray(labels)
        _check_rows(examples, labels)
        known, labels = np.unique(labels, return_inverse=True)
        names = [str(label) for label in known] if names is None else list(names)
        if len(names) != len(known):
            raise ValueError(f"{len(known)} classes have examples, and {len(names)} names were given for them.")
        order = np.argsort(labels, kind="stable")
        self.examples, self.labels = examples[order], labels[order].astype(np.int32)
        self.names = tuple(str(name) for name in names)
        self.splits = None if splits is None else np.asarray(splits)[order]
        self.groupings = {word: tuple(map(str, groups)) for word, groups in (groupings or {}).items()}
        for word, groups in self.groupings.items():
            if len(groups) != len(self.names):
                raise ValueError(f"The grouping {word!r} names {len(groups)} groups for {len(self.names)} classes.")
        self.counts = np.bincount(self.labels, minlength=len(self.names))
        self.first = np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    @classmethod
    def from_arrays(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        *,
        names: Sequence[str] | None = None,
        groupings: Mapping[str, Sequence[str]] | None = None,
    ) -> "ClassPool":
        """A pool of your own arrays: examples `x`, and in `y` the class of each, as whole numbers or strings.

        names, groupings: one entry a class, in the sorted order of the values in `y`.

        >>> pool = ClassPool.from_arrays(np.zeros((6, 2)), ["cat", "dog", "cat", "dog", "cat", "dog"])
        >>> pool
        ClassPool(2 classes, 3 examples each, shape (2,))
        """
        return cls(x, y, names=names, groupings=groupings)

    @classmethod
    def from_folder(
        cls, path: str | Path, *, image_size: tuple[int, int] = (28, 28), color_mode: str = "grayscale"
    ) -> "ClassPool":
        """A pool of your own PNG or JPEG pictures, one folder a class; folders of such folders become groups.

        `path/cat/1.png` makes a class "cat". `path/pets/cat/1.png` makes a class "pets/cat", and the pool has the
        grouping "folder". Pictures of any size are resized (and stretched, if need be) to `image_size`.

        color_mode: "grayscale" or "rgb".
        """
        channels = {"grayscale": 1, "rgb": 3}.get(color_mode)
        if channels is None:
            raise ValueError(f'color_mode is "grayscale" or "rgb"; {color_mode!r} was given.')
        files = _pictures_by_class(Path(path))
        examples = [_read_picture(file, image_size, channels) for group in files.values() for file in group]
        labels = np.repeat(np.arange(len(files)), [len(group) for group in files.values()])
        nested = all("/" in name for name in files)
        groupings = {"folder": [name.rpartition("/")[0] for name in files]} if nested else {}
        return cls(np.stack(examples), labels, names=list(files), groupings=groupings)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        few, many = self.counts.min(), self.counts.max()
        each = f"{few} examples each" if few == many else f"{few} to {many} examples each"
        groups = "".join(f", {len(set(groups))} {word} groups" for word, groups in self.groupings.items())
        return f"ClassPool({len(self)} classes, {each}, shape {self.examples.shape[1:]}{groups})"

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows as `(examples, labels)`, for an ordinary `fit`."""
        return self.examples, self.labels

    def split(self, name: str) -> "ClassPool":
        """The part of the pool called "train", "validation" or "test"."""
        there = [] if self.splits is None else list(dict.fromkeys(self.splits.tolist()))
        if name not in there:
            raise ValueError(f"This pool has no part {name!r}; it has {_listed(there)}.")
        return self._rows_where(self.splits == name)

    def select(self, classes: Sequence[int]) -> "ClassPool":
        """A pool of these classes alone, by their numbers."""
        classes = np.asarray(classes).reshape(-1)
        if len(classes) and classes.dtype.kind not in "iu":
            raise ValueError(f"Classes are chosen by their numbers; these are {classes.dtype}. (np.flatnonzero helps.)")
        wrong = [int(number) for number in classes if not 0 <= number < len(self)]
        if wrong or not len(classes):
            raise ValueError(f"Classes are numbered 0 to {len(self) - 1}; {wrong or 'none'} asked for.")
        return self._rows_where(np.isin(self.labels, classes))

    def with_at_least(self, examples: int) -> "ClassPool":
        """The classes that have `examples` examples or more."""
        enough = np.flatnonzero(self.counts >= examples)
        if not len(enough):
            raise ValueError(f"No class has {examples} examples; the largest has {self.counts.max()}.")
        return self.select(enough)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "ClassPool":
        """The same pool with `function` applied to all its examples at once, rows kept in order."""
        return ClassPool(
            function(self.examples),
            self.labels,
            names=self.names,
            splits=self.splits,
            groupings=self.groupings,
        )

    def rotated(self) -> "ClassPool":
        """Four classes of each: as it is, and turned by 90, 180 and 270 degrees. A turned group is a new group."""
        if self.examples.ndim != 4 or self.examples.shape[1] != self.examples.shape[2]:
            raise ValueError(
                "Only square pictures (rows, side, side, channels) can be turned; "
                f"these examples have shape {self.examples.shape}."
            )
        turns = range(4)
        return ClassPool(
            np.concatenate([np.rot90(self.examples, turn, axes=(1, 2)) for turn in turns]),
            np.concatenate([self.labels + turn * len(self) for turn in turns]),
            names=[_turned(name, turn) for turn in turns for name in self.names],
            splits=None if self.splits is None else np.tile(self.splits, 4),
            groupings={
                word: [_turned(group, turn) for turn in turns for group in groups]
                for word, groups in self.groupings.items()
            },
        )

    def members(self, within: str | None, *, at_least: int = 1) -> np.ndarray:
        """(groups, largest) class numbers of each group of at least so many classes, filled up with -1."""
        groups = self.groupings[within] if within else ("",) * len(self)
        by_group = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
        by_group = [classes for classes in by_group if len(classes) >= at_least]
        table = np.full((len(by_group), max(map(len, by_group), default=0)), -1)
        for row, classes in zip(table, by_group, strict=True):
            row[: len(classes)] = classes
        return table

    def check_fits(self, *, ways: int, shots: int, queries: int, within: str | None = None) -> None:
        """Raise a ValueError that says what is short, if such tasks cannot be drawn from this pool."""
        if within is not None and within not in self.groupings:
            raise ValueError(f"This pool has no grouping {within!r}; it has {_listed(self.groupings)}.")
        members = self.members(within, at_least=ways)
        if not len(members):
            largest = self.members(within).shape[1]
            where = f"the largest {within} has {largest}" if within else f"the pool has {largest}"
            raise ValueError(f"{ways} classes are needed for a {ways}-way task; {where}.")
        drawn = members[members >= 0]
        short = drawn[np.argmin(self.counts[drawn])]
        if self.counts[short] < shots + queries:
            raise ValueError(
                f"{shots + queries} examples are needed of each class ({shots} support + {queries} query); class "
                f"{self.names[short]!r} has {self.counts[short]}. Ask for fewer, or drop the small classes with "
                f"pool.with_at_least({shots + queries})."
            )

    def _rows_where(self, keep: np.ndarray) -> "ClassPool":
        classes = np.unique(self.labels[keep])
        return ClassPool(
            self.examples[keep],
            self.labels[keep],
            names=[self.names[number] for number in classes],
            splits=None if self.splits is None else self.splits[keep],
            groupings={word: [groups[n] for n in classes] for word, groups in self.groupings.items()},
        )


def _check_rows(examples: np.ndarray, labels: np.ndarray) -> None:
    if labels.ndim != 1 or examples.shape[:1] != labels.shape:
        raise ValueError(
            f"One label a row is needed: examples of shape {examples.shape} came with labels of shape {labels.shape}. "
            "One-hot labels become numbers with y.argmax(axis=-1)."
        )
    if not len(labels):
        raise ValueError("A pool needs examples; none were given.")
    if labels.dtype.kind not in "iubUS":
        raise ValueError(
            f"Labels are whole numbers or strings; these are {labels.dtype}. Try y.astype(int) or y.astype(str)."
        )
    if examples.dtype.kind == "O":
        raise ValueError("The examples differ in shape or kind; make them one array before you pool them.")
    if examples.dtype.kind == "f" and not np.isfinite(examples).all():
        raise ValueError("Some examples hold nan or infinity; mend or drop those rows first.")


def _pictures_by_class(root: Path) -> dict[str, list[Path]]:
    """The picture files below `root`, by the folder they lie in."""
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}.")
    found = sorted(file for file in root.rglob("*") if file.suffix.lower() in PICTURES and file.parent != root)
    if not found:
        raise ValueError(f"No PNG or JPEG pictures in folders below {str(root)!r}; one folder a class is needed.")
    classes: dict[str, list[Path]] = {}
    for file in found:
        classes.setdefault(file.parent.relative_to(root).as_posix(), []).append(file)
    return classes


def _read_picture(file: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    try:
        picture = tf.io.decode_image(file.read_bytes(), channels=channels, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{str(file)!r} cannot be read as a PNG or JPEG picture; mend or remove it.") from error
    resized = tf.image.resize(picture, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8).numpy()


def _turned(name: str, quarter_turns: int) -> str:
    return f"{name} turned {90 * quarter_turns}" if quarter_turns else name


def _listed(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words)) or "none"
