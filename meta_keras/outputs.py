"""Losses that fit the outputs of a network: by default, and given by the user as objects, names or functions."""

import functools
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from meta_keras.internals import mask_of
from meta_keras.targets import BINARY, EITHER, PROBABILITIES, kind_of

# Metrics by the functions that they average.
METRICS = {
    keras.metrics.SparseCategoricalCrossentropy: keras.losses.sparse_categorical_crossentropy,
    keras.metrics.CategoricalCrossentropy: keras.losses.categorical_crossentropy,
    keras.metrics.BinaryCrossentropy: keras.losses.binary_crossentropy,
}
LOGITS = (None, "log_softmax")  # activations after which answers are logits, or the logarithms of probabilities


def last_axis_of(model: keras.Model | None) -> int | None:
    """The length of the last axis of a model's outputs; None if this is not known."""
    shape = getattr(model, "output_shape", None)
    return shape[-1] if isinstance(shape, tuple) and shape else None


def number_of_outputs(model: keras.Model) -> int:
    """How many outputs a model has; 1 if it does not say."""
    return len(getattr(model, "outputs", None) or [None])


def default_loss(activation: str | None, labels: tf.DType) -> keras.losses.Loss:
    """The loss that fits outputs with this activation: cross-entropy for integer labels, else mean squared error."""
    if not labels.is_integer and activation == "softmax":
        raise ValueError(
            "The network ends in a softmax, and the targets are floats. If these are one-hot, number the classes "
            "(y.argmax(axis=-1)), or pass the loss that you want, such as 'categorical_crossentropy' or 'mse'."
        )
    if not labels.is_integer:
        return keras.losses.MeanSquaredError(dtype=labels.name)
    if activation == "sigmoid":
        raise ValueError(
            "The network ends in sigmoids, or other numbers from 0 to 1 that are not one distribution over the "
            "classes. End it in a softmax or without an activation, or pass the loss that you want to compile()."
        )
    return keras.losses.SparseCategoricalCrossentropy(from_logits=activation != "softmax")


def is_cross_entropy(loss: keras.losses.Loss) -> bool:
    """Whether a loss compares classes: a cross-entropy of Keras, or a loss that is called one."""
    kind = kind_of(loss)
    return (kind is not None and kind.answers == EITHER) or "crossentropy" in loss.name


def as_loss(loss: Any, activation: str | None, dtype: str) -> keras.losses.Loss:
    """A loss given as a Keras object, a name, a function or a class, as an object that respects masks."""
    found = completed_loss(loss, activation, dtype)
    return found if isinstance(found, keras.losses.Loss) else FunctionLoss(found, dtype=dtype)


def completed_loss(loss: Any, activation: str | None, dtype: str) -> keras.losses.Loss | Callable[..., tf.Tensor]:
    """A loss as an object of Keras' own class, where it has one; a function of the user's own stays as it is.

    activation: what the outputs end in, which says whether a cross-entropy that is not given as an object takes logits.
        An object, or a class of the user's own, that contradicts it is an error, and so is a loss of probabilities for
        logits. "other" is taken for logits, except by binary cross-entropies.
    dtype: that of the loss, where it is not an object.
    """
    if isinstance(loss, dict) and "class_name" in loss:  # the configuration of a loss
        loss = keras.losses.get(loss)
    if isinstance(loss, list | tuple | dict):
        raise ValueError(f"There is one output here, so it takes one loss; got a {type(loss).__name__} of them.")
    settings: dict[str, Any] = {}
    if isinstance(loss, functools.partial) and not loss.args and kind_of(loss.func) is not None:
        loss, settings = loss.func, loss.keywords
    found = keras.losses.get(loss)
    kind = kind_of(found)
    if kind is None:
        return found
    if kind.answers == PROBABILITIES and activation in LOGITS:
        raise ValueError(
            f"The loss {kind.function.__name__!r} compares probabilities, but the answers are logits. End the network "
            "in a softmax or in sigmoids, or use a cross-entropy."
        )
    is_own = isinstance(found, keras.losses.Loss) and (found is loss or type(found) is not kind.loss)
    if not is_own:
        if kind.answers == EITHER and "from_logits" not in settings:
            settings = settings | {"from_logits": _takes_logits(kind.function, activation)}
        found = kind.loss(**settings, dtype=dtype)
    if kind.answers == EITHER:
        _check_logits(found, activation, "leave the loss out: compile() then uses the one that fits")
    return found


def as_metrics(
    metrics: Any, activation: str | None, *, loss: Any = None, width: int | None = None, lazily: bool = False
) -> Any:
    """Metrics as `compile` takes them; however they are given, they are those of answers that end so.

    loss: that of the answers. If it is a binary cross-entropy of logits, "binary_accuracy" compares them with 0, and so
        does "accuracy" if there is one per row; metrics with thresholds of probabilities are refused.
    width: how many answers a row has.
    lazily: such accuracies are functions, of which Keras makes metrics outside the scope of a strategy.
    """
    of_logits = _takes_binary_logits(loss)

    def fitting(metric: Any) -> Any:
        word = metric.lower() if isinstance(metric, str) else metric
        is_binary = word in BINARY_ACCURACIES
        if of_logits and (is_binary or (width == 1 and word in ("accuracy", "acc"))):
            if lazily:
                return ACCURACIES_OF_LOGITS["binary_accuracy" if is_binary else word]
            return keras.metrics.BinaryAccuracy(metric if isinstance(metric, str) else "binary_accuracy", threshold=0.0)
        return _as_metric(metric, activation, of_logits)

    return keras.tree.map_structure(fitting, metrics)


