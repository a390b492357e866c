"""Zero-shot classification: classes without training examples are recognized by their descriptions.

Inputs are projected into the space of the descriptions, and scored by a dot product (Akata et al., "Label-Embedding
for Attribute-Based Classification", 2013; Romera-Paredes and Torr, "An embarrassingly simple approach to zero-shot
learning", 2015). These papers use a ranking loss or a squared loss; here the scores are trained with cross-entropy.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import check_inputs
from meta_keras.scaling import check_scaled
from meta_keras.transfer.classifier import Classifier


@keras.saving.register_keras_serializable(package="meta_keras")
class ZeroShot(Classifier):
    """A classifier whose classes are given by descriptions, so that new classes can be added (Formula 6.5).

        score(x, a) = (W encoder(x) + b) . a

    Called on inputs it returns scores of the seen classes, and `fit` trains it on their labels, 0 ... seen - 1, in the
    order of `descriptions`. `scores` and `classify` take the descriptions of any classes.

    encoder: a built Keras model with outputs (rows, width); `fit` trains it in place. It gets its inputs
        unchanged, and pixels from 0 to 255 only if it scales them itself.
    descriptions: (seen classes, d) numbers that describe each class. They are a weight that does not train, so
        `learner.descriptions.assign` changes the classes without compiling again.

    >>> from meta_keras.networks import mlp
    >>> learner = ZeroShot(mlp(8, input_shape=(2,)), descriptions=[[1, 0, 0], [0, 1, 1]])
    >>> learner.compile()
    >>> history = learner.fit(np.eye(2), np.array([0, 1]), verbose=0)
    >>> learner.scores(np.ones((5, 2)), [[1, 1, 0], [0, 0, 1], [1, 0, 1]]).shape
    (5, 3)
    """

    def __init__(self, encoder: keras.Model, descriptions: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.built_model(encoder=encoder)
        shape = getattr(encoder, "output_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise ValueError(f"encoder must have outputs of shape (rows, width); got {shape}.")
        descriptions = _matrix("descriptions", descriptions)
        if len(descriptions) < 2:
            raise ValueError("descriptions must be those of at least two classes; got 1.")
        self.encoder = encoder
        self.projection = keras.layers.Dense(descriptions.shape[1], name="projection")
        self.projection.build(encoder.output_shape)
        self.descriptions = self.add_weight(
            shape=descriptions.shape,
            initializer=lambda *_, **__: descriptions,
            trainable=False,
            name="descriptions",
        )
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Scores of the seen classes."""
        return tf.matmul(self._projected(inputs, training), self.descriptions, transpose_b=True)

    def scores(self, x: Any, descriptions: Any, *, batch_size: int = 256) -> np.ndarray:
        """(rows, classes) scores of the inputs `x` for the classes with these descriptions, seen or unseen."""
        descriptions = _matrix("descriptions", descriptions, self.descriptions.shape[1])
        checks.at_least(1, batch_size=batch_size)
        check_inputs(self.encoder, x)
        checks.finite_numbers(x=x)
        x = np.asarray(x)
        parts = [self._projected(x[first : first + batch_size]) for first in range(0, len(x), batch_size)]
        return np.concatenate(parts) @ descriptions.T

    def classify(self, x: Any, descriptions: Any) -> np.ndarray:
        """(rows,) the index of the description with the highest score for each input."""
        return self.scores(x, descriptions).argmax(axis=1)

    def get_config(self) -> dict[str, Any]:
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder, "descriptions": self.descriptions.numpy().tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ZeroShot":
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})

    def _projected(self, inputs: Any, training: bool = False) -> tf.Tensor:
        check_scaled(self.encoder, inputs)
        return self.projection(self.encoder(inputs, training=training))


def calibrated(scores: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """The scores, minus `penalty` in the columns of the seen classes (Formula 6.7).

    A classifier that was trained on the seen classes prefers them for all inputs, which calibrated stacking corrects
    (Chao et al., "An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object Recognition in the
    Wild", 2016). The array passed as `scores` is not changed.

    >>> calibrated(np.array([[2.0, 1.5]]), seen=[0], penalty=1.0)
    array([[1. , 1.5]])
    """
    scores = _matrix("scores", scores).astype(float)
    checks.finite(penalty=penalty)
    if not checks.is_sequence(seen):
        raise ValueError(f"seen must be a list of columns; got {checks.shown(seen)}.")
    wrong = [column for column in seen if not checks.is_integer(column) or not 0 <= column < scores.shape[1]]
    if wrong:
        raise ValueError(f"seen must be columns from 0 to {scores.shape[1] - 1}; got {checks.shown(wrong[0])}.")
    scores[:, list(seen)] -= penalty
    return scores


def harmonic_mean(seen_accuracy: float, unseen_accuracy: float) -> float:
    """One number for two accuracies, which is near the smaller of them (Formula 6.6).

    Due to Xian et al., "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly", 2017.

    >>> harmonic_mean(0.9, 0.1)
    0.18
    """
    checks.fraction(seen_accuracy=seen_accuracy, unseen_accuracy=unseen_accuracy)
    both = seen_accuracy + unseen_accuracy
    return 2 * seen_accuracy * unseen_accuracy / both if both else 0.0


def describe_names(names: Sequence[str], *, by: str = "words") -> tuple[np.ndarray, list[str]]:
    """Descriptions from names: how often each word or letter occurs in each name, and what each column counts.

    All classes must be described in one call, so that their columns are the same.

    by: "words" or "letters"; upper and lower case are not distinguished.

    >>> describe_names(["ankle boot", "boot"])
    (array([[1., 1.], [0., 1.]], dtype=float32), ['ankle', 'boot'])
    """
    checks.one_of(("words", "letters"), by=by)
    checks.names(names=names)
    if isinstance(names, str):
        raise ValueError(f"names must be a list of names; got the single name {names!r}.")
    parts = [name.lower().split() if by == "words" else [c for c in name.lower() if not c.isspace()] for name in names]
    vocabulary = sorted({part for name in parts for part in name})
    if not vocabulary:
        raise ValueError("names must contain words; all of them are empty.")
    counts = [Counter(name) for name in parts]
    return np.array([[count[part] for part in vocabulary] for count in counts], dtype="float32"), vocabulary


def _matrix(name: str, values: Any, width: int | None = None) -> np.ndarray:
    """The values as (rows, width) finite numbers; else a ValueError."""
    try:
        matrix = np.asarray(values, dtype="float64")
    except (TypeError, ValueError):
        matrix = np.empty(())
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all() or width not in (None, matrix.shape[1]):
        expected = f"finite numbers of shape ({'classes' if name == 'descriptions' else 'rows'}, {width or 'd'})"
        shown = f"the shape {matrix.shape}" if matrix.size and matrix.ndim else checks.shown(values)
        raise ValueError(f"{name} must be {expected}; got {shown}.")
    return matrix.astype("float32") if name == "descriptions" else matrix
