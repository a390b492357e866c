"""Fine-tuning (微调): train on from what a model has learned, all of it or some, the top before the bottom."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.internals import all_layers
from meta_keras.transfer.frozen import held
from meta_keras.transfer.losses import default_loss
from meta_keras.transfer.parts import choose, own_weights, parts


def freeze(model: keras.Model, train: str | Sequence[str] = "head", *, batch_norm: bool = False) -> list[str]:
    """Let some layers of a model train and freeze all others. Returns the names of those that train.

    train: "head", the last layer with weights; "all"; or names of layers. What is within a `Frozen` layer never trains.
    batch_norm: whether batch normalisation trains too. Usually it should not: its moving averages would be overwritten
        by those of a few new examples. A frozen one runs in inference mode, in `fit` too. One that is named trains.

    >>> from meta_keras import networks
    >>> freeze(networks.d3(10))
    ['head']
    """
    still = held(model)
    there = {name: layer for name, layer in parts(model).items() if id(layer) not in still}
    names = list(there)[-1:] if train == "head" else list(there) if train == "all" else choose(model, train)
    if not set(names) <= set(there):
        wrong = next(name for name in names if name not in there)
        raise ValueError(f"{wrong!r} lies within a Frozen layer, which never trains. Those that can: {list(there)}.")
    if not batch_norm and train in ("head", "all"):
        names = [name for name in names if not isinstance(there[name], keras.layers.BatchNormalization)]
    # One by one: on TensorFlow, Keras passes `model.trainable = True` on to the layers only if it was False before.
    for layer in all_layers(model):
        layer.trainable = id(layer) not in still
    freeze_layers(layer for name, layer in there.items() if name not in names)
    return names


def freeze_layers(layers: Iterable[keras.layers.Layer]) -> None:
    """Let these layers not train, and say nothing of the layers within them."""
    for layer in layers:
        if len(own_weights(layer)) == len(layer.weights):
            layer.trainable = False
        else:  # Keras would pass it on to the layers within
            for weight in own_weights(layer):
                weight.trainable = False


def fine_tune(
    model: keras.Model,
    data: Any,
    *,
    train: str | Sequence[str] | None = "head",
    gradual: int = 0,
    rate: float | None = None,
    depth_decay: float = 1.0,
    batch_norm: bool = False,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    loss: Any = None,
    metrics: list[Any] | None = None,
    **fit: Any,
) -> keras.callbacks.History:
    """Train some of a model's layers on new data, the others bit for bit as they were. Returns Keras' history.

    The model is compiled anew, and what was frozen stays so until you say otherwise (see `freeze`).

    data: `(x, y)`, a `tf.data.Dataset` of batches, or a `keras.utils.PyDataset`.
    train, batch_norm: what trains, as in `freeze`. None leaves every layer as trainable as it is.
    gradual: after so many epochs the next layer below trains too, beginning with the head alone (Howard and Ruder,
        "Universal Language Model Fine-tuning for Text Classification", 2018). Each such stage has an optimizer of its
        own, and the last lasts to the end of `epochs`. 0 trains all of them from the start.
    rate: the learning rate of the head, 0.001 if the optimizer is a name. depth_decay: the rate of each layer further
        down is so many times that of the layer above (the same paper; Formula 3.3).
    loss: by default cross-entropy for whole numbers as labels, else the mean squared error; metrics: accuracy, if so.
        A loss that you name takes whatever answers it takes.
    fit: what `keras.Model.fit` takes, such as epochs, batch_size, validation_data, callbacks, verbose.
    """
    x, y, right = _inputs_and_answers(data)
    if loss is None:
        right = tf.convert_to_tensor(right)
        _check_answers(model, right)
        loss = default_loss(model, right)
        metrics = ["accuracy"] if metrics is None and right.dtype.is_integer else metrics
    names = freeze(model, train, batch_norm=batch_norm) if train is not None else _training(model)
    if y is None:
        fit.setdefault("shuffle", False)  # a dataset is shuffled as it was made, and Keras would warn
    history = keras.callbacks.History()
    history.epoch = []
    for stage, first, last in _stages(names, gradual, fit.pop("epochs", 1)):
        if gradual:
            freeze(model, stage)
        fresh = _optimizer(optimizer, rate)
        if depth_decay != 1:
            slow_by_depth(fresh, model, depth_decay)
        model.compile(fresh, loss=loss, metrics=metrics)
        part = model.fit(x, y, initial_epoch=first, epochs=last, **fit)
        history.epoch += part.epoch
        for name, values in part.history.items():
            history.history.setdefault(name, []).extend(values)
        if model.stop_training:
            break
    history.set_model(model)
    return history


def slow_by_depth(optimizer: keras.optimizers.Optimizer, model: keras.Model, decay: float) -> None:
    """Let each layer learn at `decay` times the rate of the layer above it (Formula 3.3).

    alpha_l = alpha * decay ** depth_l,  depth 0 for the head
    """
    if not 0 < decay <= 1:
        raise ValueError(f"depth_decay is a number above 0, and 1 at most; {decay!r} was given.")
    factors = {
        optimizer._var_key(weight): decay**depth
        for depth, layer in enumerate(reversed(parts(model).values()))
        for weight in layer.trainable_weights
    }
    step = optimizer.update_step

    def slowed(gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        step(gradient, variable, learning_rate * tf.cast(factors[optimizer._var_key(variable)], learning_rate.dtype))

    # Keras has one rate for all weights. Scaled gradients would not do: Adam divides their scale out again.
    optimizer.update_step = slowed


def _training(model: keras.Model) -> list[str]:
    return [name for name, layer in parts(model).items() if layer.trainable_weights]


def _stages(names: list[str], gradual: int, epochs: int) -> Iterator[tuple[list[str], int, int]]:
    """What trains from which epoch to which: one layer more in every stage, from the top."""
    if not gradual:
        yield names, 0, epochs
        return
    if epochs < gradual * len(names):
        raise ValueError(
            f"{len(names)} layers, one more after every {gradual} epochs, need {gradual * len(names)} epochs; "
            f"epochs={epochs} was given. Give more epochs, a smaller gradual=, or fewer layers to train."
        )
    for count in range(1, len(names) + 1):
        yield names[-count:], (count - 1) * gradual, count * gradual if count < len(names) else epochs


def _optimizer(optimizer: str | keras.optimizers.Optimizer, rate: float | None) -> keras.optimizers.Optimizer:
    """A fresh optimizer: its memory of earlier steps belongs to other weights."""
    if isinstance(optimizer, keras.optimizers.Optimizer):
        if rate is not None:
            raise ValueError(f"{optimizer.name!r} brings a learning rate of its own; leave rate= out.")
        return optimizer.from_config(optimizer.get_config())
    fresh = keras.optimizers.get(optimizer)
    fresh.learning_rate = 1e-3 if rate is None else rate
    return fresh


def _inputs_and_answers(data: Any) -> tuple[Any, Any, Any]:
    """What `fit` takes as x and y, and some of the right answers: those of the first batch, where batches have them."""
    if isinstance(data, tuple) and len(data) == 2 and data[1] is not None:
        return *data, data[1]
    batch = None
    if isinstance(data, tf.data.Dataset):
        batch = next(iter(data), None)
    elif isinstance(data, keras.utils.PyDataset):
        batch = data[0]
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(
            "Fine-tuning needs inputs and answers: (x, y), or a dataset of such batches. "
            "Weights of the rows are given as sample_weight=."
        )
    return data, None, batch[1]


def _check_answers(model: keras.Model, right: tf.Tensor) -> None:
    """Raise a ValueError unless the answers are numbers, and each label has an output."""
    if not tf.size(right) or not (right.dtype.is_integer or right.dtype.is_floating):
        raise ValueError(
            f"Answers are whole numbers for classes, or other numbers; these are {right.dtype.name} of shape "
            f"{tuple(right.shape)}. Number the classes from 0."
        )
    shape = getattr(model, "output_shape", None)  # of a subclassed model it is not known
    if not right.dtype.is_integer or not isinstance(shape, tuple) or shape[-1] is None:
        return
    wrong = [label for label in (np.max(right), np.min(right)) if not 0 <= label < shape[-1]]
    if wrong:
        raise ValueError(
            f"The model {model.name!r} has {shape[-1]} outputs, for labels 0 to {shape[-1] - 1}; the label {wrong[0]} "
            "was given. Give it a head for these classes, number them from 0, or name the loss."
        )
