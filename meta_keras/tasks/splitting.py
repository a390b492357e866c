"""Whole classes, or whole groups of classes, assigned to the splits train, validation and test."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meta_keras import checks

ROUNDING = 1e-6


def assigned(groups: Sequence[Any], fractions: Mapping[str, float], seed: int, kind: str) -> np.ndarray:
    """The split of each class at random, the same for all classes of a group.

    groups: the group of each class. fractions: for each split, its fraction of the groups; together 1.
    """
    known, group_of_class = np.unique(np.asarray(groups), return_inverse=True)
    sizes = apportioned(len(known), fractions, kind)
    shuffled = np.random.default_rng(seed).permutation(np.repeat(list(fractions), sizes))
    return shuffled[group_of_class]


def apportioned(total: int, fractions: Mapping[str, float], kind: str) -> list[int]:
    """Integers with the sum `total`, as close to the fractions of it as possible, none of them 0 without need."""
    checks.fraction(**fractions)
    shares = np.array([float(fraction) for fraction in fractions.values()])
    if abs(shares.sum() - 1) > ROUNDING:
        written = ", ".join(f"{name}={fraction:g}" for name, fraction in zip(fractions, shares, strict=True))
        raise ValueError(f"The fractions must have the sum 1; got {written}, with the sum {shares.sum():g}.")
    if total < np.count_nonzero(shares):
        raise ValueError(
            f"{np.count_nonzero(shares)} splits need at least as many {kind}, but this pool has {total}. Set a "
            "fraction to 0 to leave a split out."
        )
    exact = shares * total
    sizes = np.maximum(np.floor(exact + ROUNDING), shares > 0).astype(int)
    while sizes.sum() < total:
        sizes[np.argmax(exact - sizes)] += 1
    while sizes.sum() > total:
        sizes[np.argmax(np.where(sizes > 1, sizes - exact, -np.inf))] -= 1
    return sizes.tolist()


def members(groups: Sequence[str], at_least: int) -> np.ndarray:
    """(groups, largest) class numbers of each group of at least `at_least` classes, padded with -1."""
    found = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    found = [classes for classes in found if len(classes) >= at_least]
    table = np.full((len(found), max(map(len, found), default=0)), -1)
    for row, classes in zip(table, found, strict=True):
        row[: len(classes)] = classes
    return table
