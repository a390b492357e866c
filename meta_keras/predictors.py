"""What `MetaLearner` returns after adapting: a cheap predictor, or a plain Keras model that scales its own images."""

import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.inputs import BRIGHTEST, as_inputs, check_pixels
from meta_keras.internals import all_layers
from meta_keras.per_task import PerTask
from meta_keras.rules.base import Adaptation, Context
from meta_keras.tasks.inspection import as_tensor


class Predictor:
    """A learner adapted to one task. Calling it on queries answers as the learner does, in its training scale.

    It holds the adapted weights and no model of its own, so that adapting to thousands of tasks is cheap. Unlike the
    model that `MetaLearner.adapt` returns it cannot be saved or trained.

    adaptation: the rule's adaptation to the support set.
    """

    def __init__(
        self, answer: Callable[[Adaptation, tf.Tensor], tf.Tensor], adaptation: Adaptation, example: tuple[int, ...]
    ) -> None:
        self.adaptation, self._answer, self._example = adaptation, answer, example

    def __call__(self, x: Any) -> tf.Tensor:
        """(queries, ways) answers, or the values of a regression."""
        x = as_tensor("x", x)
        if x.shape[1:] != self._example:
            raise ValueError(
                f"x must have shape (queries, {', '.join(map(str, self._example))}), as the support set; "
                f"got {tuple(x.shape)}."
            )
        check_pixels(x, "The queries")
        return self._answer(self.adaptation, as_inputs(x))

    def predict(self, x: Any) -> np.ndarray:
        """The answers as an array."""
        return self(x).numpy()


def rescaled(model: keras.Model, example: tuple[int, ...]) -> keras.Model:
    """The model behind a layer that scales pixels, for users who keep their images as integers."""
    layers = [keras.Input(example), keras.layers.Rescaling(1 / BRIGHTEST, name="pixels"), model]
    return keras.Sequential(layers, name=f"{model.name}_of_pixels")


Layers = list[keras.layers.Layer]

# The types of what may change an answer without being a weight.
SETTINGS = frozenset((bool, int, float, str, tuple, type(None)))


class Predictors:
    """Makes predictors of one learner. Adapting and predicting are traced once, and again if a layer has changed.

    Changed settings of layers are seen if they are numbers, words or lists of these, under public names.
    """

    def __init__(self, per_task: PerTask) -> None:
        self._per_task = per_task
        self._traced: dict[Any, tuple[Any, Any]] = {}
        self._last: tuple[list[Any], Any] = ([], None)  # one tuple, since threads may replace it at the same time

    def __call__(self, context: Context, x: tf.Tensor, y: tf.Tensor) -> Predictor:
        variables = self._per_task.network.model.variables
        of_rule, of_network = all_layers(self._per_task.rule), all_layers(self._per_task.network.model)
        seen = [context.ways, *(variable.trainable for variable in variables), *of_rule, *of_network]
        seen += [value for layer in of_rule + of_network for value in vars(layer).values()]
        # Where every object is that of the last call, so are the settings, and listing them would take much longer.
        last_seen, traced = self._last
        if len(seen) != len(last_seen) or not all(map(operator.is_, seen, last_seen)):
            traced = self._traced_for(context, of_rule, of_network)
            self._last = seen, traced
        adapt, answer = traced
        return Predictor(answer, adapt(x, y), tuple(x.shape[1:]))

    def _traced_for(self, context: Context, of_rule: Layers, of_network: Layers) -> tuple[Any, Any]:
        """The two functions for the settings that all layers have now."""
        settings = [
            (name, list(value) if isinstance(value, list) else value)
            for layers, hidden in ((of_rule, "__"), (of_network, "_"))  # Keras notes calls in what begins with "_"
            for layer in layers
            for name, value in vars(layer).items()
            if _is_setting(value) and not name.startswith(hidden)
        ]
        parts = [id(part) for layer in of_rule + of_network for part in (layer, getattr(layer, "activation", None))]
        key = repr((context.ways, settings, parts, [v.trainable for v in self._per_task.network.model.variables]))
        if key not in self._traced:
            self._traced[key] = (
                _graph(lambda x, y: self._per_task.adapt(context, x, y)),
                _graph(lambda adapted, x: self._per_task.predict(context, adapted, x)),
            )
        return self._traced[key]


def _is_setting(value: Any) -> bool:
    """Whether this is a number, a word, or a list of these."""
    if isinstance(value, list):
        return all(map(_is_setting, value))
    return type(value) in SETTINGS or isinstance(value, np.generic)


def _graph(function: Callable[..., Any]) -> Any:
    return tf.function(function, autograph=False, reduce_retracing=True)
