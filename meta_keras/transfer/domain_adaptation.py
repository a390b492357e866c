"""Domain adaptation: there are labels in one domain, the source, but only inputs in another, the target.

Deep CORAL makes the covariances of the features equal in both domains (Sun and Saenko, "Deep CORAL", 2016). Gradient
reversal trains the features until a domain discriminator cannot distinguish the domains (Ganin and Lempitsky,
"Unsupervised Domain Adaptation by Backpropagation", 2015).
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.scaling import check_scaled
from meta_keras.tasks.shuffling import shuffled_rows
from meta_keras.transfer.classifier import Classifier
from meta_keras.transfer.distillation_losses import in_single
from meta_keras.transfer.domain_losses import GradientReversal, coral_loss
from meta_keras.transfer.features import with_features
from meta_keras.transfer.layers import check_graph, output_of

METHODS = ("coral", "reversal", None)


@keras.saving.register_keras_serializable(package="meta_keras")
class DomainAdaptation(Classifier):
    """A classifier that is trained on labeled examples of the source and on unlabeled examples of the target.

    The loss is cross-entropy on the source, plus `weight` times a loss that aligns the two domains (Formula 6.1).
    Called on plain inputs, it calls the network.

        loss = cross-entropy(source) + weight * domain loss

    network: a built Sequential or functional model with one input; `fit` trains it in place. It gets its
        inputs unchanged, and pixels from 0 to 255 only if it scales them itself.
    layer: the name of its layer whose outputs (rows, d) are the features.
    method: "coral", "reversal" (Formula 6.3), or None, which trains on the source only.
    weight: a number, or a schedule over the optimizer's steps, such as `RisingWeight`.
    hidden: width of the hidden layer of the domain discriminator, for "reversal".

    `fit` takes batches ((source_x, target_x), source_y), as returned by `pair_domains`. The network is called on both
    domains as one batch, so that batch normalization uses their common statistics.

    >>> features = keras.layers.Dense(8, activation="relu", name="features")
    >>> network = keras.Sequential([keras.Input((2,)), features, keras.layers.Dense(3)])
    >>> from meta_keras.transfer import pair_domains
    >>> x, y = tf.random.normal((40, 2)).numpy(), tf.zeros(40, tf.int32).numpy()
    >>> learner = DomainAdaptation(network, layer="features", method="coral")
    >>> learner.compile()
    >>> history = learner.fit(pair_domains(x, y, x + 1), steps_per_epoch=2, verbose=0)
    >>> learner.predict(x, verbose=0).shape
    (40, 3)
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        layer: str,
        method: str | None = "coral",
        weight: float | keras.optimizers.schedules.LearningRateSchedule = 1.0,
        hidden: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.one_of(METHODS, method=method)
        if not _is_schedule(weight):
            checks.nonnegative(weight=weight)
        checks.at_least(1, hidden=hidden)
        shape = _feature_shape(network, layer)
        self.network, self.layer, self.method, self.weight, self.hidden = network, layer, method, weight, hidden
        self.with_features = with_features(network, layer)
        self.discriminator = None
        if method == "reversal":
            dense = [keras.layers.Dense(hidden, activation="relu"), keras.layers.Dense(1)]
            self.discriminator = keras.Sequential([GradientReversal(), *dense], name="discriminator")
            self.discriminator.build(shape)
        self.built = True

    def _answering(self) -> keras.Model:
        return self.network

    def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
        """The outputs of the network for the inputs, or for the source of a pair of domains."""
        pair = isinstance(inputs, tuple | list) and len(inputs) == 2
        for domain in inputs if pair else (inputs,):
            check_scaled(self.network, domain)
        if not training:
            return self.network(inputs[0] if pair else inputs, training=False)
        if not pair:
            raise ValueError("In training, inputs must be (source_x, target_x); pair_domains returns such batches.")
        source, target = inputs
        _check_same_shape(source.shape, target.shape)
        if self.method is None:
            return self.network(source, training=True)
        features, outputs = self.with_features(tf.concat([source, target], axis=0), training=True)
        features = in_single(features)
        count = tf.shape(source)[0]
        self.add_loss(self._current_weight() * self._domain_loss(features[:count], features[count:]))
        return outputs[:count]

    def _current_weight(self) -> Any:
        if not _is_schedule(self.weight):
            return self.weight
        if getattr(self, "optimizer", None) is None:
            raise ValueError("A weight that is a schedule depends on the optimizer's step; call compile first.")
        return self.weight(self.optimizer.iterations)

    def _domain_loss(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        if self.method == "coral":
            return coral_loss(source, target)
        logits = in_single(self.discriminator(tf.concat([source, target], axis=0)))
        domains = tf.concat([tf.zeros_like(source[:, :1]), tf.ones_like(target[:, :1])], axis=0)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(domains, logits))

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("layer", "method", "hidden")}
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("network", "weight")}
        return {**super().get_config(), **own, **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DomainAdaptation":
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("network", "weight")}
        return cls(**{**config, **parts})


