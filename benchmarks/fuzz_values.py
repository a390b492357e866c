"""The bad or unusual values that benchmarks/fuzz.py passes in place of a valid argument, each with a name."""

import tempfile
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import meta_keras as mk


def two_inputs() -> keras.Model:
    """A functional model with two inputs."""
    first, second = keras.Input((1,)), keras.Input((1,))
    return keras.Model([first, second], keras.layers.Dense(1)(keras.layers.Add()([first, second])))


def two_outputs() -> keras.Model:
    """A functional model with two outputs."""
    given = keras.Input((1,))
    return keras.Model(given, [keras.layers.Dense(1)(given), keras.layers.Dense(2)(given)])


class Subclassed(keras.Model):
    """A subclassed model without get_config, whose weights are created by its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


@lru_cache
def empty_folder() -> str:
    """A folder without files."""
    return tempfile.mkdtemp(prefix="fuzz-")


def wide() -> keras.Model:
    """A model with more outputs than there are classes."""
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(7)])


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "2": lambda: 2,
    "1.5": lambda: 1.5,
    "-0.5": lambda: -0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "1j": lambda: 1j,
    "Decimal": lambda: Decimal("0.5"),
    "np.int64(1)": lambda: np.int64(1),
    "np.float32(0.5)": lambda: np.float32(0.5),
    "np.float64(nan)": lambda: np.float64("nan"),
    "np.bool_": lambda: np.bool_(True),
    "''": lambda: "",
    "'x'": lambda: "x",
    "'1'": lambda: "1",
    "bytes": lambda: b"x",
    "Path": lambda: Path("no/such/folder"),
    "empty folder": empty_folder,
    "[]": lambda: [],
    "()": lambda: (),
    "{}": lambda: {},
    "set": lambda: {1, 2},
    "[0, 1]": lambda: [0, 1],
    "[1, 'x']": lambda: [1, "x"],
    "[nan, 1]": lambda: [float("nan"), 1.0],
    "['x', 'y']": lambda: ["x", "y"],
    "ragged list": lambda: [[1.0], [2.0, 3.0]],
    "(None, None)": lambda: (None, None),
    "{'x': 1}": lambda: {"x": 1},
    "{1: nan}": lambda: {1: float("nan")},
    "range": lambda: range(3),
    "generator": lambda: (number for number in range(3)),
    "array ()": lambda: np.array(1.0),
    "array (0,)": lambda: np.zeros(0, np.float32),
    "array (1,)": lambda: np.array([0.5], np.float32),
    "array (3,)": lambda: np.arange(3.0, dtype=np.float32),
    "array (2, 2, 2, 2, 2)": lambda: np.ones((2, 2, 2, 2, 2), np.float32),
    "array of nan": lambda: np.full((6, 1), np.nan, np.float32),
    "array of infinity": lambda: np.full((6, 1), np.inf, np.float32),
    "array of integers": lambda: np.arange(6).reshape(6, 1),
    "array of negative integers": lambda: -np.ones(6, np.int64),
    "array of strings": lambda: np.array(["a", "b"] * 3),
    "array of objects": lambda: np.array([None, 1], object),
    "array of bytes": lambda: np.full((6, 4, 4, 1), 200, np.uint8),
    "array of complex numbers": lambda: np.ones((6, 1), np.complex64),
    "tensor ()": lambda: tf.constant(1.0),
    "tensor (6, 1)": lambda: tf.ones((6, 1)),
    "tensor of strings": lambda: tf.constant(["a", "b"]),
    "ragged tensor": lambda: tf.ragged.constant([[1.0], [2.0, 3.0]]),
    "keras.Input": lambda: keras.Input((1,)),
    "object()": object,
    "a function": lambda: lambda *arguments, **keywords: None,
    "a function without arguments": lambda: lambda: 1.0,
    "a class": lambda: keras.layers.Dense,
    "a layer without weights": lambda: keras.layers.Dense(1),
    "an unbuilt model": lambda: keras.Sequential([keras.layers.Dense(1)]),
    "a subclassed model": Subclassed,
    "a model with two inputs": two_inputs,
    "a model with two outputs": two_outputs,
    "a model with 7 outputs": wide,
    "an optimizer": lambda: keras.optimizers.SGD(0.1),
    "a loss": lambda: keras.losses.MeanSquaredError(),
    "a metric": lambda: keras.metrics.MeanSquaredError(),
    "a dataset of integers": lambda: tf.data.Dataset.range(3),
    "an empty dataset": lambda: tf.data.Dataset.range(0),
    "a rule": lambda: mk.rules.GradientDescent(0.1),
    "an episode": lambda: mk.Episode(*(tf.ones((1, 2, 1)),) * 4),
    "10**12": lambda: 10**12,
    "1e30": lambda: 1e30,
}

# No function has an argument of this name.
UNKNOWN = "unknown"
# Huge counts would only measure how long a computer takes to fill its memory.
HUGE = ("10**12", "1e30")
CHEAP_WHEN_HUGE = {"seed", "task", "noise", "temperature", "penalty", "rank", "classes", "within"}


def names_for(argument: str) -> list[str]:
    """The values that are passed for an argument of this name."""
    if argument == UNKNOWN:
        return ["'x'"]
    return [name for name in VALUES if name not in HUGE or argument in CHEAP_WHEN_HUGE]
