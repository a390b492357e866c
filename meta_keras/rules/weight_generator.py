"""Meta-networks: one network reads a support set and generates the weights of another one."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.checks import at_least, between, built_model, flag, names, one_input, shape
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.rules.base import Adaptation, Context, NetworkRule
from meta_keras.rules.generated import Below, check_head, flat, targets_of, weights_of_layers, width_of
from meta_keras.rules.prototypes import class_means, in_full_precision

LOWEST = tf.float32.min  # the logit of a class without examples


@keras.saving.register_keras_serializable(package="meta_keras")
class WeightGenerator(NetworkRule):
    """A hypernetwork (Ha, Dai and Le, "HyperNetworks", 2016) that reads a support set: adapting takes no gradients.

        d = mean of r(f(x_i), y_i) over the support examples i                    (Formula 8.1)
        theta' = theta + h(d), for the layers that are generated                  (Formula 8.2)

    f are the features below these layers, r is the meta input layer and h the meta hidden and meta output layers. h
    ends in zeros at first, so that training begins with the network as it is.

    layers: the name or names of the layers to generate; None generates all trainable weights. Frozen layers may be
        named: then theta stays as it is, and only h is trained.
    per_class: generate the last layer of a classifier class by class, from the examples of that class and the mean over
        all classes (Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", 2018). It replaces
        the network's own last layer:

        column k = h(d_k, mean of d over the classes)                             (Formula 8.3)

    prototypes: add the column of a prototypical network (2 c_k, -|c_k|^2), where c_k is the mean of f over the class.
        Training then begins with `Prototypes`, and h learns what to change.
    code: the length of d. hidden: the units of the hidden layers of r and of h. dropout: that of these layers.
    encoder: a Keras model whose outputs take the place of f (not with `prototypes`, which are means of f). It belongs
        to the rule, so meta-training also trains its own weights, in place; `encoder.trainable = False` prevents it.

    >>> import meta_keras as mk
    >>> learner = mk.MetaLearner(network=mk.networks.mlp(1), rule=WeightGenerator("head"))
    >>> learner.compile("adam", "mse")
    >>> history = learner.fit(mk.Sinusoids(shots=10), steps_per_epoch=2, verbose=0)
    """

    def __init__(
        self,
        layers: str | Sequence[str] | None = "head",
        *,
        per_class: bool = False,
        prototypes: bool = False,
        code: int = 64,
        hidden: Sequence[int] = (64,),
        dropout: float = 0.0,
        encoder: keras.Model | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        flag(per_class=per_class, prototypes=prototypes)
        at_least(1, code=code)
        between(0, 0.99, dropout=dropout)
        shape(hidden=hidden)
        if layers is not None:
            names(layers=layers)
        if prototypes and not per_class:
            raise ValueError("prototypes=True adds to the columns of single classes; pass per_class=True with it.")
        if encoder is not None:
            built_model(encoder=encoder)
            one_input(encoder=encoder)
            if prototypes:
                raise ValueError("prototypes are means of the features below the head; with encoder=, turn them off.")
        self.generated_layers = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
        self.per_class, self.prototypes, self.code = bool(per_class), bool(prototypes), int(code)
        self.hidden, self.dropout, self.encoder = tuple(map(int, hidden)), float(dropout), encoder
        self.needs_every_class = self.exact_ways = self.per_class

    def adaptable(self, network: keras.Model) -> list[keras.Variable]:
        return [] if self.generated_layers is None else weights_of_layers(network, self.generated_layers)

    def generated(self, network: PureModel) -> list[keras.Variable]:
        """The variables whose values are generated, in the order of the network's parameters."""
        if self.generated_layers is None:
            return network.parameters
        chosen = set(map(id, weights_of_layers(network.model, self.generated_layers)))
        return [variable for variable in network.parameters if id(variable) in chosen]

    def meta_variables(self, network: PureModel) -> list[keras.Variable]:
        """What is trainable in the network, without a last layer that is replaced."""
        replaced = set(map(id, self.generated(network))) if self.per_class else set()
        return [variable for variable in network.model.trainable_variables if id(variable) not in replaced]

    def prepare(self, network: PureModel) -> None:
        """Create D1's meta input, hidden and output layers."""
        variables = self.generated(network)
        if not variables:
            raise ValueError(f"{network.model.name!r} has no trainable weights to generate. Name layers: layers=...")
        if self.per_class:
            check_head(network, variables)
        self.below = None if self.encoder is not None else Below(network, variables)
        units = width_of(network.model, "network")
        features = width_of(self.encoder, "encoder") if self.below is None else math.prod(self.below.shape)
        labels = 0 if self.per_class else units
        outputs = 1 + variables[0].shape[0] if self.per_class else sum(math.prod(v.shape) for v in variables)
        self.meta_input = self._perceptron("meta_input", features + labels, keras.layers.Dense(self.code))
        self.meta_hidden = self._perceptron("meta_hidden", self.code * (2 if self.per_class else 1))
        self.meta_output = keras.layers.Dense(outputs, kernel_initializer="zeros", name="meta_output")
        self.meta_output.build((None, self.hidden[-1]))
        self.built = True

    @property
    def second_order(self) -> bool:
        return False

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        variables = self.generated(network)
        seen = self._features(network, weights, x, context)
        if self.per_class:
            values = self._head(in_full_precision(flat(seen.outputs), y), y, context)
        else:
            values = self._changes(flat(seen.outputs), y, network, context)
        made = dict(zip(map(id, variables), values, strict=True))
        adapted = []
        for variable, own in zip(network.parameters, seen.weights.parameters, strict=True):
            value = tf.cast(made.get(id(variable), 0), own.dtype)
            adapted.append(value if self.per_class and id(variable) in made else own + value)
        after = seen.weights._replace(parameters=tuple(adapted))
        if self.batch_statistics == "support" and not (self.below and self.below.has_all_statistics(network)):
            after = self.run(network, after, x, context).weights
        return Adaptation(after, losses=seen.losses)

    def _features(self, network: PureModel, weights: Weights, x: tf.Tensor, context: Context) -> Outcome:
        if self.below is None:
            return Outcome(self.encoder(x, training=context.training), weights, ())
        return self.below(self, network, weights, x, context)

    def _changes(self, features: tf.Tensor, y: tf.Tensor, network: PureModel, context: Context) -> list[tf.Tensor]:
        """Formulas 8.1 and 8.2: what is added to each generated variable."""
        units, training = network.model.output_shape[-1], context.training
        rows = tf.concat([features, tf.cast(targets_of(y, units), features.dtype)], axis=-1)
        code = tf.reduce_mean(self.meta_input(rows, training=training), axis=0, keepdims=True)
        written = self.meta_output(self.meta_hidden(code, training=training))[0]
        shapes = [variable.shape for variable in self.generated(network)]
        if sum(map(math.prod, shapes)) != self.meta_output.units:
            raise ValueError(
                f"The generator was made for {self.meta_output.units} weights, and {sum(map(math.prod, shapes))} are "
                "to be generated now. Freeze layers before the MetaLearner is created."
            )
        parts = tf.split(written, [math.prod(one) for one in shapes])
        return [tf.reshape(part, one) for part, one in zip(parts, shapes, strict=True)]

    def _head(self, features: tf.Tensor, y: tf.Tensor, context: Context) -> list[tf.Tensor]:
        """Formula 8.3: the kernel and the bias of the last layer. A class without examples is never the answer."""
        codes = tf.cast(self.meta_input(features, training=context.training), features.dtype)
        codes, known = class_means(codes, y, context.ways)
        mean = tf.reduce_sum(codes, axis=0, keepdims=True) / tf.reduce_sum(tf.cast(known, codes.dtype))
        rows = tf.concat([codes, tf.broadcast_to(mean, tf.shape(codes))], axis=-1)
        columns = tf.cast(self.meta_output(self.meta_hidden(rows, training=context.training)), features.dtype)
        kernel, bias = columns[:, :-1], columns[:, -1]
        if self.prototypes:
            prototypes, _ = class_means(features, y, context.ways)
            kernel, bias = kernel + 2 * prototypes, bias - tf.reduce_sum(tf.square(prototypes), axis=-1)
        return [tf.transpose(kernel), tf.where(known, bias, LOWEST)]

    def _perceptron(self, name: str, width: int, *last: keras.layers.Layer) -> keras.Sequential:
        found = keras.Sequential([keras.Input((width,))], name=name)
        for units in self.hidden:
            found.add(keras.layers.Dense(units, "relu"))
            if self.dropout:
                found.add(keras.layers.Dropout(self.dropout))
        for layer in last:
            found.add(layer)
        return found

    def get_config(self) -> dict[str, Any]:
        encoder = None if self.encoder is None else keras.saving.serialize_keras_object(self.encoder)
        return super().get_config() | {
            "layers": self.generated_layers,
            "per_class": self.per_class,
            "prototypes": self.prototypes,
            "code": self.code,
            "hidden": self.hidden,
            "dropout": self.dropout,
            "encoder": encoder,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WeightGenerator":
        encoder = config["encoder"]
        if isinstance(encoder, dict):
            encoder = keras.saving.deserialize_keras_object(encoder)
        return cls(**(config | {"encoder": encoder}))
