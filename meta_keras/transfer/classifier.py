"""What the classifiers of this package share: cross-entropy as the default loss, and files that keep it."""

from typing import Any

import keras
import tensorflow as tf


class Classifier(keras.Model):
    """A Keras model that is compiled for class labels unless a loss is given."""

    def default_loss(self) -> keras.losses.Loss:
        """The loss if none is given: cross-entropy of logits."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: list[Any] | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; without a loss, cross-entropy of the labels, and accuracy as the metric."""
        if loss is None:
            loss = self.default_loss()
            metrics = ["accuracy"] if metrics is None else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does when it loads a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`. A dataset determines its own order, about which Keras would warn."""
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)
        return super().fit(x, y, **kwargs)
