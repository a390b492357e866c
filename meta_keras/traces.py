"""What a network computes, read from its traced operations: what its outputs are, and whether it has derivatives."""

import operator
import weakref
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from meta_keras.internals import all_layers, input_structure
from meta_keras.pooling import KINDS, as_maxima

ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}

# Operations that return their inputs unchanged, so the activation is the one before them.
PASS_ON = {"Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape", "StopGradient", "PreventGradient"}

# Operations whose results are logits: products with weights; what rearranges, adds or averages logits; products of
# logits with other numbers; and the largest or smallest of several logits.
WITH_WEIGHTS = {"MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv3D", "DepthwiseConv2dNative"}
WITH_WEIGHTS |= {"Conv2DBackpropInput", "Conv3DBackpropInputV2"}  # transposed convolutions
REARRANGED = {"Transpose", "ConcatV2", "Pack", "Unpack", "Split", "SplitV", "StridedSlice", "Slice", "GatherV2", "Tile"}
REARRANGED |= {"Pad", "PadV2", "MirrorPad", "ResizeNearestNeighbor", "ResizeBilinear", "Max", "Min", "MaxPool"}
ADDED = {"BiasAdd", "AddV2", "AddN", "Sub", "Neg", "Mean", "Sum", "AvgPool", "AvgPool3D"}
SCALED = {"Mul", "RealDiv"}
CHOSEN = {"Maximum", "Minimum"}
KEEPING = PASS_ON | REARRANGED | ADDED
LOOKED_UP = {"GatherV2", "ResourceGather"}  # embeddings
SIZES = {"Shape", "ShapeN", "Size", "Rank"}

# Operations whose gradient TensorFlow declares constant, so that second derivatives vanish without an error.
WITHOUT_SECOND_DERIVATIVE = {"ResizeBilinear": "bilinear resizing"}

SIDE = 8  # of the random inputs where a network takes any size


class Traced(NamedTuple):
    """What a trace shows that a network computes.

    activations: what it ends in: two if it ends in another one in training; "other" if this is not known.
    operations: the types of those that depend on weights.
    parts: the layers, as weak references, and their activations.
    """

    activations: tuple[str | None, ...]
    operations: frozenset[str]
    parts: tuple[Any, ...] = ()


_known: weakref.WeakKeyDictionary[keras.Model, Traced] = weakref.WeakKeyDictionary()


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
    """The activation that a network ends in: "softmax", "log_softmax", "sigmoid", None for logits, or "other".

    It is read from the traced operations and not from the layers, since a softmax may be an argument of a layer, a
    function of TensorFlow, or a line in the `call` of a subclassed model. Other outputs that are probabilities count as
    "softmax" if they add up to 1, such as a mean of several softmaxes, and as "sigmoid" if they do not.

    >>> dense = keras.layers.Dense(3, activation=tf.nn.softmax)
    >>> final_activation(keras.Sequential([keras.Input((2,)), dense]))
    'softmax'
    """
    activations = _traced(network).activations
    if len(activations) > 1:
        shown = " and ".join(sorted(one or "logits" for one in activations))
        raise ValueError(
            f"The network {network.name!r} answers with different kinds of numbers in training and in inference: "
            f"{shown}. Let both end alike, for example in logits."
        )
    return activations[0]


def check_derivatives(network: keras.Model, *, twice: bool) -> None:
    """Raise a ValueError if the network is differentiated twice, and TensorFlow's result would be silently wrong."""
    if not twice:
        return
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


def _traced(network: keras.Model) -> Traced:
    """The last trace, unless layers or activations have been replaced since."""
    layers = all_layers(network)
    parts = [*layers, *(getattr(layer, "activation", None) for layer in layers)]
    known = [part() if isinstance(part, weakref.ref) else part for part in getattr(_known.get(network), "parts", ())]
    if len(known) != len(parts) or not all(map(operator.is_, known, parts)):
        # Not by their ids, which other objects may have later. Strong references to layers would keep the network.
        kept = (*map(weakref.ref, layers), *parts[len(layers) :])
        _known[network] = _trace(network)._replace(parts=kept)
    return _known[network]


def _trace(network: keras.Model) -> Traced:
    inputs = input_specs(network)
    if inputs is None:
        return Traced(("other",), frozenset())
    traced = _trace_in_mode(network, inputs, training=False)
    if not all(type(layer).__module__.startswith("keras.") for layer in all_layers(network)):
        found = {*traced.activations, *_trace_in_mode(network, inputs, training=True).activations}
        return traced._replace(activations=tuple(found - {"other"} or found))
    return traced


