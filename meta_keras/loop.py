"""MAML as one plain loop over `tf.GradientTape`, meant to be read and copied. `MetaLearner.fit` does the same."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.checks import at_least, positive, unconstrained
from meta_keras.functional import PureModel, Weights
from meta_keras.outputs import as_loss
from meta_keras.rules.base import Loss, check_answers, total
from meta_keras.scaling import check_scaled_once, check_task_network
from meta_keras.tasks.episodes import Episode
from meta_keras.tasks.inspection import check_episodes, first_of, scaled
from meta_keras.traces import final_activation


def maml_loop(
    network: keras.Model, tasks: tf.data.Dataset, *, loss: Any, learning_rate: float = 0.01, steps: int = 1,
    optimizer: str | keras.optimizers.Optimizer = "adam", iterations: int = 1000,
) -> list[float]:  # fmt: skip
    """Train the initialization of `network` so that a few inner steps adapt it to a task; returns the meta-losses.

    >>> from meta_keras import Sinusoids, networks
    >>> losses = maml_loop(networks.mlp(1), Sinusoids(shots=5, meta_batch=2), loss="mse", iterations=3)
    >>> len(losses)
    3
    """
    check_network(network, tasks)
    at_least(1, steps=steps, iterations=iterations)
    positive(learning_rate=learning_rate)
    pure, loss, optimizer = PureModel(network), loss_between(loss, network), keras.optimizers.get(optimizer)
    optimizer.build(network.trainable_variables)

    def adapt(weights: Weights, x: tf.Tensor, y: tf.Tensor) -> Weights:
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(weights.parameters)
                outcome = pure(weights, x, training=True)
                support_loss = total(loss(y, outcome.outputs), (*outcome.losses, *pure.penalties(weights)))
            gradients = tape.gradient(support_loss, weights.parameters)
            moved = [w - learning_rate * g for w, g in zip(weights.parameters, gradients, strict=True)]
            weights = outcome.weights._replace(parameters=tuple(moved))  # tensors: nothing is assigned
        return weights

    @tf.function
    def meta_step(episode: Episode) -> tf.Tensor:
        losses, states = [], []
        with tf.GradientTape() as outer:  # it records the inner tapes, so their gradients are differentiated
            theta = pure.weights()
            for number, task in enumerate(zip(*map(tf.unstack, episode), strict=True)):
                adapted = adapt(pure.fork(theta, number), task[0], task[1])
                answers, after, added = pure(adapted, task[2], training=True)
                losses.append(total(loss(task[3], answers), (*added, *pure.penalties(adapted))))
                states.append(pure.running_values(after))
            meta_loss = tf.reduce_mean(losses)
        gradients = outer.gradient(meta_loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        pure.carry_on([tf.stack(values) for values in zip(*states, strict=True)])
        return meta_loss

    return [finite(float(meta_step(episode)), step) for step, episode in enumerate(tasks.map(scaled).take(iterations))]


def check_network(network: keras.Model, tasks: tf.data.Dataset) -> None:
    """Raise an error unless the loop can train this network on these tasks."""
    check_episodes(tasks)
    check_task_network(network=network, twice=True)
    unconstrained(network.trainable_variables)
    check_scaled_once(scaled(first_of(tasks)).support_x, network=network)


def loss_between(loss: Any, network: keras.Model) -> Loss:
    """The loss as a function of labels or targets and answers, which are never broadcast."""
    loss = as_loss(loss, final_activation(network), network.trainable_variables[0].dtype)

    def between(right: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
        check_answers(answers, right)
        return tf.reduce_mean(loss(right, answers))

    return between


def finite(meta_loss: float, step: int) -> float:
    """The loss itself, or a FloatingPointError that ends training."""
    if not np.isfinite(meta_loss):
        raise FloatingPointError(f"The meta-loss is {meta_loss} at step {step}. Lower the learning rates.")
    return meta_loss
