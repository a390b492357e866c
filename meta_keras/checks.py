"""Validation of arguments, in one place: each check raises an error that names the argument and what it must be.

Every function takes keyword arguments, so that the message can name them:

    >>> at_least(1, ways=5, shots=1)
    >>> positive(learning_rate=-0.1)
    Traceback (most recent call last):
    ...
    ValueError: learning_rate must be a positive finite number; got -0.1.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np
import tensorflow as tf

LONGEST_SHOWN = 80
LARGEST = float(np.finfo(np.float32).max)


def positive(**numbers: Any) -> None:
    """Finite numbers above 0, such as learning rates and temperatures."""
    for name, number in numbers.items():
        _require(_is_finite(number) and number > 0, name, "a positive finite number", number)


def nonnegative(**numbers: Any) -> None:
    """Finite numbers of 0 or more, such as weights of a loss and standard deviations."""
    for name, number in numbers.items():
        _require(_is_finite(number) and number >= 0, name, "a finite number of at least 0", number)


def finite(**numbers: Any) -> None:
    """Any finite numbers."""
    for name, number in numbers.items():
        _require(_is_finite(number), name, "a finite number", number)


def fraction(**numbers: Any) -> None:
    """Numbers from 0 to 1, such as probabilities and mixing coefficients."""
    between(0, 1, **numbers)


def between(lowest: float, highest: float, **numbers: Any) -> None:
    """Numbers from `lowest` to `highest`, such as temperatures."""
    for name, number in numbers.items():
        holds = _is_finite(number) and lowest <= number <= highest
        _require(holds, name, f"a number from {lowest} to {highest}", number)


def at_least(lowest: int, **numbers: Any) -> None:
    """Integers of at least `lowest`, such as counts and batch sizes."""
    for name, number in numbers.items():
        _require(is_integer(number) and number >= lowest, name, f"an integer of at least {lowest}", number)


def integer(**numbers: Any) -> None:
    """Integers of 64 bits, such as seeds."""
    for name, number in numbers.items():
        _require(is_integer(number), name, "an integer", number)
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{name} must fit into 64 bits; got {number}.")


def flag(**values: Any) -> None:
    """True or False, and not an array or a string that Python would also accept as a condition."""
    for name, value in values.items():
        _require(isinstance(value, bool | np.bool_), name, "True or False", value)


def one_of(choices: Iterable[Any], **values: Any) -> None:
    """One of a few choices, compared by type and value, so that an array is not compared element by element."""
    choices = tuple(choices)
    for name, value in values.items():
        known = any(type(value) is type(choice) and value == choice for choice in choices)
        _require(known, name, f"one of {', '.join(map(repr, choices))}", value)


def interval(**values: Any) -> None:
    """Two finite numbers in ascending order, such as a range to draw from."""
    for name, value in values.items():
        pair = is_sequence(value) and len(value) == 2
        _require(
            pair and all(map(_is_finite, value)) and value[0] <= value[1], name, "two finite numbers, low first", value
        )


def shape(**values: Any) -> None:
    """Shapes without the batch axis, such as (28, 28, 1)."""
    for name, value in values.items():
        sizes = list(value) if isinstance(value, list | tuple) else []
        _require(
            len(sizes) > 0 and all(is_integer(size) and size >= 1 for size in sizes),
            name,
            "a tuple of integers of at least 1, such as (28, 28, 1)",
            value,
        )


def numbers(**values: Any) -> None:
    """Arrays of real numbers, or lists that NumPy makes one of; True and False count as 1 and 0."""
    for name, value in values.items():
        try:
            kind = np.asarray(value).dtype.kind
        except (NotImplementedError, TypeError, ValueError):  # ragged lists, tensors of a graph
            kind = "O"
        _require(kind in "iufb", name, "an array of numbers", value)


def finite_numbers(**values: Any) -> None:
    """Arrays without NaN and infinity. Anything but an array of numbers, such as several inputs, is not checked."""
    for name, value in values.items():
        array = np.asarray(value) if _shape_of(value) is not None else np.zeros(0)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"{name} must be finite; {np.sum(~np.isfinite(array))} of its numbers are NaN or infinite."
            )


def text(**values: Any) -> None:
    """Strings."""
    for name, value in values.items():
        _require(isinstance(value, str), name, "a string", value)


def path(**values: Any) -> None:
    """Paths of files or folders: strings or `pathlib` paths."""
    for name, value in values.items():
        _require(isinstance(value, str | os.PathLike), name, "a path", value)


def names(**values: Any) -> None:
    """One string, or a list or tuple of strings with at least one entry."""
    for name, value in values.items():
        listed = isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(one, str) for one in value)
        _require(isinstance(value, str) or listed, name, "a name or a list of names", value)


def examples(**values: Any) -> None:
    """Arrays, tensors or lists with one row per example, and at least one row; all rows of one shape."""
    for name, value in values.items():
        shape = None if isinstance(value, tf.RaggedTensor | tf.SparseTensor | keras.KerasTensor) else _shape_of(value)
        _require(bool(shape) and shape[0] != 0, name, "an array with one row per example, and at least one", value)


def function(**values: Any) -> None:
    """Anything that can be called."""
    for name, value in values.items():
        _require(callable(value), name, "a function", value)


def mapping(**values: Any) -> None:
    """Dictionaries."""
    for name, value in values.items():
        _require(isinstance(value, Mapping), name, "a dictionary", value)


def built_model(**models: Any) -> None:
    """Keras models (or layers) that have their weights."""
    for name, model in models.items():
        if not isinstance(model, keras.layers.Layer) or isinstance(model, type):
            raise TypeError(f"{name} must be a Keras model; got {shown(model)}.")
        if not model.built:
            raise ValueError(
                f"{name} must have its weights, but {model.name!r} has no weights yet. Start the model with "
                "keras.Input(shape), or call it once on an example of its inputs."
            )


def fittable_model(**models: Any) -> None:
    """Keras models that have their weights, and not single layers: they can be compiled and trained."""
    built_model(**models)
    for name, model in models.items():
        if not isinstance(model, keras.Model):
            raise TypeError(f"{name} must be a Keras model, not a layer; got {shown(model)}.")


def unconstrained(variables: Iterable[keras.Variable]) -> None:
    """Raise a ValueError if weights that inner steps change have a constraint, which only Keras' optimizers apply."""
    for variable in variables:
        if variable.constraint is not None:
            raise ValueError(
                f"Inner steps do not apply the {type(variable.constraint).__name__} constraint of {variable.path!r}. "
                "Leave it out, or let the inner loop change other layers: GradientDescent(..., layers=...)."
            )