def pair_domains(
    source_x: np.ndarray, source_y: np.ndarray, target_x: np.ndarray, *, batch_size: int = 64, seed: int = 0
) -> tf.data.Dataset:
    """Endless batches ((source_x, target_x), source_y), as `DomainAdaptation.fit` takes them.

    Each domain is iterated over in its own shuffled order, which is drawn again for every pass, so the domains may
    differ in size. Batch n for a seed is always the same batch. The target has no labels.

    >>> pairs = pair_domains(np.zeros((9, 2)), np.zeros(9), np.ones((5, 2)), batch_size=4)
    >>> (source, target), y = next(iter(pairs))
    >>> source.shape, target.shape, y.shape
    (TensorShape([4, 2]), TensorShape([4, 2]), TensorShape([4]))
    """
    checks.at_least(1, batch_size=batch_size)
    checks.integer(seed=seed)
    checks.examples(source_x=source_x, source_y=source_y, target_x=target_x)
    checks.finite_numbers(source_x=source_x, source_y=source_y, target_x=target_x)
    source_x, source_y, target_x = (np.asarray(array) for array in (source_x, source_y, target_x))
    if len(source_x) != len(source_y):
        raise ValueError(f"source_y must have one label per example; got {len(source_y)} for {len(source_x)} examples.")
    _check_same_shape(source_x.shape, target_x.shape)
    # As tensors they stay outside the graph, which would copy arrays again for every call of `fit`, and holds 2 GB.
    source_x, source_y, target_x = (tf.constant(array) for array in (source_x, source_y, target_x))

    def pair(step: tf.Tensor) -> Any:
        of_source = shuffled_rows(step, len(source_x), batch_size, [seed, 0])
        of_target = shuffled_rows(step, len(target_x), batch_size, [seed, 1])
        return (tf.gather(source_x, of_source), tf.gather(target_x, of_target)), tf.gather(source_y, of_source)

    return tf.data.Dataset.counter().map(pair).prefetch(2)


def _is_schedule(weight: Any) -> bool:
    return isinstance(weight, keras.optimizers.schedules.LearningRateSchedule)


def _feature_shape(network: keras.Model, layer: str) -> tuple[int | None, ...]:
    """The shape (rows, d) of the outputs of this layer; a ValueError for any other."""
    check_graph(network, name="network")
    checks.text(layer=layer)
    shape = tuple(output_of(network, layer).shape)
    if len(shape) != 2:
        raise ValueError(
            f"layer must have outputs of shape (rows, d); those of {layer!r} have the shape {shape}. Choose a layer "
            "after a Flatten or a GlobalAveragePooling layer."
        )
    return shape


def _check_same_shape(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Raise a ValueError unless the examples of both domains have one shape."""
    if tuple(source[1:]) != tuple(target[1:]):
        raise ValueError(
            "Examples of both domains must have one shape, since one network takes them; those of the source have "
            f"{tuple(source[1:])}, those of the target {tuple(target[1:])}. Resize one of them."
        )
