"""Feature transfer (特征迁移): what a trained model computes on its way, given to another to learn from."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.transfer.graph import calls, check_graph, output_of


def feature_extractor(
    model: keras.Model, layer: str | Sequence[str] | None = None, *, units: Sequence[int] | None = None
) -> keras.Model:
    """The model up to a layer: a plain Keras model whose outputs are that layer's (Formula 3.2).

    It shares the weights of `model`; `fine_tune` and `freeze` say what may train.

    layer: the name of a layer of a Sequential or functional model, or several names for as many outputs. None takes
        what the head, the last layer with weights, is given: all that the model has found out.
    units: which of the features to keep, by their numbers along the last axis; None keeps all.

    >>> from meta_keras import networks
    >>> feature_extractor(networks.d3(10)).output_shape
    (None, 128)
    >>> feature_extractor(networks.d3(10), units=[0, 5]).output_shape
    (None, 2)
    """
    check_graph(model)
    names = [layer] if isinstance(layer, str) else layer
    if units is not None and not (names is None or isinstance(layer, str)):
        raise ValueError(f"units number the features of one layer; {layer!r} were named. Make an extractor for each.")
    outputs = _given_to_head(model) if names is None else [output_of(model, name) for name in names]
    if names is None or isinstance(layer, str):
        outputs = outputs[0]
    if units is not None:
        outputs = Take(units)(outputs)
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_features")


def extract_features(model: keras.Model, data: Any, *, batch_size: int = 256) -> Any:
    """What the model answers in inference mode, batch by batch, so that data may be larger than memory.

    model: usually a `feature_extractor`.
    data: inputs as an array (also a `numpy.memmap`), or a batched `tf.data.Dataset` of inputs, `(inputs, labels)`, or
        `(inputs, labels, weights)`.

    Returns an array of features for an array, or several if the model has several outputs. For a dataset, a dataset of
    features with the labels beside them; it computes a batch when it is asked for one.

    >>> from meta_keras import networks
    >>> extract_features(feature_extractor(networks.d3(10)), np.zeros((3, 28, 28, 1), "float32")).shape
    (3, 128)
    """
    if isinstance(data, tf.data.Dataset):
        return _features_of_dataset(model, data)
    if not len(data):
        raise ValueError("There are no inputs to extract features from.")
    features = None
    for start in range(0, len(data), batch_size):
        found = model.predict_on_batch(np.asarray(data[start : start + batch_size]))
        if features is None:
            features = keras.tree.map_structure(lambda one: np.empty((len(data), *one.shape[1:]), one.dtype), found)
        for every, part in zip(keras.tree.flatten(features), keras.tree.flatten(found), strict=True):
            every[start : start + len(part)] = part
    return features


@keras.saving.register_keras_serializable(package="meta_keras")
class Take(keras.layers.Layer):
    """Some of the features, by their numbers along the last axis."""

    def __init__(self, units: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = [int(unit) for unit in units]

    def build(self, shape: tuple[int | None, ...]) -> None:
        wrong = [unit for unit in self.units if not 0 <= unit < shape[-1]]
        if wrong or not self.units:
            raise ValueError(f"Features are numbered 0 to {shape[-1] - 1}; {wrong or 'none'} asked for.")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return keras.ops.take(inputs, self.units, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


def _given_to_head(model: keras.Model) -> list[keras.KerasTensor]:
    """What the last layer that has weights is called with."""
    return [call.input_tensors for call in calls(model) if getattr(call.operation, "weights", None)][-1]


def _features_of_dataset(model: keras.Model, data: tf.data.Dataset) -> tf.data.Dataset:
    spec = data.element_spec[0] if isinstance(data.element_spec, tuple) else data.element_spec
    if isinstance(spec, tf.TensorSpec) and not spec.shape.is_compatible_with(model.input_shape):
        raise ValueError(
            f"Batches of shape {tuple(model.input_shape)} are needed; the dataset has {tuple(spec.shape)}. "
            "Batch it with data.batch(256)."
        )

    def features(inputs: Any, *labels: Any) -> Any:
        found = model(inputs, training=False)
        return (found, *labels) if labels else found

    return data.map(features).prefetch(1)
