"""Examples as a network takes them: the one place where pixels are scaled. Tasks, `adapt` and `predict` all use it.

Integer images hold pixels from 0 to 255 and become floats from 0 to 1. Floats are taken as they are, and tokens
(integers that are not images) stay integers, since an embedding layer looks them up.
"""

from typing import Any

import numpy as np
import tensorflow as tf

BRIGHTEST = 255
CHANNELS = (1, 3, 4)


def as_inputs(examples: tf.Tensor) -> tf.Tensor:
    """Examples (rows, ...) as a network takes them. Any number of leading axes may stand for tasks and rows."""
    if is_pixels(examples):
        return tf.cast(examples, tf.float32) / BRIGHTEST
    return tf.cast(examples, tf.float32) if examples.dtype.is_floating else examples


def is_pixels(examples: tf.Tensor) -> bool:
    """Whether these are images of integers: bytes of any shape, other integers of shape (..., side, side, channels)."""
    if examples.dtype == tf.uint8:
        return True
    return examples.dtype.is_integer and examples.shape.rank is not None and is_image_shape(examples.shape[-3:])


def is_image_shape(shape: Any) -> bool:
    """Whether (height, width, channels) is the shape of an image, and not of a sequence or a table."""
    shape = tuple(shape)
    return len(shape) == 3 and shape[-1] in CHANNELS and None not in shape[:2] and min(shape[:2]) > 1


def check_pixels(examples: np.ndarray, what: str = "The examples") -> None:
    """Raise a ValueError if images are not in the range that `as_inputs` expects, which would go unnoticed."""
    examples = np.asarray(examples)
    image = is_image_shape(examples.shape[-3:])
    if not examples.size or examples.dtype.kind not in "iuf" or not (image or examples.dtype == np.uint8):
        return
    low, high = examples.min(), examples.max()
    if examples.dtype.kind in "iu" and (low < 0 or high > BRIGHTEST):
        raise ValueError(
            f"{what} are integer images with values from {low} to {high}; pixels go from 0 to {BRIGHTEST}. Scale them "
            "to floats from 0 to 1 first."
        )
    if examples.dtype.kind == "f" and low >= 0 and 1.5 < high <= BRIGHTEST:
        raise ValueError(
            f"{what} are float images with values up to {high:g}. Floats are used as they are, so networks expect "
            f"them from 0 to 1: divide by {BRIGHTEST}, or pass the pixels as uint8."
        )
