"""Few-shot classification: tasks of a few classes, drawn inside the graph from a pool."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.tasks.augment import augmentations
from meta_keras.tasks.episodes import Episode, Tasks
from meta_keras.tasks.images import lookup
from meta_keras.tasks.pools import ClassPool


class FewShot(Tasks):
    """Tasks of `ways` classes with `shots` labeled examples per class, and `queries` more per class to be classified.

    pool: the classes to draw from.
    within: None draws the classes of a task from the whole pool. The name of a grouping of the pool, such as
        "alphabet", draws them from one group, which is chosen in proportion to its size; groups of fewer than `ways`
        classes are left out.
    rotations: turn each class by 0, 90, 180 and 270 degrees into four classes (Santoro et al., 2016).
    augment: a Keras preprocessing layer that changes the examples of every task at random, for training. It sees what
        the network sees: integer images are already scaled to 0 ... 1, so give it `value_range=(0, 1)` if it takes
        one. A dictionary such as {"query": layer} augments only the support or only the query set, or both
        differently. See `Augmentation` for what is random and what is repeatable.

    All classes of the pool are equally likely. Within a task, the classes are distinct, no example occurs twice,
    labels 0 ... ways - 1 are reassigned, and the order of the rows is random.

    >>> from meta_keras import load
    >>> tasks = FewShot(load("glyphs"), ways=5, shots=1, queries=3, meta_batch=2, seed=0)
    >>> [tuple(tensor.shape) for tensor in next(iter(tasks))]
    [(2, 5, 28, 28, 1), (2, 5), (2, 15, 28, 28, 1), (2, 15)]
    """

    def __init__(
        self,
        pool: ClassPool,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        meta_batch: int = 4,
        seed: int = 0,
        *,
        within: str | None = None,
        rotations: bool = False,
        augment: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
    ) -> None:
        if not isinstance(pool, ClassPool):
            raise ValueError(
                f"pool must be a ClassPool, such as ClassPool.from_arrays(x, y) makes; got {checks.shown(pool)}."
            )
        checks.at_least(1, ways=ways, shots=shots, queries=queries)
        checks.flag(rotations=rotations)
        if rotations and pool.is_rotated:
            raise ValueError("pool is rotated already; rotations=True would make the same classes twice.")
        self.pool = pool.rotated() if rotations else pool
        self.ways, self.shots, self.queries = ways, shots, queries
        self.within, self.rotations = within, rotations
        self.pool.check_fits(ways=ways, shots=shots, queries=queries, within=within)
        self._lookup = lookup(self.pool.examples)
        self._first = tf.constant(self.pool.first, tf.int32)
        self._count = tf.constant(self.pool.counts, tf.int32)
        self._members = tf.constant(self.pool.members(within, at_least=ways), tf.int32)
        self._augmentations = augmentations(augment, self.pool.examples)
        super().__init__(meta_batch=meta_batch, seed=seed)

    def draw(self, seed: tf.Tensor) -> Episode:
        for_classes, for_rows, for_support, for_query = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        rows = self._rows(self._classes(for_classes), for_rows)
        labels = tf.broadcast_to(tf.range(self.ways)[:, None], tf.shape(rows))
        support = shuffled(rows[..., : self.shots], labels[..., : self.shots], for_support)
        query = shuffled(rows[..., self.shots :], labels[..., self.shots :], for_query)
        examples = {
            part: self._augmentations[part](as_inputs(self._lookup(rows), leading=2), seed)
            for part, rows in (("support", support[0]), ("query", query[0]))
        }
        return Episode(examples["support"], support[1], examples["query"], query[1])

    def _classes(self, seed: tf.Tensor) -> tf.Tensor:
        """(meta_batch, ways) class numbers, distinct within a row, from one group each."""
        for_group, for_class = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        sizes = tf.reduce_sum(tf.cast(self._members >= 0, tf.float32), axis=1)
        group = tf.random.stateless_categorical(tf.math.log(sizes)[None], self.meta_batch, for_group, dtype=tf.int32)
        members = tf.gather(self._members, group[0])
        return tf.gather(members, distinct(members >= 0, self.ways, for_class), batch_dims=1)

    def _rows(self, classes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """(meta_batch, ways, shots + queries) row numbers, distinct within a class."""
        there = tf.range(tf.reduce_max(self._count)) < tf.gather(self._count, classes)[..., None]
        chosen = distinct(there, self.shots + self.queries, seed)
        return tf.gather(self._first, classes)[..., None] + chosen


def distinct(allowed: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """`count` distinct positions of the last axis among the allowed ones, every choice and order equally likely."""
    lots = tf.random.stateless_uniform(tf.shape(allowed), seed)
    return tf.math.top_k(tf.where(allowed, lots, -1.0), count).indices


def shuffled(rows: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(meta_batch, ways, n) rows and labels as (meta_batch, ways * n), each task in its own order."""
    meta_batch, ways, each = rows.shape
    rows, labels = (tf.reshape(values, (meta_batch, ways * each)) for values in (rows, labels))
    order = distinct(tf.ones((meta_batch, ways * each), tf.bool), ways * each, seed)
    return tf.gather(rows, order, batch_dims=1), tf.gather(labels, order, batch_dims=1)
