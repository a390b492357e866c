"""What the models of this package share: `fit`, files that keep how they were compiled, and a default loss."""

from typing import Any

import keras

from meta_keras.models import ExampleModel


class Classifier(ExampleModel):
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
