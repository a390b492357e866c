"""Tasks without labels, by augmentation: every image is a class of its own."""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.tasks import ClassPool, Episode, Tasks
from meta_keras.tasks.augment import augmentations
from meta_keras.tasks.few_shot import distinct, shuffled
from meta_keras.tasks.images import lookup


class UMTRA(Tasks):
    """Tasks of `ways` random images, each of which is a class, and its augmented versions are the queries (Khodadadeh,
    Bölöni and Shah, "Unsupervised Meta-Learning for Few-Shot Image Classification", 2019).

    A `MetaLearner` is trained on them as on tasks from `FewShot`. No label is used, so two images of a task may show
    the same thing although they get different labels. If there are C classes of M images each, this does not happen
    with the probability

        product over i = 1 ... ways - 1 of (C - i) M / (C M - i)          (Formula 7.12)

    examples: (rows, ...) images, or anything else that `augment` takes.
    augment: a Keras preprocessing layer that changes an image as much as images of one class differ. As in `FewShot`, a
        layer augments support and query sets; {"query": layer} only the queries, as in the paper. Without
        augmentation, a query would be equal to its support image.

    >>> images = np.random.default_rng(0).random((20, 28, 28, 1), np.float32)
    >>> tasks = UMTRA(images, {"query": keras.layers.RandomTranslation(0.1, 0.1)}, ways=5, queries=3, meta_batch=2)
    >>> [tuple(tensor.shape) for tensor in next(iter(tasks))]
    [(2, 5, 28, 28, 1), (2, 5), (2, 15, 28, 28, 1), (2, 15)]
    """

    def __init__(
        self,
        examples: np.ndarray,
        augment: keras.layers.Layer | Mapping[str, keras.layers.Layer],
        ways: int = 5,
        shots: int = 1,
        queries: int = 5,
        meta_batch: int = 4,
        seed: int = 0,
    ) -> None:
        checks.at_least(1, ways=ways, shots=shots, queries=queries)
        checks.examples(examples=examples)
        if augment is None or isinstance(augment, Mapping) and augment.get("query") is None:
            raise ValueError('augment must change the queries: pass a Keras layer, or {"query": layer}.')
        if ways > len(examples):
            raise ValueError(f"{ways} images are needed for a {ways}-way task, one per class; got {len(examples)}.")
        self.pool = ClassPool(examples, np.arange(len(examples)))
        self.ways, self.shots, self.queries = ways, shots, queries
        self._lookup = lookup(self.pool.examples)
        self._augmentations = augmentations(augment, self.pool.examples)
        super().__init__(meta_batch=meta_batch, seed=seed)

    def draw(self, seed: tf.Tensor) -> Episode:
        for_rows, for_support, for_query = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        chosen = distinct(tf.ones((self.meta_batch, len(self.pool)), tf.bool), self.ways, for_rows)
        support = self._copies(chosen, self.shots, for_support)
        query = self._copies(chosen, self.queries, for_query)
        support_x, query_x = (
            self._augmentations[part](as_inputs(self._lookup(rows), leading=2), seed)
            for part, (rows, _) in (("support", support), ("query", query))
        )
        return Episode(support_x, support[1], query_x, query[1])

    def _copies(self, chosen: tf.Tensor, count: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(meta_batch, ways * count) row numbers and labels: each chosen row so often, in random order."""
        rows = tf.repeat(chosen[..., None], count, axis=-1)
        labels = tf.broadcast_to(tf.range(self.ways)[:, None], tf.shape(rows))
        return shuffled(rows, labels, seed)
