"""What a pool accepts: examples, labels, and what is known about each row or class."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import check_pixels
from meta_keras.tasks.images import ImageFiles

SAMPLE = 64  # how many images of a pool on disk are checked when it is created


def checked_rows(examples: Any, labels: Any) -> tuple[np.ndarray | ImageFiles, np.ndarray]:
    """Examples and labels as arrays with one row per example, if they are fit for a pool; else a ValueError."""
    examples = examples if isinstance(examples, ImageFiles) else _array(examples=examples)
    labels = _array(labels=labels)
    labels = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
    if labels.ndim != 1 or examples.shape[:1] != labels.shape:
        raise ValueError(
            "Each example needs one label, but examples have shape "
            f"{examples.shape} and labels have shape {labels.shape}. Turn one-hot labels into numbers with "
            "y.argmax(axis=-1), and labels of shape (rows, 1) with y.ravel()."
        )
    if not len(labels):
        raise ValueError("A pool needs examples; none were given.")
    if 0 in examples.shape[1:]:
        raise ValueError(f"The examples are empty: their shape is {examples.shape}.")
    if labels.dtype.kind not in "iubU":
        raise ValueError(f"Labels must be integers or strings; got {labels.dtype}. Try y.astype(int) or y.astype(str).")
    if isinstance(examples, ImageFiles):
        rows = np.unique(np.linspace(0, len(examples) - 1, SAMPLE).astype(int))
        check_pixels(np.asarray(examples[rows]), whole=True)
    else:
        check_examples(examples)
    return examples, labels


def applied(function: Callable[[np.ndarray], Any], examples: np.ndarray) -> Any:
    """The result of a function for all examples; a ValueError if it fails."""
    try:
        return function(examples)
    except Exception as error:
        raise ValueError(
            f"The function given to map failed with {type(error).__name__}: {error} It is called once, with all "
            f"examples as one array of shape {examples.shape}."
        ) from error


def check_examples(examples: np.ndarray) -> None:
    """Raise a ValueError unless a network can compute with these numbers or strings."""
    if examples.dtype.kind not in "biufUS" or examples.dtype.itemsize > 8 and examples.dtype.kind == "f":
        raise ValueError(
            f"Examples must be integers, floats of up to 64 bits, Booleans or strings; got {examples.dtype}. If they "
            "differ in shape or kind, make them one array first."
        )
    if examples.dtype.kind == "f":
        largest = np.abs(examples).max()
        if not np.isfinite(largest):
            raise ValueError("Some examples contain NaN or infinity; repair or remove those rows first.")
        if largest > tf.float32.max:
            raise ValueError(f"Some examples are too large for 32-bit floats ({largest:g}); rescale them first.")
    check_pixels(examples, whole=True)


def checked_names(names: Any, known: np.ndarray) -> tuple[str, ...]:
    """One name per class, by default its label."""
    names = _listed(known if names is None else names, "names")
    if len(names) != len(known):
        raise ValueError(f"{len(known)} classes have examples, but {len(names)} names were given.")
    return names


def checked_splits(splits: Any, rows: int) -> np.ndarray | None:
    """The split of each row, or None."""
    if splits is None:
        return None
    splits = _array(splits=splits)
    if splits.shape != (rows,) or splits.dtype.kind not in "US":
        raise ValueError(
            f"splits must have a string such as 'train' for each of the {rows} examples; got an array of "
            f"{splits.dtype} with shape {splits.shape}."
        )
    return splits.astype(str)


def checked_groupings(groupings: Any, classes: int) -> dict[str, tuple[str, ...]]:
    """For each word, such as "alphabet", the group of each class."""
    checks.mapping(groupings={} if groupings is None else groupings)
    checked = {}
    for word, groups in (groupings or {}).items():
        checks.text(grouping=word)
        checked[word] = _listed(groups, f"The grouping {word!r}")
        if len(checked[word]) != classes:
            raise ValueError(f"The grouping {word!r} names {len(checked[word])} groups for {classes} classes.")
    return checked


def checked_classes(classes: Any, known: int) -> np.ndarray:
    """Class numbers of a pool with `known` classes."""
    classes = _array(classes=[] if classes is None else classes).reshape(-1)
    if len(classes) and classes.dtype.kind not in "iu":
        raise ValueError(
            f"Classes must be given by their numbers, which are integers; got {classes.dtype}. np.flatnonzero turns "
            "a mask into numbers."
        )
    wrong = [int(number) for number in classes if not 0 <= number < known]
    if wrong or not len(classes):
        raise ValueError(f"Classes are numbered from 0 to {known - 1}; got {wrong or 'none'}.")
    return classes


def quoted(words: Iterable[str]) -> str:
    """Words as an error message lists them."""
    return ", ".join(map(repr, words)) or "none"


def _array(**arrays: Any) -> np.ndarray:
    ((name, value),) = arrays.items()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} cannot be made into one array, because they differ in shape or kind.") from error
    if array.ndim == 0:
        raise ValueError(f"{name} must be an array or a list with one entry per example; got {checks.shown(value)}.")
    return array


def _listed(values: Any, what: str) -> tuple[str, ...]:
    ordered = isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping | set)
    if not ordered or getattr(values, "shape", None) == ():
        raise ValueError(f"{what} must be a list with one entry per class; got {checks.shown(values)}.")
    return tuple(map(str, values))
