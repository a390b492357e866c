"""Every private name of Keras and TensorFlow that the library uses, and every line that depends on a version.

Each has no public alternative in the supported versions (see requirements.txt). `tests/test_internals.py` calls all
of them, so if an update removes or changes one, a test fails and shows its name.
"""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

# Whether `tf.io.decode_image` reads WebP, which is supported only since a recent version; both were added together.
READS_WEBP = hasattr(tf.io, "decode_webp")

Node = Any  # one call of a layer in a functional model, as Keras records it


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer and every layer within it, also those that a subclassed model keeps as attributes."""
    return list(layer._flatten_layers())


def direct_sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly within a layer."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def parameters_of(layer: keras.layers.Layer) -> list[keras.Variable]:
    """What training can change in a layer if it is not frozen: its weights without moving averages and counters.

    `layer.trainable_weights` is empty for a frozen layer.
    """
    found = [variable for one in all_layers(layer) for variable in one._trainable_variables]
    return list({id(variable): variable for variable in found}.values())


def added_losses(layer: keras.layers.Layer) -> list[tf.Tensor]:
    """The losses that the layers within a layer added in their last calls, without the penalties of weights."""
    return [loss for one in all_layers(layer) for loss in one._get_own_losses()]


def is_seed(variable: keras.Variable) -> bool:
    """Whether a variable is the state of a random generator: two integers, a seed and a counter."""
    return variable.name == "seed_generator_state"


def seeds_of(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The states of all random generators of a layer or model."""
    return [variable for variable in layer.variables if is_seed(variable)]


def global_seed_state() -> keras.Variable | None:
    """The state of the generator that `keras.random` uses where no seed is given; None before its first use."""
    generator = global_state.get_global_attribute("global_seed_generator")
    return None if generator is None else generator.state


def mask_of(outputs: Any) -> tf.Tensor | None:
    """The mask that Keras attaches to outputs, if layers have computed one."""
    return getattr(outputs, "_keras_mask", None)


def function_of(loss: keras.losses.Loss) -> Any:
    """The function that a loss of Keras computes, such as `keras.losses.mean_squared_error`; None for other losses."""
    return getattr(loss, "fn", None)


def call_of(tensor: keras.KerasTensor) -> Node:
    """The call of a layer that computed this tensor of a functional model."""
    operation, number, _ = tensor._keras_history
    return operation._inbound_nodes[number]


def calls_of(model: keras.Model) -> list[Node]:
    """The calls of layers that lead from the model's inputs to its outputs, in an order in which they can run.

    A layer also keeps the calls that belong to other models.
    """
    found: dict[int, Node] = {}
    waiting = [call_of(tensor) for tensor in model.outputs]
    while waiting:
        before = [call for call in map(call_of, waiting[-1].input_tensors) if id(call) not in found]
        if before:
            waiting += before
        else:
            call = waiting.pop()
            found[id(call)] = call
    return list(found.values())


def number_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Which of the variables that an optimizer was built for this is. Keras passes TensorFlow's own variable."""
    return optimizer._get_variable_index(variable)


def decays(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether a variable has weight decay, as far as `exclude_from_weight_decay` of the optimizer says."""
    return optimizer._use_weight_decay(variable)


def exclude_as(optimizer: keras.optimizers.Optimizer, other: keras.optimizers.Optimizer) -> None:
    """Exclude from weight decay what another optimizer excludes, which its configuration does not contain."""
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(other, name):
            setattr(optimizer, name, getattr(other, name))
    if hasattr(other, "inner_optimizer"):
        exclude_as(optimizer.inner_optimizer, other.inner_optimizer)


def input_structure(model: keras.Model) -> Any:
    """The inputs of a functional model as it takes them: one tensor, a list, or a dictionary."""
    return getattr(model, "_inputs_struct", model.inputs[0])


def output_structure(model: keras.Model) -> Any:
    """The outputs of a functional model as it returns them: one tensor, a list, or a dictionary."""
    return getattr(model, "_outputs_struct", model.outputs[0])


def variant_tensor(dataset: tf.data.Dataset) -> tf.Tensor:
    """What a subclass of `tf.data.Dataset` passes to its base class."""
    return dataset._variant_tensor


def constants_of_map(dataset: tf.data.Dataset) -> list[bytes]:
    """The constants in the function of a dataset made by `map`, in an order that is the same for every trace."""
    (function,) = dataset._functions()
    graph = function.function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return sorted(node.attr["value"].tensor.SerializeToString() for node in nodes if node.op == "Const")


def enclosing_graphs() -> Iterator[tf.Graph]:
    """The graph that is being built, and the graphs around it; none in eager mode."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    while graph is not None:
        yield graph
        graph = getattr(graph, "outer_graph", None)


def operations_of_default_graph() -> list[tf.Operation]:
    """The operations of the graph that is being built."""
    return tf.compat.v1.get_default_graph().get_operations()


def may_override_gradient(operation: tf.Operation) -> bool:
    """Whether an operation may have a gradient of its own: `tf.custom_gradient` writes an IdentityN, and what a
    function contains is not visible from outside."""
    return operation.type == "IdentityN" or any("func" in field.type for field in operation.op_def.attr)


def own_strategy(model: keras.Model) -> tf.distribute.Strategy | None:
    """The strategy in whose scope a model was created. Keras' own training no longer sees it afterwards."""
    strategy, model._distribute_strategy = model._distribute_strategy, None
    return strategy


def local_loss_tracker(model: keras.Model) -> None:
    """A new metric for the loss, with variables in this process alone."""
    vars(model)["_loss_tracker"] = keras.metrics.Mean(name="loss")  # an attribute would count as one more metric


def initial_epoch(model: keras.Model) -> int:
    """The epoch that `BackupAndRestore` lets training begin with; 0 if it restored nothing."""
    return model._initial_epoch or 0


def resume_at(model: keras.Model, epoch: int) -> None:
    """Let training begin with this epoch."""
    model._initial_epoch = epoch or None


def belong_to(optimizer: keras.optimizers.Optimizer, strategy: tf.distribute.Strategy) -> None:
    """Let an optimizer update every copy of a variable, as if it had been created within the strategy's scope."""
    optimizer._distribution_strategy = strategy
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        belong_to(optimizer.inner_optimizer, strategy)
