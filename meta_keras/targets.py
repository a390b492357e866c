"""The losses and metrics of Keras: what targets each of them takes, and which answers.

Where a target is expected for every answer, labels (rows,) are broadcast to answers (rows, classes) if there are as
many rows as classes: Keras then trains on meaningless numbers, or reports them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import losses, metrics

from meta_keras.internals import function_of

# Targets: the number of a class for all answers of a row, or for every answer a number of its own.
CLASSES, ONE_HOT, BINARY, NUMBERS = "classes", "one-hot rows", "zeros and ones", "numbers"
# Answers: `from_logits` says which of the two, or only one of them although others are taken silently.
EITHER, PROBABILITIES = "logits or probabilities", "probabilities"


class Kind(NamedTuple):
    """A loss as a function and as a class, its targets, and its answers, if these are not any numbers."""

    function: Callable[..., Any]
    loss: type[losses.Loss]
    targets: str
    answers: str | None = None


KINDS = (
    Kind(losses.sparse_categorical_crossentropy, losses.SparseCategoricalCrossentropy, CLASSES, EITHER),
    Kind(
        losses.categorical_generalized_cross_entropy, losses.CategoricalGeneralizedCrossEntropy, CLASSES, PROBABILITIES
    ),
    Kind(losses.circle, losses.Circle, CLASSES),
    Kind(losses.ctc, losses.CTC, CLASSES),
    Kind(losses.categorical_crossentropy, losses.CategoricalCrossentropy, ONE_HOT, EITHER),
    Kind(losses.categorical_focal_crossentropy, losses.CategoricalFocalCrossentropy, ONE_HOT, EITHER),
    Kind(losses.categorical_hinge, losses.CategoricalHinge, ONE_HOT),
    Kind(losses.kl_divergence, losses.KLDivergence, ONE_HOT, PROBABILITIES),
    Kind(losses.dice, losses.Dice, ONE_HOT, PROBABILITIES),
    Kind(losses.tversky, losses.Tversky, ONE_HOT, PROBABILITIES),
    Kind(losses.binary_crossentropy, losses.BinaryCrossentropy, BINARY, EITHER),
    Kind(losses.binary_focal_crossentropy, losses.BinaryFocalCrossentropy, BINARY, EITHER),
    Kind(losses.mean_squared_error, losses.MeanSquaredError, NUMBERS),
    Kind(losses.mean_absolute_error, losses.MeanAbsoluteError, NUMBERS),
    Kind(losses.mean_absolute_percentage_error, losses.MeanAbsolutePercentageError, NUMBERS),
    Kind(losses.mean_squared_logarithmic_error, losses.MeanSquaredLogarithmicError, NUMBERS),
    Kind(losses.cosine_similarity, losses.CosineSimilarity, NUMBERS),
    Kind(losses.log_cosh, losses.LogCosh, NUMBERS),
    Kind(losses.huber, losses.Huber, NUMBERS),
    Kind(losses.poisson, losses.Poisson, NUMBERS),
    Kind(losses.hinge, losses.Hinge, NUMBERS),
    Kind(losses.squared_hinge, losses.SquaredHinge, NUMBERS),
)

# The targets of metrics, as classes and as functions that are no losses.
METRIC_TARGETS = {
    **dict.fromkeys((metrics.SparseCategoricalAccuracy, metrics.sparse_categorical_accuracy), CLASSES),
    **dict.fromkeys((metrics.SparseTopKCategoricalAccuracy, metrics.sparse_top_k_categorical_accuracy), CLASSES),
    metrics.SparseCategoricalCrossentropy: CLASSES,
    **dict.fromkeys((metrics.CategoricalAccuracy, metrics.categorical_accuracy), ONE_HOT),
    **dict.fromkeys((metrics.TopKCategoricalAccuracy, metrics.top_k_categorical_accuracy), ONE_HOT),
    **dict.fromkeys((metrics.CategoricalCrossentropy, metrics.CategoricalHinge, metrics.KLDivergence), ONE_HOT),
    **dict.fromkeys((metrics.F1Score, metrics.FBetaScore, metrics.OneHotIoU, metrics.OneHotMeanIoU), ONE_HOT),
    **dict.fromkeys((metrics.BinaryAccuracy, metrics.binary_accuracy, metrics.BinaryCrossentropy), BINARY),
    **dict.fromkeys((metrics.Accuracy, metrics.Hinge, metrics.SquaredHinge, metrics.Poisson), NUMBERS),
    **dict.fromkeys((metrics.MeanSquaredError, metrics.RootMeanSquaredError, metrics.MeanAbsoluteError), NUMBERS),
    **dict.fromkeys((metrics.MeanAbsolutePercentageError, metrics.MeanSquaredLogarithmicError), NUMBERS),
    **dict.fromkeys((metrics.CosineSimilarity, metrics.LogCoshError, metrics.R2Score), NUMBERS),
    **dict.fromkeys((metrics.PearsonCorrelation, metrics.pearson_correlation), NUMBERS),
    **dict.fromkeys((metrics.ConcordanceCorrelation, metrics.concordance_correlation), NUMBERS),
}
WORDS = ("accuracy", "acc", "crossentropy", "ce")  # for which Keras chooses a metric that fits targets and answers


def kind_of(loss: Any) -> Kind | None:
    """The row of `KINDS` for a loss, given as a function or an object; None for a loss that Keras does not have."""
    function = function_of(loss) if isinstance(loss, keras.losses.Loss) else loss
    return next((kind for kind in KINDS if kind.function is function), None)


def targets_of(compared: Any) -> str | None:
    """The targets of a loss or metric; None where this is not known, as of functions and classes of the user's own."""
    kind = kind_of(compared)
    if kind is not None:
        return kind.targets if compared is kind.function or type(compared) is kind.loss else None
    key = type(compared) if isinstance(compared, metrics.Metric) else compared
    return next((targets for one, targets in METRIC_TARGETS.items() if one is key), None)


