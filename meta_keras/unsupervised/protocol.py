"""How useful features are: few-shot classification by prototypes, on classes that were never seen."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs, check_pixels
from meta_keras.learner import MetaLearner
from meta_keras.report import Score, evaluate
from meta_keras.rules import Prototypes
from meta_keras.tasks import ClassPool, FewShot

Encode = Callable[[np.ndarray], Any]


def few_shot_score(
    encode: Encode,
    pool: ClassPool,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    episodes: int = 600,
    seed: int = 0,
    within: str | None = None,
    center: np.ndarray | None = None,
) -> Score:
    """The accuracy of the nearest prototype on frozen features (Formula 7.1), over tasks drawn from the pool.

    Every example is encoded once, and nothing is trained. The same seed gives the same tasks, so that features can be
    compared on them.

    encode: a function from inputs (rows, ...) to features (rows, width), such as `model.encode`. Its inputs are scaled
        as in tasks.
    pool: classes that the encoder has not seen.
    ways, shots, queries, within: as in `FewShot`.
    center: None takes the features as they are. Otherwise unlabeled inputs, which are scaled as those of the pool: the
        mean of their features is subtracted, and all features get length 1 (Wang et al., "SimpleShot", 2019).

    >>> from meta_keras import load
    >>> test = load("glyphs").split("test")
    >>> print(few_shot_score(lambda x: x.reshape(len(x), -1), test, episodes=100))
    accuracy 0.4... ± 0.0... (95 % interval over 100 values)
    """
    checks.function(encode=encode)
    if not isinstance(pool, ClassPool):
        raise ValueError(f"pool must be a ClassPool of unseen classes; got {checks.shown(pool)}.")
    features = _rows(encode, pool.arrays(scaled=True)[0])
    if center is not None:
        checks.examples(center=center)
        checks.numbers(center=center)
        checks.finite_numbers(center=center)
        check_pixels(center, "center")
        features = features - _rows(encode, as_inputs(tf.convert_to_tensor(center)).numpy()).mean(axis=0)
        features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    # Not by pool.map, since the images may be on disk.
    of_features = ClassPool(features, pool.labels, names=pool.names, groupings=pool.groupings)
    tasks = FewShot(of_features, ways, shots, queries, meta_batch=20, seed=seed, within=within)
    unchanged = keras.Sequential([keras.Input(features.shape[1:]), keras.layers.Identity()])
    return evaluate(MetaLearner(network=unchanged, rule=Prototypes()), tasks, episodes)


def _rows(encode: Encode, inputs: np.ndarray) -> np.ndarray:
    """The features of the inputs as (rows, width) float32; else a ValueError."""
    features = np.asarray(encode(inputs), dtype=np.float32)
    if features.ndim != 2 or len(features) != len(inputs):
        raise ValueError(
            f"encode must return features of shape ({len(inputs)}, width) for {len(inputs)} inputs; got the shape "
            f"{features.shape}."
        )
    return features
