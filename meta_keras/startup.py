"""Imports TensorFlow without its start-up log, and makes sure that Keras uses it. Imports nothing of this package."""

import contextlib
import os
import sys
from collections.abc import Iterator

SHOW_LOGS = "META_KERAS_TF_LOGS"


@contextlib.contextmanager
def _without_standard_error() -> Iterator[None]:
    """Redirect the file descriptor itself, since TensorFlow's C++ code writes there before its log level can be set."""
    sys.stderr.flush()
    original, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(nowhere)


def start_tensorflow() -> None:
    """Import TensorFlow without its log (META_KERAS_TF_LOGS=1 shows it) and check the backend of Keras."""
    if "tensorflow" not in sys.modules and not os.environ.get(SHOW_LOGS):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _without_standard_error():
            import tensorflow  # noqa: F401
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"meta_keras needs Keras' TensorFlow backend; Keras uses {keras.backend.backend()!r}. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )
