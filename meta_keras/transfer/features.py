"""Feature transfer (特征迁移): the intermediate outputs of a trained model, from which another one learns."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import check_inputs
from meta_keras.internals import calls_of
from meta_keras.scaling import check_scaled
from meta_keras.transfer.layers import check_graph, output_of


def feature_extractor(
    model: keras.Model, layer: str | Sequence[str] | None = None, *, units: Sequence[int] | None = None
) -> keras.Model:
    """The model up to a layer: a plain Keras model whose outputs are those of this layer (Formula 3.2).

    It shares the weights of `model`; `fine_tune` and `freeze` determine which of them train.

    layer: the name of a layer of a Sequential or functional model, or several names for as many outputs. None takes
        the inputs of the head, the last layer with weights.
    units: which of the features to keep, by their indices along the last axis; None keeps all.

    >>> from meta_keras import networks
    >>> feature_extractor(networks.d3(10)).output_shape
    (None, 128)
    >>> feature_extractor(networks.d3(10), units=[0, 5]).output_shape
    (None, 2)
    """
    check_graph(model)
    single = layer is None or isinstance(layer, str)
    if units is not None and not single:
        raise ValueError(f"units are those of one layer; got the layers {layer!r}. Make one extractor per layer.")
    if layer is not None:
        checks.names(layer=layer)
    names = [layer] if isinstance(layer, str) else layer
    outputs = _inputs_of_head(model) if names is None else [output_of(model, name) for name in names]
    if single:
        outputs = outputs[0]
    if units is not None:
        outputs = Take(units)(outputs)
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_features")


def with_features(model: keras.Model, layer: str) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """The model as a function `(inputs, training=False) -> (features, outputs)`: those of the layer, and its own.

    A function and not a Keras model, because Keras would track and save the layers a second time.
    """
    check_graph(model)
    both = keras.Model(model.inputs[0], [output_of(model, layer), model.outputs[0]])

    def features_and_outputs(inputs: Any, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        features, outputs = both(inputs, training=training)
        return features, outputs

    return features_and_outputs


def extract_features(model: keras.Model, data: Any, *, batch_size: int = 256) -> Any:
    """The outputs of the model in inference mode, batch by batch, so that data may be larger than memory.

    model: usually a `feature_extractor`.
    data: inputs as an array (also a `numpy.memmap`), or a batched `tf.data.Dataset` of inputs, `(inputs, labels)`, or
        `(inputs, labels, weights)`.

    Returns an array of features for an array, or several if the model has several outputs. For a dataset it returns a
    dataset of features and labels, which computes each batch when it is needed.

    >>> from meta_keras import networks
    >>> extract_features(feature_extractor(networks.d3(10)), np.zeros((3, 28, 28, 1), "float32")).shape
    (3, 128)
    """
    checks.fittable_model(model=model)
    checks.at_least(1, batch_size=batch_size)
    if isinstance(data, tf.data.Dataset):
        return _features_of_dataset(model, data)
    if len(getattr(model, "inputs", None) or ()) > 1:
        raise ValueError(f"{model.name!r} has several inputs; pass them as a batched tf.data.Dataset.")
    check_inputs(model, data, "data")
    check_scaled(model, data, "data")
    features = None
    for start in range(0, len(data), batch_size):
        batch = np.asarray(data[start : start + batch_size])
        checks.finite_numbers(data=batch)
        found = model.predict_on_batch(batch)
        if features is None:
            features = keras.tree.map_structure(lambda one: np.empty((len(data), *one.shape[1:]), one.dtype), found)
        for every, part in zip(keras.tree.flatten(features), keras.tree.flatten(found), strict=True):
            every[start : start + len(part)] = part
    return features


@keras.saving.register_keras_serializable(package="meta_keras")
class Take(keras.layers.Layer):
    """Some of the features, by their indices along the last axis."""

    def __init__(self, units: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not checks.is_sequence(units) or not len(units):
            raise ValueError(f"units must be a list of indices of features; got {checks.shown(units)}.")
        checks.at_least(0, **{f"units[{place}]": unit for place, unit in enumerate(units)})
        self.units = [int(unit) for unit in units]

    def build(self, shape: tuple[int | None, ...]) -> None:
        wrong = [unit for unit in self.units if unit >= shape[-1]]
        if wrong:
            raise ValueError(
                f"units must be indices from 0 to {shape[-1] - 1}, as the layer has so many; got {wrong[0]}."
            )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return keras.ops.take(inputs, self.units, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


def _inputs_of_head(model: keras.Model) -> list[keras.KerasTensor]:
    """What the last layer with weights is called with."""
    with_weights = [call.input_tensors for call in calls_of(model) if getattr(call.operation, "weights", None)]
    if not with_weights:
        raise ValueError(f"The model {model.name!r} has no layer with weights, and therefore no head; choose a layer.")
    return with_weights[-1]


def _features_of_dataset(model: keras.Model, data: tf.data.Dataset) -> tf.data.Dataset:
    spec = data.element_spec[0] if isinstance(data.element_spec, tuple) else data.element_spec
    check_scaled(model, spec, "data")
    if isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None:
        _check_batches(model, spec.shape)

    def features(inputs: Any, *labels: Any) -> Any:
        found = model(inputs, training=False)
        return (found, *labels) if labels else found

    return data.map(features).prefetch(1)


def _check_batches(model: keras.Model, shape: tf.TensorShape) -> None:
    """Raise a ValueError unless batches of this shape fit the model, as far as it says what fits."""
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) == 1 and not shape.is_compatible_with(inputs[0].shape):
        raise ValueError(
            f"data must have batches of shape {tuple(inputs[0].shape)}; the dataset has {tuple(shape)}. Batch it with "
            "data.batch(256)."
        )
