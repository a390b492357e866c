"""One meta-network for networks of any shape: each weight is a function of the task and of the weight's place."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from meta_keras.checks import at_least
from meta_keras.functional import PureModel, Weights
from meta_keras.internals import Node, all_layers, call_of
from meta_keras.rules.base import Adaptation, Context, NetworkRule
from meta_keras.rules.generated import flat, targets_of, width_of

FREQUENCIES = tuple(2.0**power * np.pi for power in range(6))


class Place(NamedTuple):
    """Where a tensor of weights is in a chain of dense layers.

    inputs: those of its layer. bias: whether it is the bias of the layer, and not the kernel.
    """

    layer: int
    layers: int
    inputs: int
    bias: bool


@keras.saving.register_keras_serializable(package="meta_keras")
class CoordinateGenerator(NetworkRule):
    """One generator for all weights of all networks that share it (D2's meta neural network).

        s_jk = q(mean of r(x_ij, y_ik) over the support examples i)               (Formula 8.4)
        weight at place p = u(p) . z(s) / sqrt(number of components x inputs of the layer)   (Formula 8.5)

    q begins with a layer normalization.
    u sees only where a weight is: its layer, its row and its column, as in HyperNEAT (Stanley, D'Ambrosio and Gauci,
    2009). z sees only the task: the mean of s over inputs j and outputs k; for the first layer also that of the row's
    input, and for the last layer that of the column's output. Neither depends on how large a network is, so one rule
    may belong to several learners, whose networks have dense layers of any number and width, one after the other. What
    these layers contain themselves is not used; all other trainable weights of a network, also low-rank updates, are
    trained by its learner.

    code: the length of s. components: the length of u and of z. hidden: the units of all hidden layers.

    >>> import meta_keras as mk
    >>> rule = CoordinateGenerator()
    >>> narrow = mk.MetaLearner(network=mk.networks.mlp(1, hidden=(10,)), rule=rule)
    >>> wide = mk.MetaLearner(network=mk.networks.mlp(3, input_shape=(2,), hidden=(40, 40)), rule=rule)
    """

    reusable = True

    def __init__(self, *, code: int = 32, components: int = 64, hidden: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        at_least(1, code=code, components=components, hidden=hidden)
        self.code, self.components, self.hidden = int(code), int(components), int(hidden)

    def prepare(self, network: PureModel) -> None:
        width_of(network.model, "network")
        places_of(network)
        check_chain(network.model)
        if not self.built:  # what it has learned with one network serves others
            self.build()

    def build(self, input_shape: Any = None) -> None:
        """Create the networks r, q, z and u. Their shapes do not depend on what is generated."""
        varied = keras.initializers.RandomNormal(stddev=1.0)  # so that units differ, whatever the task is
        self.reader = self._perceptron("reader", 2, keras.layers.Dense(self.code))
        self.summary = self._perceptron("summary", self.code, keras.layers.Dense(self.code))
        self.normalize = keras.layers.LayerNormalization(name="normalize")
        self.normalize.build((None, self.code))
        self.task = self._perceptron(
            "task", 3 * self.code, keras.layers.Dense(self.components, bias_initializer=varied)
        )
        self.basis = self._perceptron(
            "basis", 4 * len(FREQUENCIES) + 4, keras.layers.Dense(self.components, kernel_initializer="he_normal")
        )
        self.built = True

    def _perceptron(self, name: str, inputs: int, last: keras.layers.Layer) -> keras.Sequential:
        hidden = keras.layers.Dense(self.hidden, "relu", kernel_initializer="he_normal")
        return keras.Sequential([keras.Input((inputs,)), hidden, last], name=name)

    def meta_variables(self, network: PureModel) -> list[keras.Variable]:
        """What is not generated: the trainable weights of other layers, such as those of a normalization."""
        generated = {id(network.parameters[number]) for number in places_of(network)}
        return [variable for variable in network.model.trainable_variables if id(variable) not in generated]

    @property
    def second_order(self) -> bool:
        return False

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        pairs = self.describe(x, y, network.model.output_shape[-1], context)
        made = list(weights.parameters)
        for number, place in places_of(network).items():
            value = self.generate(made[number].shape, place, pairs, context)
            made[number] = tf.cast(value, made[number].dtype)
        return Adaptation(weights._replace(parameters=tuple(made)))

    def describe(self, x: tf.Tensor, y: tf.Tensor, units: int, context: Context) -> tf.Tensor:
        """Formula 8.4: (inputs, outputs, code), one description for each pair of an input and an output."""
        x, y = flat(x), targets_of(y, units)
        x, y = x[:, :, None], tf.cast(y, x.dtype)[:, None, :]
        pairs = tf.stack([x + tf.zeros_like(y), y + tf.zeros_like(x)], axis=-1)
        read = self.reader(tf.reshape(pairs, (-1, 2)), training=context.training)
        mean = tf.reduce_mean(tf.reshape(read, (-1, *pairs.shape[1:3], self.code)), axis=0)
        summary = self.summary(self.normalize(tf.reshape(mean, (-1, self.code))), training=context.training)
        return tf.reshape(summary, (*pairs.shape[1:3], self.code))

    def generate(self, shape: Sequence[int], place: Place, pairs: tf.Tensor, context: Context) -> tf.Tensor:
        """Formula 8.5: one tensor of weights."""
        rows, columns = (1, shape[0]) if place.bias else shape
        whole = tf.reduce_mean(pairs, axis=(0, 1))[None, None]
        first = place.layer == 0 and not place.bias and rows == pairs.shape[0]
        last = place.layer == place.layers - 1 and columns == pairs.shape[1]
        of_row = tf.reduce_mean(pairs, axis=1)[:, None] if first else whole
        of_column = tf.reduce_mean(pairs, axis=0)[None] if last else whole
        zeros = tf.zeros((rows if first else 1, columns if last else 1, 1), whole.dtype)
        seen = tf.concat([part + zeros for part in (whole, of_row, of_column)], axis=-1)
        task = self.task(tf.reshape(seen, (-1, 3 * self.code)), training=context.training)
        task = tf.reshape(task, (*zeros.shape[:2], self.components))
        basis = self.basis(tf.constant(coordinates(rows, columns, place), self.compute_dtype))
        basis = tf.reshape(basis, (rows, columns, self.components))
        scale = (self.components * place.inputs) ** -0.5
        return scale * tf.reshape(tf.reduce_sum(basis * task, axis=-1), shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"code": self.code, "components": self.components, "hidden": self.hidden}


def places_of(network: PureModel) -> dict[int, Place]:
    """The places of the trainable weights of dense layers, by the numbers of the parameters."""
    layers = [layer for layer in all_layers(network.model)[1:] if isinstance(layer, keras.layers.Dense)]
    places = {}
    for number, layer in enumerate(layers):
        for variable, bias in ((layer.kernel, False), (layer.bias, True)):
            places[id(variable)] = Place(number, len(layers), layer.kernel.shape[0], bias)
    found = {n: places[id(variable)] for n, variable in enumerate(network.parameters) if id(variable) in places}
    if not found or len(network.model.output_shape) != 2:
        raise ValueError(
            "CoordinateGenerator generates the weights of dense layers for a network that returns one row of numbers "
            f"per example. {network.model.name!r} has {len(layers)} dense layers, {len(found)} trainable tensors in "
            f"them, and outputs of shape {network.model.output_shape}."
        )
    return found


def check_chain(model: keras.Model) -> None:
    """Raise a ValueError unless each dense layer takes what the one before it computes, as far as this is known."""
    dense = [layer for layer in all_layers(model)[1:] if isinstance(layer, keras.layers.Dense)]
    if not getattr(model, "outputs", None) or any(all(layer is not one for one in model.layers) for layer in dense):
        return  # a subclassed model, or a layer within another
    before = dense_before(model.outputs)
    for layer in reversed(dense):
        if [call.operation for call in before] != [layer]:
            break
        before = dense_before(before[0].input_tensors)
    if not all(call.is_input for call in before):
        raise ValueError(
            "CoordinateGenerator describes a weight by its place in a chain of dense layers, of which each takes what "
            f"the one before it computes. The dense layers of {model.name!r} are no such chain. Use a network without "
            "branches, skip connections and shared layers."
        )


def dense_before(tensors: Sequence[keras.KerasTensor]) -> list[Node]:
    """The last calls of dense layers that these tensors depend on, and of inputs, if they depend on some directly."""
    found, seen, waiting = {}, set(), list(tensors)
    while waiting:
        call = call_of(waiting.pop())
        if call.is_input or isinstance(call.operation, keras.layers.Dense):
            found[id(call)] = call
        elif id(call) not in seen:
            seen.add(id(call))
            waiting += call.input_tensors
    return list(found.values())


def coordinates(rows: int, columns: int, place: Place) -> np.ndarray:
    """What the generator knows about each weight of a tensor: (rows x columns, features).

    Row and column, from 0 to 1, at several frequencies, and the place of the tensor.
    """
    row, column = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    waves = [wave(f * where) for f in FREQUENCIES for where in (row, column) for wave in (np.sin, np.cos)]
    depth = place.layer / max(place.layers - 1, 1)
    fixed = [place.layer == 0, place.layer == place.layers - 1, place.bias, depth]
    features = [*waves, *(np.full_like(row, float(one)) for one in fixed)]
    return np.stack(features, axis=-1).reshape(rows * columns, -1)
