"""PNML: a small network, applied to every parameter alone, computes the inner step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.embedded import check_whole, embedded_folder
from meta_keras.functional import PureModel
from meta_keras.rules.updates import Step, Tensors, Update

MOMENTUM_DECAYS, SQUARE_DECAY = (0.5, 0.9, 0.99), 0.999
EPSILON = 1e-7  # as in Keras' Adam
# Features are smooth where gradients change sign. Without this they would jump there, and meta-gradients explode.
SMOOTHING = 1e-5
# How far a training run has come, on several time scales. The context has the short ones.
TIME_SCALES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
CONTEXT_SCALES = TIME_SCALES[:4]
BASES = ("sgd", "momentum", "adam")
FEATURES, CONTEXT = 4 + len(MOMENTUM_DECAYS), 1 + len(CONTEXT_SCALES)


class Memory(NamedTuple):
    """What is remembered for a tensor of parameters: moving averages of its gradient and of the gradient's square."""

    momenta: tuple[tf.Tensor, ...]
    square: tf.Tensor


@keras.saving.register_keras_serializable(package="meta_keras")
class UpdateNetwork(Update):
    """A learned update: known optimizers with learned coefficients, plus the step of a network (D3's PNML).

        update = -learning_rate * sum_i c_i exp(u_i . z) d_i
                 + step_size * direction * exp(0.001 * magnitude)   (Formula 11.1)

    The d_i are the gradient, its moving averages on three time scales, and the updates of Adam that belong to them.
    Direction and magnitude are the two outputs of a network that sees one parameter at a time: its gradient, momenta,
    second moment and value, normalized. It therefore fits any number of weights of any shape, and is as small as in
    Metz et al., "Practical tradeoffs between memory, compute, and performance in learned optimizers", 2022. Both parts
    depend on the context z: whether the tensor is a vector, such as a bias, and how far training has come. Only Adam's
    updates have u_i. These and the network's outputs are zero at first: training begins with the optimizer in `base`.

    learning_rate: that of the known optimizers.
    base: "sgd", "momentum" (0.9) or "adam" (0.9 and 0.999).
    hidden: the units of the hidden layers.
    step_size: the size of the network's own steps.
    schedules: whether there are u_i; False is better for a few steps, in which they have no purpose but may grow large.

    >>> from meta_keras import MetaLearner, networks
    >>> from meta_keras.rules import GradientDescent
    >>> rule = GradientDescent(UpdateNetwork(0.01, schedules=False), steps=3)
    >>> learner = MetaLearner(network=networks.mlp(1), rule=rule)
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        base: str = "adam",
        hidden: Sequence[int] = (4, 4),
        step_size: float = 0.001,
        schedules: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.positive(learning_rate=learning_rate, step_size=step_size)
        checks.one_of(BASES, base=base)
        checks.shape(hidden=hidden)
        checks.flag(schedules=schedules)
        self.learning_rate, self.base, self.step_size = float(learning_rate), base, float(step_size)
        self.hidden, self.schedules = tuple(map(int, hidden)), bool(schedules)

    def prepare(self, network: PureModel, parameters: Sequence[keras.Variable], steps: int) -> None:
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Create the coefficients and the network. They do not depend on the parameters that will be updated.

        Only once: what has been learned for one network serves others.
        """
        if self.built:
            return
        self.coefficients = self.add_weight(
            shape=(1 + 2 * len(MOMENTUM_DECAYS),), initializer=self._first_coefficients, name="coefficients"
        )
        if self.schedules:
            self.exponents = self.add_weight((CONTEXT, len(MOMENTUM_DECAYS)), initializer="zeros", name="exponents")
        self.clock, self.context_kernel = (
            self.add_weight(shape=(count, self.hidden[0]), initializer="glorot_uniform", name=name)
            for name, count in (("clock", len(TIME_SCALES)), ("context_kernel", CONTEXT))
        )
        widths = (FEATURES, *self.hidden, 2)
        self.dense = []
        for n, shape in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            initializer = "zeros" if n == len(self.hidden) else "glorot_uniform"  # the outputs begin at zero
            kernel = self.add_weight(shape=shape, initializer=initializer, name=f"kernel_{n}")
            self.dense.append((kernel, self.add_weight(shape=shape[1:], initializer="zeros", name=f"bias_{n}")))
        self.built = True

    def init(self, parameters: Tensors) -> list[Memory]:
        return [Memory((tf.zeros_like(one),) * len(MOMENTUM_DECAYS), tf.zeros_like(one)) for one in parameters]

    def update(
        self, gradients: Tensors, state: Sequence[Memory], parameters: Tensors, step: Step
    ) -> tuple[Tensors, list[Memory]]:
        moves, memories = [], []
        for gradient, before, parameter in zip(gradients, state, parameters, strict=True):
            memory = remembered(gradient, before)
            context = context_of(parameter, step.number)
            own = self.own_step(features_of(gradient, memory, parameter), context, step.number)
            moves.append(own + self.known_step(gradient, memory, context, step.number))
            memories.append(memory)
        return moves, memories

    def known_step(self, gradient: tf.Tensor, memory: Memory, context: Tensors, number: int | tf.Tensor) -> tf.Tensor:
        """-learning_rate * sum_i c_i exp(u_i . z) d_i in this context z."""
        first, *others = tf.unstack(tf.cast(self.coefficients, gradient.dtype))
        plain, adam = others[: len(memory.momenta)], others[len(memory.momenta) :]
        known = first * gradient + weighted_sum(plain, memory.momenta)
        # The updates of Adam have one divisor, so they are added up before the division.
        parts = zip(adam, self.factors_in(context), adam_corrections(number, gradient.dtype), strict=True)
        scaled = weighted_sum([c * factor * correction for c, factor, correction in parts], memory.momenta)
        return -self.learning_rate * (known + scaled / (safe_root(memory.square) + EPSILON))

    def factors_in(self, context: Tensors) -> Tensors:
        """exp(u_i . z): the factors of the coefficients of Adam's updates in this context z."""
        # Only of Adam's: gradients shrink with the loss, and with growing coefficients, one minibatch could do damage.
        if not self.schedules:
            return [tf.ones_like(context[0])] * len(MOMENTUM_DECAYS)
        exponents = tf.unstack(tf.cast(self.exponents, context[0].dtype))
        return tf.unstack(tf.exp(weighted_sum(context, exponents)))

    def own_step(self, features: Tensors, context: Tensors, number: int | tf.Tensor) -> tf.Tensor:
        """step_size * direction * exp(0.001 * magnitude); every feature has the shape of the parameters."""
        dtype = features[0].dtype
        # The step number counts twice, here and in the context. One would do, but meta-training gets further with both.
        offset = weighted_sum(times(number, TIME_SCALES, dtype), tf.unstack(tf.cast(self.clock, dtype)))
        offset += weighted_sum(context, tf.unstack(tf.cast(self.context_kernel, dtype)))
        units: Tensors = features
        for kernel, bias in self.dense:
            # Products with single numbers, which XLA joins into one pass over the parameters. Matrix products would
            # write every layer to memory.
            columns = [tf.unstack(column) for column in tf.unstack(tf.cast(kernel, dtype), axis=1)]
            offsets = tf.unstack(tf.cast(bias, dtype) + offset)
            values = [weighted_sum(column, units) + one for column, one in zip(columns, offsets, strict=True)]
            units, offset = [tf.nn.relu(value) for value in values], tf.zeros((), dtype)
        direction, magnitude = values
        return self.step_size * direction * tf.exp(0.001 * magnitude)

    def _first_coefficients(self, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        """Those of the optimizer that `base` names."""
        count, nine_tenths = len(MOMENTUM_DECAYS), MOMENTUM_DECAYS.index(0.9)
        place = {"sgd": 0, "momentum": 1 + nine_tenths, "adam": 1 + count + nine_tenths}[self.base]
        first = np.zeros(shape, dtype)
        first[place] = 10 if self.base == "momentum" else 1  # a velocity is ten times the moving average
        return first

    def save(self, path: str | Path) -> None:
        """Write what was learned to a new .npz file, which `load` reads."""
        path = _npz(path)
        if path.exists():
            raise FileExistsError(f"{path} exists already. Delete it, or choose another name.")
        self.build()
        np.savez(path, json.dumps(self.get_config()), *self.get_weights())

    @classmethod
    def load(cls, path: str | Path | None = None) -> "UpdateNetwork":
        """The update network in a file. None loads the one that comes with the project, see data/README.md."""
        path = embedded_folder() / "learned_update.npz" if path is None else _npz(path)
        if path.parent == embedded_folder():
            check_whole(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                config, *weights = (stored[name] for name in stored.files)
            update = cls.from_config(json.loads(str(config)))
            update.build()
            update.set_weights(weights)
        except (TypeError, ValueError) as error:  # also those of JSON and of NumPy
            raise ValueError(f"{path} is no file of this version's UpdateNetwork.save: {error}") from error
        return update

    def get_config(self) -> dict[str, Any]:
        names = ("learning_rate", "base", "hidden", "step_size", "schedules")
        return super().get_config() | {name: getattr(self, name) for name in names}


def remembered(gradient: tf.Tensor, before: Memory) -> Memory:
    """The memory after a step with this gradient."""
    pairs = zip(MOMENTUM_DECAYS, before.momenta, strict=True)
    momenta = tuple(average + (1 - decay) * (gradient - average) for decay, average in pairs)
    return Memory(momenta, before.square + (1 - SQUARE_DECAY) * (tf.square(gradient) - before.square))


def adam_corrections(number: int | tf.Tensor, dtype: tf.DType) -> Tensors:
    """What corrects the bias of the moving averages in Adam, for each decay of the momentum (Formula 2.7)."""
    steps = tf.cast(number, dtype) + 1
    scale, *others = (1 - tf.constant(decay, dtype) ** steps for decay in (SQUARE_DECAY, *MOMENTUM_DECAYS))
    return [tf.sqrt(scale) / other for other in others]


def features_of(gradient: tf.Tensor, memory: Memory, parameter: tf.Tensor) -> Tensors:
    """What the network sees of a tensor of parameters, in its shape.

    The gradient, the parameter and the root of the second moment are scaled to a mean square of 1 over the tensor; the
    gradient and the momenta are also divided by that root.
    """
    square = memory.square + SMOOTHING
    inverse = tf.math.rsqrt(square)  # of the root; one for all, since divisions are slow
    root = square * inverse * tf.math.rsqrt(mean(square) + SMOOTHING)
    return [normalized(gradient), normalized(parameter), root, *(one * inverse for one in (gradient, *memory.momenta))]


def context_of(parameter: tf.Tensor, number: int | tf.Tensor) -> Tensors:
    """What all parameters of a tensor have in common: whether it has several axes, and how far training has come."""
    dtype = parameter.dtype
    return [tf.constant(float(parameter.shape.rank > 1), dtype), *times(number, CONTEXT_SCALES, dtype)]


def times(number: int | tf.Tensor, scales: Sequence[float], dtype: tf.DType) -> Tensors:
    """The number of steps before this one, on each time scale between -1 and 1."""
    return [tf.tanh(tf.cast(number, dtype) / scale - 1) for scale in scales]


def normalized(values: tf.Tensor) -> tf.Tensor:
    """Scaled to a mean square of 1."""
    return values * tf.math.rsqrt(mean(tf.square(values)) + SMOOTHING)


def mean(values: tf.Tensor) -> tf.Tensor:
    """Not tf.reduce_mean, whose gradient XLA cannot compile where training runs are vectorized within a loop."""
    # In two steps: the product of a matrix and a vector is vectorized, that of two long vectors is not.
    width = values.shape[-1] if values.shape.rank else 1
    rows = tf.reshape(values, (values.shape.num_elements() // width, width))
    sums = tf.tensordot(rows, tf.ones((width,), values.dtype), 1)
    return tf.tensordot(sums, tf.ones_like(sums), 1) / values.shape.num_elements()


def weighted_sum(weights: Tensors, values: Tensors) -> tf.Tensor:
    """Scalar weights times tensors, added up."""
    return tf.add_n([weight * value for weight, value in zip(weights, values, strict=True)])


def safe_root(square: tf.Tensor) -> tf.Tensor:
    """The square root, with the derivative 0 at 0, where the root itself has an infinite one."""
    some = square > 0
    return tf.where(some, tf.sqrt(tf.where(some, square, tf.ones_like(square))), tf.zeros_like(square))


def _npz(path: str | Path) -> Path:
    """The path of an .npz file, or a ValueError."""
    checks.path(path=path)
    if Path(path).suffix != ".npz":
        raise ValueError(f"path must end in .npz; got {str(path)!r}.")
    return Path(path)
