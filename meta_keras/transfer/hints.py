"""Features: a student also learns to see, somewhere on the way, what its teacher sees.

Romero et al., "FitNets: Hints for Thin Deep Nets", 2015.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from meta_keras.transfer.graph import check_graph, fits, output_of, with_layer
from meta_keras.transfer.soft import in_single


def feature_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """(rows,) the mean squared distance between what two layers give, both (rows, ...) (Formula 5.5)."""
    apart = tf.square(in_single(teacher) - in_single(student))
    return tf.reduce_mean(apart, axis=tuple(range(1, len(apart.shape))))


def seeing(network: keras.Model, layer: str) -> Callable[[tf.Tensor, bool], tuple[tf.Tensor, tf.Tensor]]:
    """The network as a function that also gives what one of its layers gives."""
    both = with_layer(network, layer)
    return lambda x, training: both(x, training=training)[::-1]


def bridge_between(student: keras.Model, ours: str, teacher: keras.Model, theirs: str) -> keras.layers.Layer | None:
    """The linear map from the width of the student's layer to that of the teacher's; None if they are the same."""
    check_graph(student)
    check_graph(teacher)
    seen, shown = (tuple(output_of(*pair).shape) for pair in ((student, ours), (teacher, theirs)))
    if not fits(seen[:-1], shown[:-1]):
        raise ValueError(
            f"Features may differ in width alone, the last number of their shapes: {ours!r} of the student gives "
            f"{seen}, {theirs!r} of the teacher {shown}. Choose layers whose other numbers agree."
        )
    if seen[-1] == shown[-1]:
        return None
    bridge = keras.layers.Dense(shown[-1], use_bias=False, name="bridge")
    bridge.build(seen)
    return bridge
