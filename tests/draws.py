"""Shared by the tests of tasks: pools whose examples are their row numbers, and what is drawn from them."""

import numpy as np

from meta_keras import ClassPool


def tagged(counts, **more):
    """A pool with these numbers of examples per class, in which every example is its own row number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return ClassPool(np.arange(len(labels), dtype=np.float32)[:, None], labels, **more)


def drawn(tasks, batches):
    """The rows and labels of many tasks: support rows, support labels, query rows, query labels."""
    episodes = list(tasks.take(batches).as_numpy_iterator())
    joined = [np.concatenate([episode[part] for episode in episodes]) for part in range(4)]
    return [part[..., 0].astype(int) if part.ndim == 3 else part for part in joined]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
