"""Copies of Keras models: the same architecture with other weights, and a compiled model before its first step."""

from collections.abc import Sequence

import keras
import numpy as np

from meta_keras.functional import PureModel, Weights
from meta_keras.internals import all_layers


def copy_of(network: PureModel, weights: Weights) -> keras.Model:
    """A Keras model of its own with these weights."""
    model, copy = network.model, fresh_copy(network.model)
    variables = [*network.parameters, *network.state]
    values = {id(v): value for v, value in zip(variables, [*weights.parameters, *weights.state], strict=True)}
    # By place, as a copy may let other weights train than the model: Keras copies what trains layer by layer.
    for variable, original in zip(copy.variables, model.variables, strict=True):
        variable.assign(values[id(original)])
    take_up_statistics(copy)
    return copy


def take_up_statistics(model: keras.Model) -> None:
    """Let Keras' Normalization go by its weights; it computes with what it made of them when it was built."""
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def fresh_copy(network: keras.Model) -> keras.Model:
    """A Keras model of the same architecture, with weights of its own as its initializers draw them."""
    if not network.built:
        raise ValueError(
            f"The network {network.name!r} has no weights yet. Begin it with keras.Input(shape), "
            "or call it once on an example of its inputs."
        )
    try:
        copy = keras.models.clone_model(network)
    except NotImplementedError as error:
        raise ValueError(
            f"The network {network.name!r} cannot be copied, since {type(network).__name__} has no "
            "get_config. Add one, or build the network as a Sequential or functional model."
        ) from error
    if not copy.built:
        copy.build(network.input_shape)
    return copy


def copied(source: keras.Model) -> keras.Model:
    """A copy with the weights of the source. It is not compiled: an optimizer and metrics would be kept with it."""
    pure = PureModel(source)
    copy = copy_of(pure, pure.weights())
    copy.optimizer, copy.compiled = None, False
    return copy


def restart(model: keras.Model, weights: Sequence[np.ndarray] | None = None) -> None:
    """Puts a compiled model back before its first step: these weights, and an optimizer that remembers nothing.

    Compiling takes longer than training a small network. So compile once, and restart for every seed.

    weights: as `get_weights` gives them. None keeps those that the model has.

    A learning rate stays as it is now; a schedule begins at its first step.

    >>> import numpy as np
    >>> import meta_keras as mk
    >>> model = mk.networks.mlp(1, input_shape=(3,))
    >>> model.compile("adam", "mse")
    >>> start = model.get_weights()
    >>> for seed in range(2):
    ...     restart(model, start)
    ...     _ = model.fit(np.ones((4, 3)), np.ones(4), verbose=0)
    >>> int(model.optimizer.iterations)
    1
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(f"{model.name!r} has no optimizer to restart; compile it first.")
    if weights is not None:
        model.set_weights(weights)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    for variable, start in zip(optimizer.variables, fresh.variables, strict=True):
        variable.assign(start)
