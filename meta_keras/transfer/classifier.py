"""What the models of this package share: `fit`, files that keep how they were compiled, and a default loss."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.models import ExampleModel
from meta_keras.outputs import as_loss, as_metrics, default_loss


class Classifier(ExampleModel):
    """A Keras model that is compiled for class labels unless a loss is given."""

    def _answer_activation(self) -> str | None:
        """What the outputs end in: None for logits, as in `final_activation`."""
        return None

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: list[Any] | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; without a loss, cross-entropy of the labels, and accuracy as the metric."""
        activation = self._answer_activation()
        if loss is None:
            loss, metrics = default_loss(activation, tf.int32), ["accuracy"] if metrics is None else metrics
        else:
            loss = as_loss(loss, activation, keras.config.floatx())
        super().compile(optimizer=optimizer, loss=loss, metrics=as_metrics(metrics, activation), **kwargs)
