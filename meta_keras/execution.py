"""Several training steps in one compiled program, and how many of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any

import keras
import tensorflow as tf

TrainFunction = Callable[[Iterator[Any]], dict[str, Any]]

# A call takes 1 to 3 ms longer than its steps, so it should have many; but progress is reported only after each call.
MOST_STEPS = 50
MOST_SHORT_STEPS = 250  # of less than about a millisecond, as those of a small network with little data
SHORT = 40_000_000  # weights times bytes of a batch times inner steps: a step with 35 million takes 0.6 ms on two cores
MOST_BYTES = 2**26  # of the batches of one call; those of the next call are in memory, too, and on a GPU in its memory
FREQUENCIES = ("save_freq", "update_freq")  # of Keras' callbacks, which may be numbers of batches
PER_BATCH = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


def best_steps(
    spec: Any, callbacks: Sequence[keras.callbacks.Callback], work: int, multiple_of: int | None = None
) -> int:
    """How many steps to run per call: as many as are useful, if batches have one shape and no callback needs every one.

    Keras' own callbacks know that a call may be several steps, unless they count batches.

    work: how many weights a step computes with, in all inner steps together.
    multiple_of: a number of steps that has to be a multiple of those in a call, see `counts_exactly`.
    """
    if not can_be_stacked(spec) or any(map(_asks_for_every_batch, callbacks)):
        return 1
    size = sum(part.shape.num_elements() * part.dtype.size for part in tf.nest.flatten(spec))
    useful = MOST_SHORT_STEPS if work * size <= SHORT else MOST_STEPS
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


class Ahead:
    """An iterator whose next element a thread draws and copies to a device while the one before is used.

    tf.data draws ahead, too, but on the CPU. Copying what it has drawn takes a GPU longer than some training steps.
    """

    def __init__(self, iterator: Iterator[Any], device: str) -> None:
        self._iterator, self._device = iterator, device
        self._begin()

    def get_next(self) -> Any:
        element = self._next.result()
        self._begin()
        return element

    def close(self) -> None:
        """Wait for the thread. Afterwards nothing is drawn anymore."""
        self._thread.join()

    def _begin(self) -> None:
        self._next: Future[Any] = Future()
        self._thread = Thread(target=self._draw, args=(self._next,), daemon=True)
        self._thread.start()

    def _draw(self, drawn: Future[Any]) -> None:
        try:
            element = self._iterator.get_next()
            with tf.device(self._device):
                drawn.set_result(tf.nest.map_structure(tf.identity, element))
        except Exception as error:  # is raised where the element is asked for
            drawn.set_exception(error)


class Stacks:
    """The batches of a training run, several in one tensor, which are prepared while the ones before are used."""

    def __init__(
        self, batches: tf.data.Dataset, most: int, steps: int | None, epochs: int, device: str | None = None
    ) -> None:
        """most: how many rows the tensors have. They are filled up with zeros, so that XLA compiles once.

        steps: the number of batches in an epoch, if it is not a run through all of them.
        device: where the batches are copied to. Without one they stay where tf.data has them.
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
        stacks = batches.batch(min(most, steps or most)).map(filled_up)
        self._stacks = stacks if device else stacks.prefetch(1)
        self._iterator: Any = None

    def take(self, run: Any, wanted: int, *, begins_epoch: bool = False) -> Iterator[tuple[int, int, Any]]:
        """The next `wanted` batches, or those that are left: parts of stacks, each with its first and last row.

        run: stands for one run through the data; another one begins with the first batch again. So does an epoch after
            one that ended with the data, of which Keras learns only if it asks for more.
        """
        if run is not self._run or (begins_epoch and self._ended):
            self.close()
            iterator = iter(self._stacks)
            self._iterator = Ahead(iterator, self._device) if self._device else iterator
            self._run, self._begin, self._end, self._ended = run, 0, 0, False
        first = True
        while wanted > 0:
            if self._begin == self._end:
                try:
                    count, self._stack = self._iterator.get_next()
                except tf.errors.OutOfRangeError:
                    if first:  # this tells Keras that the data have ended
                        raise
                    self._ended = True
                    return
                self._begin, self._end = 0, int(count)
            begin, first = self._begin, False
            self._begin = min(begin + wanted, self._end)
            wanted -= self._begin - begin
            yield begin, self._begin, self._stack

    def close(self) -> None:
        """Draw no more batches. On a device, this waits for the stack that is being drawn."""
        if isinstance(self._iterator, Ahead):
            self._iterator.close()
        self._iterator = None


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
