"""Copies of Keras models: the same architecture with other weights, and a compiled model before its first step."""

from collections.abc import Sequence

import keras
import numpy as np

from meta_keras import checks
from meta_keras.functional import PureModel, Weights
from meta_keras.internals import all_layers, seeds_of


def fresh_copy(model: keras.Model) -> keras.Model:
    """A model of the same architecture with its own weights, as its initializers draw them. It is not compiled.

    What preprocessing layers have learned by `adapt` (statistics and vocabularies) belongs to the architecture: it is
    kept.
    """
    checks.built_model(model=model)
    try:
        copy = _clone(model)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"The model {model.name!r} cannot be copied, because it cannot be created from its get_config: "
            f"{type(error).__name__}, {str(error).strip().partition(chr(10))[0]} Give your own classes a get_config "
            "that returns all arguments of __init__, or build the model as a Sequential or functional model."
        ) from error
    if not copy.built:
        copy.build(model.input_shape)
    copy.optimizer, copy.compiled = None, False  # Keras compiles the copy of a compiled model
    _keep_adapted_state(model, copy)
    return copy


def fresh_chain(layers: Sequence[keras.layers.Layer], start: keras.KerasTensor) -> keras.Sequential:
    """Fresh copies of these layers, one after the other, as a Sequential model with inputs like `start`."""
    fresh = [_clone(layer) if isinstance(layer, keras.Model) else _clone_layer(layer) for layer in layers]
    chain = keras.Sequential([keras.Input(batch_shape=start.shape, dtype=start.dtype), *fresh])
    for original, layer in zip(layers, fresh, strict=True):
        _keep_adapted_state(original, layer)
    return chain


def copy_of(model: keras.Model) -> keras.Model:
    """A model with the same architecture and the same weights. It is not compiled."""
    checks.built_model(model=model)
    pure = PureModel(model)
    return copy_with(pure, pure.weights())


def copy_with(network: PureModel, weights: Weights) -> keras.Model:
    """A model with the architecture of the network and with these weights. It is not compiled."""
    model, copy = network.model, fresh_copy(network.model)
    variables = [*network.parameters, *network.state]
    values = {id(v): value for v, value in zip(variables, [*weights.parameters, *weights.state], strict=True)}
    # By position, since other weights may be trainable in the copy: Keras copies `trainable` layer by layer.
    for variable, original in zip(copy.variables, model.variables, strict=True):
        variable.assign(values[id(original)])
        variable.trainable = original.trainable
    finalize_statistics(copy)
    return copy


def finalize_statistics(model: keras.Model) -> None:
    """Let Keras' Normalization layers use the weights they have now; they compute with constants derived from them."""
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def restart(model: keras.Model, weights: Sequence[np.ndarray] | None = None) -> None:
    """Put a compiled model back before its first step: with these weights, and with the optimizer's state reset.

    Compiling takes longer than training a small network, so compile once and restart for every seed.

    weights: as returned by `get_weights`. None keeps the present ones.

    The learning rate stays as it is now; a schedule begins at its first step, random generators (of dropout, or of
    augmentation) at their first draw, and a MetaLearner at its first batch of tasks: `batches_seen` is 0, whatever the
    weights say.

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
    checks.built_model(model=model)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(f"The model {model.name!r} has no optimizer to restart; compile it first.")
    if weights is not None:
        _check_weights(model, weights)
        model.set_weights(weights)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    for variable, start in zip(optimizer.variables, fresh.variables, strict=True):
        variable.assign(start)
    for seed in seeds_of(model):
        seed.assign([seed[0], 0])
    if (batches_seen := getattr(model, "batches_seen", None)) is not None:  # of a MetaLearner
        batches_seen.assign(0)


def _clone(model: keras.Model) -> keras.Model:
    of_known_layers = bool(getattr(model, "outputs", None))  # a subclassed model creates its layers itself
    if of_known_layers and any(isinstance(layer, keras.layers.Lambda) for layer in all_layers(model)):
        return keras.models.clone_model(model, clone_function=_clone_layer, recursive=True)
    return keras.models.clone_model(model)


def _clone_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A fresh layer. A Lambda layer is shared: it has no weights, and Keras does not create functions from a config."""
    return layer if isinstance(layer, keras.layers.Lambda) else type(layer).from_config(layer.get_config())


def _keep_adapted_state(model: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Give the copy what `adapt` computed for preprocessing layers, statistics and vocabularies, as Keras saves it."""
    for original, layer in zip(all_layers(model), all_layers(copy), strict=True):
        stored: dict[str, np.ndarray] = {}
        if isinstance(layer, keras.layers.Normalization):
            original.save_own_variables(stored)
            layer.load_own_variables(stored)
        elif isinstance(layer, keras.layers.StringLookup | keras.layers.IntegerLookup):
            vocabulary = original.get_vocabulary()
            if vocabulary != layer.get_vocabulary():  # not by a file of Keras, which splits words at rare line breaks
                original.save_own_variables(stored)
                layer.set_vocabulary(vocabulary, stored.get("idf_weights"))


def _check_weights(model: keras.Model, weights: Sequence[np.ndarray]) -> None:
    expected = [tuple(weight.shape) for weight in model.weights]
    given = [np.shape(weight) for weight in weights] if isinstance(weights, Sequence) else checks.shown(weights)
    if given != expected:
        raise ValueError(
            f"weights must be arrays of the shapes {expected}, as {model.name!r}.get_weights() returns; got {given}."
        )
