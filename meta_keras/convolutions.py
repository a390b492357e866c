"""Two-dimensional convolutions as matrix products, so that a GPU computes those of all tasks at once.

After an inner step every task has kernels of its own. `tf.vectorized_map` turns a matrix product into one batched
product for all tasks, but it has no rule for a convolution and falls back to a loop. Within `as_products`, `Conv2D`
layers therefore multiply image patches by their kernel. Values and derivatives of every order are the same up to
rounding. The patches need as many times the memory of the images as a kernel has pixels, and a CPU is slower at it.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Sequence
from contextvars import ContextVar

import keras
import tensorflow as tf

from meta_keras.switches import switched

# Up to images of this many pixels "auto" uses it. benchmarks/gpu.py measured a large gain for 28x28, and for 84x84 a
# small one that took six times the memory; this is between the two.
MOST_PIXELS = 64 * 64

_switch: ContextVar[bool] = ContextVar("meta_keras_convolutions", default=False)


def on_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def as_products(active: bool = True) -> contextlib.AbstractContextManager[None]:
    """Within this block, and in this thread alone, `Conv2D` layers compute matrix products, if `active`."""
    return switched(_switch, active)


def can_be_product(layer: keras.layers.Layer) -> bool:
    """Whether this is a `Conv2D` layer that `as_products` changes: with channels last, and in a single group."""
    return (
        isinstance(layer, keras.layers.Conv2D)
        and type(layer).convolution_op is keras.layers.Conv2D.convolution_op
        and layer.data_format == "channels_last"
        and layer.groups == 1
    )


def small_images(network: keras.Model) -> bool:
    """Whether the inputs are images of at most `MOST_PIXELS`, for which "auto" uses matrix products on a GPU."""
    shape = getattr(network, "input_shape", None)
    sides = shape[1:3] if isinstance(shape, tuple) and len(shape) == 4 else (None,)
    return None not in sides and math.prod(sides) <= MOST_PIXELS


def convolution(
    images: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: str, dilation: Sequence[int] = (1, 1)
) -> tf.Tensor:
    """As `tf.nn.conv2d`, computed as a matrix product. The height and the width of the images must be known."""
    *size, channels, filters = kernel.shape
    found = patches(images, size, strides, padding, dilation)
    flat = tf.reshape(found, (-1, size[0] * size[1] * channels)) @ tf.reshape(kernel, (-1, filters))
    return tf.reshape(flat, (-1, *found.shape[1:3], filters))


def patches(
    images: tf.Tensor, size: Sequence[int], strides: Sequence[int], padding: str, dilation: Sequence[int] = (1, 1)
) -> tf.Tensor:
    """(images, rows, columns, pixels of the kernel * channels): what the kernel is multiplied by at each position.

    They are slices of the images, which have cheap derivatives. (`tf.image.extract_patches` has a sparse matrix.)
    """
    return tf.concat(windows(images, size, strides, padding, dilation), axis=-1)


def windows(
    inputs: tf.Tensor,
    size: Sequence[int],
    strides: Sequence[int],
    padding: str,
    dilation: Sequence[int] | None = None,
    margin: float = 0,
) -> list[tf.Tensor]:
    """For each place in a window, row by row, what is there at all positions of the window: slices of the inputs.

    inputs: (rows, ..., channels), where all axes between are known. margin: what "same" padding is filled with.
    """
    margins, slices = [], []
    for side, width, stride, apart in zip(inputs.shape[1:-1], size, strides, dilation or [1] * len(size), strict=True):
        reach = (width - 1) * apart + 1
        count = -(-side // stride) if padding == "same" else (side - reach) // stride + 1
        missing = max((count - 1) * stride + reach - side, 0)
        margins.append((missing // 2, missing - missing // 2))
        starts = range(0, reach, apart)
        slices.append([slice(start, start + (count - 1) * stride + 1, stride) for start in starts])
    if padding == "same":
        inputs = tf.pad(inputs, [(0, 0), *margins, (0, 0)], constant_values=margin)
    return [inputs[:, *place] for place in itertools.product(*slices)]


def _install() -> None:
    keras_op = keras.layers.Conv2D.convolution_op

    @functools.wraps(keras_op)
    def convolution_op(layer: keras.layers.Conv2D, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if not _switch.get() or not can_be_product(layer) or None in inputs.shape[1:3]:
            return keras_op(layer, inputs, kernel)
        return convolution(inputs, kernel, layer.strides, layer.padding, layer.dilation_rate)

    keras.layers.Conv2D.convolution_op = convolution_op


_install()
