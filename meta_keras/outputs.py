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
# Metrics that compare probabilities with a threshold, besides `BinaryAccuracy` and `AUC`.
WITH_THRESHOLDS = (
    *(keras.metrics.F1Score, keras.metrics.FBetaScore, keras.metrics.Precision, keras.metrics.Recall),
    *(keras.metrics.TruePositives, keras.metrics.TrueNegatives),
    *(keras.metrics.FalsePositives, keras.metrics.FalseNegatives),
    *(keras.metrics.SensitivityAtSpecificity, keras.metrics.SpecificityAtSensitivity),
    *(keras.metrics.PrecisionAtRecall, keras.metrics.RecallAtPrecision, keras.metrics.BinaryIoU),
)

LOGITS = (None, "log_softmax")  # activations after which answers are logits, or the logarithms of probabilities


def width_of(model: keras.Model) -> int | None:
    """How many numbers each row of a model's outputs has, if these are rows of numbers."""
    shape = getattr(model, "output_shape", None)
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


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


def as_metrics(metrics: Any, activation: str | None, *, loss: Any = None, width: int | None = None) -> Any:
    """Metrics as `compile` takes them; however they are given, they are those of answers that end so.

    loss, width: with a binary cross-entropy of one logit per row, "accuracy" compares it with 0.
    """
    kind = kind_of(loss)
    of_one_logit = activation in LOGITS and width == 1 and kind is not None and kind.targets == BINARY

    def fitting(metric: Any) -> Any:
        if of_one_logit and metric in ("accuracy", "acc"):
            return keras.metrics.BinaryAccuracy(name=metric, threshold=0.0)
        return _as_metric(metric, activation)

    return keras.tree.map_structure(fitting, metrics)


def _as_metric(metric: Any, activation: str | None) -> Any:
    if metric in ("crossentropy", "ce") and activation not in ("softmax", "sigmoid"):
        raise ValueError(f"Say which one is meant, such as 'sparse_categorical_crossentropy'; got {metric!r}.")
    try:
        found = keras.metrics.get(metric)
    except ValueError:  # a word that Keras understands in compile
        return metric
    is_given = found is metric and isinstance(found, keras.metrics.Metric)
    kinds = {type(found), *(kind for kind, function in METRICS.items() if function is found)} & METRICS.keys()
    if kinds and not is_given:
        (kind,) = kinds
        return kind(from_logits=_takes_logits(METRICS[kind], activation))
    if kinds:
        _check_logits(found, activation, "pass its name")
    if activation in LOGITS:
        settings = _settings_for_logits(found, is_given)
        if settings:
            return (keras.metrics.BinaryAccuracy if found is keras.metrics.binary_accuracy else type(found))(**settings)
    return metric


def _settings_for_logits(metric: Any, is_given: bool) -> dict[str, Any]:
    """What a metric of logits has to be made with; a ValueError for one that only takes probabilities.

    is_given: whether the user has made it, so that it cannot be changed any more.
    """
    settings, otherwise = {}, "End the network in a sigmoid, or leave it out."
    if metric is keras.metrics.binary_accuracy:
        return {"threshold": 0.0}
    if type(metric) is keras.metrics.BinaryAccuracy and metric.threshold == 0.5:
        settings, otherwise = {"threshold": 0.0}, "Pass threshold=0.0, or its name."
    elif type(metric) is keras.metrics.AUC and not metric.get_config().get("from_logits"):
        settings, otherwise = {"from_logits": True}, "Pass from_logits=True, or its name."
    elif type(metric) not in WITH_THRESHOLDS or not _thresholds_of(metric):
        return {}
    if is_given or not settings:
        raise ValueError(
            f"The metric {metric.name!r} has thresholds of probabilities, but the answers are logits. {otherwise}"
        )
    return settings


def _thresholds_of(metric: keras.metrics.Metric) -> list[float]:
    """Those from 0 to 1: Keras has others where it takes the highest answers instead."""
    given = getattr(metric, "thresholds", None) or getattr(metric, "threshold", None)
    return [one for one in keras.tree.flatten(given) if one is not None and 0 <= one <= 1]


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
