"""Ways of computing convolutions whose kernels differ from task to task, for benchmarks/gpu.py to compare.

`tf.vectorized_map` has no rule for a convolution with one kernel per task, or for its gradients. Each of these context
managers gives it one, and all of them give the same values and derivatives.

slices      `Conv2D` layers multiply image patches by their kernel, whether the tasks share the kernel or not: what
            the library does on a GPU (meta_keras/convolutions.py)
products    convolutions as usual where the tasks share a kernel; else patches times a batched matrix product
grouped     convolutions as usual where the tasks share a kernel; else one convolution with the tasks among the channels
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.parallel_for import pfor

from meta_keras import parallel
from meta_keras.convolutions import patches

Convolution = Callable[..., tf.Tensor]  # images (tasks, examples, height, width, channels) and kernels, one per task


def by_products(x: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: str) -> tf.Tensor:
    """One convolution per task, as a batched matrix product."""
    tasks, examples = tf.shape(x)[0], tf.shape(x)[1]
    rows, columns, channels, filters = kernel.shape[1:]
    found = patches(tf.reshape(x, (-1, *x.shape[2:])), (rows, columns), strides, padding.lower())
    left = tf.reshape(found, (tasks, -1, rows * columns * channels))
    right = tf.reshape(kernel, (tasks, rows * columns * channels, filters))
    return tf.reshape(left @ right, (tasks, examples, *found.shape[1:3], filters))


def in_groups(x: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: str) -> tf.Tensor:
    """One convolution per task, as one convolution whose groups of channels are the tasks."""
    tasks, examples = tf.shape(x)[0], tf.shape(x)[1]
    height, width, channels = x.shape[2:]
    rows, columns, _, filters = kernel.shape[1:]
    wide = tf.reshape(tf.transpose(x, (1, 2, 3, 0, 4)), (examples, height, width, tasks * channels))
    kernels = tf.reshape(tf.transpose(kernel, (1, 2, 3, 0, 4)), (rows, columns, channels, tasks * filters))
    y = tf.nn.conv2d(wide, kernels, strides, padding)
    y = tf.reshape(y, (examples, *y.shape[1:3], tasks, filters))
    return tf.transpose(y, (3, 0, 1, 2, 4))


@contextlib.contextmanager
def converting(convolution: Convolution) -> Iterator[None]:
    """Within this block, `tf.vectorized_map` computes convolutions with one kernel per task in this way."""
    registry = pfor._pfor_converter_registry
    kinds = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
    before = {kind: registry[kind] for kind in kinds}

    def settings(call: Any) -> tuple[Sequence[int], str]:
        return call.get_attr("strides")[1:3], call.get_attr("padding").decode()

    def forward(call: Any) -> Any:
        if not call.input(1).is_stacked:
            return before["Conv2D"](call)
        call.stack_inputs([0])
        return pfor.wrap(convolution(known(call, 0), known(call, 1), *settings(call)), True)

    def of_images(call: Any) -> Any:
        if not call.input(1).is_stacked:
            return before["Conv2DBackpropInput"](call)
        call.stack_inputs([2])
        kernel, upstream = known(call, 1), known(call, 2)
        images = tf.zeros((tf.shape(kernel)[0], *call.op.outputs[0].shape), kernel.dtype)
        images.set_shape((None, *call.op.outputs[0].shape))
        return pfor.wrap(tf.gradients(convolution(images, kernel, *settings(call)), images, upstream)[0], True)

    def of_kernel(call: Any) -> Any:
        call.stack_inputs([0, 2])
        images, upstream = known(call, 0), known(call, 2)
        kernel = tf.zeros((tf.shape(images)[0], *call.op.outputs[0].shape), images.dtype)
        kernel.set_shape((None, *call.op.outputs[0].shape))
        return pfor.wrap(tf.gradients(convolution(images, kernel, *settings(call)), kernel, upstream)[0], True)

    def known(call: Any, place: int) -> tf.Tensor:
        stacked = call.stacked_input(place)
        stacked.set_shape((None, *call.op.inputs[place].shape))
        return stacked

    registry.update(zip(kinds, (forward, of_images, of_kernel), strict=True))
    try:
        yield
    finally:
        registry.update(before)


COMPARED = {"products": by_products, "grouped": in_groups}


@contextlib.contextmanager
def way_of(name: str) -> Iterator[None]:
    """What the words of a name such as "products" say; nothing for "map", "unrolled" and "vectorized"."""
    words, before = name.split(), parallel.on_gpu
    parallel.on_gpu = lambda: "slices" in words  # as the library would find on a machine with a GPU, or without
    try:
        with contextlib.ExitStack() as stack:
            for word in words:
                if word in COMPARED:
                    stack.enter_context(converting(COMPARED[word]))
            yield
    finally:
        parallel.on_gpu = before
