"""Image files: decoded into one array, or one by one while tasks are drawn, with the same pixels either way."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks

CHANNELS = {"grayscale": 1, "rgb": 3}
GRAY = (0.299, 0.587, 0.114)  # the luma of ITU-R BT.601, as in JPEG
BATCH = 256
MANY = 10_000  # from here on, reading takes long enough for a progress bar
VERBOSE = ("auto", 0, 1, False, True)
DECODED_AT_ONCE = 16
# Images that would be read incorrectly. (TensorFlow 2.21 decodes animated WebP into foreign memory.)
SIXTEEN_BIT = "it is a 16-bit PNG whose values go up to 255 and not to 65535"
ANIMATED = "it is an animated WebP"
PALETTE = "it is a BMP with a palette of colors"
DAMAGED = "it is damaged"
KINDS = (b"\x89P", b"\xff\xd8", b"GI", b"BM", b"RI")  # how a PNG, JPEG, GIF, BMP and WebP begin
SHORTEST = 24  # bytes, which is more than the fields that are read here, and less than any image
# TensorFlow's own error, or that of Python when the error quotes a file whose content is no text.
UNREADABLE = (tf.errors.OpError, UnicodeDecodeError, OSError)


class ImageFiles:
    """Images on disk that look like one array (rows, height, width, channels) of pixels from 0 to 255.

    `files[rows]` chooses rows without reading them, `np.asarray(files)` reads them all, and `files.lookup()` reads
    them one by one in a graph. Images are resized (and stretched, if necessary) to one size. What is transparent
    becomes white, as it looks in a browser; of an animated GIF, the first frame is taken.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        paths: Sequence[str] | np.ndarray,
        image_size: tuple[int, int] = (28, 28),
        color_mode: str = "grayscale",
        *,
        turns: np.ndarray | None = None,
    ) -> None:
        checks.one_of(CHANNELS, color_mode=color_mode)
        _check_size(image_size)
        self.paths = paths if isinstance(paths, np.ndarray) else np.array([os.fsencode(path) for path in paths])
        self.turns = np.zeros(len(self.paths), np.int32) if turns is None else turns
        self.image_size, self.color_mode = (int(image_size[0]), int(image_size[1])), color_mode

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.paths), *self.image_size, CHANNELS[self.color_mode])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> "ImageFiles":
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        return self._with(self.paths[chosen], self.turns[chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read().astype(dtype or self.dtype, copy=False)

    def in_four_turns(self) -> "ImageFiles":
        """The images unchanged, and rotated by 90, 180 and 270 degrees, one after the other."""
        turns = [(self.turns + turn) % 4 for turn in range(4)]
        return self._with(np.tile(self.paths, 4), np.concatenate(turns))

    def read(self, verbose: Any = 0) -> np.ndarray:
        """All images as one array. verbose: 1 shows a progress bar, "auto" shows one for 10,000 images or more."""
        shown = len(self) >= MANY if verbose == "auto" else bool(verbose)
        bar = keras.utils.Progbar(len(self), unit_name="image") if shown else None
        images, done = np.empty(self.shape, self.dtype), 0
        rows = tf.data.Dataset.from_tensor_slices((self.paths, self.turns))
        decoded = rows.map(self._decode, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
        try:
            for batch in decoded.as_numpy_iterator():
                images[done : done + len(batch)] = batch
                done += len(batch)
                if bar is not None:
                    bar.update(done)
        except UNREADABLE:
            self._name_unreadable(done)
            raise
        return images

    def lookup(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function from row numbers of any shape to images, decoded in parallel inside a graph."""
        with tf.device("CPU"):
            paths, turns = tf.constant(self.paths), tf.constant(self.turns)

        def images(rows: tf.Tensor) -> tf.Tensor:
            flat = tf.reshape(rows, [-1])
            decoded = tf.map_fn(
                lambda row: self._decode(paths[row], turns[row]),
                flat,
                fn_output_signature=tf.TensorSpec(self.shape[1:], tf.uint8),
                parallel_iterations=DECODED_AT_ONCE,
            )
            return tf.reshape(decoded, (*rows.shape, *self.shape[1:]))

        return images

    def _with(self, paths: np.ndarray, turns: np.ndarray) -> "ImageFiles":
        return ImageFiles(paths, self.image_size, self.color_mode, turns=turns)

    def _decode(self, path: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
        image = decode(tf.io.read_file(path), path, self.shape[1:])
        return tf.ensure_shape(tf.image.rot90(image, turn), self.shape[1:]) if self.turns.any() else image

    def _name_unreadable(self, start: int) -> None:
        """Raise a ValueError that names the first unreadable file from row `start` on."""
        for path in self.paths[start:]:
            name = os.fsdecode(path)
            try:
                with open(name, "rb") as file:
                    content = file.read()
                decode(tf.constant(content), tf.constant(path), self.shape[1:])
            except UNREADABLE as error:
                reason = next((known for known in (SIXTEEN_BIT, ANIMATED, PALETTE) if known in str(error)), DAMAGED)
                raise ValueError(
                    f"{name!r} cannot be read as an image ({reason}). Save it again as an 8-bit PNG or a JPEG, or "
                    "remove it."
                ) from error


def decode(content: tf.Tensor, path: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """The content of an image file as pixels (height, width, channels) from 0 to 255, resized."""
    kind = tf.strings.substr(content, 0, 2)
    whole = tf.logical_and(tf.reduce_any(kind == KINDS), tf.strings.length(content) > SHORTEST)
    with tf.control_dependencies([tf.debugging.Assert(whole, [DAMAGED, path])]):
        image = tf.cond(kind == KINDS[0], lambda: _png(content, path), lambda: _other(content, path))
    if shape[-1] == 1:
        image = tf.reduce_sum(image * GRAY, axis=-1, keepdims=True)
    image.set_shape((None, None, shape[-1]))
    resized = tf.image.resize(image, shape[:2], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def lookup(examples: np.ndarray | ImageFiles) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from row numbers to examples, to be called in a graph."""
    if isinstance(examples, ImageFiles):
        return examples.lookup()
    with tf.device("CPU"):
        stored = tf.constant(examples)
    return lambda rows: tf.gather(stored, rows)


def in_four_turns(examples: np.ndarray | ImageFiles) -> np.ndarray | ImageFiles:
    """Square images unchanged, and rotated by 90, 180 and 270 degrees, one after the other."""
    if isinstance(examples, ImageFiles):
        return examples.in_four_turns()
    return np.concatenate([np.rot90(examples, turn, axes=(1, 2)) for turn in range(4)])


def _png(content: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
    """A PNG in color, over white where it is transparent. It is read with 16 bits, so that none are lost."""
    image = tf.io.decode_png(content, channels=4, dtype=tf.uint16)
    brightest = tf.reduce_max(tf.cast(image[..., :3], tf.int32))
    has_16_bits = tf.strings.substr(content, 24, 1) == b"\x10"
    dim = tf.logical_and(has_16_bits, tf.logical_and(brightest > 0, brightest < 256))
    with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(dim), [SIXTEEN_BIT, path])]):
        image = tf.cast(image, tf.float32) / 257.0  # 257 * 255 = 65535
    # With 1, 2 or 4 bits, TensorFlow fills an opacity that is not there with 2 ** bits - 1, which is not opaque.
    opacity = image[..., 3:]
    filled = tf.logical_and(tf.reduce_all(opacity == opacity[0, 0]), tf.reduce_max(opacity) < 16.0)
    few_bits = tf.reduce_any(tf.strings.substr(content, 24, 1) == [b"\x01", b"\x02", b"\x04"])
    opaque = tf.logical_and(few_bits, tf.logical_and(filled, tf.reduce_max(opacity) > 0.0))
    return _over_white(tf.cond(opaque, lambda: tf.concat([image[..., :3], 255.0 + 0.0 * opacity], -1), lambda: image))


def _other(content: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
    """Any other image in color. The fourth channel of a BMP is padding, and that of a WebP is its opacity."""
    is_extended = tf.strings.substr(content, 12, 4) == b"VP8X"
    flags = tf.io.decode_raw(tf.strings.substr(content, 20, 1), tf.uint8)
    animated = tf.logical_and(is_extended, tf.reduce_any(tf.bitwise.bitwise_and(flags, tf.constant(2, tf.uint8)) > 0))
    is_bmp = tf.strings.substr(content, 0, 2) == b"BM"
    in_color = tf.cond(is_bmp, lambda: _has_colored_palette(content), lambda: False)
    checked = [
        tf.debugging.Assert(tf.logical_not(animated), [ANIMATED, path]),
        tf.debugging.Assert(tf.logical_not(in_color), [PALETTE, path]),
    ]
    with tf.control_dependencies(checked):
        image = tf.io.decode_image(content, channels=0, expand_animations=False)
    image = tf.cast(tf.ensure_shape(image, (None, None, None)), tf.float32)
    opaque = tf.fill([*tf.unstack(tf.shape(image)[:2]), 1], 255.0)
    colors = tf.shape(image)[-1]
    with_opacity = tf.logical_and(colors == 4, tf.logical_not(is_bmp))
    opacity = tf.cond(with_opacity, lambda: image[..., 3:], lambda: opaque)
    rgb = tf.cond(colors < 3, lambda: tf.repeat(image[..., :1], 3, axis=-1), lambda: image[..., :3])
    return _over_white(tf.concat([rgb, opacity], axis=-1))


def _has_colored_palette(content: tf.Tensor) -> tf.Tensor:
    """Whether a BMP has 8 bits per pixel that stand for colors; TensorFlow reads them as shades of gray."""
    bits = tf.io.decode_raw(tf.strings.substr(content, 28, 1), tf.uint8)[0]
    palette = tf.io.decode_raw(tf.strings.substr(content, 54, 1024), tf.uint8)  # of the usual header of 40 bytes
    shades = tf.repeat(tf.range(tf.size(palette) // 4), 3)
    colors = tf.reshape(tf.reshape(palette, (-1, 4))[:, :3], [-1])
    return tf.logical_and(bits == 8, tf.reduce_any(tf.cast(colors, tf.int32) != shades))


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """Composite (height, width, 4) over white; opaque pixels stay exactly as they are."""
    opacity = image[..., 3:] / 255.0
    return image[..., :3] * opacity + 255.0 * (1.0 - opacity)


def _check_size(image_size: Any) -> None:
    pair = isinstance(image_size, tuple | list | np.ndarray) and len(image_size) == 2
    if not pair or not all(checks.is_integer(side) and side > 0 for side in image_size):
        raise ValueError(
            f"image_size must be (height, width), two integers of at least 1; got {checks.shown(image_size)}."
        )
