"""Freezing (冻结): which layers of a model train, and a layer that never does."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from meta_keras import checks
from meta_keras.internals import all_layers
from meta_keras.transfer.layers import own_weights, select_weighted, weighted_layers


def freeze(model: keras.Model, train: str | Sequence[str] = "head", *, batch_norm: bool = False) -> list[str]:
    """Let some layers of a model train and freeze all others. Returns the names of those that train.

    train: "head", the last layer with weights, apart from batch normalization; "all"; or names of layers. Layers within
        a `Frozen` layer never train, and of a layer with a low-rank update (`with_low_rank`) only this update trains.
    batch_norm: whether batch normalization trains too. Usually it should not, because a few new examples would
        overwrite its moving averages. When frozen it runs in inference mode, also in `fit`. If named, it trains.

    Files keep what is frozen, except for parts of layers and `MultiHeadAttention`, of which Keras does not save it:
    then freeze again after loading.

    >>> from meta_keras import networks
    >>> freeze(networks.d3(10))
    ['head']
    """
    names = names_to_train(model, train, batch_norm=batch_norm)
    never = within_frozen(model)
    # One by one: on TensorFlow, Keras passes `model.trainable = True` on to the layers only if it was False before.
    for layer in all_layers(model):
        layer.trainable = id(layer) not in never
    could_train = [layer for layer in all_layers(model)[1:] if layer.trainable_weights]
    freeze_beside_low_rank(all_layers(model))
    others = [(name, layer) for name, layer in weighted_layers(model).items() if id(layer) not in never]
    freeze_layers(layer for name, layer in others if name not in names)
    for layer in could_train:  # files and copies know this of a layer, but not of the parts of Keras' own
        if not layer.trainable_weights:
            layer.trainable = False
    return names


def names_to_train(model: keras.Model, train: str | Sequence[str], *, batch_norm: bool = False) -> list[str]:
    """The names of the layers that `freeze` would let train, in the order of the model. Nothing is changed."""
    checks.built_model(model=model)
    checks.names(train=train)
    checks.flag(batch_norm=batch_norm)
    never = within_frozen(model)
    available = {name: layer for name, layer in weighted_layers(model).items() if id(layer) not in never}
    if train not in ("head", "all"):
        names = select_weighted(model, train, argument="train")
        wrong = [name for name in names if name not in available]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is within a Frozen layer, which never trains. Those that can: {list(available)}."
            )
        return names
    kinds = () if batch_norm else keras.layers.BatchNormalization
    names = [name for name, layer in available.items() if not isinstance(layer, kinds)]
    return names[-1:] if train == "head" else names


def freeze_layers(layers: Iterable[keras.layers.Layer]) -> None:
    """Freeze these layers, but not the layers within them."""
    for layer in layers:
        if len(own_weights(layer)) == len(layer.weights):
            layer.trainable = False
        else:  # Keras would pass it on to the layers within
            for weight in own_weights(layer):
                weight.trainable = False


def freeze_beside_low_rank(layers: Iterable[keras.layers.Layer]) -> None:
    """Freeze all weights of layers with a low-rank update, except for this update."""
    for layer in layers:
        if getattr(layer, "lora_enabled", False):
            for weight in own_weights(layer):
                if not weight.name.startswith("lora_"):
                    weight.trainable = False


@keras.saving.register_keras_serializable(package="meta_keras")
class Frozen(keras.layers.Layer):
    """A model as a layer that never trains and always runs in inference mode.

    Calling a model with training=False is not enough within a functional model: Keras still passes the `training` of
    `fit` on to it, so that dropout is active and batch normalization uses the statistics of the batch.

    The model itself is frozen by this, and not a copy of it.

    >>> from meta_keras import networks
    >>> model = keras.Sequential([keras.Input((1,)), Frozen(networks.mlp(4)), keras.layers.Dense(1, name="new")])
    >>> model.trainable = True
    >>> [layer.name for layer in model.layers if layer.trainable_weights]
    ['new']
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.built_model(model=model)
        self.model = model
        for layer in all_layers(model):  # one by one: a model that is frozen already would not pass it on
            layer.trainable = False
        self.built = True

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Keras announces here that the model around this layer trains. This layer does not."""

    def call(self, inputs: Any) -> Any:
        return self.model(inputs, training=False)

    @property
    def metrics(self) -> list[keras.Metric]:
        """None: those with which the model was once trained would hide those of the present training."""
        return []

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Frozen":
        return cls(**(config | {"model": keras.saving.deserialize_keras_object(config["model"])}))


def within_frozen(model: keras.Model) -> set[int]:
    """The ids of all Frozen layers of a model and of all layers within them."""
    frozen = [layer for layer in all_layers(model) if isinstance(layer, Frozen)]
    return {id(inner) for layer in frozen for inner in all_layers(layer)}
