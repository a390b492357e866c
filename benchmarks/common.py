"""What several measurements share: the search of learning rates, training again, preparing data, and timing."""

import functools
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import meta_keras as mk
from meta_keras.rules import Update

RESULTS = Path(__file__).resolve().parent / "results"
Point = tuple[float, ...]


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


def climb(measure: Callable[[Point], float], start: Point, factors: Sequence[float] = ()) -> Point:
    """The point that is better than its neighbors, of which each has one coordinate multiplied or divided by a factor.

    factors: one for each coordinate, by default 2; 1 keeps it as it is.
    """
    measure, best = functools.cache(measure), start
    while True:
        neighbors = [
            (*best[:place], best[place] * by, *best[place + 1 :])
            for place, factor in enumerate(factors or [2] * len(best))
            for by in (1 / factor, factor)
        ]
        winner = max((best, *neighbors), key=measure)
        if winner == best:
            return best
        best = winner


def milliseconds(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, dict[str, float]]:
    """The median and the minimum time of functions that are called in turn. The first five times are for compiling."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(repeats + 5):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if number >= 5:
                found[name].append(1000 * (time.perf_counter() - began))
    return {
        name: {"median": round(statistics.median(times), 2), "minimum": round(min(times), 2)}
        for name, times in found.items()
    }


def store(name: str, content: dict[str, Any]) -> None:
    """Write and print benchmarks/results/<name>.json, which also says on what it was measured."""
    versions = {package: importlib.metadata.version(package) for package in ("keras", "tensorflow")}
    text = json.dumps({"cores": os.cpu_count(), "versions": versions} | content, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


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


class AdjustableRate(Update):
    """Gradient descent at a rate that can be set between trainings, so that one compiled program serves all rates."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.rate = tf.Variable(learning_rate, trainable=False)

    def init(self, parameters: Any) -> tf.Tensor:
        return self.rate.read_value()  # before the loop over the inner steps, in which XLA reads no variable

    def update(self, gradients: Any, rate: tf.Tensor, parameters: Any, step: Any) -> Any:
        return [-rate * gradient for gradient in gradients], rate


def begin_again(learner: mk.MetaLearner, make: Callable[[], keras.Model], seed: int) -> None:
    """Put a compiled learner back before its first step, with the weights of a new network of this seed.

    The learning rate, a variable of the optimizer, is 0 afterwards.
    """
    keras.utils.set_random_seed(seed)
    learner.network.set_weights(make().get_weights())
    for variable in learner.optimizer.variables:
        variable.assign(tf.zeros_like(variable))
    learner.batches_seen.assign(0)


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
