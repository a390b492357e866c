"""Soft labels: what a network says of every class, and how far another network is from saying the same.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.transfer.losses import ends_in_softmax


def soft_labels(network: keras.Model, x: Any, temperature: float = 1.0) -> tf.Tensor:
    """(rows, classes) what a network says of each class, the softer the higher the temperature (Formula 5.1).

        p_k = exp(z_k / T) / sum_j exp(z_j / T)

    z are its scores. If it ends in a softmax, they are the logarithms of what it says.

    >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    >>> soft_labels(network, np.array([[0.0, 4.0]]), temperature=2).numpy().round(2)
    array([[0.12, 0.88]], dtype=float32)
    """
    check_temperature(temperature)
    return tf.nn.softmax(scores_of(network, network(x, training=False)) / temperature)


def soft_loss(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """(rows,) how far the student's scores are from the teacher's, both (rows, classes) (Formula 5.2).

        T^2 KL(p || q) = T^2 sum_k p_k (log p_k - log q_k)

    p is the teacher's softmax at temperature T, q the student's. The slope for a student's score is T (q_k - p_k)
    (Formula 5.3). Without the factor it would be (q_k - p_k) / T, and q_k - p_k itself falls as 1 / T; T^2 makes up
    for both, so that the temperature changes what is taught and not how loudly.

    >>> soft_loss(tf.constant([[0.0, 4.0]]), tf.constant([[4.0, 0.0]]), temperature=2).numpy()
    array([6.09], dtype=float32)
    """
    log_p, log_q = tf.nn.log_softmax(teacher / temperature), tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def scores_of(network: keras.Model, answers: tf.Tensor) -> tf.Tensor:
    """(rows, classes) the scores behind a network's answers: these themselves, or the logarithm of probabilities.

    The logarithm gives back the scores up to a number added to all, which no softmax notices.
    """
    if answers.shape[-1] == 1:
        raise ValueError(
            f"Soft labels share 1 out among two classes or more; {network.name!r} has a single output. "
            "Give it one for each class."
        )
    answers = in_single(answers)
    if not ends_in_softmax(network):
        return answers
    return tf.math.log(tf.maximum(answers, np.finfo(answers.dtype.as_numpy_dtype).tiny))


def in_single(numbers: tf.Tensor) -> tf.Tensor:
    """The same in single precision, if half precision was too coarse for a loss."""
    return tf.cast(numbers, tf.float32) if numbers.dtype.size < 4 else numbers


def check_temperature(temperature: float) -> None:
    if not 0 < temperature < np.inf:
        raise ValueError(f"A temperature is a positive number; {temperature!r} was given.")
