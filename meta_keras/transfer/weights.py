"""Parameter transfer (参数迁移): weights carried from one model to another, all or some, whole or in part."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from meta_keras.copies import take_up_statistics
from meta_keras.transfer.parts import choose, own_weights, parts, places

Layers = str | Sequence[str] | Mapping[str, str] | None


class Transfer(NamedTuple):
    """What a transfer did. moved: for each target layer that changed, the source layer that it was given.

    left: for each other layer, why nothing was moved.

    >>> print(Transfer({"conv": "conv"}, {"head": "shapes differ"}))
    conv: from conv
    head: left, shapes differ
    """

    moved: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        moved = [f"{target}: from {source}" for target, source in self.moved.items()]
        return "\n".join([*moved, *(f"{name}: left, {why}" for name, why in self.left.items())])


def transfer_weights(source: keras.Model, target: keras.Model, layers: Layers = None) -> Transfer:
    """Give layers of `target` the weights of `source` (Formula 3.1). The source is not changed.

        theta_target[l] <- theta_source[l]   for the layers l that are chosen

    layers: None takes whatever matches: layers of the same name, or without a name of their own the first of a kind
        to the first of its kind, if all shapes agree. Names of source layers take exactly those, or fail before
        anything is moved. A mapping, {source layer: target layer}, joins layers of different names.

    >>> from meta_keras import networks
    >>> print(transfer_weights(networks.mlp(5), networks.mlp(3)))
    dense...: from dense...
    dense...: from dense...
    head: left, its shapes are (40, 3), (3), and in the source (40, 5), (5)
    """
    return blend_weights(source, target, 1.0, layers)


def blend_weights(
    source: keras.Model,
    target: keras.Model,
    amount: float | Mapping[str, float] = 0.5,
    layers: Layers = None,
) -> Transfer:
    """Mix layers of `target` with those of `source` (Formula 3.4); D2 takes half of each.

        theta_target[l] <- amount * theta_source[l] + (1 - amount) * theta_target[l]

    amount: between 0, the target as it is, and 1, the source; or one amount for each of some source layers.
    layers: as in `transfer_weights`.

    >>> source, target = (keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]) for _ in range(2))
    >>> source.layers[0].bias.assign([2.0]), target.layers[0].bias.assign([4.0])
    (...)
    >>> report = blend_weights(source, target, 0.25)
    >>> float(target.layers[0].bias[0])
    3.5
    """
    if isinstance(amount, Mapping) and layers is None:
        layers = list(amount)
    pairs, left = pairs_of(source, target, layers)
    amounts = amounts_of(source, pairs, amount)
    givers, takers = parts(source), parts(target)
    mixed = [
        (taken, _mixed(given, taken, amounts[name]))
        for name, other in pairs.items()
        for given, taken in zip(own_weights(givers[name]), own_weights(takers[other]), strict=True)
    ]
    for taken, value in mixed:
        taken.assign(value)
    take_up_statistics(target)
    return Transfer({other: name for name, other in pairs.items()}, left)


def _mixed(given: keras.Variable, taken: keras.Variable, amount: float) -> Any:
    """The blend of two weights; at 0 and 1 the one or the other to the last bit."""
    if amount in (0, 1):
        return (taken, given)[int(amount)].value
    if not keras.backend.is_float_dtype(taken.dtype):
        raise ValueError(f"{taken.path!r} holds whole numbers, which cannot be blended; leave its layer out.")
    return amount * keras.ops.cast(given.value, taken.dtype) + (1 - amount) * taken.value


def amounts_of(source: keras.Model, names: Iterable[str], amount: float | Mapping[str, float]) -> dict[str, float]:
    """The amount for each of these source layers."""
    if isinstance(amount, Mapping):
        amounts = {part: each for name, each in amount.items() for part in choose(source, name)}
        missing = [name for name in names if name not in amounts]
        if missing:
            raise ValueError(f"There are amounts for {', '.join(amounts)}; {', '.join(missing)} need one too.")
    else:
        amounts = dict.fromkeys(names, amount)
    for each in amounts.values():
        if not 0 <= each <= 1:
            raise ValueError(f"An amount lies between 0 (the target) and 1 (the source); {each!r} was given.")
    return amounts


def pairs_of(source: keras.Model, target: keras.Model, layers: Layers) -> tuple[dict[str, str], dict[str, str]]:
    """Which source layer goes to which target layer, and for all other layers why they stay."""
    by_place = {place: name for name, place in places(target).items()}
    partners = {name: by_place.get(place) for name, place in places(source).items()}
    if isinstance(layers, Mapping):
        layers = {choose(source, name)[0]: choose(target, other)[0] for name, other in layers.items()}
        if len(set(layers.values())) < len(layers):
            raise ValueError(f"A layer of the target can take one layer of the source; {layers} was asked for.")
        partners |= layers
    asked = list(partners) if layers is None else list(layers) if isinstance(layers, dict) else choose(source, layers)
    pairs = {name: partners[name] for name in asked if partners[name] is not None}
    problems = {name: f"the target {target.name!r} has no layer for it" for name in asked if name not in pairs}
    for name, other in pairs.items():
        shapes = [[tuple(w.shape) for w in own_weights(layer)] for layer in (parts(source)[name], parts(target)[other])]
        if shapes[0] != shapes[1]:
            theirs, mine = (", ".join(map(_written, shape)) for shape in shapes)
            problems[name] = f"its shapes are {mine}, and in the source {theirs}"
    pairs = {name: other for name, other in pairs.items() if name not in problems}
    if layers is not None and problems:
        raise ValueError("; ".join(f"{name!r} cannot be moved: {why}" for name, why in problems.items()) + ".")
    if not pairs:
        raise ValueError(
            f"Nothing of {source.name!r} fits {target.name!r}: "
            + "; ".join(f"{name!r}: {why}" for name, why in problems.items())
            + ". Name the layers that belong together, as in layers={'dense': 'hidden'}."
        )
    reason = "the source has no layer for it" if layers is None else "it was not asked for"
    left = {name: reason for name in parts(target) if name not in pairs.values()}
    return pairs, left | {partners[name] or name: why for name, why in problems.items()}


def _written(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
