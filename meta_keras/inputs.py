"""Examples as a network takes them: the only place where pixels are scaled. Tasks, `adapt` and `predict` all use it.

Integer images hold pixels from 0 to 255 and become floats from 0 to 1. Bytes (uint8) are always pixels, whatever their
shape. Floats are used unchanged, Booleans become 0 and 1, and all other integers are tokens that an embedding layer
looks up, so they are not changed.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks

BRIGHTEST = 255
LARGEST_FLOAT = 1.5  # of pixels as floats, which resizing may bring above 1
CHANNELS = (1, 3, 4)
# Integer images without larger values are probably not pixels from 0 to 255 but masks, 4-bit images or class maps.
DIMMEST = 16


def as_inputs(examples: tf.Tensor, *, leading: int = 1) -> tf.Tensor:
    """Examples as a network takes them.

    leading: how many axes come before those of one example: 1 for rows, 2 for tasks with rows.

    >>> as_inputs(tf.constant([[0, 51, 255]], tf.uint8)).numpy()
    array([[0. , 0.2, 1. ]], dtype=float32)
    >>> as_inputs(tf.constant([[0, 51, 255]])).dtype
    tf.int32
    """
    if is_pixels(examples, leading=leading):
        return tf.cast(examples, tf.float32) / BRIGHTEST
    as_float = examples.dtype.is_floating or examples.dtype == tf.bool
    return tf.cast(examples, tf.float32) if as_float else examples


def is_pixels(examples: tf.Tensor, *, leading: int = 1) -> bool:
    """Whether these are pixels: bytes of any shape, or other integers of shape (..., height, width, channels)."""
    if examples.dtype == tf.uint8:
        return True
    shape = examples.shape
    return examples.dtype.is_integer and shape.rank is not None and _ends_in_image(shape[leading:])


def is_image_shape(shape: Any) -> bool:
    """Whether (height, width, channels) is the shape of an image, and not of a sequence or a table."""
    shape = tuple(shape)
    return len(shape) == 3 and shape[-1] in CHANNELS and None not in shape[:2] and min(shape[:2]) > 1


def check_pixels(examples: np.ndarray, what: str = "The examples", *, leading: int = 1, whole: bool = False) -> None:
    """Raise a ValueError if images are not in the range that `as_inputs` expects; nothing else would notice.

    whole: whether these are all examples of a data set. Then a very small range is suspicious too, whereas a few images
        may all be dark.
    """
    examples = np.asarray(examples)
    image = _ends_in_image(examples.shape[leading:]) or _are_float_pixels(examples, leading)
    if not examples.size or examples.dtype.kind not in "iuf" or not (image or examples.dtype == np.uint8):
        return
    low, high = examples.min(), examples.max()
    if examples.dtype.kind in "iu" and (low < 0 or high > BRIGHTEST):
        raise ValueError(
            f"{what} are integer images with values from {low} to {high}, but pixels go from 0 to {BRIGHTEST}. Scale "
            "them to floats from 0 to 1 first."
        )
    if whole and examples.dtype.kind in "iu" and 0 < high <= DIMMEST:
        raise ValueError(
            f"{what} are integer images with values only up to {high}. Pixels go from 0 to {BRIGHTEST} and are divided "
            f"by {BRIGHTEST}, which would make these almost black. Divide them by {high} yourself, as floats "
            "(x.astype('float32')), or pass masks as x.astype(bool). Tokens are int32, not uint8."
        )
    if examples.dtype.kind == "f" and low >= 0 and high > LARGEST_FLOAT:
        raise ValueError(
            f"{what} are float images with values from {low:g} to {high:g}. Floats are used as they are, and networks "
            f"expect them from 0 to 1. Divide pixels by {BRIGHTEST} or pass them as uint8; otherwise divide by the "
            "largest value, or subtract the mean."
        )


def check_inputs(model: keras.Model, x: Any, name: str = "x") -> None:
    """Raise a ValueError unless the examples x fit the model, as far as its inputs are known.

    A model with several inputs needs the same number of arrays; these are not checked further.
    """
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) > 1:
        given = len(x) if isinstance(x, list | tuple | dict) else 1
        if given != len(inputs):
            raise ValueError(f"{name} must be {len(inputs)} arrays, the inputs of {model.name!r}; got {given}.")
        return
    checks.examples(**{name: x})
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    kind = getattr(dtype, "name", dtype)
    is_text = kind.startswith(("str", "bytes", "object"))
    for expected in inputs:
        fitting = tf.TensorShape(np.shape(x)).is_compatible_with(expected.shape)
        if not fitting or is_text != (expected.dtype == "string"):
            raise ValueError(
                f"{name} must have the shape {tuple(expected.shape)} and a type like {expected.dtype}, as the inputs "
                f"of {model.name!r}; got {kind} of shape {np.shape(x)}."
            )


def _are_float_pixels(examples: np.ndarray, leading: int) -> bool:
    """Whether tables of floats, such as images without an axis for channels, hold only whole numbers up to 255."""
    if examples.dtype.kind != "f" or examples.ndim < leading + 2 or not examples.size:
        return False
    low, high = examples.min(), examples.max()
    return bool(low >= 0 and 100 < high <= BRIGHTEST and (examples == np.round(examples)).all())


def _ends_in_image(shape: Any) -> bool:
    """Whether each example is an image, or a stack of images such as a video."""
    return is_image_shape(shape[-3:])
