"""PNML: a small network, applied to every parameter alone, computes the inner step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from meta_keras.checks import one_of, positive, shape
from meta_keras.functional import PureModel
from meta_keras.rules.updates import Step, Tensors, Update

MOMENTUM_DECAYS, SQUARE_DECAY = (0.5, 0.9, 0.99), 0.999
EPSILON = 1e-7  # as in Keras' Adam
# Inputs are smooth where gradients change sign. Without this they would jump there, and meta-gradients explode.
SMOOTHING = 1e-5
# How far a training run has come, on several time scales.
TIME_SCALES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
BASES = ("sgd", "momentum", "adam")


class Memory(NamedTuple):
    """What is remembered for a tensor of parameters: averages of its gradient and of the gradient's square."""

    momenta: tuple[tf.Tensor, ...]
    square: tf.Tensor


@keras.saving.register_keras_serializable(package="meta_keras")
class UpdateNetwork(Update):
    """A learned update: known optimizers with learned coefficients, plus the step of a network (D3's PNML).

        update = -learning_rate * sum_i c_i d_i + step_size * direction * exp(0.001 * magnitude)   (Formula 11.1)

    The d_i are the gradient, its moving averages on three time scales, and the directions of Adam that belong to them.
    Direction and magnitude are the two outputs of a network that sees the same for one parameter at a time, together
    with the parameter itself, the second moment and the number of steps. It therefore fits any number of weights.
    The inputs are normalized to a mean square of 1 over each tensor (Metz et al., "Practical tradeoffs between memory,
    compute, and performance in learned optimizers", 2022), and the network's output begins at zero, so that training
    begins with the optimizer that `base` names.

    learning_rate: that of the known optimizers.
    base: "sgd", "momentum" (0.9) or "adam" (0.9 and 0.999).
    hidden: the units of the hidden layers.
    step_size: the size of the network's own steps.

    >>> from meta_keras import MetaLearner, networks
    >>> from meta_keras.rules import GradientDescent
    >>> rule = GradientDescent(UpdateNetwork(0.01), steps=3)
    >>> learner = MetaLearner(network=networks.mlp(1), rule=rule)
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        base: str = "adam",
        hidden: Sequence[int] = (8, 8),
        step_size: float = 0.001,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        positive(learning_rate=learning_rate, step_size=step_size)
        one_of(BASES, base=base)
        shape(hidden=hidden)
        self.learning_rate, self.base, self.step_size = float(learning_rate), base, float(step_size)
        self.hidden = tuple(int(units) for units in hidden)

    def prepare(self, network: PureModel, parameters: Sequence[keras.Variable], steps: int) -> None:
        if not self.built:  # what it has learned for one network serves others
            self.build()

    def build(self, input_shape: Any = None) -> None:
        """Create the network and the coefficients. They do not depend on the parameters that will be updated."""
        count = len(MOMENTUM_DECAYS)
        initial = np.zeros(1 + 2 * count)
        nine_tenths = MOMENTUM_DECAYS.index(0.9)
        # A velocity with decay 0.9 is ten times the moving average of the gradient.
        initial[{"sgd": 0, "momentum": 1 + nine_tenths, "adam": 1 + count + nine_tenths}[self.base]] = (
            10.0 if self.base == "momentum" else 1.0
        )
        self.coefficients = self.add_weight(
            shape=initial.shape, initializer=lambda shape, dtype=None: initial.astype(dtype), name="coefficients"
        )
        self.reader = keras.layers.Dense(self.hidden[0], name="features")
        self.clock = keras.layers.Dense(self.hidden[0], use_bias=False, name="time")
        self.inner = [keras.layers.Dense(units, name=f"hidden_{n}") for n, units in enumerate(self.hidden[1:], 1)]
        self.writer = keras.layers.Dense(2, kernel_initializer="zeros", name="direction_and_magnitude")
        self.reader.build((None, 3 + 2 * count))
        self.clock.build((None, len(TIME_SCALES)))
        for layer, units in zip((*self.inner, self.writer), self.hidden, strict=True):
            layer.build((None, units))
        self.built = True

    def init(self, parameters: Tensors) -> list[Memory]:
        return [self.start(tf.zeros_like(one)) for one in parameters]

    def start(self, zeros: Any) -> Memory:
        """The memory before the first step, for a tensor of parameters."""
        return Memory((zeros,) * len(MOMENTUM_DECAYS), zeros)

    def update(
        self, gradients: Tensors, state: Sequence[Memory], parameters: Tensors, step: Step
    ) -> tuple[Tensors, list[Memory]]:
        found = [self.of_tensor(*parts, step.number) for parts in zip(gradients, state, parameters, strict=True)]
        return [update for update, _ in found], [memory for _, memory in found]

    def of_tensor(
        self, gradient: tf.Tensor, memory: Memory, parameter: tf.Tensor, number: int | tf.Tensor
    ) -> tuple[tf.Tensor, Memory]:
        """The update of one tensor of parameters after `number` steps, and what is remembered next."""
        pairs = zip(MOMENTUM_DECAYS, memory.momenta, strict=True)
        momenta = tuple(average + (1 - decay) * (gradient - average) for decay, average in pairs)
        square = memory.square + (1 - SQUARE_DECAY) * (tf.square(gradient) - memory.square)
        directions = [gradient, *momenta, *adam_directions(momenta, square, number)]
        coefficients = tf.unstack(tf.cast(self.coefficients, gradient.dtype))
        known = tf.add_n([c * one for c, one in zip(coefficients, directions, strict=True)])
        root = tf.sqrt(square + SMOOTHING)
        features = [*map(normalized, (gradient, parameter, root, *momenta)), *(average / root for average in momenta)]
        return self.own_step(features, number) - self.learning_rate * known, Memory(momenta, square)

    def own_step(self, features: Tensors, number: int | tf.Tensor) -> tf.Tensor:
        """step_size * direction * exp(0.001 * magnitude)."""
        rows = tf.stack([tf.reshape(one, [-1]) for one in features], axis=-1)
        steps = tf.cast(number, rows.dtype)
        time = tf.stack([tf.tanh(steps / scale - 1) for scale in TIME_SCALES])[None]
        hidden = tf.nn.relu(self.reader(rows) + self.clock(time))
        for layer in self.inner:
            hidden = tf.nn.relu(layer(hidden))
        direction, magnitude = tf.unstack(self.writer(hidden), axis=-1)
        return tf.reshape(self.step_size * direction * tf.exp(0.001 * magnitude), tf.shape(features[0]))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "learning_rate": self.learning_rate,
            "base": self.base,
            "hidden": self.hidden,
            "step_size": self.step_size,
        }


def adam_directions(momenta: Tensors, square: tf.Tensor, number: int | tf.Tensor) -> Tensors:
    """The directions of Adam for several decays of the momentum, in the form of Keras (Formula 2.7)."""
    steps = tf.cast(number, square.dtype) + 1
    scale, *corrections = (1 - tf.constant(decay, square.dtype) ** steps for decay in (SQUARE_DECAY, *MOMENTUM_DECAYS))
    root = safe_root(square) + EPSILON
    return [tf.sqrt(scale) / one * average / root for one, average in zip(corrections, momenta, strict=True)]


def safe_root(square: tf.Tensor) -> tf.Tensor:
    """The square root, with the derivative 0 at 0, where the root itself has an infinite one."""
    positive_part = square > 0
    return tf.where(
        positive_part, tf.sqrt(tf.where(positive_part, square, tf.ones_like(square))), tf.zeros_like(square)
    )


def normalized(values: tf.Tensor) -> tf.Tensor:
    """Scaled to a mean square of 1 over the tensor."""
    return values * tf.math.rsqrt(tf.reduce_mean(tf.square(values)) + SMOOTHING)
