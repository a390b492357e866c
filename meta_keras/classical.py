"""Classical learning: document D4's MNIST project (section 5), made to work. One task, one model, no learning to learn.

The document's four functions keep their names. What was wrong with them stands in the errata, chapters/README.md.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from meta_keras.tasks.datasets import load
from meta_keras.tasks.pools import ClassPool


class Standard(NamedTuple):
    """What standardisation subtracts and divides by, measured on the training pictures alone."""

    mean: float
    deviation: float


def preprocess_data(images: np.ndarray, standard: Standard | None = None) -> tuple[np.ndarray, Standard]:
    """Pixels scaled to 0 ... 1 and standardised (Formula 2.1), and the standard that was used.

    Call it on the training pictures first; give the standard that comes back to the call on the test pictures.
    The document measured the test pictures by their own mean, which no single new picture would have.

    >>> train, standard = preprocess_data(np.array([[0, 255]], np.uint8))
    >>> train
    array([[-1.,  1.]], dtype=float32)
    >>> preprocess_data(np.array([[255, 255]], np.uint8), standard)[0]
    array([[1., 1.]], dtype=float32)
    """
    scaled = np.asarray(images, np.float32) / 255.0
    if standard is None:
        standard = Standard(float(scaled.mean()), float(scaled.std()))
    if standard.deviation == 0:
        raise ValueError("All pixels are the same, so there is no deviation to divide by; check the pictures.")
    return (scaled - standard.mean) / standard.deviation, standard


def create_model(input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """Two dense layers of 64 and a softmax over the classes, after the flatten that the document left out.

    >>> create_model().output_shape
    (None, 10)
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(num_classes, activation="softmax"),
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
    """Compile and fit on one-hot labels. Keras' history comes back; the model itself has learned."""
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model.fit(x_train, y_train, epochs=epochs, validation_data=validation_data, verbose=verbose)


def main(dataset: str = "fashion", *, epochs: int = 10, data_dir: str | None = None, seed: int = 0) -> float:
    """The whole project, from pictures to test accuracy. "mnist" is the document's set; "fashion" needs no download."""
    keras.utils.set_random_seed(seed)
    pool = load(dataset, data_dir=data_dir)
    (x_train, y_train), (x_test, y_test) = _one_hot(pool.split("train")), _one_hot(pool.split("test"))
    x_train, standard = preprocess_data(x_train)
    x_test, _ = preprocess_data(x_test, standard)
    model = create_model(x_train.shape[1:], len(pool))
    train_model(model, x_train, y_train, epochs)
    _, test_accuracy = model.evaluate(x_test, y_test, verbose=0)
    return float(test_accuracy)


def _one_hot(pool: ClassPool) -> tuple[np.ndarray, np.ndarray]:
    images, labels = pool.arrays()
    return images, keras.utils.to_categorical(labels, num_classes=len(pool))


if __name__ == "__main__":
    print(f"Test accuracy: {main():.3f}")
