"""Augmentation of the examples within a task by Keras preprocessing layers, repeatable for a seed and a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import as_inputs
from meta_keras.internals import all_layers, seeds_of
from meta_keras.tasks.images import ImageFiles, lookup

PARTS = ("support", "query")
# Keys that are folded into the seed of a batch, so that support and query sets get different random draws.
KEYS = {"support": 101, "query": 102}
SMALLEST_SCALE = 0.01  # of a Rescaling; those for pixels from 0 to 255 have less
MIXING = (keras.layers.MixUp, keras.layers.CutMix)


class Augmentation:
    """A layer called with `training=True` on all examples of a batch of tasks, its random states derived from a seed.

    Random: layers of Keras draw again for every example, except `RandomCrop`, which draws once per batch of tasks.
    Repeatable: the states of all `keras.random.SeedGenerator`s of the layer are set from the seed of the tasks and the
    number of the batch. So a batch is always the same, and the seed given to the layer does not matter. A layer that
    draws random numbers in any other way is rejected.
    """

    def __init__(self, layer: keras.layers.Layer, part: str) -> None:
        self.layer, self.key = layer, KEYS[part]

    def __call__(self, examples: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augment (meta_batch, rows, ...) examples; `seed` is that of the batch."""
        tasks_and_rows = examples.shape[:2]
        flat = tf.reshape(examples, (-1, *examples.shape[2:]))
        augmented, _ = self.draw(flat, tf.random.experimental.stateless_fold_in(seed, self.key))
        augmented = as_inputs(augmented)  # a layer may compute with other floats
        return tf.reshape(augmented, (*tasks_and_rows, *augmented.shape[1:]))

    def draw(self, rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, dict[int, Any]]:
        """Augmented rows, and the variables that the layer would have updated, by their ids."""
        states = [
            (variable, tf.random.stateless_uniform((2,), seed + number, 0, 2**30, dtype=tf.int64))
            for number, variable in enumerate(seeds_of(self.layer))
        ]
        states = [(variable, tf.cast(state, variable.dtype)) for variable, state in states]
        with keras.StatelessScope(state_mapping=states) as scope:
            return self.layer(rows, training=True), scope.state_mapping


def augmentations(
    augment: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None, examples: np.ndarray | ImageFiles
) -> dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]:
    """What is done to support and query examples, after checking that the layers can do it; else a ValueError."""
    chosen: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = dict.fromkeys(PARTS, _unchanged)
    layers = augment if isinstance(augment, Mapping) else dict.fromkeys(PARTS, augment)
    for part, layer in layers.items():
        checks.one_of(PARTS, **{"a key of augment": part})
        if layer is not None:
            check_layer(layer)
            chosen[part] = Augmentation(layer, part)
            rows = as_inputs(lookup(examples[:2])(tf.range(min(2, len(examples)))))
            _check_draws(chosen[part], rows)
    return chosen


def _unchanged(examples: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return examples


def check_layer(layer: Any) -> None:
    """Raise a ValueError unless this is a layer that turns every image, with pixels from 0 to 1, into a view of it."""
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            f"augment must be a Keras layer such as keras.layers.RandomFlip(), or a dictionary of layers for "
            f"{' and '.join(map(repr, PARTS))}; got {checks.shown(layer)}."
        )
    for one in all_layers(layer):
        if isinstance(one, MIXING):
            raise ValueError(
                f"{type(one).__name__} mixes different examples, so what it returns belongs to none of them."
            )
        if isinstance(one, keras.layers.Rescaling) and 0 < np.max(one.scale) < SMALLEST_SCALE:
            raise ValueError(f"Images are from 0 to 1 here, and {one.name!r} scales them once more; leave it out.")
        value_range = getattr(one, "value_range", None)
        if value_range is not None and max(value_range) > 1:
            raise ValueError(
                f"{type(one).__name__} expects pixels in {tuple(value_range)}, but images are from 0 to 1 here. Give "
                "it value_range=(0, 1)."
            )


def _check_draws(augmentation: Augmentation, rows: tf.Tensor) -> None:
    """Call the layer, which also builds it, and see that its seeds decide everything that is random in it."""
    layer, seed = augmentation.layer, tf.constant([1, 2], tf.int64)
    if not layer.built:
        layer(rows, training=True)
    (once, updated), (again, _) = augmentation.draw(rows, seed), augmentation.draw(rows, seed)
    if not isinstance(once, tf.Tensor) or once.shape.rank is None or once.shape[:1] != rows.shape[:1]:
        raise ValueError(f"The layer {layer.name!r} must return one example per example; got {checks.shown(once)}.")
    seeds = set(map(id, seeds_of(layer)))
    if updated.keys() - seeds or not np.array_equal(once, again):
        raise ValueError(
            f"The layer {layer.name!r} has random draws or updates that its own keras.random.SeedGenerator does not "
            "control, so batches could not be repeated. Pass such a generator as `seed` to every function of "
            "keras.random, and use no other source of randomness."
        )
