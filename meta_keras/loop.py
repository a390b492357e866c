"""MAML as one plain loop over `tf.GradientTape`, to be read and copied. `MetaLearner.fit` does the same."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import PureModel, Weights
from meta_keras.tasks.episodes import at_least_one, check_episodes


def maml_loop(
    network: keras.Model,
    tasks: tf.data.Dataset,
    *,
    loss: Any,
    learning_rate: float = 0.01,
    steps: int = 1,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    iterations: int = 1000,
) -> list[float]:
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
    def meta_step(episode: tuple[tf.Tensor, ...]) -> tf.Tensor:
        losses, states = [], []
        with tf.GradientTape() as outer:  # it sees the inner tapes at work, so their gradients are differentiated
            theta = pure.weights()
            for number, task in enumerate(zip(*map(tf.unstack, episode), strict=True)):
                support_x, support_y, query_x, query_y = task
                adapted = adapt(pure.fork(theta, number), support_x, support_y)
                answers, after, _ = pure(adapted, query_x, training=True)
                losses.append(tf.reduce_mean(loss(query_y, answers)))
                states.append(after.state)
            meta_loss = tf.reduce_mean(losses)
        slopes = outer.gradient(meta_loss, network.trainable_variables)
        optimizer.apply_gradients(zip(slopes, network.trainable_variables, strict=True))
        for variable, value in zip(
            network.non_trainable_variables, pure.join([tf.stack(s) for s in zip(*states, strict=True)]), strict=True
        ):
            variable.assign(value)
        return meta_loss

    return [float(meta_step(episode)) for episode in tasks.take(iterations)]
