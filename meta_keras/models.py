"""What Keras models of the library share: files that keep random states, and training on arrays or datasets."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from meta_keras.internals import seeds_of
from meta_keras.targets import check_not_broadcast, targets_by_name
from meta_keras.tasks.episodes import is_endless


class SeededModel(keras.Model):
    """A Keras model whose files keep the states of its random generators, so a loaded model goes on as this one."""

    def save_own_variables(self, store: Any) -> None:
        """As Keras does, with the states of the random generators, which Keras leaves out."""
        super().save_own_variables(store)
        for number, seed in enumerate(seeds_of(self)):
            store[f"seed_{number}"] = seed.numpy()

    def load_own_variables(self, store: Any) -> None:
        """As Keras does, with the states of the random generators if they are there."""
        saved = {name: store[name] for name in list(store.keys())}
        for number, seed in enumerate(seeds_of(self)):
            if (state := saved.pop(f"seed_{number}", None)) is not None:
                seed.assign(state)
        super().load_own_variables(saved)


class ExampleModel(SeededModel):
    """A Keras model that is trained on arrays, or on a dataset that ends or is used for a number of steps."""

    _compared: Mapping[str, str] = {}  # the targets of loss and metrics, as `targets_by_name` returns them

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`."""
        given = {"loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        super().compile(optimizer, loss, **given, **kwargs)
        self._compared = targets_by_name(loss=loss, metrics=[metrics, weighted_metrics])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """As Keras, which would broadcast labels where a loss or metric takes a target for every answer."""
        if tf.is_tensor(y) and tf.is_tensor(y_pred):
            check_not_broadcast(self._compared, y, y_pred.shape)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras does when it loads a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`. A dataset determines its own order, about which Keras would warn."""
        check_ends(x, "x", steps_per_epoch=kwargs.get("steps_per_epoch"))
        validation = kwargs.get("validation_data")
        check_ends(validation, "validation_data", validation_steps=kwargs.get("validation_steps"))
        check_weights(y, kwargs.get("sample_weight"))
        for labels in (y, *(validation[1:2] if isinstance(validation, tuple | list) else ())):
            self._check_labels(labels)
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`."""
        check_ends(x, "x", steps=kwargs.get("steps"))
        check_weights(y, kwargs.get("sample_weight"))
        self._check_labels(y)
        return super().evaluate(x, y, *args, **kwargs)

    def _check_labels(self, y: Any) -> None:
        """Raise a ValueError for labels with which training would go wrong; None for a dataset."""


def check_ends(data: Any, what: str, **steps: int | None) -> None:
    """Raise a ValueError if this is an endless dataset and nothing says how many steps to take."""
    ((name, number),) = steps.items()
    if number is None and isinstance(data, tf.data.Dataset) and is_endless(data):
        raise ValueError(f"{what} is an endless dataset; say how many batches of it to use, such as {name}=100.")


def check_weights(y: Any, weight: Any) -> None:
    """Raise a ValueError if weights come without labels, in which case Keras ignores them."""
    if y is None and weight is not None:
        raise ValueError(
            "Keras ignores sample_weight without labels. Pass y too, even where it is not used, or a dataset of "
            "(x, y, weight)."
        )
