"""The losses of distillation: how far a student's class probabilities and features are from its teacher's.

Soft labels are due to Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; features to
Romero et al., "FitNets: Hints for Thin Deep Nets", 2015.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import check_inputs
from meta_keras.outputs import number_of_outputs
from meta_keras.scaling import check_scaled
from meta_keras.traces import final_activation

# Beyond these, logits divided by T overflow, or differences between probabilities vanish in single precision.
TEMPERATURES = (0.01, 1000)


def soft_labels(network: keras.Model, x: Any, temperature: float = 1.0) -> tf.Tensor:
    """(rows, classes) the class probabilities of a network; a higher temperature makes them softer (Formula 5.1).

        p_k = exp(z_k / T) / sum_j exp(z_j / T)

    z are its logits. If it ends in a softmax, they are the logarithms of its outputs.

    >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    >>> soft_labels(network, np.array([[0.0, 4.0]]), temperature=2).numpy().round(2)
    array([[0.12, 0.88]], dtype=float32)
    """
    checks.built_model(network=network)
    checks.between(*TEMPERATURES, temperature=temperature)
    check_inputs(network, x)
    check_scaled(network, x)
    checks.finite_numbers(x=x)
    check_class_outputs(network)
    x = x if tf.nest.is_nested(x) and len(getattr(network, "inputs", None) or ()) > 1 else tf.convert_to_tensor(x)
    return tf.nn.softmax(logits_of(network, network(x, training=False)) / temperature)


def soft_loss(*, student: tf.Tensor, teacher: tf.Tensor, temperature: float) -> tf.Tensor:
    """(rows,) how far the student's logits are from the teacher's, both (rows, classes) (Formula 5.2).

        T^2 KL(p || q) = T^2 sum_k p_k (log p_k - log q_k)

    p is the teacher's softmax at temperature T, q the student's. The derivative for a student's logit is T (q_k - p_k)
    (Formula 5.3). Without the factor it would be (q_k - p_k) / T, and q_k - p_k itself decreases as 1 / T; T^2
    compensates for both, so that the gradient does not vanish at high temperatures.

    The loss is not symmetric, so both must be named.

    >>> soft_loss(student=tf.constant([[4.0, 0.0]]), teacher=tf.constant([[0.0, 4.0]]), temperature=2).numpy()
    array([6.09], dtype=float32)
    """
    checks.between(*TEMPERATURES, temperature=temperature)
    _check_pair(student, teacher)
    log_p, log_q = tf.nn.log_softmax(teacher / temperature), tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def feature_loss(*, student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """(rows,) the mean squared difference between features, both of shape (rows, ...) (Formula 5.5).

    >>> feature_loss(student=tf.constant([[0.0, 2.0]]), teacher=tf.constant([[0.0, 0.0]])).numpy()
    array([2.], dtype=float32)
    """
    _check_pair(student, teacher)
    squared = tf.square(in_single(student) - in_single(teacher))
    return tf.reduce_mean(squared, axis=tuple(range(1, len(squared.shape))))


def logits_of(network: keras.Model, outputs: tf.Tensor) -> tf.Tensor:
    """(rows, classes) the logits of a network with these outputs: the outputs, or the logarithms of probabilities.

    The logarithm recovers logits up to a constant that is added to all of them, which a softmax ignores.
    """
    outputs = in_single(outputs)
    if final_activation(network) != "softmax":
        return outputs
    return tf.math.log(tf.maximum(outputs, np.finfo(outputs.dtype.as_numpy_dtype).tiny))


def check_class_outputs(network: keras.Model, name: str = "network") -> None:
    """Raise a ValueError unless the outputs are logits or probabilities of two or more exclusive classes."""
    if (outputs := number_of_outputs(network)) > 1:
        raise ValueError(f"{name} must have one output; {network.name!r} has {outputs}.")
    shape = getattr(network, "output_shape", None)
    if isinstance(shape, tuple) and shape[-1] == 1:
        raise ValueError(
            f"{name} must have one output per class, for at least two classes; {network.name!r} has a single output."
        )
    if final_activation(network) == "sigmoid":
        raise ValueError(
            f"{name} must end in logits or a softmax over its classes; {network.name!r} ends in a sigmoid, whose "
            "outputs are independent probabilities and do not add up to 1. Use a last layer without an activation."
        )


def in_single(numbers: tf.Tensor) -> tf.Tensor:
    """The same numbers in single precision, if half precision would be too coarse for a loss."""
    return tf.cast(numbers, tf.float32) if numbers.dtype.size < 4 else numbers


def _check_pair(student: tf.Tensor, teacher: tf.Tensor) -> None:
    for name, value in (("student", student), ("teacher", teacher)):
        dense = isinstance(value, tf.Tensor | tf.Variable)
        if not dense or not value.dtype.is_floating or value.shape.rank in (0, 1):
            raise ValueError(f"{name} must be a tensor of floats, of shape (rows, ...); got {checks.shown(value)}.")
    if not student.shape.is_compatible_with(teacher.shape) or student.dtype != teacher.dtype:
        raise ValueError(
            f"student and teacher must have one shape and type; got {tuple(student.shape)} {student.dtype.name} and "
            f"{tuple(teacher.shape)} {teacher.dtype.name}."
        )
