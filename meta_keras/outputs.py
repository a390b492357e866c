"""What a network computes, read from its traced operations: what its outputs are, and the losses that fit them."""

import re
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from meta_keras.internals import all_layers, function_of, input_structure, mask_of

ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}

# Losses by the functions that they compute, since a loss object may have any name.
CATEGORICAL = {
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
}
CROSS_ENTROPIES = CATEGORICAL | {keras.losses.binary_crossentropy, keras.losses.binary_focal_crossentropy}

# Operations that return their inputs unchanged, so the activation is the one before them.
PASS_ON = {"Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape", "StopGradient", "PreventGradient"}

# Operations whose gradient TensorFlow declares constant, so that second derivatives vanish without an error.
WITHOUT_SECOND_DERIVATIVE = {"ResizeBilinear": "bilinear resizing"}


class Traced(NamedTuple):
    """What a trace shows that a network computes: the activation that it ends in, and the types of its operations."""

    activation: str | None
    operations: frozenset[str]
    layers: tuple[int, ...] = ()


_known: weakref.WeakKeyDictionary[keras.Model, Traced] = weakref.WeakKeyDictionary()


def number_of_outputs(model: keras.Model) -> int:
    """How many outputs a model has; 1 if it does not say."""
    return len(getattr(model, "outputs", None) or [None])


def final_activation(network: keras.Model) -> str | None:
    """The activation that a network ends in: "softmax", "log_softmax", "sigmoid", or None for any other or none.

    It is read from the traced operations and not from the layers, since a softmax may be an argument of a layer, a
    function of TensorFlow, or a line in the `call` of a subclassed model.

    >>> dense = keras.layers.Dense(3, activation=tf.nn.softmax)
    >>> final_activation(keras.Sequential([keras.Input((2,)), dense]))
    'softmax'
    """
    return _traced(network).activation


def check_second_derivatives(network: keras.Model) -> None:
    """Raise a ValueError if second derivatives through the network would be silently wrong."""
    found = [word for kind, word in WITHOUT_SECOND_DERIVATIVE.items() if kind in _traced(network).operations]
    if found:
        raise ValueError(
            f"The network {network.name!r} has {found[0]}, of which TensorFlow has no second derivatives: the "
            'meta-gradient would be wrong. Use UpSampling2D(interpolation="nearest") or Conv2DTranspose, or a rule of '
            "first order, such as GradientDescent(..., first_order=True)."
        )


def default_loss(activation: str | None, labels: tf.DType) -> keras.losses.Loss:
    """The loss that fits outputs with this activation: cross-entropy for integer labels, else mean squared error."""
    if not labels.is_integer:
        return keras.losses.MeanSquaredError(dtype=labels.name)
    if activation == "sigmoid":
        raise ValueError(
            "The network ends in a sigmoid, which does not give one distribution over the classes. End it in a "
            "softmax or without an activation, or pass the loss that you want to compile()."
        )
    return keras.losses.SparseCategoricalCrossentropy(from_logits=activation != "softmax")


def is_cross_entropy(loss: keras.losses.Loss) -> bool:
    """Whether a loss compares classes: a cross-entropy of Keras, or a loss that is called one."""
    return function_of(loss) in CROSS_ENTROPIES or "crossentropy" in loss.name


