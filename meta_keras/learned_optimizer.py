"""A learned update as a Keras optimizer, for any `model.fit`."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.internals import number_of
from meta_keras.rules.update_network import MOMENTUM_DECAYS, Memory, UpdateNetwork
from meta_keras.rules.updates import Step


@keras.saving.register_keras_serializable(package="meta_keras")
class LearnedOptimizer(keras.optimizers.Optimizer):
    """Trains a model with the updates of an `UpdateNetwork` (Formula 11.1), which itself stays as it is.

    Clipping, weight decay, moving averages of the weights, gradient accumulation and loss scaling are Keras' own and
    apply as they do to other optimizers. What the network has learned is part of the configuration, so it is saved with
    a compiled model.

    update: the update network, after meta-training. None loads the one that comes with the project.
    learning_rate: a factor of its updates, or a schedule. 1 uses them as they were learned.

    >>> optimizer = LearnedOptimizer(UpdateNetwork())
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer, "mse")
    """

    def __init__(self, update: UpdateNetwork | None = None, learning_rate: Any = 1.0, **kwargs: Any) -> None:
        update = UpdateNetwork.load() if update is None else update
        if not isinstance(update, UpdateNetwork):
            raise TypeError(f"update must be an UpdateNetwork; got {checks.shown(update)}.")
        if not callable(learning_rate):  # a schedule is, or a function of no arguments
            checks.positive(learning_rate=learning_rate)
            learning_rate = float(learning_rate)  # Keras refuses integers
        kwargs.setdefault("name", "learned_optimizer")
        super().__init__(learning_rate=learning_rate, **kwargs)
        update.build()
        self.update = update
        self._memories: list[tuple[list[keras.Variable], keras.Variable]] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        for variable in variables:
            momenta = [self.add_variable_from_reference(variable, f"momentum_{decay}") for decay in MOMENTUM_DECAYS]
            self._memories.append((momenta, self.add_variable_from_reference(variable, "square")))

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        momenta, square = self._memories[number_of(self, variable)]
        memory = Memory(tuple(map(tf.convert_to_tensor, momenta)), tf.convert_to_tensor(square))
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)  # rows of an embedding become a matrix
        step = Step(tf.convert_to_tensor(self.iterations), tf.zeros((), gradient.dtype), False)
        parameter = tf.convert_to_tensor(variable)
        (change,), (memory,) = self.update.update([gradient], [memory], [parameter], step)
        for old, new in zip((*momenta, square), (*memory.momenta, memory.square), strict=True):
            self.assign(old, new)
        self.assign_add(variable, tf.cast(learning_rate, variable.dtype) * change)

    def get_config(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, *self.update.get_weights())
        weights = base64.b64encode(buffer.getvalue()).decode()
        return super().get_config() | {"update": keras.saving.serialize_keras_object(self.update), "weights": weights}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "LearnedOptimizer":
        update = keras.saving.deserialize_keras_object(config["update"])
        update.build()
        with np.load(io.BytesIO(base64.b64decode(config["weights"]))) as arrays:
            update.set_weights([arrays[name] for name in arrays.files])
        rest = {name: value for name, value in config.items() if name not in ("update", "weights")}
        return super().from_config(rest | {"update": update}, custom_objects)
