"""How the tasks of a batch are processed: side by side, one after another, or unrolled."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.convolutions import as_products, can_be_product, on_gpu, small_images
from meta_keras.functional import gradients_of
from meta_keras.internals import (
    all_layers,
    direct_sublayers,
    enclosing_graphs,
    may_override_gradient,
    operations_of_default_graph,
    seeds_of,
)

PARALLEL = ("auto", "vectorized", "map", "unrolled")

# Tasks that "map" processes at the same time: one per core. Memory grows with this number, not with the meta-batch.
IN_FLIGHT = max(2, min(8, os.cpu_count() or 2))

# Up to this many tasks are processed one after another where "vectorized" runs eagerly.
FEW = 8

# This many weights are copied for every task. Up to this limit, copying was measured to be faster in all cases
# (benchmarks/speed.py).
SMALL = 650_000


def over_tasks(
    function: Callable[..., tuple[Any, Any]], tasks: tuple[tf.Tensor, ...], parallel: str, *, each: Any, mean: Any
) -> tuple[Any, Any]:
    """`function(number, *task)` for every task: its first result stacked, and the mean of its second one.

    each: the dtypes of the first result. mean: zeros with the structure of the second one.

    "vectorized" computes all tasks in one batched operation: fast for small dense networks under XLA, and on a GPU.
    Eagerly it would trace a new function in every call, which takes longer than a few tasks one after another.
    "map" processes them in a loop. The average is accumulated on the way, so memory stays constant.
    "unrolled" writes them out in the graph: the slowest to compile.
    """
    if parallel == "map":
        return _mapped(function, tasks, each, mean)
    if parallel == "unrolled" or (tf.executing_eagerly() and tasks[0].shape[0] <= FEW):
        return _unrolled(function, tasks)
    return _vectorized(function, tasks)


def gradients_over_tasks(
    function: Callable[..., tuple[Any, tf.Tensor]],
    tasks: tuple[tf.Tensor, ...],
    parallel: str,
    *,
    each: Any,
    loss: tf.DType,
    sources: Sequence[Any],
    needed: Sequence[str] = (),
    scale: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[Any, tuple[tf.Tensor, list[tf.Tensor]]]:
    """As `over_tasks` for a function whose second result is a loss, with the gradients of the mean loss, scaled."""

    def taped(function: Callable[..., Any], *arguments: Any) -> tuple[Any, tf.Tensor, Callable[[], list[tf.Tensor]]]:
        with tf.GradientTape() as tape:
            tape.watch([source for source in sources if tf.is_tensor(source)])
            results, mean = function(*arguments)
            scaled = scale(mean)
        return results, mean, lambda: gradients_of(tape, scaled, sources, needed)

    start = tf.zeros((), loss)
    if parallel == "vectorized" and not tf.executing_eagerly():
        # Taking the gradient of the mean makes one large product of what the tasks have in common.
        before = len(operations_of_default_graph())

        def over_all() -> tuple[Any, tf.Tensor]:
            return over_tasks(function, tasks, parallel, each=each, mean=start)

        results, mean, gradients = taped(over_all)
        if not any(map(may_override_gradient, operations_of_default_graph()[before:])):
            return results, (mean, gradients())

    def one(*task: tf.Tensor) -> tuple[Any, tuple[tf.Tensor, list[tf.Tensor]]]:
        results, loss, gradients = taped(function, *task)
        return results, (loss, gradients())

    # The gradient of each task within the map, so that memory stays constant.
    return over_tasks(one, tasks, parallel, each=each, mean=(start, [tf.zeros_like(source) for source in sources]))


def best_for(network: keras.Model, rule: keras.layers.Layer) -> str:
    """For small networks of dense layers "vectorized", for others "map".

    On a CPU convolutions gain nothing from batching. On a GPU small networks with `Conv2D` layers are vectorized, too,
    if their images are small.
    """
    dense = (
        keras.layers.Dense,
        keras.layers.EinsumDense,
        keras.layers.Embedding,
        keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
    )
    # A rule's own weights, such as learning rates, are used element by element.
    layers = [*all_layers(network)[1:], *(one for one in all_layers(rule)[1:] if not hasattr(one, "update"))]
    with_weights = [layer for layer in layers if layer.variables and not direct_sublayers(layer)]
    by_chance = bool(seeds_of(network) + seeds_of(rule))  # dropout masks cannot be batched
    size = sum(math.prod(variable.shape) for variable in [*network.variables, *rule.variables])
    convolves = on_gpu() and small_images(network)
    batched = all(isinstance(layer, dense) or (convolves and can_be_product(layer)) for layer in with_weights)
    fits = batched and size <= SMALL
    return "vectorized" if fits and not by_chance else "map"


def gains_from_xla(parallel: str, *models: keras.layers.Layer) -> bool:
    """Whether XLA makes training faster: where tasks are computed side by side, and in any case on a GPU.

    There a loop over tasks is thousands of small operations, of which XLA makes few large ones (benchmarks/speed.py).
    """
    can_be_compiled = all(layer.supports_jit for model in models for layer in all_layers(model))
    return can_be_compiled and (parallel == "vectorized" or (parallel == "map" and on_gpu()))


def _vectorized(function: Callable[..., Any], tasks: tuple[tf.Tensor, ...]) -> tuple[Any, Any]:
    numbers = tf.range(tf.shape(tasks[0])[0])
    with _unmarked(), as_products(on_gpu()):
        each, summed = tf.vectorized_map(lambda task: function(*task), (numbers, *tasks))
    return each, tf.nest.map_structure(lambda values: tf.reduce_mean(values, axis=0), summed)


@contextlib.contextmanager
def _unmarked() -> Iterator[None]:
    """Let `vectorized_map` write its operations where it is called, although XLA compiles them.

    It would put them into a function, and a gradient through it makes XLA compile again whenever the weights change.
    """
    with contextlib.ExitStack() as stack:
        for graph in enclosing_graphs():
            stack.enter_context(graph.control_dependencies(None))  # which removes the mark of XLA, too
        yield


def _mapped(function: Callable[..., Any], tasks: tuple[tf.Tensor, ...], each: Any, mean: Any) -> tuple[Any, Any]:
    count = tf.shape(tasks[0])[0]
    arrays = tf.nest.map_structure(lambda dtype: tf.TensorArray(dtype, count), each)

    def one(number: tf.Tensor, arrays: Any, sums: Any) -> tuple[tf.Tensor, Any, Any]:
        results, more = function(number, *(tf.gather(part, number) for part in tasks))
        arrays = tf.nest.map_structure(lambda array, result: array.write(number, result), arrays, results)
        return number + 1, arrays, tf.nest.map_structure(tf.add, sums, more)

    _, arrays, sums = tf.while_loop(
        lambda number, *_: number < count,
        one,
        (tf.constant(0), arrays, mean),
        parallel_iterations=IN_FLIGHT,
        maximum_iterations=count,
    )
    stacked = tf.nest.map_structure(lambda array: array.stack(), arrays)
    return stacked, tf.nest.map_structure(lambda value: value / tf.cast(count, value.dtype), sums)


def _unrolled(function: Callable[..., Any], tasks: tuple[tf.Tensor, ...]) -> tuple[Any, Any]:
    count = tasks[0].shape[0]
    if count is None:
        raise ValueError('parallel="unrolled" needs to know the number of tasks in a batch; use "map".')

    def task(number: int) -> Any:
        return tf.nest.map_structure(lambda part: part[number], tasks)

    results = [function(number, *task(number)) for number in range(count)]
    each = tf.nest.map_structure(lambda *values: tf.stack(values), *[first for first, _ in results])
    return each, tf.nest.map_structure(lambda *values: tf.add_n(values) / count, *[second for _, second in results])
