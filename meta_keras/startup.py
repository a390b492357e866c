"""Start TensorFlow without its start-up log, and make sure that Keras runs on it. Imports nothing of ours."""

import contextlib
import os
import sys
from collections.abc import Iterator

SHOW_LOGS = "META_KERAS_TF_LOGS"


@contextlib.contextmanager
def _standard_error_held_back() -> Iterator[None]:
    """Silence the file descriptor itself: TensorFlow's C++ writes there before Python can set its log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def start_tensorflow() -> None:
    """Import TensorFlow quietly (set META_KERAS_TF_LOGS=1 to see its log) and check Keras' backend."""
    if "tensorflow" not in sys.modules and not os.environ.get(SHOW_LOGS):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _standard_error_held_back():
            import tensorflow  # noqa: F401
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"meta_keras runs on Keras' TensorFlow backend, and Keras has been set to {keras.backend.backend()!r}. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is first imported."
        )
