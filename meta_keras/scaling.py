"""Whether a model scales pixels itself: what its first layers with weights receive for a black and a white image.

Tasks contain pixels as floats from 0 to 1, so a network that divides them by 255 would scale them twice. Whether it
does is known only with the first examples, since floats may have other units, such as those of a tomogram. What trains
plain Keras models on arrays passes integers from 0 to 255 on, so there a model must scale them itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import BRIGHTEST, CHANNELS, DIMMEST, is_pixels
from meta_keras.internals import all_layers, calls_of, input_structure
from meta_keras.traces import at_weights, check_derivatives, input_specs

PREPROCESSING = keras.layers.Rescaling | keras.layers.Normalization
# Layers to which the range of their inputs does not matter.
INDIFFERENT = (
    keras.layers.BatchNormalization
    | keras.layers.GroupNormalization
    | keras.layers.LayerNormalization
    | keras.layers.Embedding
)
BLACK_AND_WHITE = np.array([0.0, 1.0], "float32")
SIDE = 256  # of these images, where a model takes images of any size
FAILURES = (AttributeError, TypeError, ValueError, tf.errors.OpError)  # of a layer that is called on such images
ROUNDING = 0.02  # of a white pixel in half precision, or as a weighted mean of its channels
SMALLEST_RANGE = 1 / 32  # of what a layer gets for pixels from 0 to 1, compared with its largest number
STANDARDIZED = 8  # what pixels hardly exceed once they are scaled, also by their mean and variance


def check_scaled(model: keras.Model, inputs: Any, name: str = "x") -> None:
    """Raise a ValueError if arrays or tensors of pixels would reach a plain Keras model that is not made for them.

    Keras passes integers on as they are, and so does everything that trains a model of the user's own, so that the
    model takes the same inputs before, within and after this training.
    """
    for index, examples in enumerate(_in_order(model, inputs)):
        if isinstance(examples, np.ndarray | tf.Tensor | tf.Variable | tf.TensorSpec) and _are_unscaled_pixels(
            model, index, examples
        ):
            raise ValueError(
                f"{name} must be floats: these are pixels from 0 to {BRIGHTEST}, and {model.name!r} takes floats and "
                f"does not scale them. Divide them by {BRIGHTEST}, as the tasks of this library do, or start the model "
                f"with keras.layers.Rescaling(1 / {BRIGHTEST}). If it was trained on larger numbers, or these are not "
                f"pixels, pass {name}.astype('float32')."
            )


def check_task_network(*, twice: bool = False, **networks: keras.Model) -> None:
    """Raise an error unless a network is built, has one input, and can be differentiated.

    twice: whether it is differentiated twice.
    """
    checks.built_model(**networks)
    checks.one_input(**networks)
    ((_, network),) = networks.items()
    check_derivatives(network, twice=twice)


def check_scaled_once(examples: tf.Tensor, **networks: keras.Model) -> None:
    """Raise a ValueError if a network, given by name, would scale these examples once more.

    >>> scaling = keras.layers.Rescaling(1 / 255)
    >>> network = keras.Sequential([keras.Input((4, 4, 1)), scaling, keras.layers.Conv2D(1, 1)])
    >>> check_scaled_once(tf.constant([[[[0.0]], [[0.9]]]]), network=network)
    Traceback (most recent call last):
    ...
    ValueError: network must take pixels as floats from 0 to 1, as tasks have them, but is made for pixels from 0 to...
    """
    ((_, network),) = networks.items()
    if seem_scaled(examples, network) and (error := scaling_error(**networks)):
        raise ValueError(error)


def seem_scaled(examples: tf.Tensor, network: keras.Model) -> bool | tf.Tensor:
    """Whether these are probably scaled pixels: small numbers if the network takes images, otherwise from 0 to 1."""
    if not examples.dtype.is_floating:
        return False
    if _takes_images(network):
        largest = tf.reduce_max(tf.abs(examples))
        return (largest > 0) & (largest <= STANDARDIZED)
    return (tf.reduce_min(examples) >= 0) & (tf.reduce_max(examples) > 0.5) & (tf.reduce_max(examples) <= 1)


def scaling_error(**networks: keras.Model) -> str | None:
    """What to say if a network, given by name, scales pixels from 0 to 1 once more; None if it does not."""
    ((name, network),) = networks.items()
    if not any(_is_for_bytes(*first) for first in _first_inputs(network, 0, BLACK_AND_WHITE)):
        return None
    found = ", ".join(repr(layer.name) for layer in all_layers(network) if _scales_bytes(layer))
    return (
        f"{name} must take pixels as floats from 0 to 1, as tasks have them, but is made for pixels from 0 to "
        f"{BRIGHTEST}, which would then be scaled twice. Leave out {found or 'what scales them'}, or undo the "
        f"first scaling with Rescaling({BRIGHTEST}.0) before it."
    )


def _in_order(model: keras.Model, inputs: Any) -> list[Any]:
    """The arrays in the order of the model's inputs, as Keras assigns them: those of a dictionary by name."""
    structure = input_structure(model) if getattr(model, "inputs", None) else None
    if isinstance(inputs, Mapping) and isinstance(structure, Mapping):
        inputs = {key: inputs[key] for key in structure if key in inputs}
    elif isinstance(inputs, Mapping) and structure is not None:
        inputs = [inputs[one.name] for one in model.inputs if one.name in inputs]
    return keras.tree.flatten(inputs)


