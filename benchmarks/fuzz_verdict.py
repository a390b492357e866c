"""The outcome of one call: rejected clearly, rejected cryptically, rejected by Keras, or accepted.

An error is clear if the authors of `meta_keras` raised it deliberately, since only such an error can say what was
expected:

- its type is ValueError, TypeError, OSError, ImportError or NotImplementedError,
- its message is a sentence of at least 20 characters, and
- it was raised by a `raise` statement in a file of `meta_keras`. An error that Python, NumPy, TensorFlow or Keras
  raises on the way is not clear, even if a line of `meta_keras` caused it, such as `len(None)` or `rate < "x"`.

TensorFlow raises errors that occur while a function is traced a second time, with the location added. Such an error is
clear if the original one is. Python's own TypeErrors for missing, unknown or superfluous arguments are clear, too.

An error that Keras raises for an argument that our function documents as Keras' own, such as `optimizer`, counts as
rejected by Keras. Everything else is cryptic.
"""

import contextlib
import dis
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import meta_keras as mk
from benchmarks.fuzz_targets import KERAS_OWN, Target
from benchmarks.fuzz_values import VALUES

ROOM = str(Path(mk.__file__).parent)
TYPES = (ValueError, TypeError, OSError, ImportError, NotImplementedError)
SHORTEST = 20
SIGNATURE = re.compile(
    r"\(\) (missing \d+ required|got an unexpected keyword|got multiple values|takes [\w ]*\d+ (positional|to))"
    r"|\(\) got some positional-only|takes no arguments"
)
CLEAR, CRYPTIC, BY_KERAS = "rejected clearly", "rejected cryptically", "rejected by Keras"
ACCEPTED, NOT_FINITE = "accepted", "accepted, not finite"
DEEPEST = 4


def outcome_of(target: Target, argument: str, value: str) -> dict[str, str]:
    """Call a function with one argument replaced, and return its outcome."""
    keras.utils.set_random_seed(0)
    try:
        with warnings.catch_warnings(), _whole_tracebacks():
            warnings.simplefilter("ignore")
            result, arguments = target.call({argument: VALUES[value]()})
            others = [other for name, other in arguments.items() if name != argument]
            return {"verdict": ACCEPTED if is_finite(result) and is_finite(others) else NOT_FINITE}
    except Exception as error:  # of any type, because the type is what is recorded
        verdict = verdict_of(error, handed_on=argument in KERAS_OWN)
        return {"verdict": verdict, "error": type(error).__name__, "message": str(error)[:300]}
    finally:
        plt.close("all")


def verdict_of(error: BaseException, *, handed_on: bool) -> str:
    """How an error counts. handed_on: whether the argument is passed to Keras unchanged."""
    if isinstance(error, TYPES) and any(map(_meant, _repeated(error))):
        return CLEAR
    if isinstance(error, TypeError) and SIGNATURE.search(str(error)):
        return CLEAR
    return BY_KERAS if handed_on else CRYPTIC


def is_finite(value: Any, depth: int = 0) -> bool:
    """Whether a result, and everything in it, is without NaN and infinity."""
    if isinstance(value, float | np.floating | complex):
        return bool(np.isfinite(value))
    if isinstance(value, keras.Variable | tf.Variable | tf.Tensor | np.ndarray):
        return _all_finite(np.asarray(value)) if _readable(value) else True
    if isinstance(value, tf.data.Dataset):
        return all(is_finite(batch, depth + 1) for batch in value.take(1))
    if isinstance(value, keras.callbacks.History):
        return is_finite(value.history, depth + 1)
    if depth >= DEEPEST:
        return True
    return all(is_finite(part, depth + 1) for part in _parts(value))


@contextlib.contextmanager
def _whole_tracebacks() -> Iterator[None]:
    """Let Keras keep its own lines in a traceback; without them, it does not say who raised an error."""
    filtering = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtering:
            keras.config.enable_traceback_filtering()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, keras.layers.Layer):
        yield from value.weights
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    elif type(value).__module__.startswith("meta_keras"):
        settings = vars(value).items()
        yield from (part for name, part in settings if not name.startswith("_") and not isinstance(part, tf.Module))


def _all_finite(array: np.ndarray) -> bool:
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def _readable(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (hasattr(value, "numpy") and value.dtype not in (tf.string, tf.variant))


def _repeated(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that its message repeats."""
    yield error
    inner = error.__cause__ or error.__context__
    if inner is not None and str(inner) and str(inner).strip() in str(error):
        yield from _repeated(inner)


def _meant(error: BaseException) -> bool:
    """Whether a `raise` statement of ours raised this error, with an informative message."""
    last = _innermost(error.__traceback__)
    if last is None or not last.tb_frame.f_code.co_filename.startswith(ROOM):
        return False
    operations = {one.offset: one.opname for one in dis.get_instructions(last.tb_frame.f_code)}
    return operations.get(last.tb_lasti) == "RAISE_VARARGS" and len(str(error)) >= SHORTEST


def _innermost(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback
