"""k-means: groups of examples that are close to each other, found without labels."""

from typing import Any, NamedTuple

import numpy as np

from meta_keras import checks
from meta_keras.unsupervised.distances import matrix, squared_distances


class Clusters(NamedTuple):
    """labels: (rows,) the cluster of each row; centers: (clusters, width) the mean of each cluster.

    >>> labels, centers = k_means([[0.0], [1.0], [10.0], [11.0]], 2)
    >>> labels.tolist()
    [1, 1, 0, 0]
    """

    labels: np.ndarray
    centers: np.ndarray


def k_means(features: Any, clusters: int, *, iterations: int = 50, seed: int = 0) -> Clusters:
    """Lloyd, "Least Squares Quantization in PCM", 1982, started as in Arthur and Vassilvitskii, "k-means++", 2007.

    Assigns every row to its nearest center, and moves every center to the mean of its rows, in turns. No step increases

        sum over rows i of min over centers m of |features_i - m|^2          (Formula 7.11)

    features: (rows, width). iterations: at most so many; it ends earlier once no row changes its cluster.

    >>> k_means([[0.0], [1.0], [10.0], [11.0]], 2).centers.ravel().tolist()
    [10.5, 0.5]
    """
    rows = matrix(features=features)
    checks.at_least(1, clusters=clusters, iterations=iterations)
    checks.at_least(0, seed=seed)
    if clusters > len(np.unique(rows, axis=0)):
        raise ValueError(
            f"{clusters} clusters need as many different rows; features have {len(np.unique(rows, axis=0))}."
        )
    centers = _spread(rows, clusters, np.random.default_rng(seed))
    labels = None
    for _ in range(iterations):
        apart = squared_distances(rows, centers)
        nearest = _without_empty(apart.argmin(axis=1), apart)
        if labels is not None and np.array_equal(nearest, labels):
            break
        labels = nearest
        centers = _means(rows, labels, clusters)
    return Clusters(labels.astype(np.int32), centers)


def _spread(rows: np.ndarray, clusters: int, random: np.random.Generator) -> np.ndarray:
    """Rows to start from: each is drawn in proportion to its squared distance from the nearest one drawn before."""
    centers = [rows[random.integers(len(rows))]]
    nearest = squared_distances(rows, centers[0][None])[:, 0]
    while len(centers) < clusters:
        nearest[nearest < 1e-9 * nearest.max()] = 0  # what is left of equal rows after rounding
        centers.append(rows[random.choice(len(rows), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, squared_distances(rows, centers[-1][None])[:, 0])
    return np.stack(centers)


def _without_empty(labels: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """The labels, after the rows that are farthest from their centers have each become one of the empty clusters."""
    labels = labels.copy()
    counts = np.bincount(labels, minlength=apart.shape[1])
    farthest = iter(np.argsort(-apart[np.arange(len(labels)), labels]))
    for empty in np.flatnonzero(counts == 0):
        row = next(row for row in farthest if counts[labels[row]] > 1)
        counts[labels[row]] -= 1
        labels[row], counts[empty] = empty, 1
    return labels


def _means(rows: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=clusters)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.add.reduceat(rows[order], first, axis=0) / counts[:, None]