def one_input(**models: Any) -> None:
    """Models with a single input, as far as the number of inputs is known."""
    for name, model in models.items():
        if (inputs := len(getattr(model, "inputs", None) or [None])) > 1:
            raise ValueError(f"{name} must have one input; {model.name!r} has {inputs}.")


def one_device(model: keras.Model) -> None:
    """Models with a training step of their own, which several replicas would take once each."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise ValueError(
            f"A {type(model).__name__} trains on one device; this strategy has {replicas} replicas. Make and compile "
            "it outside of strategy.scope()."
        )


def outside_of_scopes() -> None:
    """Code that must not run within the scope of a strategy."""
    if tf.distribute.has_strategy():
        raise ValueError(
            "Train and evaluate outside of strategy.scope(), within which only the network and the learner are created."
        )


def is_integer(value: Any) -> bool:
    """Whether a value is an integer in Python's or NumPy's sense; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, a tuple or an array with one axis; a string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) or getattr(value, "ndim", 0) == 1


def shown(value: Any) -> str:
    """A value as an error message shows it: short, and arrays by their type and shape."""
    shape = getattr(value, "shape", None)
    if shape is not None and getattr(shape, "__len__", None) and not isinstance(value, np.generic):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, keras.layers.Layer):
        return f"{type(value).__name__} {value.name!r}"
    written = repr(value)
    if len(written) > LONGEST_SHOWN or "\n" in written:
        return f"a value of type {type(value).__name__}"
    return written


def _require(holds: bool, name: str, expected: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}; got {shown(value)}.")


def _shape_of(value: Any) -> tuple[int | None, ...] | None:
    """The shape of an array, a tensor, or a list of numbers; None for anything else."""
    try:
        return np.shape(value) if isinstance(value, list | tuple) else tuple(value.shape)
    except (AttributeError, TypeError, ValueError):
        return None


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that 32-bit floats can hold; an integer may be too large for any float."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and bool(abs(value) <= LARGEST)
