"""Fine-tuning (微调): train a model further on new data, all of its layers or some, or one more after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.internals import exclude_as
from meta_keras.outputs import LOGITS, as_metrics, completed_loss, default_loss, last_axis_of, number_of_outputs
from meta_keras.scaling import check_scaled
from meta_keras.targets import check_not_broadcast, targets_by_name
from meta_keras.traces import final_activation
from meta_keras.transfer.freezing import freeze, names_to_train


def fine_tune(
    model: keras.Model,
    data: Any,
    *,
    train: str | Sequence[str] | None = "head",
    learning_rate: float | None = None,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    loss: Any = None,
    metrics: list[Any] | None = None,
    **fit: Any,
) -> keras.callbacks.History:
    """Train some layers of a model on new data, while the others stay exactly as they are. Returns Keras' history.

    The model is compiled again, and what was frozen stays frozen until you change it (see `freeze`).

    data: `(x, y)`, a `tf.data.Dataset` of batches, or a `keras.utils.PyDataset`.
    train: the layers that train, as in `freeze`. None leaves `trainable` of every layer as it is, for example after
        `freeze(model, "all", batch_norm=True)`.
    learning_rate: 0.001 by default. An optimizer object has its own, and is copied, as its state belongs to other
        weights. `LayerwiseLearningRates` gives each layer its own learning rate.
    loss: by default cross-entropy for integer labels, with accuracy as the metric, else the mean squared error.
    fit: arguments of `keras.Model.fit`, such as epochs, batch_size, validation_data, callbacks, verbose.

    >>> from meta_keras import networks
    >>> model, x = networks.d3(10), np.zeros((8, 28, 28, 1), np.float32)
    >>> history = fine_tune(model, (x, np.arange(8)), learning_rate=0.01, epochs=2, verbose=0)
    >>> [layer.name for layer in model.layers if layer.trainable_weights]
    ['head']
    """
    checks.fittable_model(model=model)
    _check_fit(fit)
    x, y, (inputs, targets) = _inputs_and_targets(data)
    check_scaled(model, inputs, "inputs")
    validation = fit.get("validation_data")
    if isinstance(validation, keras.utils.PyDataset):
        validation = validation[0]
    elif isinstance(validation, tf.data.Dataset):
        validation = validation.element_spec
    if isinstance(validation, tuple | list) and validation:
        check_scaled(model, validation[0], "validation_data")
    fresh = _fresh_optimizer(optimizer, learning_rate)
    one_output = number_of_outputs(model) == 1
    activation = final_activation(model) if one_output else "other"
    if loss is None:
        targets = tf.convert_to_tensor(targets)
        _check_targets(model, targets)
        loss = default_loss(final_activation(model), targets.dtype)
        metrics = ["accuracy"] if metrics is None and targets.dtype.is_integer else metrics
    elif activation in LOGITS:
        loss = _of_each(loss, lambda one: completed_loss(one, None, keras.config.floatx()))
    if activation in LOGITS:
        (first, *_) = keras.tree.flatten(loss)
        metrics = as_metrics(metrics, None, loss=first, width=last_axis_of(model) or _width_of_targets(targets))
    _check_compared(model, targets, loss, metrics)
    if train is not None:
        freeze(model, train)
    if isinstance(x, tf.data.Dataset):
        fit.setdefault("shuffle", False)  # it determines its own order, and Keras would warn
    model.compile(fresh, loss=loss, metrics=metrics)
    return model.fit(x, y, **fit)


def unfreeze_gradually(
    model: keras.Model,
    data: Any,
    *,
    train: str | Sequence[str] = "all",
    epochs_per_layer: int = 1,
    epochs: int | None = None,
    **settings: Any,
) -> keras.callbacks.History:
    """Fine-tune the last layer alone, then with the layer below it, and so on. Returns the history of all stages.

    Gradual unfreezing is due to Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018.

    train: the layers that train in the end, as in `freeze`. epochs_per_layer: how long each stage lasts; then the next
        layer below joins, with a fresh optimizer. epochs: in all, so that the last stage may last longer.
    settings: further arguments of `fine_tune`.

    >>> from meta_keras import networks
    >>> data = np.ones((4, 1)), np.ones((4, 1))
    >>> unfreeze_gradually(networks.mlp(1), data, epochs_per_layer=2, verbose=0).epoch
    [0, 1, 2, 3, 4, 5]
    """
    names = names_to_train(model, train)
    checks.at_least(1, epochs_per_layer=epochs_per_layer)
    needed = epochs_per_layer * len(names)
    epochs = needed if epochs is None else epochs
    checks.at_least(1, epochs=epochs)
    if epochs < needed:
        raise ValueError(
            f"{len(names)} layers with epochs_per_layer={epochs_per_layer} need {needed} epochs; got epochs={epochs}. "
            "Give more epochs, fewer epochs per layer, or fewer layers to train."
        )
    history = keras.callbacks.History()
    history.epoch = []
    for count in range(1, len(names) + 1):
        first, last = (count - 1) * epochs_per_layer, count * epochs_per_layer if count < len(names) else epochs
        stage = fine_tune(model, data, train=names[-count:], initial_epoch=first, epochs=last, **settings)
        history.epoch += stage.epoch
        for name, values in stage.history.items():
            history.history.setdefault(name, []).extend(values)
        if model.stop_training:
            break
    history.set_model(model)
    return history


def _check_fit(fit: dict[str, Any]) -> None:
    for name, lowest in (("epochs", 1), ("initial_epoch", 0), ("steps_per_epoch", 1), ("batch_size", 1)):
        if fit.get(name) is not None:
            checks.at_least(lowest, **{name: fit[name]})


def _fresh_optimizer(
    optimizer: str | keras.optimizers.Optimizer, learning_rate: float | None
) -> keras.optimizers.Optimizer:
    """An optimizer without state: what it remembers of earlier steps belongs to other weights."""
    if learning_rate is not None:
        checks.positive(learning_rate=learning_rate)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        if learning_rate is not None:
            raise ValueError(f"The optimizer {optimizer.name!r} has its own learning rate; leave learning_rate= out.")
        fresh = optimizer.from_config(optimizer.get_config())
        exclude_as(fresh, optimizer)
        return fresh
    checks.text(optimizer=optimizer)
    try:
        fresh = keras.optimizers.get(optimizer)
    except ValueError as error:
        raise ValueError(f"optimizer must be a Keras optimizer or the name of one; got {optimizer!r}.") from error
    fresh.learning_rate = 1e-3 if learning_rate is None else learning_rate
    return fresh


def _inputs_and_targets(data: Any) -> tuple[Any, Any, Any]:
    """What `fit` takes as x and y, and some of the inputs and targets: the first batch, if data comes in batches."""
    if isinstance(data, tuple) and len(data) == 2 and data[1] is not None:
        inputs = data[0].values() if isinstance(data[0], dict) else data[0] if isinstance(data[0], list) else [data[0]]
        checks.examples(**{f"inputs[{number}]" if number else "inputs": one for number, one in enumerate(inputs)})
        checks.examples(targets=data[1])
        return *data, data
    batch = None
    if isinstance(data, tf.data.Dataset):
        batch = next(iter(data), None)
    elif isinstance(data, keras.utils.PyDataset):
        batch = data[0]
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(
            f"data must be inputs and targets: (x, y), or a dataset of such batches; got {checks.shown(data)}. "
            "Weights of the examples are given as sample_weight=."
        )
    return data, None, batch[:2]


def _check_compared(model: keras.Model, targets: Any, loss: Any, metrics: Any) -> None:
    """Raise a ValueError if labels would be broadcast by a loss or metric of Keras that takes no labels."""
    shape = getattr(model, "output_shape", None)  # unknown for a subclassed model
    if number_of_outputs(model) == 1 and isinstance(shape, tuple) and hasattr(targets, "shape"):
        check_not_broadcast(targets_by_name(loss=loss, metrics=metrics), tf.convert_to_tensor(targets), shape)


def _width_of_targets(targets: Any) -> int | None:
    """The answers per row of a subclassed model, which does not say how many it has."""
    shape = tuple(getattr(targets, "shape", ()))
    return shape[-1] if len(shape) > 1 else 1 if len(shape) == 1 else None


def _of_each(loss: Any, function: Callable[[Any], Any]) -> Any:
    """A function of a loss, or of each one of a list or a dictionary, which Keras takes for a single output, too."""
    if isinstance(loss, list | tuple):
        return [function(one) for one in loss]
    if isinstance(loss, dict) and "class_name" not in loss:  # not the configuration of a loss
        return {name: function(one) for name, one in loss.items()}
    return function(loss)


def _check_targets(model: keras.Model, targets: tf.Tensor) -> None:
    """Raise a ValueError unless the targets are numbers for a model with one output, and each label has a unit."""
    if (outputs := number_of_outputs(model)) > 1:
        raise ValueError(f"The model {model.name!r} has {outputs} outputs; name their losses with loss=.")
    if not tf.size(targets) or not (targets.dtype.is_integer or targets.dtype.is_floating):
        raise ValueError(
            f"Targets must be integers for classes, or floats; got {targets.dtype.name} of shape "
            f"{tuple(targets.shape)}. Number the classes from 0."
        )
    shape = getattr(model, "output_shape", None)  # unknown for a subclassed model
    if not isinstance(shape, tuple) or shape[-1] is None:
        return
    if not targets.dtype.is_integer:
        given = tuple(targets.shape[1:])
        alike = [given, (*given, 1), *([given[:-1]] if given[-1:] == (1,) else [])]  # an axis of one number is optional
        if not any(tf.TensorShape(shape[1:]).is_compatible_with(one) for one in alike):
            raise ValueError(
                f"The model {model.name!r} has outputs of shape {shape[1:]}, and the targets, which are floats, have "
                f"the shape {given}. For classes, pass integers; or name the loss."
            )
        return
    wrong = [label for label in (np.max(targets), np.min(targets)) if not 0 <= label < shape[-1]]
    if wrong:
        raise ValueError(
            f"The model {model.name!r} has {shape[-1]} outputs, for labels 0 to {shape[-1] - 1}; got the label "
            f"{wrong[0]}. Give it a head for these classes, number them from 0, or name the loss."
        )