def _trace_in_mode(network: keras.Model, inputs: Any, *, training: bool) -> Traced:
    @tf.function(autograph=False)
    def run(inputs: Any) -> Any:
        with keras.StatelessScope(initialize_variables=False), as_maxima():
            return network(inputs, training=training)

    graph = run.get_concrete_function(inputs).graph
    kinds = frozenset(operation.type for operation in _after_weights(graph))
    # Also within functions of TensorFlow that the network calls.
    kinds |= {node.op for function in graph.as_graph_def().library.function for node in function.node_def}
    if len(graph.outputs) != 1:
        return Traced(("other",), kinds)
    last = graph.outputs[0].op
    while last.type in PASS_ON:
        last = last.inputs[0].op
    activation = ACTIVATIONS.get(last.type, None if last in _logits(graph) else "other")
    if activation == "other":
        activation = _kind_of_probabilities(network, inputs, training) or "other"
    return Traced((activation,), kinds)


def _after_weights(graph: tf.Graph) -> list[tf.Operation]:
    """The operations that depend on weights, so that an inner loop differentiates through them."""
    found = {captured.op: None for captured in graph.internal_captures}
    for operation in graph.get_operations():  # each after those that it depends on
        if any(one.op in found for one in operation.inputs):
            found[operation] = None
    return list(found)


def _logits(graph: tf.Graph) -> set[tf.Operation]:
    """The operations whose results are any numbers, as those of a layer without an activation."""
    weights = {captured.op for captured in graph.internal_captures}
    computed, logits = set(), set()  # computed: what depends on the inputs, and not on weights alone
    for operation in graph.get_operations():  # each after those that it depends on
        if operation.type == "Placeholder" and operation not in weights:
            computed.add(operation)
            logits.add(operation)
        before = [one.op for one in operation.inputs if one.op in computed]
        if not before or operation.type in SIZES:
            continue
        computed.add(operation)
        operands = [one for one in before if one.outputs[0].dtype.is_floating]
        of_logits = all(one in logits for one in operands)
        if (
            (operation.type in WITH_WEIGHTS and len(operands) == 1)
            or (operation.type in LOOKED_UP and not operands)
            or (operation.type in KEEPING and of_logits)
            or (operation.type in SCALED and len(operands) == 1 and of_logits)
            or (operation.type in CHOSEN and len(operands) > 1 and of_logits)
        ):
            logits.add(operation)
    return logits


def _kind_of_probabilities(network: keras.Model, inputs: Any, training: bool) -> str | None:
    """What the outputs for random inputs look like: "softmax", "sigmoid", or None if they are no probabilities."""

    def random(spec: tf.TensorSpec) -> tf.Tensor:
        shape = (8, *(size or SIDE for size in spec.shape[1:]))
        if not spec.dtype.is_floating:
            return tf.zeros(shape, spec.dtype)
        sizes = np.repeat([3.0, 1000.0], 4).reshape(8, *[1] * (len(shape) - 1))
        return tf.cast(sizes * tf.random.stateless_normal(shape, (0, 0), dtype=tf.float64), spec.dtype)

    with tf.init_scope():
        try:
            with keras.StatelessScope(initialize_variables=False):
                outputs = network(keras.tree.map_structure(random, inputs), training=training)
        except (TypeError, ValueError, tf.errors.OpError):  # such as images of a size that the network cannot take
            return None
        near, far = np.split(tf.cast(outputs, tf.float32).numpy(), 2)
    if not _within_0_and_1(near):
        return None
    if near.shape[-1] != 1 and np.allclose(near.sum(axis=-1), 1, rtol=0, atol=0.01):
        return "softmax"
    # Other outputs leave this range for large inputs; tokens have none that are large.
    has_numbers = all(spec.dtype.is_floating for spec in keras.tree.flatten(inputs))
    return "sigmoid" if has_numbers and _within_0_and_1(far) and near.min() < near.max() else None


def _within_0_and_1(values: np.ndarray) -> bool:
    return bool(values.min() >= 0 and values.max() <= 1)  # False for NaN, too


def at_weights(layer: keras.layers.Layer, examples: np.ndarray) -> list[np.ndarray]:
    """What the operations within a layer get that are the first with weights.

    It is found in the traced operations, so it is also known where a user has written the `call`.
    """

    @tf.function(autograph=False)
    def reached(inputs: tf.Tensor) -> list[tf.Tensor]:
        with keras.StatelessScope(initialize_variables=False):
            layer(inputs, training=False)
        return _first_at_weights(inputs)

    with tf.init_scope():  # also where a layer is called within a function that is being traced
        return [value.numpy() for value in reached(tf.constant(examples))]


def _first_at_weights(inputs: tf.Tensor) -> list[tf.Tensor]:
    """The floats that depend on the inputs and on no weights, and meet weights in an operation of this graph."""
    handles = {captured.ref() for captured in inputs.graph.internal_captures if captured.dtype == tf.resource}
    computed, weights, found = {inputs.ref()}, handles, {}
    for operation in inputs.graph.get_operations():
        before = {one.ref() for one in operation.inputs}
        if before & weights:
            found |= {one: None for one in before & computed if one.deref().dtype.is_floating}
        if before & weights and not before & computed:
            weights |= {one.ref() for one in operation.outputs}
        elif before & computed and not before & weights and operation.type not in SIZES:
            computed |= {one.ref() for one in operation.outputs}
    return [one.deref() for one in found]
