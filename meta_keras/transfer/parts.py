"""The layers of a model by name: what transfer moves, blends and freezes."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import keras

from meta_keras.internals import direct_sublayers


def parts(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Every layer that has weights of its own, by its name; layers within layers as "outer/inner".

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.ReLU()])
    >>> list(parts(model))
    ['hidden']
    """
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights yet. Begin it with keras.Input(shape), "
            "or call it once on an example of its inputs."
        )
    found: dict[str, keras.layers.Layer] = {}
    for name, layer in _walk(model, ""):
        if layer in found.values() or not own_weights(layer):
            continue
        if name in found:
            raise ValueError(f"Two layers of {model.name!r} are called {name!r}; give each a name of its own.")
        found[name] = layer
    return found


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that belong to the layer itself, and not to a layer within it."""
    inner = {id(weight) for child in _children(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def choose(model: keras.Model, names: str | Sequence[str]) -> list[str]:
    """The layers with weights that are named, in the order of the model. A layer stands for all within it."""
    names, there = [names] if isinstance(names, str) else list(names), list(parts(model))
    wrong = [name for name in names if not any(_within(part, name) for part in there)]
    if wrong or not names:
        asked = ", ".join(map(repr, wrong)) or "none"
        raise ValueError(
            f"The layers of {model.name!r} that have weights are {', '.join(map(repr, there))}; {asked} asked for."
        )
    return [part for part in there if any(_within(part, name) for name in names)]


def places(model: keras.Model) -> dict[str, str]:
    """For each layer with weights, a name that a second model of the same making has too.

    Keras numbers the layers that were given no name, on and on: conv2d, conv2d_1, and in the next model conv2d_2.
    Such a layer goes by its kind and its number among the layers of its kind beside it.
    """
    stable = {name: place for (name, _), (place, _) in zip(_walk(model, ""), _walk(model, "", True), strict=True)}
    return {name: stable[name] for name in parts(model)}


def _walk(layer: keras.layers.Layer, path: str, stable: bool = False) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layer and all within it, each with its path."""
    yield path or ("" if stable else layer.name), layer
    counts: Counter[str] = Counter()
    for child in _children(layer):
        name = child.name
        if stable and _named_by_keras(child):
            counts[type(child).__name__] += 1
            name = f"{type(child).__name__} {counts[type(child).__name__]}"
        yield from _walk(child, f"{path}/{name}" if path else name, stable)


def _named_by_keras(layer: keras.layers.Layer) -> bool:
    """Whether the name is that of the class in small letters, such as batch_normalization_3."""
    return re.sub(r"_\d+$", "", layer.name).replace("_", "") == type(layer).__name__.lower().replace("_", "")


def _children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return direct_sublayers(layer)


def _within(part: str, name: str) -> bool:
    return part == name or part.startswith(f"{name}/")
