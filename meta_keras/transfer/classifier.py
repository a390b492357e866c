"""What the models of this package share: `fit`, files that keep how they were compiled, and a default loss."""

from typing import Any

import keras
import tensorflow as tf


class TransferModel(keras.Model):
    """A Keras model that is loaded with the state of its optimizer, and that refuses what `fit` would ignore."""

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does when it loads a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`. A dataset determines its own order, about which Keras would warn."""
        _check_weights(y, kwargs.get("sample_weight"))
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)
        return super().fit(x, y, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`."""
        _check_weights(y, kwargs.get("sample_weight"))
        return super().evaluate(x, y, **kwargs)


class Classifier(TransferModel):
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


def _check_weights(y: Any, weight: Any) -> None:
    if y is None and weight is not None:
        raise ValueError(
            "Keras ignores sample_weight without labels. Pass y too, even where it is not used, or a dataset of "
            "(x, y, weight)."
        )
