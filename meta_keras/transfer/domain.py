"""Domain adaptation: labels in one domain, the source; pictures alone in another, the target.

Deep CORAL lets the features of both domains vary alike (Sun and Saenko, "Deep CORAL", 2016). Gradient reversal trains
them until a second network cannot tell the domains apart (Ganin and Lempitsky, "Unsupervised Domain Adaptation by
Backpropagation", 2015).
"""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.transfer.classifier import Classifier
from meta_keras.transfer.graph import with_layer
from meta_keras.transfer.losses import default_loss
from meta_keras.transfer.pairing import check_alike
from meta_keras.transfer.soft import in_single

METHODS = ("coral", "reversal", None)


@keras.saving.register_keras_serializable(package="meta_keras")
class GradientReversal(keras.layers.Layer):
    """Forward it changes nothing; backward it turns the gradient around (Formula 6.4).

    What lies above learns to make a loss small, and what lies below, through the same step, to make it large.

    >>> x = tf.Variable(3.0)
    >>> with tf.GradientTape() as tape:
    ...     y = GradientReversal(0.5)(x) ** 2
    >>> float(y), float(tape.gradient(y, x))
    (9.0, -3.0)
    """

    def __init__(self, strength: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if strength < 0:
            raise ValueError(f"A strength of 0 or more is needed, as the sign is turned already; {strength} was given.")
        self.strength = strength

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def turned(x: tf.Tensor) -> Any:
            return tf.identity(x), lambda upstream: -self.strength * upstream

        return turned(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength}


def coral_loss(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """How differently two batches of features vary (Formula 6.2).

        |C_a - C_b|^2 / (4 d^2)

    a, b: (rows, d), of at least two rows each; C is their covariance, with rows - 1 in the denominator.

    >>> a = tf.constant([[1.0], [3.0]])
    >>> float(coral_loss(a, a + 5)), float(coral_loss(a, 2 * a))
    (0.0, 9.0)
    """
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"Two batches of features (rows, d) of one width are needed; these have shapes {a.shape} and {b.shape}."
        )
    if 1 in (a.shape[0], b.shape[0]):
        raise ValueError("A single row does not vary; two or more of each domain are needed. Take a larger batch_size.")
    width = tf.cast(a.shape[1], a.dtype)
    return tf.reduce_sum(tf.square(_covariance(a) - _covariance(b))) / (4 * width**2)


def _covariance(rows: tf.Tensor) -> tf.Tensor:
    centred = rows - tf.reduce_mean(rows, axis=0)
    return tf.matmul(centred, centred, transpose_a=True) / tf.cast(tf.shape(rows)[0] - 1, rows.dtype)


@keras.saving.register_keras_serializable(package="meta_keras")
class DomainAdaptation(Classifier):
    """A classifier that learns from labels of the source, and from examples of the target without labels.

    The loss is cross-entropy on the source, and `weight` times a loss that brings the domains together (Formula 6.1).
    Called on plain inputs, it answers as the network does.

        loss = cross-entropy(source) + weight * domain loss

    network: a built Sequential or functional model with one input; `fit` trains it where it is.
    layer: the name of its layer whose outputs (rows, d) are the features.
    method: "coral", "reversal" (Formula 6.3), or None, which learns from the source alone.
    hidden: width of the network that tells the domains apart, for "reversal".

    `fit` takes batches ((source_x, target_x), source_y), as `pair_domains` makes them. Both domains go through the
    network in one batch, so batch normalisation sees them together.

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
        weight: float = 1.0,
        hidden: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if method not in METHODS:
            raise ValueError(f"method is one of {METHODS}; {method!r} was given.")
        if weight < 0:
            raise ValueError(f"A weight of 0 or more is needed; {weight} was given.")
        self.network, self.layer, self.method, self.weight, self.hidden = network, layer, method, weight, hidden
        self.with_features = _with_features(network, layer)
        self.critic = None
        if method == "reversal":
            dense = [keras.layers.Dense(hidden, activation="relu"), keras.layers.Dense(1)]
            self.critic = keras.Sequential([GradientReversal(), *dense], name="critic")
            self.critic.build(self.with_features.outputs[0].shape)
        self.built = True

    def default_loss(self) -> keras.losses.Loss:
        """Cross-entropy, of scores or of probabilities, whichever the network gives."""
        return default_loss(self.network, tf.constant(0))

    def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
        """What the network answers: to the inputs, or to the source of a pair of domains."""
        pair = isinstance(inputs, tuple | list) and len(inputs) == 2
        if not training:
            return self.network(inputs[0] if pair else inputs, training=False)
        if not pair:
            raise ValueError("In training, inputs are (source_x, target_x); pair_domains makes such batches.")
        source, target = inputs
        check_alike(source.shape, target.shape)
        if self.method is None:
            return self.network(source, training=True)
        features, answers = self.with_features(tf.concat([source, target], axis=0), training=True)
        features = in_single(features)
        count = tf.shape(source)[0]
        self.add_loss(self.weight * self._apart(features[:count], features[count:]))
        return answers[:count]

    def _apart(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        if self.method == "coral":
            return coral_loss(source, target)
        guesses = in_single(self.critic(tf.concat([source, target], axis=0)))
        truth = tf.concat([tf.zeros_like(source[:, :1]), tf.ones_like(target[:, :1])], axis=0)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(truth, guesses))

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("layer", "method", "weight", "hidden")}
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DomainAdaptation":
        return cls(**{**config, "network": keras.saving.deserialize_keras_object(config["network"])})


def _with_features(network: keras.Model, layer: str) -> keras.Model:
    """The same network, with the outputs of one of its layers beside its answers."""
    names = [part.name for part in getattr(network, "layers", [])]
    if len(getattr(network, "inputs", None) or []) != 1:
        raise ValueError(
            "A built Sequential or functional model with one input is needed, so that its layers are known."
        )
    if layer not in names:
        raise ValueError(f"The network has no layer {layer!r}; it has {', '.join(names)}.")
    both = with_layer(network, layer)
    if len(both.output_shape[0]) != 2:
        raise ValueError(
            f"Features of shape (rows, d) are needed; the layer {layer!r} gives {both.output_shape[0]}. Choose a layer "
            "after a Flatten or a GlobalAveragePooling."
        )
    return both
