"""The structure of models: copies with fresh weights, models split at a layer, and models joined to one.

A network that runs layer after layer is a composition of functions (Formula 5.6), and can be split between any two:

    phi(x; theta) = phi_b(phi_a(x; theta_a); theta_b)
"""

from collections.abc import Mapping, Sequence

import keras

from meta_keras import checks
from meta_keras.copies import fresh_chain, fresh_copy
from meta_keras.internals import all_layers, calls_of
from meta_keras.transfer.layers import check_graph, fits, layer_names, listed, output_of, select


def same_structure(model: keras.Model, layers: Sequence[str] | None = None) -> keras.Model:
    """The same architecture with freshly initialized weights: what document D1 calls structure transfer.

    layers: the names of the layers to copy, for a part of the structure, such as all but the head. The copy has them in
        the order of the model, which must then be a chain: layer after layer, without branches. None copies everything.

    All layers of the copy are trainable, and it is not compiled. The model is not changed, and shares no variable with
    its copy.

    >>> import meta_keras as mk
    >>> network = mk.networks.mlp(2, input_shape=(3,), hidden=(4, 5))
    >>> same_structure(network).output_shape
    (None, 2)
    >>> same_structure(network, layers=[layer.name for layer in network.layers[:-1]]).output_shape
    (None, 5)
    """
    copy = fresh_copy(model) if layers is None else _part_of_chain(model, layers)
    for layer in all_layers(copy):  # one by one: a model that is trainable already would not pass it on
        layer.trainable = True
    return copy


def split_model(model: keras.Model, at: str | Sequence[str]) -> tuple[keras.Model, ...]:
    """The model split after a layer, or after several, into models that compute the same one after the other.

    at: the name of the layer that ends the first part, or the names for several splits, in the order of the model.

    The parts *share* the layers of the model (Formula 5.6): training a part trains the model, and freezing a layer
    freezes it in both. For separate weights, split a copy, or take `same_structure` of a part.

    >>> import meta_keras as mk
    >>> network = mk.networks.mlp(2, input_shape=(3,), hidden=(4, 5))
    >>> trunk, head = split_model(network, network.layers[-2].name)
    >>> trunk.output_shape, head.input_shape, head.output_shape
    ((None, 5), (None, 5), (None, 2))
    >>> head.layers[-1] is network.layers[-1]
    True
    """
    check_graph(model)
    parts: list[keras.Model] = []
    rest = model
    names = select(model, at, layer_names(model), argument="at")
    for number, name in enumerate(names, start=1):
        if name not in layer_names(rest):
            raise ValueError(f"at must be in the order of the model; {name!r} is not after {names[number - 2]!r}.")
        cut = output_of(rest, name)
        _check_cut(rest, name, cut)
        parts.append(keras.Model(rest.inputs[0], cut, name=f"{model.name}_{number}"))
        rest = keras.Model(cut, rest.outputs[0], name=f"{model.name}_{number + 1}")
    return (*parts, rest)


def join_models(*parts: keras.Model | Mapping[str, keras.Model]) -> keras.Model:
    """One model that runs the parts one after the other (Formula 5.6). It shares their weights.

    parts: models with one input and one output each, from one model or from several. The last part may be a mapping
        `{name: model}`: several heads on one trunk, whose outputs are a dictionary with these names.

    The result is a plain Keras model, and loads without this library. Its layers are the parts, "part_1", "part_2"
    and so on, and the heads by their names. A part that is given twice is used twice, with the same weights.

    >>> dense = keras.layers.Dense
    >>> trunk, one, two = (keras.Sequential([keras.Input((3,)), dense(units)]) for units in (3, 1, 2))
    >>> answers = join_models(trunk, trunk, {"size": one, "kind": two})(keras.ops.ones((5, 3)))
    >>> {name: answer.shape[-1] for name, answer in answers.items()}
    {'size': 1, 'kind': 2}
    """
    *before, last = parts or ({},)
    heads = dict(last) if isinstance(last, Mapping) else {f"part_{len(parts)}": last}
    if not heads:
        raise ValueError(
            "There is nothing to join: give models, the last of which may be a mapping of names to models."
        )
    checks.text(**{f"name {place} of the heads": name for place, name in enumerate(heads, start=1)})
    for place, part in enumerate((*before, *heads.values()), start=1):
        check_graph(part, name=f"part {place}")
    first = [*before, *heads.values()][0]
    given = x = keras.Input(batch_shape=first.input_shape, dtype=first.inputs[0].dtype)
    named: dict[int, keras.Model] = {}
    for number, part in enumerate(before, start=1):
        _check_fit(before[max(number - 2, 0)], part, x)
        x = _named(part, f"part_{number}", named)(x)
    for head in heads.values():
        _check_fit(before[-1] if before else head, head, x)
    answers = {name: _named(head, name, named)(x) for name, head in heads.items()}
    return keras.Model(given, answers if isinstance(last, Mapping) else answers[f"part_{len(parts)}"], name="joined")


def _part_of_chain(model: keras.Model, layers: Sequence[str]) -> keras.Model:
    check_graph(model)
    names, row = select(model, layers, layer_names(model)), calls_of(model)
    for before, call in zip(row, row[1:], strict=False):
        if [id(tensor) for tensor in call.input_tensors] != [id(tensor) for tensor in before.output_tensors]:
            raise ValueError(
                f"The model {model.name!r} is not a chain: the inputs of {call.operation.name!r} are not exactly the "
                f"outputs of {before.operation.name!r}. Copy all layers, or a part that split_model returns."
            )
    selected = [call for call in row if call.operation.name in names]
    return fresh_chain([call.operation for call in selected], selected[0].input_tensors[0])


def _named(part: keras.Model, name: str, named: dict[int, keras.Model]) -> keras.Model:
    """The part under its name in the joined model; the user's model keeps its own name."""
    if id(part) not in named:
        named[id(part)] = keras.Model(part.inputs[0], part.outputs[0], name=name)
    return named[id(part)]


def _check_fit(before: keras.Model, part: keras.Model, x: keras.KerasTensor) -> None:
    given, taken = tuple(x.shape), part.input_shape
    if not fits(given, taken):
        raise ValueError(
            f"The parts do not fit: the outputs of {before.name!r} ({listed(layer_names(before))}) have the shape "
            f"{given}, and the inputs of {part.name!r} ({listed(layer_names(part))}) have the shape {taken}. Put a "
            "part between them with inputs of the first shape and outputs of the second."
        )


def _check_cut(model: keras.Model, name: str, cut: keras.KerasTensor) -> None:
    """Raise a ValueError unless the layers after the cut need nothing else from before it."""
    if cut is model.outputs[0]:
        raise ValueError(f"There are no layers after {name!r}; the model has the layers {listed(layer_names(model))}.")
    after, others = {id(cut)}, []
    for call in calls_of(model):
        known = [id(tensor) in after for tensor in call.input_tensors]
        if any(known):
            after.update(id(tensor) for tensor in call.output_tensors)
            others += [] if all(known) else [call.operation.name]
    if others:
        raise ValueError(
            f"The model {model.name!r} cannot be split after {name!r}: {listed(others)} needs something else from "
            "before the split. Split it where all connections pass through one layer."
        )
