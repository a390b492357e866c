"""What a network computes, read from its traced operations: what its outputs are, and the losses that fit them."""

import re
import weakref
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from meta_keras.internals import all_layers, function_of, input_structure, mask_of
from meta_keras.pooling import KINDS, as_maxima

ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}

# Losses by the functions that they compute, since a loss object may have any name.
CATEGORICAL = {
    keras.losses.sparse_categorical_crossentropy: keras.losses.SparseCategoricalCrossentropy,
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_focal_crossentropy: keras.losses.CategoricalFocalCrossentropy,
}
BINARY = {
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.binary_focal_crossentropy: keras.losses.BinaryFocalCrossentropy,
}
CROSS_ENTROPIES = CATEGORICAL | BINARY

# Operations that return their inputs unchanged, so the activation is the one before them.
PASS_ON = {"Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape", "StopGradient", "PreventGradient"}

# Operations after which outputs are still logits if they were, and those that begin with logits.
SCALE_OR_SHIFT = PASS_ON | {"BiasAdd", "AddV2", "Sub", "Mul", "RealDiv", "Neg", "Mean", "Sum", "AvgPool", "ConcatV2"}
LINEAR = {"MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2dNative"}

# Operations whose gradient TensorFlow declares constant, so that second derivatives vanish without an error.
WITHOUT_SECOND_DERIVATIVE = {"ResizeBilinear": "bilinear resizing"}


class Traced(NamedTuple):
    """What a trace shows that a network computes: the activation that it ends in, and the types of its operations."""

    activation: str | None  # "other" also if it is not known
    operations: frozenset[str]
    layers: tuple[int, ...] = ()


_known: weakref.WeakKeyDictionary[keras.Model, Traced] = weakref.WeakKeyDictionary()


def number_of_outputs(model: keras.Model) -> int:
    """How many outputs a model has; 1 if it does not say."""
    return len(getattr(model, "outputs", None) or [None])


def input_specs(network: keras.Model) -> Any:
    """What the network takes; None if it is not known."""
    if getattr(network, "inputs", None):
        return keras.tree.map_structure(
            lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), input_structure(network)
        )
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, list | tuple) or not all(size is None or isinstance(size, int) for size in shape):
        return None
    return tf.TensorSpec([None, *shape[1:]], network.input_dtype)


def final_activation(network: keras.Model) -> str | None:
    """The activation that a network ends in: "softmax", "log_softmax", "sigmoid", None for none, or "other".

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


def checked_jit(network: keras.Model, jit_compile: Any, fast: bool = False, *, twice: bool = True) -> Any:
    """Whether XLA compiles what is differentiated through the network; "auto" lets it where this is fast and exact.

    XLA rounds second derivatives of max pooling to bfloat16, so it must not compute them, see `pooling`.

    twice: whether second derivatives are taken.
    """
    exact = not twice or KINDS.isdisjoint(_traced(network).operations)
    if jit_compile is True and not exact:
        raise ValueError(
            f"XLA would round the second derivatives of max pooling in {network.name!r} to three digits. Use "
            "keras.layers.MaxPooling2D with channels last, on images of the size that the network's Input says, or "
            "jit_compile=False."
        )
    return fast and exact if isinstance(jit_compile, str) and jit_compile == "auto" else jit_compile


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
    return function_of(loss) in list(CROSS_ENTROPIES) or "crossentropy" in loss.name


def as_loss(loss: Any, activation: str | None, dtype: str) -> keras.losses.Loss:
    """A loss given as a Keras object, a name or a function, as an object that respects masks.

    activation: what the outputs end in, which says whether a cross-entropy that is given by its name or function takes
        logits; a loss object that contradicts it is an error. dtype: that of the loss, where it is not an object.
    """
    if isinstance(loss, list | tuple | dict):
        raise ValueError("A MetaLearner has one output, the answers to the queries, so it takes one loss.")
    found = keras.losses.get(loss)
    function = function_of(found) if isinstance(found, keras.losses.Loss) else found
    is_class_loss = function in list(CROSS_ENTROPIES)  # a list, since not every callable has a hash
    if is_class_loss and not isinstance(loss, keras.losses.Loss):
        return CROSS_ENTROPIES[function](from_logits=_takes_logits(function, activation), dtype=dtype)
    if not isinstance(found, keras.losses.Loss):
        return FunctionLoss(found, dtype=dtype)
    from_logits = found.get_config().get("from_logits")
    contradicted = {True: ("softmax", "sigmoid"), False: (None, "log_softmax")}.get(from_logits, ())
    if is_class_loss and activation in contradicted:
        raise ValueError(
            f"The loss {found.name!r} has from_logits={from_logits}, but the answers are "
            f"{'probabilities' if from_logits else 'logits'}. Pass from_logits={not from_logits}, or leave the loss "
            "out: compile() then uses the one that fits."
        )
    return found


def _takes_logits(function: Callable[..., tf.Tensor], activation: str | None) -> bool:
    """Whether the answers that a cross-entropy compares with labels are logits."""
    if function in BINARY and activation in ("log_softmax", "other"):
        raise ValueError(
            f"The loss {function.__name__!r} compares labels with logits or probabilities, and judging by the last "
            "operations of the network, its outputs may be neither. End it in a sigmoid or without an activation, or "
            "pass keras.losses.BinaryCrossentropy(from_logits=...), which says what they are."
        )
    return activation not in ("softmax", "sigmoid")


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
        """As the losses of Keras: an axis of one number may be missing, and y (rows,) are not broadcast."""
        missing = (y_pred.shape.rank or 0) - (y_true.shape.rank or 0)
        if missing == 1 and y_pred.shape[-1] == 1:
            aligned = (y_true[:, None], y_pred) if y_true.shape.rank == 1 else (y_true, y_pred[..., 0])
        elif missing == -1 and y_true.shape[-1] == 1:
            aligned = (y_true, y_pred[:, None]) if y_pred.shape.rank == 1 else (y_true[..., 0], y_pred)
        else:
            aligned = y_true, y_pred
        return self.fn(*aligned)

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
    inputs = input_specs(network)
    if inputs is None:
        return Traced("other", frozenset())

    @tf.function(autograph=False)
    def run(inputs: Any) -> Any:
        with keras.StatelessScope(initialize_variables=False), as_maxima():
            return network(inputs, training=False)

    graph = run.get_concrete_function(inputs).graph
    kinds = frozenset(operation.type for operation in graph.get_operations())
    if len(graph.outputs) != 1:
        return Traced("other", kinds)
    last = _before(graph.outputs[0].op, PASS_ON)
    linear = _before(last, SCALE_OR_SHIFT).type in LINEAR
    return Traced(ACTIVATIONS.get(last.type, None if linear else "other"), kinds)


def _before(operation: tf.Operation, skipped: Container[str]) -> tf.Operation:
    """The last operation up to this one whose type is not among those that are skipped, nor a number or a weight."""
    while operation.type in skipped:
        computed = [one.op for one in operation.inputs if one.op.type not in ("Const", "ReadVariableOp")]
        operation = computed[0] if computed else operation.inputs[0].op
    return operation
