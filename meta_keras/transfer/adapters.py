"""Adapters: a frozen source model with a small trainable addition. D5's f_mt = f_s + f_ad."""

from collections.abc import Sequence
from typing import Any

import keras

from meta_keras import checks
from meta_keras.copies import copy_of
from meta_keras.internals import input_structure
from meta_keras.traces import final_activation
from meta_keras.transfer.freezing import Frozen, freeze, freeze_beside_low_rank, freeze_layers
from meta_keras.transfer.layers import check_graph, select_weighted, weighted_layers
from meta_keras.transfer.structure import same_structure


def with_residual(source: keras.Model, adapter: keras.Model | None = None) -> keras.Model:
    """A model whose outputs are the sum of a frozen source and a trained residual (D5; Formula 3.5).

        f_mt(x) = f_s(x) + f_ad(x)

    The source is copied, so yours stays as it is; the copy does not train, and runs in inference mode.

    adapter: a model with the inputs and outputs of the source. By default a fresh copy of the source whose last layer
        is zero, so that training starts from f_mt = f_s.

    >>> from meta_keras import networks
    >>> source = networks.mlp(3)
    >>> model = with_residual(source)
    >>> x = keras.ops.ones((2, 1))
    >>> bool(keras.ops.all(model(x) == source(x)))
    True
    """
    check_graph(source, one_input=False, name="source")
    if (activation := final_activation(source)) in ("softmax", "log_softmax", "sigmoid"):
        raise ValueError(
            f"The model {source.name!r} ends in a {activation}, and sums of probabilities are not "
            "probabilities. Use a source whose last layer has no activation, and a loss with from_logits=True."
        )
    if adapter is None:
        adapter = _zero_adapter(source)
    check_graph(adapter, one_input=False, name="adapter")
    for what in ("input_shape", "output_shape"):
        of_adapter, of_source = getattr(adapter, what), getattr(source, what)
        if of_adapter != of_source:
            raise ValueError(
                f"The {what.replace('_', ' ')} of the adapter {adapter.name!r} is {of_adapter}; that of the source "
                f"{source.name!r} is {of_source}. They must be the same, since the outputs are added."
            )
    inputs = keras.tree.map_structure(
        lambda one: keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name), input_structure(source)
    )
    outputs = keras.layers.Add()([Frozen(copy_of(source), name="source")(inputs), adapter(inputs)])
    return keras.Model(inputs, outputs, name=f"{source.name}_adapted")


def with_low_rank(
    source: keras.Model,
    rank: int = 4,
    layers: str | Sequence[str] | None = None,
    *,
    train: str | Sequence[str] | None = None,
) -> keras.Model:
    """A copy of the source whose layers get low-rank updates (Hu et al., "LoRA", 2021; Formula 3.6).

        W_mt = W_s + A B,   A of shape (inputs, rank), B of shape (rank, outputs) and initially zero

    Only A and B train, which are few numbers: rank * (inputs + outputs) instead of inputs * outputs. This stays so with
    `freeze` and `fine_tune`. (Keras files store which layers train, not which weights: in a model that was loaded, the
    biases beside them train too, until `freeze` chooses the layers.)

    layers: which layers get a residual; None takes every dense, convolution and embedding layer that has none yet.
    train: names of layers that train completely, such as a fresh head.

    >>> from meta_keras import networks
    >>> model = with_low_rank(networks.mlp(1), rank=2, layers="head")
    >>> sorted(weight.name for weight in model.trainable_weights)
    ['lora_kernel_a', 'lora_kernel_b']
    """
    checks.built_model(source=source)
    checks.at_least(1, rank=rank)
    if train is not None and not (isinstance(train, list | tuple) and not train):
        checks.names(train=train)
    whole = select_weighted(source, train, argument="train") if train else []
    named = weighted_layers(source)
    able = [name for name, layer in named.items() if _can_have_residual(layer) and name not in whole]
    names = able if layers is None else select_weighted(source, layers)
    wrong = [name for name in names if name not in able]
    if wrong or not names:
        has_one = [name for name in wrong or named if getattr(named[name], "lora_enabled", False)]
        raise ValueError(
            f"The layers that can get a low-rank update are {', '.join(able) or 'none'}; got {wrong or 'no layers'}."
            + (f" {', '.join(has_one)} already have one: change its rank where it is created." if has_one else "")
        )
    model = copy_of(source)
    named = weighted_layers(model)
    freeze(model, "all", batch_norm=True)
    freeze_layers(layer for name, layer in named.items() if name not in [*names, *whole])
    for name in names:
        named[name].enable_lora(rank)
    freeze_beside_low_rank(named[name] for name in names)
    return model


def _can_have_residual(layer: keras.layers.Layer) -> bool:
    return hasattr(layer, "enable_lora") and not layer.lora_enabled


def _zero_adapter(source: keras.Model) -> keras.Model:
    """A fresh copy of a model whose outputs are zero for all inputs."""
    adapter = same_structure(source)
    head = list(weighted_layers(adapter).values() or [adapter])[-1]
    for weight in head.weights:
        weight.assign(keras.ops.zeros_like(weight))
    if keras.ops.any(adapter(_example_inputs(source))):
        raise ValueError(
            f"Training should start from the outputs of {source.name!r} alone, but its last layer with weights, "
            f"{head.name!r}, cannot make those of the adapter zero. Give an adapter of your own, or a source that ends "
            "in this layer, without an activation."
        )
    return adapter


def _example_inputs(model: keras.Model) -> Any:
    ones = [keras.ops.ones([1, *(size or 32 for size in one.shape[1:])], one.dtype) for one in model.inputs]
    return keras.tree.pack_sequence_as(input_structure(model), ones)
