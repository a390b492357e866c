"""Several steps of training as one compiled program."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

TrainFunction = Callable[[Iterator[Any]], dict[str, Any]]


def in_one_program(model: keras.Model, otherwise: TrainFunction) -> TrainFunction:
    """What `fit` calls: it takes `steps_per_execution` batches, and XLA loops over their steps by itself.

    `otherwise` is Keras' own function, which hands every step to XLA anew: for small networks that takes longer than
    the step. It is still called where batches differ in shape, and where they do not come from a dataset.
    """
    count = model.steps_per_execution

    @tf.function(autograph=False)
    def gather(iterator: Iterator[Any]) -> Any:
        def begin(part: tf.Tensor) -> tf.TensorArray:
            return tf.TensorArray(part.dtype, 1, dynamic_size=True, element_shape=part.shape).write(0, part)

        def add(number: tf.Tensor, following: tf.experimental.Optional, arrays: Any) -> tuple[Any, ...]:
            arrays = tf.nest.map_structure(lambda array, p: array.write(number, p), arrays, following.get_value())
            return number + 1, following_of(number + 1), arrays

        def following_of(number: tf.Tensor) -> tf.experimental.Optional:
            none = tf.experimental.Optional.empty(iterator.element_spec)
            return tf.cond(number < count, iterator.get_next_as_optional, lambda: none)

        arrays = tf.nest.map_structure(begin, iterator.get_next())  # at the end of the data its error tells Keras so
        start = (tf.constant(1), following_of(tf.constant(1)), arrays)
        _, _, arrays = tf.while_loop(lambda number, following, _: following.has_value(), add, start)
        return tf.nest.map_structure(lambda array: array.stack(), arrays)

    @tf.function(jit_compile=True, autograph=False)
    def run(batches: Any) -> dict[str, tf.Tensor]:
        number = tf.shape(tf.nest.flatten(batches)[0])[0]

        def step(n: tf.Tensor) -> tuple[tf.Tensor]:
            model.train_step(tf.nest.map_structure(lambda part: tf.gather(part, n), batches))
            return (n + 1,)

        tf.while_loop(lambda n: n < number, step, (tf.constant(0),))
        return model.get_metrics_result()

    def train_function(iterator: Iterator[Any]) -> dict[str, Any]:
        if not isinstance(iterator, tf.data.Iterator) or not _static(iterator.element_spec):
            return otherwise(iterator)
        return run(gather(iterator))

    return train_function


def _static(spec: Any) -> bool:
    return all(getattr(part, "shape", tf.TensorShape(None)).is_fully_defined() for part in tf.nest.flatten(spec))
