"""Distances between rows of numbers, for the estimates and the clusters of this package."""

from typing import Any

import numpy as np

from meta_keras import checks


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(rows of a, rows of b) squared Euclidean distances, without an array of all differences."""
    lengths = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1)
    return np.maximum(lengths - 2 * a @ b.T, 0)


def matrix(**values: Any) -> np.ndarray:
    """(rows, numbers) float64, since differences of squares lose digits; else a ValueError."""
    ((_, value),) = values.items()
    checks.examples(**values)
    checks.numbers(**values)
    checks.finite_numbers(**values)
    rows = np.asarray(value, np.float64)
    return rows.reshape(len(rows), -1)