def _as_metric(metric: Any, activation: str | None, of_logits: bool) -> Any:
    if metric in ("crossentropy", "ce") and activation not in ("softmax", "sigmoid"):
        raise ValueError(f"Say which one is meant, such as 'sparse_categorical_crossentropy'; got {metric!r}.")
    try:
        found = keras.metrics.get(metric)
    except ValueError:  # a word that Keras understands in compile
        return metric
    if of_logits:
        _check_thresholds(found)
    kinds = {type(found), *(kind for kind, function in METRICS.items() if function is found)} & METRICS.keys()
    if not kinds:
        return metric
    if found is metric and isinstance(found, keras.metrics.Metric):
        _check_logits(found, activation, "pass its name")
        return metric
    (kind,) = kinds
    return kind(from_logits=_takes_logits(METRICS[kind], activation))


def _takes_binary_logits(loss: Any) -> bool:
    kind = kind_of(loss)
    is_binary = kind is not None and kind.targets == BINARY and isinstance(loss, keras.losses.Loss)
    return is_binary and bool(loss.get_config().get("from_logits"))


def _accuracy_of_logits(name: str) -> Callable[..., tf.Tensor]:
    """A function of this name, of which Keras makes a metric when and where it trains."""

    def accuracy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return keras.metrics.binary_accuracy(y_true, y_pred, threshold=0.0)

    accuracy.__name__ = name
    return keras.saving.register_keras_serializable(package="meta_keras", name=f"{name}_of_logits")(accuracy)


BINARY_ACCURACIES = ("binary_accuracy", "binaryaccuracy", keras.metrics.binary_accuracy, keras.metrics.BinaryAccuracy)
ACCURACIES_OF_LOGITS = {name: _accuracy_of_logits(name) for name in ("accuracy", "acc", "binary_accuracy")}


def _check_thresholds(metric: Any) -> None:
    """Raise a ValueError for a metric of Keras that compares answers with thresholds between 0 and 1."""
    if getattr(keras.metrics, type(metric).__name__, None) is not type(metric):  # those of the user may take logits
        return
    thresholds = keras.tree.flatten([getattr(metric, name, None) for name in ("threshold", "thresholds")])
    if not any(one is not None and 0 < one < 1 for one in thresholds):
        return
    settings = metric.get_config()
    if settings.get("from_logits"):
        return
    fitting = {"from_logits": "from_logits=True", "threshold": "threshold=0.0", "thresholds": "thresholds=0.0"}
    given = next((text for name, text in fitting.items() if name in settings), None)
    if isinstance(metric, keras.metrics.FBetaScore):  # which takes thresholds above 0 only
        given = None
    otherwise = f"Pass keras.metrics.{type(metric).__name__}({given})" if given else "End the network in a sigmoid"
    raise ValueError(
        f"The metric {metric.name!r} has thresholds between 0 and 1, as for probabilities, but the answers are logits, "
        f"judging by the loss. {otherwise}, or leave it out."
    )


def _check_logits(compared: keras.losses.Loss | keras.metrics.Metric, activation: str | None, otherwise: str) -> None:
    """Raise a ValueError if a cross-entropy that is given as an object does not fit the answers."""
    from_logits = compared.get_config().get("from_logits", False)
    if activation in (("softmax", "sigmoid") if from_logits else LOGITS):
        kind = "loss" if isinstance(compared, keras.losses.Loss) else "metric"
        raise ValueError(
            f"The {kind} {compared.name!r} has from_logits={from_logits}, but the answers are "
            f"{'probabilities' if from_logits else 'logits'}. Pass from_logits={not from_logits}, or {otherwise}."
        )


def _takes_logits(function: Callable[..., tf.Tensor], activation: str | None) -> bool:
    """Whether the answers that a cross-entropy compares with labels are logits."""
    if kind_of(function).targets == BINARY and activation in ("log_softmax", "other"):
        raise ValueError(
            f"The loss {function.__name__!r} compares labels with logits or probabilities, and judging by the last "
            "operations of the network, its outputs may be neither. End it in a sigmoid or without an activation, or "
            "pass keras.losses.BinaryCrossentropy(from_logits=...), which says what they are."
        )
    return activation not in ("softmax", "sigmoid")


def check_unmasked(answers: Any) -> None:
    """Raise a ValueError if answers have a mask, for metrics, which would count the masked ones."""
    if mask_of(answers) is not None:
        raise ValueError(
            "The answers are masked, which the metrics of learners do not see. Compile with metrics=[] and use the "
            "loss of learner.evaluate, which respects masks."
        )


@keras.saving.register_keras_serializable(package="meta_keras")
class FunctionLoss(keras.losses.Loss):
    """A loss function `(y_true, y_pred) -> losses` as an object, so that Keras averages it and respects masks."""

    def __init__(self, function: Callable[..., tf.Tensor], **kwargs: Any) -> None:
        kwargs.setdefault("name", re.sub(r"\W", "", getattr(function, "__name__", "loss")))
        super().__init__(**kwargs)
        self.fn = function

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """As the losses of Keras: an axis of one number may be missing, and y (rows,) are not broadcast."""
        missing = (y_pred.shape.rank or 0) - (y_true.shape.rank or 0)
        if missing == 1 and y_pred.shape[-1] == 1:
            aligned = (y_true[:, None], y_pred) if y_true.shape.rank == 1 else (y_true, y_pred[..., 0])
        elif missing == -1 and y_true.shape[-1] == 1:
            aligned = (y_true, y_pred[:, None]) if y_pred.shape.rank == 1 else (y_true[..., 0], y_pred)
        else:
            aligned = y_true, y_pred
        return self.fn(*aligned)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"function": keras.saving.serialize_keras_object(self.fn)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FunctionLoss":
        return cls(**(config | {"function": keras.saving.deserialize_keras_object(config["function"])}))
