"""What a step of LearnedOptimizer costs, compared with Adam's, on a network with a million weights.

    PYTHONPATH=. .venv/bin/python benchmarks/learned_optimizer.py       (less than a minute; run nothing else meanwhile)

Both optimizers apply the same gradients to one matrix of 1000 x 1000 weights, in turn, compiled by XLA as `model.fit`
does it. "step" is that alone; "training step" includes the forward and backward pass of 128 examples. The results are
in benchmarks/results/learned_optimizer.json: medians and minima in milliseconds.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from common import milliseconds, store

import meta_keras as mk

SIDE, EXAMPLES, REPEATS = 1000, 128, 60


def optimizers() -> dict[str, keras.optimizers.Optimizer]:
    return {"Adam": keras.optimizers.Adam(), "LearnedOptimizer": mk.LearnedOptimizer(mk.rules.UpdateNetwork())}


def step_of(optimizer: keras.optimizers.Optimizer, *, training: bool) -> Callable[[], None]:
    """A function that takes one step and waits for it."""
    generator = np.random.default_rng(0)
    x, gradient = (tf.constant(generator.normal(size=(rows, SIDE)), tf.float32) for rows in (EXAMPLES, SIDE))
    weights = keras.Variable(generator.normal(size=(SIDE, SIDE)).astype("float32"))
    optimizer.build([weights])

    @tf.function(jit_compile=True)
    def step() -> None:
        found = gradient
        if training:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(tf.nn.relu(x @ weights.value)))
            found = tape.gradient(loss, weights.value)
        optimizer.apply([found], [weights])

    def run() -> None:
        step()
        float(weights.value[0, 0])

    return run


def measured(training: bool) -> dict[str, dict[str, float]]:
    return milliseconds(
        {name: step_of(optimizer, training=training) for name, optimizer in optimizers().items()}, REPEATS
    )


def main() -> None:
    results = {"step": measured(False), "training step": measured(True)}
    for times in results.values():
        for kind in ("median", "minimum"):
            times[f"ratio of {kind}s"] = round(times["LearnedOptimizer"][kind] / times["Adam"][kind], 2)
    store("learned_optimizer", {"weights": SIDE**2, "milliseconds": results})


if __name__ == "__main__":
    main()
