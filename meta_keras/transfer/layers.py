"""The layers of a model by name: those with weights, which are copied, blended and frozen, and how they are connected.

Connections are read from the model itself, since a layer may belong to several models.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import keras

from meta_keras import checks
from meta_keras.internals import calls_of, direct_sublayers

Shape = tuple[int | None, ...]


def weighted_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Every layer with weights of its own, by name; a layer within a layer is called "outer/inner".

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.ReLU()])
    >>> list(weighted_layers(model))
    ['hidden']
    """
    checks.built_model(model=model)
    found: dict[str, keras.layers.Layer] = {}
    for name, layer in _walk(model, ""):
        if layer in found.values() or not own_weights(layer):
            continue
        if name in found:
            raise ValueError(f"Two layers of {model.name!r} are called {name!r}; give each its own name.")
        found[name] = layer
    return found


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that belong to the layer itself, and not to a layer within it."""
    inner = {id(weight) for child in direct_sublayers(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def select_weighted(model: keras.Model, names: str | Sequence[str], *, argument: str = "layers") -> list[str]:
    """The named layers with weights, in the order of the model. A layer stands for all layers within it."""
    available = list(weighted_layers(model))
    selected = select(model, names, available, argument=argument, kind="layers with weights")
    return [name for name in available if name in selected]


def select(
    model: keras.Model,
    names: str | Sequence[str],
    available: Sequence[str],
    *,
    argument: str = "layers",
    kind: str = "layers",
) -> list[str]:
    """The names as a list, each of them available; "outer" stands for every "outer/inner". Else a ValueError."""
    checks.names(**{argument: names})
    selected: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        found = [one for one in available if one == name or one.startswith(f"{name}/")]
        if not found:
            raise ValueError(
                f"The model {model.name!r} has no {name!r} among its {kind} {listed(available) or '(none)'}."
            )
        selected += found
    return selected


def stable_names(model: keras.Model) -> dict[str, str]:
    """For each layer with weights, a name that it also has in a second model built by the same code.

    Keras numbers layers without a given name consecutively: conv2d, conv2d_1, and in the next model conv2d_2. The
    stable name of such a layer is its type and its number among the layers of this type beside it.
    """
    pairs = zip(_walk(model, ""), _walk(model, "", stable=True), strict=True)
    stable = {name: stable_name for (name, _), (stable_name, _) in pairs}
    return {name: stable[name] for name in weighted_layers(model)}


def _walk(layer: keras.layers.Layer, path: str, stable: bool = False) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layer and all layers within it, each with its path."""
    yield path or ("" if stable else layer.name), layer
    counts: Counter[str] = Counter()
    for child in direct_sublayers(layer):
        name = child.name
        if stable and _named_by_keras(child):
            counts[type(child).__name__] += 1
            name = f"{type(child).__name__} {counts[type(child).__name__]}"
        yield from _walk(child, f"{path}/{name}" if path else name, stable)


def _named_by_keras(layer: keras.layers.Layer) -> bool:
    """Whether the name is that of the class in lower case, such as batch_normalization_3."""
    return re.sub(r"_\d+$", "", layer.name).replace("_", "") == type(layer).__name__.lower().replace("_", "")


def check_graph(model: keras.Model, *, one_input: bool = True, name: str = "model") -> None:
    """Raise an error unless the connections of the model are known, with one output, and with one input if needed."""
    checks.fittable_model(**{name: model})
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(
            f"{name} must be a Sequential model that starts with keras.Input(shape), or a functional model: how the "
            f"layers of {model.name!r}, a {type(model).__name__}, are connected is not known before it runs."
        )
    if len(outputs) > 1 or (one_input and len(inputs) > 1):
        raise ValueError(
            f"{name} must have {'one input and one output' if one_input else 'one output'}; {model.name!r} has "
            f"{len(inputs)} inputs and {len(outputs)} outputs."
        )


def layer_names(model: keras.Model) -> list[str]:
    """The names of the layers that a model calls, without its inputs."""
    return [call.operation.name for call in calls_of(model) if not call.is_input]


def output_of(model: keras.Model, name: str, *, argument: str = "layer") -> keras.KerasTensor:
    """The output of the layer with this name within the model (`layer.output` may be that of another model)."""
    select(model, name, layer_names(model), argument=argument)
    found = [call.output_tensors for call in calls_of(model) if call.operation.name == name]
    if len(found) > 1 or len(found[0]) > 1:
        raise ValueError(f"The layer {name!r} has {sum(map(len, found))} outputs in this model; one is needed.")
    return found[0][0]


def fits(given: Shape, taken: Shape) -> bool:
    """Whether outputs of one shape can be the inputs of another, where None is any number."""
    same_rank = len(given) == len(taken)
    return same_rank and all(None in pair or pair[0] == pair[1] for pair in zip(given, taken, strict=True))


def listed(words: Sequence[str]) -> str:
    """Names in quotation marks, each once."""
    return ", ".join(map(repr, dict.fromkeys(words)))
