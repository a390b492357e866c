"""Examples as a network takes them: the only place where pixels are scaled. Tasks, `adapt` and `predict` all use it.
What trains plain Keras models on arrays does not scale them, and refuses pixels where a model takes floats.

Integer images hold pixels from 0 to 255 and become floats from 0 to 1. Bytes (uint8) are always pixels, whatever their
shape. Floats are used unchanged, Booleans become 0 and 1, and all other integers are tokens that an embedding layer
looks up, so they are not changed.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.internals import all_layers, uses_of

BRIGHTEST = 255
LARGEST_FLOAT = 1.5  # of pixels as floats, which resizing may bring above 1
CHANNELS = (1, 3, 4)
SCALING_PIXELS = keras.layers.Rescaling | keras.layers.Normalization
# Layers after which the range of an input no longer matters, or may have been changed.
SCALING = SCALING_PIXELS | keras.layers.BatchNormalization | keras.layers.Embedding | keras.layers.Lambda
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


def check_scaled(model: keras.Model, inputs: Any, name: str = "x") -> None:
    """Raise a ValueError if pixels would reach a plain Keras model that is not made for them.

    Keras passes integers on as they are, and so does everything that trains a model of the user's own, so that the
    model takes the same inputs before, within and after this training.
    """
    given = tf.nest.flatten(inputs)
    places = range(len(given)) if len(given) == len(getattr(model, "inputs", None) or ()) else [0] * len(given)
    for place, one in zip(places, given, strict=True):
        if isinstance(one, np.ndarray | tf.Tensor | tf.TensorSpec) and _takes_floats_only(model, place, one):
            raise ValueError(
                f"{name} must be floats: these are pixels from 0 to {BRIGHTEST}, and {model.name!r} takes floats and "
                f"does not scale them. Divide them by {BRIGHTEST}, as the tasks of this library do, or start the model "
                f"with keras.layers.Rescaling(1 / {BRIGHTEST}). If it was trained on larger numbers, or these are no "
                f"pixels, pass {name}.astype('float32')."
            )


def _takes_floats_only(model: keras.Model, place: int, examples: Any) -> bool:
    """Whether these are pixels, and a model takes floats in this place, which it does not scale."""
    spec = tf.TensorSpec(examples.shape, examples.dtype)
    inputs = getattr(model, "inputs", None) or ()
    integers = inputs and not keras.backend.is_float_dtype(inputs[place].dtype)
    return is_pixels(spec) and not integers and not scales(model, place)


def scales(model: keras.Model, place: int = 0) -> bool:
    """Whether a model scales an input, computes with it or looks it up before its first layer with other weights."""
    if not getattr(model, "inputs", None):  # a subclass, of which only the layers are known
        return any(isinstance(layer, SCALING) for layer in all_layers(model))
    return _is_scaled(model, model.inputs[place])


def _is_scaled(model: keras.Model, tensor: keras.KerasTensor) -> bool:
    for operation, outputs in uses_of(model, tensor):
        if isinstance(operation, keras.Model):
            scaled = scales(operation)
        else:
            scaled = not isinstance(operation, keras.layers.Layer) or isinstance(operation, SCALING)
            scaled = scaled or any(isinstance(one, SCALING_PIXELS) for one in all_layers(operation))
        if scaled or (not operation.weights and any(_is_scaled(model, output) for output in outputs)):
            return True
    return False


def check_task_network(**networks: keras.Model) -> None:
    """Raise an error unless a network is built, has one input, and takes images as floats from 0 to 1, as tasks have.

    >>> scaling = keras.layers.Rescaling(1 / 255, name="pixels")
    >>> check_task_network(network=keras.Sequential([keras.Input((4, 4, 1)), scaling]))
    Traceback (most recent call last):
    ...
    ValueError: network must take pixels as floats from 0 to 1, as tasks have them, but its layer 'pixels' is for...
    """
    checks.built_model(**networks)
    checks.one_input(**networks)
    ((name, network),) = networks.items()
    shape = getattr(network, "input_shape", None)
    if not isinstance(shape, tuple) or not _ends_in_image(shape):
        return
    for layer in all_layers(network):
        divides = isinstance(layer, keras.layers.Rescaling) and 0 < np.max(layer.scale) < 1 / 64
        mean = getattr(layer, "mean", None) if isinstance(layer, keras.layers.Normalization) else None
        if divides or (mean is not None and np.max(mean) > DIMMEST):
            raise ValueError(
                f"{name} must take pixels as floats from 0 to 1, as tasks have them, but its layer {layer.name!r} is "
                f"for pixels from 0 to {BRIGHTEST}, which would then be scaled twice. Leave this layer out."
            )


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
