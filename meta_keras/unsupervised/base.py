"""What models that learn without labels have in common: an encoder, and a task that is made from the inputs."""

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import DIMMEST, as_inputs, check_inputs, check_pixels, is_image_shape, is_pixels
from meta_keras.models import ExampleModel
from meta_keras.scaling import check_scaled_once, check_task_network, scaling_error, seem_scaled

BATCH_SIZE = 32  # that of Keras
ROUNDING = 0.01  # how far pixels may be outside of 0 ... 1, for example after resizing


class Unlabeled(ExampleModel):
    """A Keras model that `fit` trains on inputs alone. Its encoder gives the features.

    encoder: a built Keras model with one input and outputs (rows, width); `fit` trains it in place.

    A subclass says in `pretext` which inputs and targets a batch is turned into. Training and evaluation are then those
    of Keras. Integer images are scaled to 0 ... 1, as everywhere in the library.

    bounded: whether inputs must be from 0 to 1. smallest_batch: how many examples a batch must have.
    """

    bounded, smallest_batch = False, 1

    def __init__(self, encoder: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = checked_encoder(encoder)

    def pretext(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The inputs and targets that a batch of unlabeled inputs is turned into."""
        raise NotImplementedError

    def features(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """(rows, width) the outputs of the encoder."""
        return self.encoder(as_inputs(tf.convert_to_tensor(inputs)), training=training)

    def encode(self, x: Any, *, batch_size: int = 256) -> np.ndarray:
        """(rows, width) the features of the inputs `x`, in inference mode."""
        checks.at_least(1, batch_size=batch_size)
        check_inputs(self.encoder, x)
        checks.finite_numbers(x=x)
        check_pixels(x, "x")
        starts = range(0, len(x), batch_size)
        return np.concatenate([self.features(x[start : start + batch_size]) for start in starts])

    def compile(self, optimizer: Any = "adam", **kwargs: Any) -> None:
        """As `keras.Model.compile`, without a loss and metrics, because the model has its own."""
        checks.one_device(self)
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"A {type(self).__name__} has its own loss and metrics; got {name}={checks.shown(kwargs[name])}. "
                    "Leave it out."
                )
        super().compile(optimizer=optimizer, **kwargs)

    def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`, on inputs without labels: an array, or a dataset with batches of inputs."""
        self._check_unlabeled(y, kwargs)
        split = kwargs.get("validation_split") or 0.0
        batch_size = kwargs.get("batch_size") or BATCH_SIZE
        x = self._checked(x, "x", batch_size, split)
        if (validation := kwargs.get("validation_data")) is not None:
            batch_size = kwargs.get("validation_batch_size") or batch_size
            kwargs["validation_data"] = self._checked(inputs_of(validation), "validation_data", batch_size)
        return super().fit(x, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, on inputs without labels."""
        self._check_unlabeled(y, kwargs)
        return super().evaluate(self._checked(x, "x", kwargs.get("batch_size") or BATCH_SIZE), **kwargs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        return super().train_step(self.pretext(inputs_of(data)))

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        return super().test_step(self.pretext(inputs_of(data)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "encoder": keras.saving.serialize_keras_object(self.encoder)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Unlabeled":
        """Any part of the config that is a serialized Keras object is made from it."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})

    def _check_unlabeled(self, y: Any, options: dict[str, Any]) -> None:
        name = type(self).__name__
        for unused in ("sample_weight", "class_weight"):
            if options.get(unused) is not None:
                raise ValueError(f"{name} learns without labels and weights; leave {unused} out.")
        if y is not None:
            raise ValueError(f"{name} learns without labels: pass only x; got y = {checks.shown(y)}.")

    def _checked(self, x: Any, what: str, batch_size: int, split: float = 0.0) -> Any:
        """The data: an array after checks, or a dataset with checks where its batches are created."""
        name = type(self).__name__
        if isinstance(x, tf.data.Dataset):
            if isinstance(x.element_spec, tuple):
                raise ValueError(
                    f"{name} learns without labels; the dataset has tuples of {len(x.element_spec)}. Keep only the "
                    "inputs with dataset.map(lambda x, y: x)."
                )
            return x.map(functools.partial(self._checked_batch, scaling_error(encoder=self.encoder)))
        check_inputs(self.encoder, x, what)
        checks.finite_numbers(**{what: x})
        check_pixels(x, what, whole=True)
        check_scaled_once(as_inputs(tf.convert_to_tensor(x[:batch_size])), encoder=self.encoder)
        if self.bounded and not is_pixels(tf.convert_to_tensor(x[:1])):
            low, high = float(np.min(x)), float(np.max(x))
            if low < -ROUNDING or high > 1 + ROUNDING:
                raise ValueError(
                    f"{name} takes pixels from 0 to 1; {what} has values from {low:g} to {high:g}. Rescale it, for "
                    "example by (x - x.min()) / (x.max() - x.min())."
                )
        trained = int(len(x) * (1 - split))  # as Keras splits
        parts = trained, len(x) - trained
        if self.smallest_batch > 1 and any(0 < _last(part, batch_size) < self.smallest_batch for part in parts):
            raise ValueError(
                f"{name} compares the images of a batch, but batches of {batch_size} out of {len(x)} images end with a "
                "single image. Choose another batch_size, or leave out one image."
            )
        return x

    def _checked_batch(self, error: str | None, x: tf.Tensor) -> tf.Tensor:
        """A batch of a dataset, which is checked in the threads of tf.data, since XLA would leave the checks out.

        error: what to say of pixels if the encoder scales them itself.
        """
        name, scaled = type(self).__name__, as_inputs(x)
        if error and scaled.dtype.is_floating:
            tf.debugging.assert_equal(seem_scaled(scaled, self.encoder), False, error)
        if self.bounded:
            message = f"{name} takes pixels from 0 to 1. Rescale them, for example by (x - low) / (high - low)."
            tf.debugging.assert_greater_equal(tf.reduce_min(scaled), -ROUNDING, message)
            tf.debugging.assert_less_equal(tf.reduce_max(scaled), 1 + ROUNDING, message)
        elif x.dtype.is_floating and x.shape.rank == 4 and is_image_shape(x.shape[1:]):
            is_scaled = (tf.reduce_min(x) < 0) | (tf.reduce_max(x) <= DIMMEST)  # a batch may hold bright images only
            tf.debugging.assert_equal(is_scaled, True, f"{name} takes pixels from 0 to 1. Divide them by 255.")
        message = f"{name} needs at least {self.smallest_batch} images per batch: use batch(size, drop_remainder=True)."
        tf.debugging.assert_greater_equal(tf.shape(x)[0], self.smallest_batch, message)
        return x


def _last(rows: int, batch_size: int) -> int:
    """How many of the rows are in the last batch."""
    return (rows - 1) % batch_size + 1 if rows else 0


def checked_encoder(encoder: Any, name: str = "encoder") -> keras.Model:
    """The model, if it is built and has one input and outputs (rows, width); else an error."""
    checks.fittable_model(**{name: encoder})
    check_task_network(**{name: encoder})
    shape = getattr(encoder, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(f"{name} must have outputs of shape (rows, width); got {shape}. End it with a Flatten layer.")
    return encoder


def inputs_of(data: Any) -> tf.Tensor:
    """The inputs of a batch of Keras, which has neither labels nor weights; else a ValueError."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if y is not None or weight is not None:
        raise ValueError("These models learn without labels and weights: pass only inputs, also as validation_data.")
    return x


def float_matrix(**values: Any) -> tf.Tensor:
    """One argument as a tensor of floats of shape (rows, width), also within a graph; else a ValueError."""
    ((name, value),) = values.items()
    if not tf.is_tensor(value) or isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        checks.examples(**values)
        checks.numbers(**values)
        value = np.asarray(value)
    rank, floats = getattr(value.shape, "rank", len(value.shape)), tf.as_dtype(value.dtype).is_floating
    if rank != 2 or not floats or 0 in value.shape:
        raise ValueError(f"{name} must be floats of shape (rows, width); got {checks.shown(value)} of {value.dtype}.")
    if not tf.is_tensor(value) or tf.executing_eagerly():
        checks.finite_numbers(**values)
    return tf.convert_to_tensor(value)


def images_of(network: keras.Model, z: Any, latent: int) -> np.ndarray:
    """The images, with pixels from 0 to 1, that a network whose outputs are logits makes of (rows, latent) numbers."""
    checks.numbers(z=z)
    checks.finite_numbers(z=z)
    z = np.asarray(z, np.float32)
    if z.ndim != 2 or z.shape[1] != latent:
        raise ValueError(f"z must have the shape (rows, {latent}); got {z.shape}.")
    return tf.sigmoid(network(z, training=False)).numpy()
