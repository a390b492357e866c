"""Do generated images cover the real ones? An estimate of the density around real images, and a count of classes."""

from typing import Any, NamedTuple

import numpy as np

from meta_keras import checks
from meta_keras.unsupervised.distances import matrix, squared_distances


class DensityCoverage(NamedTuple):
    """How close generated examples are to real ones, and which fraction of the real ones has any of them nearby.

    density: about 1 if the distributions are equal; below 1 if many generated examples are far from all real ones, and
        above 1 if they crowd where real ones are dense.
    coverage: from 0 to 1; low if the generator leaves out a part of the real examples.

    >>> real = np.array([[0.0], [1.0], [10.0], [11.0]])
    >>> density_and_coverage(real, real[:2], neighbors=1).coverage
    0.5
    """

    density: float
    coverage: float


def density_and_coverage(real: Any, generated: Any, *, neighbors: int = 5) -> DensityCoverage:
    """Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020 (Formula 7.10).

    B_i is the ball around real example i that reaches to its k-th nearest neighbor among the other real ones, so balls
    are small where real examples are dense.

        density = mean over generated y of (number of balls B_i that contain y) / k
        coverage = fraction of real examples i whose ball B_i contains at least one generated example

    real, generated: (rows, ...) arrays, compared by Euclidean distance. Between features of a classifier, distances
        say more than between pixels.
    neighbors: k. For equal distributions and as many rows of both, the expected coverage is about 1 - 2^-k.

    >>> real = np.array([[0.0], [1.0], [2.0], [10.0]])
    >>> density_and_coverage(real, [[0.4], [0.6]], neighbors=1)
    DensityCoverage(density=2.0, coverage=0.5)
    """
    real, generated = matrix(real=real), matrix(generated=generated)
    checks.at_least(1, neighbors=neighbors)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"real and generated must have examples of one size; got {real.shape[1]} and {generated.shape[1]} numbers."
        )
    if len(real) <= neighbors:
        raise ValueError(f"More than {neighbors} real examples are needed for neighbors={neighbors}; got {len(real)}.")
    among_real = squared_distances(real, real)
    np.fill_diagonal(among_real, np.inf)  # an example is not its own neighbor
    radii = np.partition(among_real, neighbors - 1, axis=1)[:, neighbors - 1]
    inside = squared_distances(real, generated) <= radii[:, None]
    return DensityCoverage(float(inside.sum() / (neighbors * len(generated))), float(inside.any(axis=1).mean()))


def effective_classes(labels: Any) -> float:
    """How many equally frequent classes would be as diverse as these labels: exp of their entropy (Formula 7.9).

        exp(-sum over classes of p_k log p_k),  where p_k is the fraction of class k

    labels: (rows,) integers, such as the answers of a classifier for generated images.

    >>> round(effective_classes([0, 1, 2, 2]), 3)
    2.828
    """
    checks.examples(labels=labels)
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be one integer per row; got {labels.dtype} of shape {labels.shape}.")
    _, counts = np.unique(labels, return_counts=True)
    fractions = counts / counts.sum()
    return float(np.exp(-np.sum(fractions * np.log(fractions))))