def _are_unscaled_pixels(model: keras.Model, index: int, examples: Any) -> bool:
    """Whether these are pixels, and the model takes floats as this input, which it does not scale."""
    if not is_pixels(tf.TensorSpec(examples.shape, examples.dtype)):
        return False
    inputs = getattr(model, "inputs", None)
    if inputs and (index >= len(inputs) or not keras.backend.is_float_dtype(inputs[index].dtype)):
        return False
    return any(_gets_bytes(layer, pair) for layer, pair, _ in _first_inputs(model, index, BRIGHTEST * BLACK_AND_WHITE))


def _gets_bytes(layer: keras.layers.Layer | None, pair: Sequence[np.ndarray]) -> bool:
    """Whether a layer gets pixels from 0 to 255 unchanged, and does not normalize them."""
    black, white = pair
    if isinstance(layer, INDIFFERENT) or any(isinstance(one, PREPROCESSING) for one in _within(layer)):
        return False
    if _is_unknown(layer) and any(isinstance(one, INDIFFERENT | keras.layers.Lambda) for one in _within(layer)):
        return False
    return bool(np.any((black == 0) & np.isclose(white, BRIGHTEST, rtol=ROUNDING)))


def _is_for_bytes(layer: keras.layers.Layer | None, pair: Sequence[np.ndarray], is_within: bool) -> bool:
    """Whether pixels from 0 to 1 hardly make a difference to what a layer gets, since it is made for 0 to 255."""
    black, white = pair
    difference, largest = np.abs(white - black), np.maximum(np.abs(black), np.abs(white))
    hardly = difference < SMALLEST_RANGE * np.maximum(largest, 1)
    changed = difference > 0
    if changed.any() and hardly[changed].all():
        return True
    # What is in the layer. Its `Rescaling` has been applied already to values from within it.
    scaling = [one for one in _within(layer) if isinstance(one, PREPROCESSING)]
    scaling = [one for one in scaling if not (is_within and isinstance(one, keras.layers.Rescaling))]
    factors = [np.max(one.scale) for one in scaling if isinstance(one, keras.layers.Rescaling)]
    undone = max([np.max(largest, initial=0), *factors]) > 1 / SMALLEST_RANGE
    return any(map(_scales_bytes, scaling)) and not undone


def _scales_bytes(layer: keras.layers.Layer) -> bool:
    """Whether a layer brings pixels from 0 to 255 to a range of about 1."""
    if isinstance(layer, keras.layers.Rescaling):
        return bool(0 < np.max(layer.scale) < SMALLEST_RANGE)
    mean = getattr(layer, "mean", None) if isinstance(layer, keras.layers.Normalization) else None
    return mean is not None and bool(np.max(mean) > DIMMEST)


def _within(layer: keras.layers.Layer | None) -> list[keras.layers.Layer]:
    """A layer and the layers that it consists of, in an order which is not known."""
    return [] if layer is None else all_layers(layer)


def _is_unknown(layer: keras.layers.Layer | None) -> bool:
    """Whether a layer applies other layers in a way that cannot be seen: a model of the user's own, or a wrapper."""
    return isinstance(layer, keras.Model | keras.layers.Wrapper)


def _is_composite(layer: keras.layers.Layer | None) -> bool:
    """Whether what a layer computes before its first weights is not known from its class."""
    return layer is not None and (len(all_layers(layer)) > 1 or not type(layer).__module__.startswith("keras."))


