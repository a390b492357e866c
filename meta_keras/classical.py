"""Classical learning: document D4's MNIST project (section 5), corrected. One task, one model, no meta-learning.

The four functions keep the names of the document. The errata in chapters/README.md list its mistakes.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from meta_keras import checks
from meta_keras.inputs import BRIGHTEST, as_inputs, check_pixels
from meta_keras.tasks.datasets import load
from meta_keras.tasks.pools import ClassPool
from meta_keras.traces import final_activation

__all__ = ["Standard", "create_model", "main", "preprocess_data", "train_model"]

LARGEST_SEED = 2**32 - 1


class Standard(NamedTuple):
    """What standardization subtracts and divides by, computed on the training images alone.

    >>> preprocess_data(np.array([[0, 255]], np.uint8))[1]
    Standard(mean=0.5, deviation=0.5)
    """

    mean: float
    deviation: float


def preprocess_data(images: np.ndarray, standard: Standard | None = None) -> tuple[np.ndarray, Standard]:
    """Pixels scaled to 0 ... 1 and standardized (Formula 2.1), and the mean and deviation that were used.

    Call it on the training images first, and pass the mean and deviation that it returns to the calls for validation
    and test images, because these are standardized like the training images.

    >>> train, standard = preprocess_data(np.array([[0, 255]], np.uint8))
    >>> train
    array([[-1.,  1.]], dtype=float32)
    >>> preprocess_data(np.array([[255, 255]], np.uint8), standard)[0]
    array([[1., 1.]], dtype=float32)
    """
    scaled = _scaled(images)
    if standard is None:
        standard = Standard(float(scaled.mean()), float(scaled.std()))
        if standard.deviation == 0:
            raise ValueError("All pixels are the same, so there is no deviation to divide by; check the images.")
    _check_standard(standard)
    return (scaled - standard.mean) / standard.deviation, standard


def create_model(input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """A classifier with two dense layers of 64 units and a softmax over the classes.

    >>> create_model().output_shape
    (None, 10)
    """
    checks.shape(input_shape=input_shape)
    checks.at_least(1, num_classes=num_classes)
    return keras.Sequential(
        [
            keras.Input(tuple(input_shape)),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(int(num_classes), activation="softmax"),
        ]
    )


def train_model(
    model: keras.Model,
    x_train: np.ndarray,
    y_train: np.ndarray,
    epochs: int = 10,
    *,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
    verbose: int = 0,
) -> keras.callbacks.History:
    """Compile the model, and train it on one-hot labels. Returns the history of `model.fit`.

    >>> images, labels = np.zeros((4, 28, 28, 1)), keras.utils.to_categorical([0, 1, 2, 3], num_classes=10)
    >>> history = train_model(create_model(), images, labels, epochs=2)
    >>> sorted(history.history)
    ['accuracy', 'loss']
    """
    checks.built_model(model=model)
    checks.at_least(1, epochs=epochs)
    _check_examples(model, x_train, y_train)
    if final_activation(model) != "softmax":
        raise ValueError(f"model must end in a softmax, as that of create_model does; {model.name!r} does not.")
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model.fit(x_train, y_train, epochs=epochs, validation_data=validation_data, verbose=verbose)


def main(dataset: str = "fashion", *, epochs: int = 10, data_dir: str | None = None, seed: int = 0) -> float:
    """Load a data set, train the classifier, and return its test accuracy. Only "fashion" needs no download.

    >>> main(epochs=1) > 0.5  # chance is 0.1
    True
    """
    checks.at_least(1, epochs=epochs)
    checks.at_least(0, seed=seed)
    if seed > LARGEST_SEED:
        raise ValueError(f"seed must be at most {LARGEST_SEED}, the largest that NumPy takes; got {seed}.")
    keras.utils.set_random_seed(int(seed))
    pool = load(dataset, data_dir=data_dir)
    (x_train, y_train), (x_test, y_test) = _one_hot(pool.split("train")), _one_hot(pool.split("test"))
    x_train, standard = preprocess_data(x_train)
    x_test, _ = preprocess_data(x_test, standard)
    model = create_model(x_train.shape[1:], len(pool))
    train_model(model, x_train, y_train, epochs)
    _, test_accuracy = model.evaluate(x_test, y_test, verbose=0)
    return float(test_accuracy)


def _scaled(images: np.ndarray) -> np.ndarray:
    """Images as floats; integers of any width are pixels from 0 to 255."""
    checks.numbers(images=images)
    images = np.asarray(images)
    if not images.size or not np.isfinite(images).all():
        raise ValueError(f"images must be an array of finite numbers, at least one; got {checks.shown(images)}.")
    if images.dtype.kind in "iu":
        if images.min() < 0 or images.max() > BRIGHTEST:
            raise ValueError(
                f"images of integers must have values from 0 to {BRIGHTEST}; got {images.min()} to {images.max()}."
            )
        images = images.astype(np.uint8)
    check_pixels(images, "images")
    return as_inputs(tf.constant(images)).numpy()


def _check_standard(standard: Standard) -> None:
    if not isinstance(standard, Standard):
        raise ValueError(
            f"standard must be what preprocess_data returned for the training images; got {checks.shown(standard)}."
        )
    checks.finite(mean=standard.mean)
    checks.positive(deviation=standard.deviation)


def _check_examples(model: keras.Model, x_train: np.ndarray, y_train: np.ndarray) -> None:
    checks.numbers(x_train=x_train, y_train=y_train)
    images, labels = np.asarray(x_train), np.asarray(y_train)
    for name, array in (("x_train", images), ("y_train", labels)):
        if not array.size or not np.isfinite(array).all():
            raise ValueError(f"{name} must be an array of finite numbers, at least one; got {checks.shown(x_train)}.")
    taken, returned = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if isinstance(taken, list | dict) or isinstance(returned, list | dict):
        raise ValueError(f"model must have one input and one output; {model.name!r} has shapes {taken} and {returned}.")
    if isinstance(taken, tuple) and not tf.TensorShape(taken).is_compatible_with(images.shape):
        raise ValueError(f"x_train has shape {images.shape}; the model {model.name!r} takes inputs of shape {taken}.")
    outputs = returned[-1] if isinstance(returned, tuple) else None
    if labels.ndim != 2 or len(labels) != len(images) or labels.shape[1] != (outputs or labels.shape[1]):
        raise ValueError(
            f"y_train must have one row of {outputs} numbers per image, a one-hot label; x_train has shape "
            f"{images.shape} and y_train has shape {labels.shape}. keras.utils.to_categorical makes labels one-hot."
        )


def _one_hot(pool: ClassPool) -> tuple[np.ndarray, np.ndarray]:
    images, labels = pool.arrays()
    return images, keras.utils.to_categorical(labels, num_classes=len(pool))


if __name__ == "__main__":
    print(f"Test accuracy: {main():.3f}")