def targets_by_name(*, loss: Any = None, metrics: Any = None) -> dict[str, str]:
    """The targets of losses and of metrics, as far as they are known, by what an error calls them.

    loss, metrics: as `compile` takes them, one or several in lists and dictionaries.
    """
    is_config = isinstance(loss, dict) and "class_name" in loss
    given = [
        *(("loss", keras.losses.get(one)) for one in ([loss] if is_config else keras.tree.flatten(loss))),
        *(("metric", _metric(one)) for one in keras.tree.flatten(metrics)),
    ]
    named = [(f"{kind} {getattr(one, 'name', None) or getattr(one, '__name__', kind)!r}", one) for kind, one in given]
    return {name: targets for name, one in named if (targets := targets_of(one)) is not None}


def _metric(metric: Any) -> Any:
    """What a metric stands for; None for the words that mean different metrics."""
    try:
        is_word = isinstance(metric, str) and metric.lower() in WORDS
        # A class is its own key; an object of it would count among those that Keras numbers in names.
        return None if is_word else metric if isinstance(metric, type) else keras.metrics.get(metric)
    except ValueError:  # Keras says so in compile
        return None


def check_takes_labels(targets: Mapping[str, str], width: int) -> None:
    """Raise a ValueError if labels, each with `width` answers, meet something that takes a target for every answer.

    targets: as `targets_by_name` returns them.
    """
    for name, wanted in targets.items():
        if width > 1 and wanted != CLASSES:
            otherwise = "sparse_categorical_" + ("crossentropy" if name.startswith("loss") else "accuracy")
            raise ValueError(
                f"The {name} takes {wanted} as targets, one number for every answer, but these labels number classes, "
                f"each with {width} answers. Leave it out, or use one for labels, such as {otherwise!r}."
            )


def check_not_broadcast(targets: Mapping[str, str], y: Any, answers: Any) -> None:
    """As `check_takes_labels`, if these are labels: integers, one for each row of answers of this shape.

    Other targets that have an axis less than the answers are refused in the same way.
    """
    width, rank = answers[-1], tf.TensorShape(answers).rank
    if width is None or width == 1 or y.shape.rank is None:
        return
    one_per_row = y.shape.rank == rank - 1 or (y.shape.rank == rank and y.shape[-1] == 1)
    if one_per_row and (y.dtype.is_integer or y.dtype.is_bool):
        check_takes_labels(targets, width)
    for name, wanted in targets.items() if y.shape.rank == rank - 1 else ():
        if wanted != CLASSES:
            raise ValueError(
                f"The {name} takes one number for every answer, and a row has {width} answers; got targets of shape "
                f"{tuple(y.shape)}, which would be broadcast. Give the targets the shape of the answers, or the model "
                "one output."
            )