def _takes_images(network: keras.Model) -> bool:
    """Whether each example is an image, of any size, or a stack of images; as far as this is known."""
    specs = input_specs(network)
    shape = () if specs is None else keras.tree.flatten(specs)[0].shape
    return len(shape) > 3 and shape[-1] in CHANNELS and all(size is None or size > 1 for size in shape[-3:-1])


def _first_inputs(
    model: keras.Model, index: int, pair: np.ndarray
) -> Iterator[tuple[keras.layers.Layer | None, Sequence[np.ndarray], bool]]:
    """The first layers with weights after an input, and what they get for a black and a white image.

    Layers that consist of others, and those of the user's own, get it where their first operation with weights is; the
    last part says if this is so. None stands for an output that has no such layer before it. A model whose
    preprocessing fails for these images, or whose inputs are not known, is itself such a layer.

    pair: (2,) the values of all pixels, or (2, ...) two examples.
    """
    try:
        found = _preprocessed(model, index, pair) if getattr(model, "inputs", None) else [(model, index, pair)]
    except FAILURES:  # such as a Reshape to one size, where any size is taken
        found = [(model, index, pair)]
    for layer, position, value in found:
        if layer is not model and isinstance(layer, keras.Model):
            yield from _first_inputs(layer, position, value)
        elif position == 0 and _is_composite(layer):
            yield from ((layer, *first) for first in _first_within(layer, value))
        else:
            yield layer, value, False


def _first_within(layer: keras.layers.Layer, pair: np.ndarray) -> list[tuple[Sequence[np.ndarray], bool]]:
    """What the first operations with weights get within a layer of one input, or the layer, if it cannot be called."""
    try:
        shape = _known_sizes(input_specs(layer)) if pair.ndim == 1 else pair.shape[1:]
        black, white = (at_weights(layer, np.broadcast_to(value, (2, *shape))) for value in pair)
    except FAILURES:
        return [(pair, False)]
    return [(values, True) for values in zip(black, white, strict=True)]


def _preprocessed(
    model: keras.Model, index: int, pair: np.ndarray
) -> list[tuple[keras.layers.Layer | None, int, np.ndarray]]:
    """Where an input first meets layers with weights, or becomes an output: the layer, which of its inputs, and the
    values there for the two examples. All other inputs of the model are zero, and then one."""
    ends = _ends_of_preprocessing(model, index)
    if not ends:
        return []
    # All inputs are outputs, too, since older versions of Keras refuse models with inputs that nothing depends on.
    preprocessing = keras.Model(model.inputs, [*(tensor for *_, tensor in ends), *model.inputs], name="preprocessing")
    found = []
    with tf.init_scope():  # also where a model is called within a function that is being traced
        for other in (0, 1) if len(model.inputs) > 1 else (0,):
            inputs = [tf.cast(tf.fill((2, *_known_sizes(one)), other), one.dtype) for one in model.inputs]
            images = np.stack([np.broadcast_to(value, _known_sizes(model.inputs[index])) for value in pair])
            inputs[index] = tf.cast(images, inputs[index].dtype)
            values = keras.tree.flatten(preprocessing(inputs, training=False))
            found += [(*end[:2], np.asarray(value, "float32")) for end, value in zip(ends, values, strict=False)]
    return found


def _known_sizes(spec: tf.TensorSpec | keras.KerasTensor) -> tuple[int, ...]:
    """The shape of an example, where sizes that are not known are SIDE."""
    return tuple(size or SIDE for size in spec.shape[1:])


def _ends_of_preprocessing(
    model: keras.Model, index: int
) -> list[tuple[keras.layers.Layer | None, int, keras.KerasTensor]]:
    """The layers with weights that an input meets first, each with which of its inputs this is, and its tensor."""
    ends, reached = [], {id(model.inputs[index])}
    for call in calls_of(model):
        for position, tensor in enumerate(call.input_tensors):
            if id(tensor) in reached and _has_weights(call.operation):
                ends.append((call.operation, position, tensor))
            elif id(tensor) in reached:
                reached |= set(map(id, call.output_tensors))
    return ends + [(None, 0, tensor) for tensor in model.outputs if id(tensor) in reached]


def _has_weights(operation: keras.Operation) -> bool:
    """Whether an operation is a layer with weights, apart from the mean and the variance of a `Normalization`."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    means = [one for one in all_layers(operation) if isinstance(one, keras.layers.Normalization)]
    known = {id(variable) for one in means for variable in one.weights}
    return any(id(variable) not in known for variable in operation.weights)