def as_loss(loss: Any, activation: str | None, dtype: str) -> keras.losses.Loss:
    """A loss given as a Keras object, a name or a function, as an object that respects masks.

    activation: what the outputs end in, which completes the name of a cross-entropy; a loss object that contradicts it
        is an error. dtype: that of the loss, where it is not an object already.
    """
    if isinstance(loss, list | tuple | dict):
        raise ValueError("A MetaLearner has one output, the answers to the queries, so it takes one loss.")
    if loss in (keras.losses.sparse_categorical_crossentropy, keras.losses.categorical_crossentropy):
        loss = loss.__name__
    if isinstance(loss, str) and activation != "sigmoid" and loss.endswith("categorical_crossentropy"):
        sparse = loss.startswith("sparse")
        kind = keras.losses.SparseCategoricalCrossentropy if sparse else keras.losses.CategoricalCrossentropy
        return kind(from_logits=activation != "softmax", dtype=dtype)
    if loss == "binary_crossentropy" and activation is None:
        return keras.losses.BinaryCrossentropy(from_logits=True, dtype=dtype)
    found = keras.losses.get(loss)
    if not isinstance(found, keras.losses.Loss):
        return FunctionLoss(found, dtype=dtype)
    from_logits = found.get_config().get("from_logits")
    contradicted = {True: ("softmax",), False: (None, "log_softmax")}.get(from_logits, ())
    if function_of(found) in CATEGORICAL and activation in contradicted:
        raise ValueError(
            f"The loss {found.name!r} has from_logits={from_logits}, but the answers are "
            f"{'probabilities' if activation == 'softmax' else 'logits'}. Pass from_logits={not from_logits}, or "
            "leave the loss out: compile() then uses the one that fits."
        )
    return found


def check_unmasked(answers: Any) -> None:
    """Raise a ValueError if answers have a mask, for metrics, which would count the masked ones."""
    if mask_of(answers) is not None:
        raise ValueError(
            "The answers are masked, which the metrics of learners do not see. Compile with metrics=[]; the loss "
            "respects masks."
        )


@keras.saving.register_keras_serializable(package="meta_keras")
class FunctionLoss(keras.losses.Loss):
    """A loss function `(y_true, y_pred) -> losses` as an object, so that Keras averages it and respects masks."""

    def __init__(self, function: Callable[..., tf.Tensor], **kwargs: Any) -> None:
        kwargs.setdefault("name", re.sub(r"\W", "", getattr(function, "__name__", "loss")))
        super().__init__(**kwargs)
        self.fn = function

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """As the losses of Keras: one number per row is also a row of one number, and nothing is broadcast."""
        missing = (y_pred.shape.rank or 0) - (y_true.shape.rank or 0)
        if missing == 1 and y_pred.shape[-1] == 1:
            y_true = tf.expand_dims(y_true, -1)
        elif missing == -1 and y_true.shape[-1] == 1:
            y_pred = tf.expand_dims(y_pred, -1)
        return self.fn(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"function": keras.saving.serialize_keras_object(self.fn)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FunctionLoss":
        return cls(**(config | {"function": keras.saving.deserialize_keras_object(config["function"])}))


def _traced(network: keras.Model) -> Traced:
    """The last trace, unless layers or activations have been replaced since."""
    layers = tuple(id(part) for layer in all_layers(network) for part in (layer, getattr(layer, "activation", None)))
    if network not in _known or _known[network].layers != layers:
        _known[network] = _trace(network)._replace(layers=layers)
    return _known[network]


def _trace(network: keras.Model) -> Traced:
    inputs = _input_specs(network)
    if inputs is None:
        return Traced(None, frozenset())

    @tf.function(autograph=False)
    def run(inputs: Any) -> Any:
        with keras.StatelessScope(initialize_variables=False):
            return network(inputs, training=False)

    graph = run.get_concrete_function(inputs).graph
    kinds = frozenset(operation.type for operation in graph.get_operations())
    if len(graph.outputs) != 1:
        return Traced(None, kinds)
    operation = graph.outputs[0].op
    while operation.type in PASS_ON:
        operation = operation.inputs[0].op
    return Traced(ACTIVATIONS.get(operation.type), kinds)


def _input_specs(network: keras.Model) -> Any:
    """What the network takes; None if it is not known."""
    if getattr(network, "inputs", None):
        return keras.tree.map_structure(
            lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), input_structure(network)
        )
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or not all(size is None or isinstance(size, int) for size in shape):
        return None
    return tf.TensorSpec([None, *shape[1:]], network.input_dtype)
