"""Tasks without labels, by clustering: the classes of a task are clusters of features."""

from typing import Any

import numpy as np

from meta_keras import checks
from meta_keras.tasks import ClassPool
from meta_keras.unsupervised.clustering import k_means
from meta_keras.unsupervised.distances import matrix


def cluster_classes(
    examples: np.ndarray, features: Any, *, clusters: int, partitions: int = 1, seed: int = 0
) -> ClassPool:
    """The examples as a pool whose classes are clusters of their features (CACTUs: Hsu, Levine and Finn,
    "Unsupervised Learning via Meta-Learning", 2019).

    `FewShot` draws tasks from this pool as from any other, and a `MetaLearner` is trained on them. No label is used.
    Clusters differ in size; `pool.with_at_least(6)` keeps those that are large enough for a support image and five
    queries.

    examples: (rows, ...). features: (rows, width) their features, such as `model.encode(examples)` of a model that
        learns without labels.
    clusters: how many. Few clusters join characters that differ; many clusters separate images of one character.
    partitions: how often to cluster. Each partition scales the features by random numbers of its own, and so groups the
        same examples differently. The pool then has every example once per partition, and its grouping "partition"
        keeps the classes of a task in one of them: `FewShot(pool, within="partition")`.

    >>> x = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> cluster_classes(x, x, clusters=2)
    ClassPool(2 classes, 2 examples each, shape (1,), 1 partition groups)
    """
    checks.examples(examples=examples)
    rows = matrix(features=features)
    checks.at_least(1, clusters=clusters, partitions=partitions)
    checks.at_least(0, seed=seed)
    if len(rows) != len(examples):
        raise ValueError(f"Each example needs features: got {len(examples)} examples and {len(rows)} rows of features.")
    labels = [
        number * clusters + k_means(rows * scale, clusters, seed=seed + number).labels
        for number, scale in enumerate(_scales(rows.shape[1], partitions, seed))
    ]
    names = [f"cluster {one} of partition {number}" for number in range(partitions) for one in range(clusters)]
    groups = [str(number) for number in range(partitions) for _ in range(clusters)]
    repeated = np.concatenate([np.asarray(examples)] * partitions)
    return ClassPool(repeated, np.concatenate(labels), names=names, groupings={"partition": groups})


def _scales(width: int, partitions: int, seed: int) -> list[np.ndarray]:
    """What the features are multiplied by: ones for a single partition, else random numbers for each."""
    if partitions == 1:
        return [np.ones(width)]
    return list(np.random.default_rng(seed).uniform(size=(partitions, width)))
