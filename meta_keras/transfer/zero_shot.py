"""Zero-shot classification: a class that was never seen, recognised by its description.

Pictures are projected into the space of the descriptions, and scored by a dot product (Akata et al., "Label-Embedding
for Attribute-Based Classification", 2013; Romera-Paredes and Torr, "An embarrassingly simple approach to zero-shot
learning", 2015). Those rank, or take squares; here the scores are trained with cross-entropy.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.transfer.classifier import Classifier


@keras.saving.register_keras_serializable(package="meta_keras")
class ZeroShot(Classifier):
    """A classifier that is told its classes by descriptions, and so can be told new ones (Formula 6.5).

        score(x, a) = (W encoder(x) + b) . a

    Called on inputs it gives scores over the seen classes, and `fit` trains it on their labels, 0 ... seen - 1, in the
    order of `descriptions`. `scores` and `classify` take the descriptions of any classes.

    encoder: a built Keras model with outputs (rows, width); `fit` trains it where it is.
    descriptions: (seen classes, d) numbers that say what each class is like. They are kept as a weight that is not
        trained, so that `learner.descriptions.assign` changes the classes without compiling anew.

    >>> from meta_keras.networks import mlp
    >>> learner = ZeroShot(mlp(8, input_shape=(2,)), descriptions=[[1, 0, 0], [0, 1, 1]])
    >>> learner.compile()
    >>> history = learner.fit(np.eye(2), np.array([0, 1]), verbose=0)
    >>> learner.scores(np.ones((5, 2)), [[1, 1, 0], [0, 0, 1], [1, 0, 1]]).shape
    (5, 3)
    """

    def __init__(self, encoder: keras.Model, descriptions: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        descriptions = np.asarray(descriptions, dtype="float32")
        if descriptions.ndim != 2 or len(descriptions) < 2:
            raise ValueError(
                f"Descriptions (classes, d) of two classes or more are needed; these have shape {descriptions.shape}."
            )
        shape = getattr(encoder, "output_shape", None) if encoder.built else "none yet, as it is not built"
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise ValueError(f"An encoder with outputs (rows, width) is needed; its output shape is {shape}.")
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
        """Scores over the seen classes."""
        return tf.matmul(self._projected(inputs, training), self.descriptions, transpose_b=True)

    def scores(self, x: Any, descriptions: Any, *, batch_size: int = 256) -> np.ndarray:
        """(rows, classes) scores of the inputs `x` over the classes with these descriptions, seen or never seen."""
        descriptions = np.asarray(descriptions, dtype="float32")
        width = self.descriptions.shape[1]
        if descriptions.ndim != 2 or descriptions.shape[1] != width:
            raise ValueError(
                f"Descriptions (classes, {width}) are needed, as in training; these have shape {descriptions.shape}."
            )
        x = np.asarray(x)
        if not x.size:
            raise ValueError("There are no inputs to score.")
        parts = [self._projected(x[first : first + batch_size]) for first in range(0, len(x), batch_size)]
        return np.concatenate(parts) @ descriptions.T

    def classify(self, x: Any, descriptions: Any) -> np.ndarray:
        """(rows,) the number of the description that fits each input best."""
        return self.scores(x, descriptions).argmax(axis=1)

    def get_config(self) -> dict[str, Any]:
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder, "descriptions": self.descriptions.numpy().tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ZeroShot":
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})

    def _projected(self, inputs: Any, training: bool = False) -> tf.Tensor:
        return self.projection(self.encoder(inputs, training=training))


def calibrated(scores: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """The scores, less `penalty` in the columns of the seen classes (Formula 6.7).

    A learner that was trained to find seen classes finds them everywhere (Chao et al., "An Empirical Study and Analysis
    of Generalized Zero-Shot Learning for Object Recognition in the Wild", 2016). The scores given stay as they are.

    >>> calibrated(np.array([[2.0, 1.5]]), seen=[0], penalty=1.0)
    array([[1. , 1.5]])
    """
    scores = np.array(scores, dtype=float)
    scores[:, list(seen)] -= penalty
    return scores


def harmonic_mean(seen_accuracy: float, unseen_accuracy: float) -> float:
    """One number for two accuracies, near the smaller of them (Formula 6.6).

    From Xian et al., "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly", 2017.

    >>> harmonic_mean(0.9, 0.1)
    0.18
    """
    both = (seen_accuracy, unseen_accuracy)
    if min(both) < 0 or max(both) > 1:
        raise ValueError(f"Accuracies from 0 to 1 are needed; {both} were given.")
    return 2 * seen_accuracy * unseen_accuracy / sum(both) if sum(both) else 0.0


def describe_names(names: Sequence[str], *, by: str = "words") -> tuple[np.ndarray, list[str]]:
    """Names as descriptions: how often each word, or each letter, stands in each name, and which column is which.

    Classes that are to be told apart must be described in one call, so that their columns are the same.

    by: "words" or "letters"; capitals count as small letters.

    >>> describe_names(["ankle boot", "boot"])
    (array([[1., 1.], [0., 1.]], dtype=float32), ['ankle', 'boot'])
    """
    if isinstance(names, str):
        raise ValueError(f"A list of names is needed; the one name {names!r} was given.")
    if by not in ("words", "letters"):
        raise ValueError(f'by is "words" or "letters"; {by!r} was given.')
    parts = [name.lower().split() if by == "words" else [c for c in name.lower() if not c.isspace()] for name in names]
    vocabulary = sorted({part for name in parts for part in name})
    if not vocabulary:
        raise ValueError("Names with something in them are needed; all of these are empty.")
    counts = [Counter(name) for name in parts]
    return np.array([[count[part] for part in vocabulary] for count in counts], dtype="float32"), vocabulary
