"""Several training steps in one compiled program, and how many of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import tensorflow as tf

TrainFunction = Callable[[Iterator[Any]], dict[str, Any]]

# A call takes 1 to 3 ms longer than its steps, so it should have many; but progress is reported only after each call.
MOST_STEPS = 50
MOST_SHORT_STEPS = 250  # if a step takes a fraction of a millisecond, as one with few weights and little data does
SHORT = 8_000_000  # weights times bytes of a batch: with 7 million, a step takes 0.2 ms on two cores
MOST_BYTES = 2**26  # of the batches of one call; those of the next call are in memory, too
FREQUENCIES = ("save_freq", "update_freq")  # of Keras' callbacks, which may be numbers of batches
PER_BATCH = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


def best_steps(
    spec: Any, callbacks: Sequence[keras.callbacks.Callback], weights: int, multiple_of: int | None = None
) -> int:
    """How many steps to run per call: as many as are useful, if batches have one shape and no callback needs every one.

    Keras' own callbacks know that a call may be several steps, unless they count batches.

    weights: how many the model has.
    multiple_of: a number of steps that has to be a multiple of those in a call, see `counts_exactly`.
    """
    if not can_be_stacked(spec) or any(map(_asks_for_every_batch, callbacks)):
        return 1
    size = sum(part.shape.num_elements() * part.dtype.size for part in tf.nest.flatten(spec))
    useful = MOST_SHORT_STEPS if weights * size <= SHORT else MOST_STEPS
    most = max(1, min(useful, MOST_BYTES // max(size, 1)))
    return most if multiple_of is None else max(n for n in range(1, most + 1) if multiple_of % n == 0)


def counts_exactly(most: int, steps: int | None, epochs: int, known: int) -> bool:
    """Whether Keras, which counts `most` batches for every call, begins finite data again only when all were used.

    steps: in an epoch, if they were given. known: how many batches there are; negative if that is not known.
    """
    if steps is None or known < 0 or steps % most == 0 or steps >= known:
        return True
    calls = -(-steps // most) * epochs
    return (calls - 1) * most < known


def _asks_for_every_batch(callback: keras.callbacks.Callback) -> bool:
    if any(isinstance(getattr(callback, name, None), int) for name in FREQUENCIES):
        return True
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


class Stacks:
    """The batches of a training run, several in one tensor.

    While those of one call are used, a thread draws those of the next one and copies them to the device. On a GPU this
    would otherwise take longer than a step of a small network.
    """

    def __init__(self, batches: tf.data.Dataset, most: int, steps: int | None, epochs: int, device: str = "") -> None:
        """most: how many rows the tensors have. They are filled up with zeros, so that XLA compiles once.

        steps: the number of batches in an epoch, if it is not a run through all of them.
        device: where the batches are used.
        """

        def filled_up(*batch: Any) -> tuple[tf.Tensor, Any]:
            count = tf.shape(tf.nest.flatten(batch)[0])[0]

            def fill_up(part: tf.Tensor) -> tf.Tensor:
                rows = tf.pad(part, [[0, most - count], *[[0, 0]] * (part.shape.rank - 1)])
                return tf.ensure_shape(rows, [most, *part.shape[1:]])

            return count, tf.nest.map_structure(fill_up, batch)

        if steps is not None:  # what comes later is not drawn
            batches = batches.take(steps * epochs)
        self.most, self._device, self._run, self._ended = most, device, None, False
        self._stacks = batches.batch(min(most, steps or most)).map(filled_up)
        self._thread = ThreadPoolExecutor(max_workers=1)

    def take(self, run: Any, wanted: int, *, begins_epoch: bool = False) -> Iterator[tuple[int, int, Any]]:
        """The next `wanted` batches, or those that are left: parts of stacks, each with its first and last row.

        run: stands for one run through the data; another one begins with the first batch again. So does an epoch after
            one that ended with the data, of which Keras learns only if it asks for more.
        """
        if run is not self._run or (begins_epoch and self._ended):
            self._run, self._begin, self._end, self._ended = run, 0, 0, False
            self._iterator = iter(self._stacks)
            self._next = self._thread.submit(self._drawn, self._iterator)
        first = True
        while wanted > 0:
            if self._begin == self._end:
                try:
                    self._end, self._stack = self._next.result()
                except tf.errors.OutOfRangeError:
                    if first:  # this tells Keras that the data have ended
                        raise
                    self._ended = True
                    return
                self._begin, self._next = 0, self._thread.submit(self._drawn, self._iterator)
            begin, first = self._begin, False
            self._begin = min(begin + wanted, self._end)
            wanted -= self._begin - begin
            yield begin, self._begin, self._stack

    def _drawn(self, iterator: Iterator[Any]) -> tuple[int, Any]:
        count, stack = iterator.get_next()
        with tf.device(self._device):
            return int(count), tf.nest.map_structure(tf.identity, stack)


def in_one_program(
    model: keras.Model, otherwise: TrainFunction, take: Callable[[Iterator[Any]], Iterable[tuple[int, int, Any]] | None]
) -> TrainFunction:
    """What `fit` calls: it takes `steps_per_execution` batches, or as many as are left, and XLA loops over the steps.

    take: returns parts of stacks, see `Stacks`; or None for batches that cannot be stacked, such as those of different
        shapes. For these, Keras' own function, `otherwise`, is called. It launches every step separately, which takes
        longer than a step of a small network.
    """

    @tf.function(jit_compile=True, autograph=False)
    def run(begin: tf.Tensor, end: tf.Tensor, batches: Any) -> dict[str, tf.Tensor]:
        def step(n: tf.Tensor) -> tuple[tf.Tensor]:
            model.train_step(tf.nest.map_structure(lambda part: tf.gather(part, n), batches))
            return (n + 1,)

        tf.while_loop(lambda n: n < end, step, (begin,))
        return model.get_metrics_result()

    def train_function(iterator: Iterator[Any]) -> dict[str, Any]:
        parts = take(iterator)
        if parts is None:
            return otherwise(iterator)
        for begin, end, batches in parts:
            logs = run(tf.constant(begin), tf.constant(end), batches)
        return logs

    return train_function


def can_be_stacked(spec: Any) -> bool:
    """Whether all batches have one shape."""
    return all(getattr(part, "shape", tf.TensorShape(None)).is_fully_defined() for part in tf.nest.flatten(spec))
