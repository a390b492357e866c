"""Parameter transfer (参数迁移): weights copied from one model to another, or blended with its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from meta_keras import checks
from meta_keras.copies import finalize_statistics
from meta_keras.transfer.layers import own_weights, select_weighted, stable_names, weighted_layers

Layers = str | Sequence[str] | Mapping[str, str] | None


class TransferReport(NamedTuple):
    """What a transfer did.

    moved: for each target layer that was changed, the source layer from which it was changed.
    left: for each other layer, why it was not.

    >>> print(TransferReport({"conv": "conv"}, {"head": "shapes differ"}))
    conv: from conv
    head: not transferred, shapes differ
    """

    moved: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        moved = [f"{target}: from {source}" for target, source in self.moved.items()]
        return "\n".join([*moved, *(f"{name}: not transferred, {why}" for name, why in self.left.items())])


def transfer_weights(source: keras.Model, target: keras.Model, layers: Layers = None) -> TransferReport:
    """Give layers of `target` the weights of `source` (Formula 3.1). The source is not changed.

        theta_target[l] <- theta_source[l]   for the selected layers l

    layers: None takes all layers that match: those of the same name, or, for layers that were given no name, the first
        of a type and the first of this type, if all shapes agree. Names of source layers take exactly these, or fail
        before anything is moved. A mapping {source layer: target layer} pairs layers of different names.

    >>> from meta_keras import networks
    >>> print(transfer_weights(networks.mlp(5), networks.mlp(3)))
    dense...: from dense...
    dense...: from dense...
    head: not transferred, its shapes are (40, 3), (3), and in the source (40, 5), (5)
    """
    return blend_weights(source, target, 1.0, layers)


def blend_weights(
    source: keras.Model,
    target: keras.Model,
    coefficient: float | Mapping[str, float] = 0.5,
    layers: Layers = None,
) -> TransferReport:
    """Blend layers of `target` with those of `source` (Formula 3.4); D2 takes half of each.

        theta_target[l] <- coefficient * theta_source[l] + (1 - coefficient) * theta_target[l]

    coefficient: the mixing coefficient from 0, the target as it is, to 1, the source; or a mapping with one mixing
        coefficient for each of some source layers.
    layers: as in `transfer_weights`.

    >>> source, target = (keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]) for _ in range(2))
    >>> source.layers[0].bias.assign([2.0]), target.layers[0].bias.assign([4.0])
    (...)
    >>> report = blend_weights(source, target, 0.25)
    >>> float(target.layers[0].bias[0])
    3.5
    """
    checks.built_model(source=source, target=target)
    if isinstance(coefficient, Mapping) and layers is None:
        layers = list(coefficient)
    pairs, left = pairs_of(source, target, layers)
    coefficients = coefficients_of(source, pairs, coefficient)
    sources, targets = weighted_layers(source), weighted_layers(target)
    blended = [
        (variable, _blended(given, variable, coefficients[name]))
        for name, other in pairs.items()
        for given, variable in zip(own_weights(sources[name]), own_weights(targets[other]), strict=True)
    ]
    for variable, value in blended:
        variable.assign(value)
    finalize_statistics(target)
    return TransferReport({other: name for name, other in pairs.items()}, left)


def _blended(source: keras.Variable, target: keras.Variable, coefficient: float) -> Any:
    """The blend of two weights; exactly one of them for the coefficients 0 and 1."""
    if coefficient in (0, 1):
        return (target, source)[int(coefficient)].value
    if not keras.backend.is_float_dtype(target.dtype):
        raise ValueError(f"{target.path!r} contains integers, which cannot be blended; leave its layer out.")
    return coefficient * keras.ops.cast(source.value, target.dtype) + (1 - coefficient) * target.value


def coefficients_of(
    source: keras.Model, names: Iterable[str], coefficient: float | Mapping[str, float]
) -> dict[str, float]:
    """The mixing coefficient of each of these source layers."""
    if not isinstance(coefficient, Mapping):
        checks.fraction(coefficient=coefficient)
        return dict.fromkeys(names, coefficient)
    coefficients: dict[str, float] = {}
    for name, value in coefficient.items():
        checks.fraction(**{f"coefficient[{name!r}]": value})
        coefficients |= dict.fromkeys(select_weighted(source, name, argument="coefficient"), value)
    missing = [name for name in names if name not in coefficients]
    if missing:
        raise ValueError(
            f"coefficient must have a number for every layer that is blended; got {', '.join(coefficients)}, without "
            f"{', '.join(missing)}."
        )
    return coefficients


def pairs_of(source: keras.Model, target: keras.Model, layers: Layers) -> tuple[dict[str, str], dict[str, str]]:
    """Which source layer goes to which target layer, and for all other layers why they are left as they are."""
    by_stable_name = {stable: name for name, stable in stable_names(target).items()}
    partners = {name: by_stable_name.get(stable) for name, stable in stable_names(source).items()}
    if isinstance(layers, Mapping):
        layers = _single_pairs(source, target, layers)
        partners |= layers
        selected = list(layers)
    else:
        selected = list(partners) if layers is None else select_weighted(source, layers)
    pairs = {name: partners[name] for name in selected if partners[name] is not None}
    problems = {name: f"the target {target.name!r} has no layer for it" for name in selected if name not in pairs}
    for name, other in pairs.items():
        both = weighted_layers(source)[name], weighted_layers(target)[other]
        shapes = [[tuple(weight.shape) for weight in own_weights(layer)] for layer in both]
        if shapes[0] != shapes[1]:
            in_source, in_target = (", ".join(map(_written, shape)) for shape in shapes)
            problems[name] = f"its shapes are {in_target}, and in the source {in_source}"
    pairs = {name: other for name, other in pairs.items() if name not in problems}
    if layers is not None and problems:
        raise ValueError("; ".join(f"{name!r} cannot be transferred: {why}" for name, why in problems.items()) + ".")
    if not pairs:
        raise ValueError(
            f"Nothing of {source.name!r} fits {target.name!r}: "
            + "; ".join(f"{name!r}: {why}" for name, why in problems.items())
            + ". Name the layers that belong together, as in layers={'dense': 'hidden'}."
        )
    reason = "the source has no layer for it" if layers is None else "it was not selected"
    left = {name: reason for name in weighted_layers(target) if name not in pairs.values()}
    return pairs, left | {partners[name] or name: why for name, why in problems.items()}


def _single_pairs(source: keras.Model, target: keras.Model, layers: Mapping[str, str]) -> dict[str, str]:
    """The mapping with full names, in which every name stands for one layer with weights."""
    pairs: dict[str, str] = {}
    for given in layers.items():
        found = [select_weighted(model, name) for model, name in zip((source, target), given, strict=True)]
        if not len(found[0]) == len(found[1]) == 1:
            raise ValueError(
                f"layers must pair single layers; got {given[0]!r} with {len(found[0])} and {given[1]!r} with "
                f"{len(found[1])} layers that have weights."
            )
        pairs |= {found[0][0]: found[1][0]}
    if len(set(pairs.values())) < len(layers) or not pairs:
        raise ValueError(f"layers must pair each layer with a different one, at least one; got {dict(layers)}.")
    return pairs


def _written(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
