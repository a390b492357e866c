"""Examples grouped by class: what few-shot tasks are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.tasks import folders, images, pool_checks, splitting
from meta_keras.tasks.images import VERBOSE, ImageFiles

FIELDS = ("examples", "labels", "names", "splits", "groupings", "is_rotated")


class ClassPool:
    """Examples of many classes, with the rows of each class next to each other.

    examples: (rows, ...) images, numbers or strings. Integer images have pixels from 0 to 255, float images usually
        from 0 to 1, and tokens for an embedding layer are int32. labels: (rows,) the class of each row. Labels may
        have gaps: the pool numbers its classes 0 ... classes - 1, in the sorted order of the labels.
    names: the name of each class. splits: (rows,) the split that each row belongs to, such as "train".
    groupings: for a word such as "alphabet", the group of each class.

    Create one with `from_arrays`, `from_folder` or `meta_keras.load`. Pools do not change: methods return new ones.

    >>> ClassPool(np.zeros((4, 28, 28, 1), np.uint8), ["a", "b"] * 2, splits=["train", "test"] * 2).split("test").names
    ('b',)
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
        examples, labels = pool_checks.checked_rows(examples, labels)
        known, labels = np.unique(labels, return_inverse=True)
        names = pool_checks.checked_names(names, known)
        splits = pool_checks.checked_splits(splits, len(labels))
        order = np.argsort(labels, kind="stable")
        self._set(
            examples=examples[order],
            labels=labels[order].astype(np.int32),
            names=names,
            splits=None if splits is None else splits[order],
            groupings=pool_checks.checked_groupings(groupings, len(names)),
            is_rotated=False,
        )

    @classmethod
    def from_arrays(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        *,
        names: Sequence[str] | None = None,
        groupings: Mapping[str, Sequence[str]] | None = None,
    ) -> "ClassPool":
        """A pool of your own arrays: examples `x`, and in `y` the class of each, as integers or strings.

        names, groupings: one entry per class, in the sorted order of the values in `y`.

        >>> pool = ClassPool.from_arrays(np.zeros((6, 2)), ["cat", "dog", "cat", "dog", "cat", "dog"])
        >>> pool
        ClassPool(2 classes, 3 examples each, shape (2,))
        """
        return cls(x, y, names=names, groupings=groupings)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        image_size: tuple[int, int] = (28, 28),
        color_mode: str = "grayscale",
        in_memory: bool = True,
        shared_classes: bool = False,
        verbose: str | int = "auto",
    ) -> "ClassPool":
        """A pool of your own images (PNG, JPEG, BMP, GIF or WebP), one folder per class.

        `path/cat/1.png` makes a class "cat". `path/pets/cat/1.png` makes a class "pets/cat", and the pool has the
        grouping "folder". If the folders directly below `path` are "train", "test" and possibly "validation" (or
        "val"), each with one folder per class, they become the splits of the pool. Hidden files and folders are
        ignored, links are followed, and whatever looks like an image but cannot be read is an error.

        image_size: (height, width). Images of other sizes are resized, and stretched if necessary. Transparent parts
            become white.
        color_mode: "grayscale" or "rgb".
        in_memory: whether to read all images now. False leaves them on disk, and decodes each when a task with it is
            drawn; the tasks are the same. Files must then not change while the pool is in use.
        shared_classes: whether a class may be in more than one split. Few-shot learning is tested on new classes, so
            this is only for data sets that are meant for ordinary classification.
        verbose: "auto" shows a progress bar for 10,000 images or more, 1 always, 0 never.
        """
        checks.flag(in_memory=in_memory, shared_classes=shared_classes)
        checks.path(path=path)
        checks.one_of(VERBOSE, verbose=verbose)
        found = folders.scan(path, shared_classes=shared_classes)
        files = ImageFiles(found.paths, image_size, color_mode)
        examples = files.read(verbose) if in_memory else files
        return cls(examples, found.labels, names=found.names, splits=found.splits, groupings=found.groupings)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        few, many = self.counts.min(), self.counts.max()
        each = f"{few} examples each" if few == many else f"{few} to {many} examples each"
        groups = "".join(f", {len(set(groups))} {word} groups" for word, groups in self.groupings.items())
        place = ", on disk" if isinstance(self.examples, ImageFiles) else ""
        return f"ClassPool({len(self)} classes, {each}, shape {self.examples.shape[1:]}{groups}{place})"

    def arrays(self, *, scaled: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """All rows as `(examples, labels)`, for an ordinary `fit`: as they are stored, or `scaled` as in tasks."""
        checks.flag(scaled=scaled)
        return np.asarray(as_inputs(tf.constant(self.examples)) if scaled else self.examples), self.labels

    def split(self, name: str) -> "ClassPool":
        """The split of the pool called "train", "validation" or "test"."""
        known = self._split_names()
        if not isinstance(name, str) or name not in known:
            hint = "" if known else " pool.split_classes() makes splits."
            raise ValueError(f"This pool has no split {checks.shown(name)}; it has {pool_checks.quoted(known)}.{hint}")
        return self._rows_where(self.splits == name)

    def split_classes(
        self,
        train: float = 0.6,
        validation: float = 0.2,
        test: float = 0.2,
        *,
        seed: int = 0,
        within: str | None = None,
    ) -> "ClassPool":
        """The same pool with every class assigned to one of three splits at random, for `.split("train")` and so on.

        train, validation, test: fractions of the classes, with the sum 1. A fraction of 0 leaves a split out.
        within: the name of a grouping such as "alphabet" keeps groups together, so that the classes of a group are
            never in two splits; the fractions are then fractions of the groups. None assigns each class on its own.

        >>> pool = ClassPool.from_arrays(np.zeros((20, 2)), np.arange(20) // 2).split_classes(seed=1)
        >>> [len(pool.split(name)) for name in ("train", "validation", "test")]
        [6, 2, 2]
        """
        checks.at_least(0, seed=seed)
        self._check_grouping(within)
        if len(known := self._split_names()) > 1:
            raise ValueError(f"This pool already has the splits {pool_checks.quoted(known)}. Choose one with split().")
        if self.is_rotated or len(set(self.groupings.get("partition", ()))) > 1:  # the partitions of cluster_classes
            raise ValueError("Split first, and rotate or cluster afterwards; otherwise two splits share their images.")
        fractions = {"train": train, "validation": validation, "test": test}
        groups, kind = (self.groupings[within], f"{within} groups") if within else (range(len(self)), "classes")
        return self._copy(splits=splitting.assigned(groups, fractions, seed, kind)[self.labels])

    def select(self, classes: Sequence[int]) -> "ClassPool":
        """A pool of only these classes, given by their numbers."""
        classes = pool_checks.checked_classes(classes, len(self))
        return self._rows_where(np.isin(self.labels, classes))

    def with_at_least(self, examples: int) -> "ClassPool":
        """The classes that have at least `examples` examples."""
        checks.at_least(1, examples=examples)
        enough = np.flatnonzero(self.counts >= examples)
        if not len(enough):
            raise ValueError(f"No class has {examples} examples; the largest has {self.counts.max()}.")
        return self.select(enough)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "ClassPool":
        """The same pool with `function` applied to all its examples at once; it must keep the order of the rows."""
        checks.function(function=function)
        if isinstance(self.examples, ImageFiles):
            raise ValueError(
                "The images of this pool are on disk, so they cannot be mapped. Read them with in_memory=True, change "
                "the tasks with FewShot(...).map, or augment them with FewShot(..., augment=layer)."
            )
        examples, labels = pool_checks.checked_rows(pool_checks.applied(function, self.examples), self.labels)
        return self._copy(examples=examples, labels=labels)

    def rotated(self) -> "ClassPool":
        """Four classes per class: unchanged, and rotated by 90, 180 and 270 degrees. A rotated group is a new group."""
        if self.examples.ndim != 4 or self.examples.shape[1] != self.examples.shape[2]:
            raise ValueError(
                "Only square images of shape (rows, side, side, channels) can be rotated; "
                f"these examples have shape {self.examples.shape}."
            )
        turns = range(4)
        return self._copy(
            examples=images.in_four_turns(self.examples),
            labels=np.concatenate([self.labels + np.int32(turn * len(self)) for turn in turns]),
            names=tuple(_turned(name, turn) for turn in turns for name in self.names),
            splits=None if self.splits is None else np.tile(self.splits, 4),
            groupings={
                word: tuple(_turned(group, turn) for turn in turns for group in groups)
                for word, groups in self.groupings.items()
            },
            is_rotated=True,
        )

    def members(self, within: str | None, *, at_least: int = 1) -> np.ndarray:
        """(groups, largest) class numbers of each group of at least `at_least` classes, padded with -1."""
        self._check_grouping(within)
        checks.at_least(1, at_least=at_least)
        return splitting.members(self.groupings[within] if within else ("",) * len(self), at_least)

    def check_fits(self, *, ways: int, shots: int, queries: int, within: str | None = None) -> None:
        """Raise a ValueError that says what is missing if such tasks cannot be drawn from this pool."""
        checks.at_least(1, ways=ways, shots=shots, queries=queries)
        members = self.members(within, at_least=ways)
        if not len(members):
            where = f"the largest {within}" if within else "the pool"
            largest = self.members(within)
            raise ValueError(f"{ways} classes are needed for a {ways}-way task; {where} has {largest.shape[1]}.")
        drawn = members[members >= 0]
        short = drawn[np.argmin(self.counts[drawn])]
        if self.counts[short] < shots + queries:
            raise ValueError(
                f"{shots + queries} examples are needed of each class ({shots} support + {queries} query), but class "
                f"{self.names[short]!r} has {self.counts[short]}. Ask for fewer, or drop the small classes with "
                f"pool.with_at_least({shots + queries})."
            )

    def _split_names(self) -> list[str]:
        return list(dict.fromkeys([] if self.splits is None else self.splits.tolist()))

    def _check_grouping(self, within: str | None) -> None:
        if within is not None and (not isinstance(within, str) or within not in self.groupings):
            known = pool_checks.quoted(self.groupings)
            raise ValueError(f"This pool has no grouping {checks.shown(within)}; it has {known}.")

    def _rows_where(self, keep: np.ndarray) -> "ClassPool":
        classes, labels = np.unique(self.labels[keep], return_inverse=True)
        return self._copy(
            examples=self.examples[keep],
            labels=labels.astype(np.int32),
            names=tuple(self.names[number] for number in classes),
            splits=None if self.splits is None else self.splits[keep],
            groupings={word: tuple(groups[n] for n in classes) for word, groups in self.groupings.items()},
        )

    def _copy(self, **changed: Any) -> "ClassPool":
        """This pool with some parts changed, which have been checked and are sorted by class."""
        pool = object.__new__(type(self))
        pool._set(**{field: changed.get(field, getattr(self, field)) for field in FIELDS})
        return pool

    def _set(self, **fields: Any) -> None:
        vars(self).update(fields)
        self.counts = np.bincount(self.labels, minlength=len(self.names))
        self.first = np.concatenate([[0], np.cumsum(self.counts)[:-1]])


def _turned(name: str, quarter_turns: int) -> str:
    return f"{name} turned {90 * quarter_turns}" if quarter_turns else name
