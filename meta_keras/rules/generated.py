"""What rules that change named layers share: the weights of these layers, and the network below them."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.internals import all_layers, parameters_of


def weights_of_layers(network: keras.Model, names: Sequence[str]) -> list[keras.Variable]:
    """What training can change in these layers, frozen or not; a ValueError unless each name is that of one layer."""
    found = [layer for layer in all_layers(network)[1:] if layer.name in names]
    with_weights = [layer.name for layer in all_layers(network)[1:] if parameters_of(layer)]
    for name in names:
        if with_weights.count(name) > 1:
            raise ValueError(f"layers={name!r} names {with_weights.count(name)} layers. Give each its own name.")
        if name not in with_weights:
            raise ValueError(f"layers={name!r} has no weights or is not there; those with weights: {with_weights}.")
    variables = {id(variable): variable for layer in found for variable in parameters_of(layer)}
    return list(variables.values())


class Below:
    """A network up to the first layer with one of these weights: what it computes does not depend on them.

    It shares the variables of the network. Where the first layer has one of the weights, it returns the inputs.
    """

    def __init__(self, network: PureModel, above: Sequence[keras.Variable]) -> None:
        chosen, model = set(map(id, above)), network.model
        layers = getattr(model, "layers", [])
        first = next((one for one in layers if any(id(v) in chosen for v in parameters_of(one))), None)
        try:
            inputs = first.input  # of its only call
            self.shape = tuple(inputs.shape[1:])
            untouched = inputs is model.inputs[0]
            self.network = None if untouched else PureModel(keras.Model(model.inputs[0], inputs))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{model.name!r} does not say what its layers take as inputs, so there are no features below a "
                "layer to describe the support set with. Pass encoder=, a Keras model for the inputs, or build the "
                "network as a Sequential or functional model."
            ) from error

    def __call__(self, rule: Any, network: PureModel, weights: Weights, x: tf.Tensor, context: Any) -> Outcome:
        """The features of support examples, with the weights of the whole network after this call."""
        if self.network is None:
            return Outcome(x, weights, ())
        values = dict(zip(map(id, network.parameters), weights.parameters, strict=True))
        values |= zip(map(id, network.state), weights.state, strict=True)
        parts = [tuple(values[id(v)] for v in some) for some in (self.network.parameters, self.network.state)]
        outcome = rule.run(self.network, Weights(*parts), x, context)
        values |= zip(map(id, self.network.state), outcome.weights.state, strict=True)
        return outcome._replace(weights=weights._replace(state=tuple(values[id(v)] for v in network.state)))

    def has_all_statistics(self, network: PureModel) -> bool:
        """Whether all moving averages of the network are those of layers in here."""
        mine = set() if self.network is None else set(map(id, self.network.running))
        return all(id(variable) in mine for variable in network.running)


def check_head(network: PureModel, variables: Sequence[keras.Variable]) -> None:
    """Raise a ValueError unless these are the kernel and the bias of a dense last layer."""
    last = (getattr(network.model, "layers", None) or [None])[-1]
    own = [last.kernel, last.bias] if isinstance(last, keras.layers.Dense) and last.use_bias else []
    if list(map(id, variables)) != list(map(id, own)):
        raise ValueError(
            "per_class=True generates the last layer of a classifier, a dense layer with a bias, and no other; the "
            f"weights to generate are {[variable.path for variable in variables]}. Name that layer: layers='head'."
        )


def width_of(model: keras.Model, name: str) -> int:
    """How many numbers the model returns per example."""
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape[1:]):
        raise ValueError(f"The {name} must have one output of a known shape; that of {model.name!r} is {shape}.")
    return math.prod(shape[1:])


def flat(examples: tf.Tensor) -> tf.Tensor:
    """One row of floats for each example."""
    examples = tf.convert_to_tensor(examples)
    examples = examples if examples.dtype.is_floating else tf.cast(examples, keras.config.floatx())
    return tf.reshape(examples, (tf.shape(examples)[0], math.prod(examples.shape[1:])))


def targets_of(y: tf.Tensor, units: int) -> tf.Tensor:
    """One row of numbers for each label (one-hot) or target."""
    return tf.one_hot(y, units) if y.dtype.is_integer else flat(y)
