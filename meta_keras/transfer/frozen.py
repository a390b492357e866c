"""A part of a model that stays as it is, whatever is done with the rest."""

from typing import Any

import keras

from meta_keras.internals import all_layers


@keras.saving.register_keras_serializable(package="meta_keras")
class Frozen(keras.layers.Layer):
    """A model as a layer that neither trains nor does anything else than in inference.

    Calling a model with training=False does not do within a functional model: Keras hands the training of `fit` on to
    it all the same. Dropout would drop, and batch normalisation go by the batch.

    The model itself is frozen by this, and not a copy of it.
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        for layer in all_layers(model):  # one by one: a model that is frozen already would not pass it on
            layer.trainable = False
        self.built = True

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Keras says here that the model around this layer trains. The layer does not."""

    def call(self, inputs: Any) -> Any:
        return self.model(inputs, training=False)

    @property
    def metrics(self) -> list[keras.Metric]:
        """None: those that the model was once trained with would hide those of the training at hand."""
        return []

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Frozen":
        return cls(**(config | {"model": keras.saving.deserialize_keras_object(config["model"])}))


def held(model: keras.Model) -> set[int]:
    """The ids of all Frozen layers of a model, and of all layers within them."""
    frozen = [layer for layer in all_layers(model) if isinstance(layer, Frozen)]
    return {id(inner) for layer in frozen for inner in all_layers(layer)}
