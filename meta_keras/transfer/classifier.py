"""What the models of this package share: `fit`, files that keep how they were compiled, and a default loss."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.models import ExampleModel
from meta_keras.outputs import as_loss, as_metrics, default_loss, last_axis_of
from meta_keras.traces import final_activation


class Classifier(ExampleModel):
    """A Keras model that is compiled for class labels unless a loss is given."""

    def _answering(self) -> keras.Model | None:
        """The network whose outputs are the answers; None if the answers are logits that are computed from them."""

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: list[Any] | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; without a loss, cross-entropy of the labels, and accuracy as the metric."""
        network = self._answering()
        activation = None if network is None else final_activation(network)
        if loss is None:
            loss, metrics = default_loss(activation, tf.int32), ["accuracy"] if metrics is None else metrics
        else:
            loss = as_loss(loss, activation, keras.config.floatx())
        given = {"metrics": metrics, "weighted_metrics": kwargs.get("weighted_metrics")}
        kwargs |= as_metrics(given, activation, loss=loss, width=last_axis_of(network))
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
