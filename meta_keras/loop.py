"""MAML as one plain loop over `tf.GradientTape`, to be read and copied. `MetaLearner.fit` does the same."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import PureModel, Weights
from meta_keras.tasks.episodes import Episode, at_least_one, check_episodes


def maml_loop(
    network: keras.Model, tasks: tf.data.Dataset, *, loss: Any, learning_rate: float = 0.01, steps: int = 1,
    optimizer: str | keras.optimizers.Optimizer = "adam", iterations: int = 1000,
) -> list[float]:  # fmt: skip
    """Train the initial weights of `network` so that a few inner steps suit them to a task; the meta-losses."""
    check_episodes(tasks)
    at_least_one(iterations=iterations)
    pure, loss, optimizer = PureModel(network), keras.losses.get(loss), keras.optimizers.get(optimizer)
    optimizer.build(network.trainable_variables)

    def adapt(weights: Weights, x: tf.Tensor, y: tf.Tensor) -> Weights:
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(weights.trainable)
                outcome = pure(weights, x, training=True)
                support_loss = tf.reduce_mean(loss(y, outcome.outputs))
            slopes = tape.gradient(support_loss, weights.trainable)
            moved = [w - learning_rate * slope for w, slope in zip(weights.trainable, slopes, strict=True)]
            weights = outcome.weights._replace(trainable=tuple(moved))  # tensors: nothing is assigned
        return weights

    @tf.function
    def meta_step(episode: Episode) -> tf.Tensor:
        losses, states = [], []
        with tf.GradientTape() as outer:  # it sees the inner tapes at work, so their gradients are differentiated
            theta = pure.weights()
            for number, task in enumerate(zip(*map(tf.unstack, episode), strict=True)):
                adapted = adapt(pure.fork(theta, number), task[0], task[1])
                answers, after, _ = pure(adapted, task[2], training=True)
                losses.append(tf.reduce_mean(loss(task[3], answers)))
                states.append(after.state)
            meta_loss = tf.reduce_mean(losses)
        slopes = outer.gradient(meta_loss, network.trainable_variables)
        optimizer.apply_gradients(zip(slopes, network.trainable_variables, strict=True))
        joined = pure.join([tf.stack(values) for values in zip(*states, strict=True)])
        for variable, value in zip(network.non_trainable_variables, joined, strict=True):
            variable.assign(value)
        return meta_loss

    return [float(meta_step(episode)) for episode in tasks.take(iterations)]
