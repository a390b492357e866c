"""The losses of Keras: what targets each of them takes, and which answers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import losses

from meta_keras.internals import function_of

# Targets: the number of a class for all answers of a row, or for every answer a number of its own.
CLASSES, ONE_HOT, BINARY, NUMBERS = "classes", "one-hot", "zeros and ones", "numbers"
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


def kind_of(loss: Any) -> Kind | None:
    """The row of `KINDS` for a loss, given as a function or an object; None for a loss that Keras does not have."""
    function = function_of(loss) if isinstance(loss, keras.losses.Loss) else loss
    return next((kind for kind in KINDS if kind.function is function), None)
