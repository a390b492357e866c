"""Several training steps in one compiled program, and how many of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

TrainFunction = Callable[[Iterator[Any]], dict[str, Any]]

# More steps per call gain little: a call takes about 1 ms, and a step of a small network about 0.5 ms.
MOST_STEPS = 50
MOST_BYTES = 2**26  # the batches of one call are in memory together
PER_BATCH = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


def best_steps(spec: Any, callbacks: Sequence[keras.callbacks.Callback]) -> int:
    """How many steps to run per call: as many as are useful, if batches have one shape and no callback needs every one.

    Keras' own callbacks know that a call may be several steps.
    """
    if not _static(spec) or any(map(_asks_for_every_batch, callbacks)):
        return 1
    size = sum(part.shape.num_elements() * part.dtype.size for part in tf.nest.flatten(spec))
    return max(1, min(MOST_STEPS, MOST_BYTES // max(size, 1)))


def _asks_for_every_batch(callback: keras.callbacks.Callback) -> bool:
    if type(callback).__module__.startswith(("keras.", "meta_keras.")) and not isinstance(
        callback, keras.callbacks.LambdaCallback
    ):
        return False
    base = keras.callbacks.Callback
    return any(getattr(getattr(callback, name), "__func__", None) is not getattr(base, name) for name in PER_BATCH)


class Steps(keras.callbacks.CallbackList):
    """Callbacks that receive the true number of the last batch, where an epoch is no multiple of the steps per call.

    `left` is how many steps the next call may run, so that an epoch has exactly as many as were asked for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begin = 0

    def left(self, most: int) -> int:
        steps = self.params.get("steps")
        return most if steps is None else min(most, steps - self.begin)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.begin = batch
        super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = self.params.get("steps")
        super().on_train_batch_end(batch if steps is None else min(batch, steps - 1), logs)


def in_one_program(model: keras.Model, otherwise: TrainFunction, left: Callable[[int], int]) -> TrainFunction:
    """What `fit` calls: it takes `steps_per_execution` batches, or as many as are left, and XLA loops over the steps.

    `otherwise` is Keras' own function, which launches every step separately: for small networks that takes longer than
    the step. It is still called where batches differ in shape, and where they do not come from a dataset.
    """
    most = model.steps_per_execution

    @tf.function(autograph=False)
    def gather(iterator: Iterator[Any], wanted: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def begin(part: tf.Tensor) -> tf.TensorArray:
            return tf.TensorArray(part.dtype, most, element_shape=part.shape).write(0, part)

        def add(number: tf.Tensor, following: tf.experimental.Optional, arrays: Any) -> tuple[Any, ...]:
            arrays = tf.nest.map_structure(lambda array, p: array.write(number, p), arrays, following.get_value())
            return number + 1, following_of(number + 1), arrays

        def following_of(number: tf.Tensor) -> tf.experimental.Optional:
            none = tf.experimental.Optional.empty(iterator.element_spec)
            return tf.cond(number < wanted, iterator.get_next_as_optional, lambda: none)

        arrays = tf.nest.map_structure(begin, iterator.get_next())  # at the end of the data its error tells Keras so
        start = (tf.constant(1), following_of(tf.constant(1)), arrays)
        count, _, arrays = tf.while_loop(lambda number, following, _: following.has_value(), add, start)
        # Filled up with zeros to one size, so that XLA compiles once.
        return count, tf.nest.map_structure(lambda array: array.stack(), arrays)

    @tf.function(jit_compile=True, autograph=False)
    def run(count: tf.Tensor, batches: Any) -> dict[str, tf.Tensor]:
        def step(n: tf.Tensor) -> tuple[tf.Tensor]:
            model.train_step(tf.nest.map_structure(lambda part: tf.gather(part, n), batches))
            return (n + 1,)

        tf.while_loop(lambda n: n < count, step, (tf.constant(0),))
        return model.get_metrics_result()

    def train_function(iterator: Iterator[Any]) -> dict[str, Any]:
        if not isinstance(iterator, tf.data.Iterator) or not _static(iterator.element_spec):
            return otherwise(iterator)
        return run(*gather(iterator, tf.constant(left(most))))

    return train_function


def _static(spec: Any) -> bool:
    return all(getattr(part, "shape", tf.TensorShape(None)).is_fully_defined() for part in tf.nest.flatten(spec))
