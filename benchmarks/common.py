"""What the measurements of several chapters share: the search of learning rates, and small steps of preparing data."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import meta_keras as mk


def best_inside(measure: Callable[[float], float], grid: Sequence[float]) -> float:
    """The best value of a geometric grid, which is extended for as long as the best is at its edge."""
    found = {value: measure(value) for value in grid}
    factor = grid[1] / grid[0]
    while True:
        best = max(found, key=found.get)
        if best not in (min(found), max(found)):
            return best
        further = best / factor if best == min(found) else best * factor
        found[further] = measure(further)


class RatePerNetwork(keras.optimizers.schedules.LearningRateSchedule):
    """One learning rate for each of several networks that are trained side by side.

    rates: one for each entry of the first axis of the weights, which have four axes.
    schedule: what the rates are multiplied by; without one, they are constant.
    """

    def __init__(
        self, rates: Sequence[float], schedule: keras.optimizers.schedules.LearningRateSchedule | None = None
    ) -> None:
        self.rates, self.schedule = tf.constant(rates, tf.float32)[:, None, None, None], schedule

    def __call__(self, step: Any) -> tf.Tensor:
        return self.rates if self.schedule is None else tf.cast(self.schedule(step), tf.float32) * self.rates


def halved(images: np.ndarray) -> np.ndarray:
    """Images of half the height and width, by the mean of each block of 2x2 pixels."""
    rows, height, width, channels = images.shape
    blocks = images.reshape(rows, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4)).astype(images.dtype)


def unit(rows: np.ndarray) -> np.ndarray:
    """Every row with length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def first(episode: mk.Episode, count: int) -> mk.Episode:
    """So many of the tasks."""
    return mk.Episode(*(part[:count] for part in episode))
