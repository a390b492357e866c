"""Adapters: a frozen source, and beside it something small that learns. D5's f_mt = f_s + f_ad."""

from collections.abc import Sequence

import keras

from meta_keras.copies import copied
from meta_keras.internals import input_structure
from meta_keras.transfer.finetune import freeze, freeze_layers
from meta_keras.transfer.frozen import Frozen
from meta_keras.transfer.graph import check_graph
from meta_keras.transfer.losses import ends_in_softmax
from meta_keras.transfer.parts import choose, parts
from meta_keras.transfer.structure import same_structure


def with_residual(source: keras.Model, adapter: keras.Model | None = None) -> keras.Model:
    """A model that answers with the sum of a frozen source and a trained residual (D5; Formula 3.5).

        f_mt(x) = f_s(x) + f_ad(x)

    The source is copied, so yours stays as it is; the copy does not train, and runs in inference mode.

    adapter: a model with the inputs and outputs of the source. By default a fresh copy of the source whose last layer
        is zero, so that learning begins with f_mt = f_s.

    >>> from meta_keras import networks
    >>> source = networks.mlp(3)
    >>> model = with_residual(source)
    >>> x = keras.ops.ones((2, 1))
    >>> bool(keras.ops.all(model(x) == source(x)))
    True
    """
    check_graph(source, one_input=False)
    if ends_in_softmax(source):
        raise ValueError(
            f"{source.name!r} ends in a softmax: chances do not add up. Take what it computes before, with a last "
            "layer that has no activation, and a loss with from_logits=True."
        )
    if adapter is None:
        adapter = _silent(source)
    for what in ("input_shape", "output_shape"):
        mine, theirs = getattr(adapter, what), getattr(source, what)
        if mine != theirs:
            raise ValueError(
                f"The {what.replace('_', ' ')} of the adapter {adapter.name!r} is {mine}; that of the source "
                f"{source.name!r} is {theirs}. They must be the same to be added."
            )
    inputs = keras.tree.map_structure(
        lambda one: keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name), input_structure(source)
    )
    outputs = keras.layers.Add()([Frozen(copied(source), name="source")(inputs), adapter(inputs)])
    return keras.Model(inputs, outputs, name=f"{source.name}_adapted")


def with_low_rank(
    source: keras.Model, rank: int = 4, layers: str | Sequence[str] | None = None, *, train: Sequence[str] = ()
) -> keras.Model:
    """A copy of the source whose layers carry a residual of low rank (Hu et al., "LoRA", 2021; Formula 3.6).

        W_mt = W_s + A B,   A of shape (inputs, rank), B of shape (rank, outputs) and zero at first

    Only A and B train, and they are few: rank * (inputs + outputs) numbers instead of inputs * outputs. (A file of
    Keras keeps which layers train, not which weights: in a model that was loaded, the biases beside them train too.)

    layers: which layers carry one; None takes every dense, convolution and embedding layer. train: names of layers
        that train as a whole, such as a fresh head.

    >>> from meta_keras import networks
    >>> model = with_low_rank(networks.mlp(1), rank=2, layers="head")
    >>> sorted(weight.name for weight in model.trainable_weights)
    ['lora_kernel_a', 'lora_kernel_b']
    """
    if rank < 1:
        raise ValueError(f"A residual has a rank of 1 or more; {rank} was given.")
    model = copied(source)
    there = parts(model)
    whole = choose(model, train) if train else []
    able = [name for name, layer in there.items() if hasattr(layer, "enable_lora") and name not in whole]
    names = able if layers is None else choose(model, layers)
    if not set(names) <= set(able) or not names:
        wrong = [name for name in names if name not in able]
        raise ValueError(
            f"The layers that can carry a residual are {', '.join(able) or 'none'}; not {wrong or 'none'}."
        )
    freeze(model, "all", batch_norm=True)
    freeze_layers(layer for name, layer in there.items() if name not in [*names, *whole])
    for name in names:
        frozen = list(there[name].trainable_weights)
        there[name].enable_lora(rank)
        for weight in frozen:
            weight.trainable = False
    return model


def _silent(source: keras.Model) -> keras.Model:
    """A fresh copy of a model that answers 0 whatever it is asked."""
    adapter = same_structure(source)
    head = list(parts(adapter).values())[-1]
    for weight in head.weights:
        weight.assign(keras.ops.zeros_like(weight))
    ones = [keras.ops.ones([1, *(size or 32 for size in one.shape[1:])], one.dtype) for one in source.inputs]
    if keras.ops.any(adapter(keras.tree.pack_sequence_as(input_structure(source), ones))):
        raise ValueError(
            f"Learning is to begin with the answers of {source.name!r} alone, but its last layer with weights, "
            f"{head.name!r}, cannot make them 0. Give an adapter of your own, or a source that ends in this layer, "
            "without an activation."
        )
    return adapter
