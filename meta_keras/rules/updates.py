"""The inner step as a transform: gradients in, updates out, with `init` and `update` as in optax.

Every gradient-based rule takes one. A number stands for plain gradient descent at this learning rate.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from meta_keras.checks import flag, one_of, positive
from meta_keras.functional import PureModel
from meta_keras.internals import all_layers, parameters_of

Tensors = Sequence[tf.Tensor]


class Step(NamedTuple):
    """What an update receives in addition to gradients and weights.

    number: which inner step it is, from 0. loss: the support loss before it. training: whether this is meta-training.

    >>> Step(number=0, loss=tf.constant(1.5), training=True).number
    0
    """

    number: int | tf.Tensor
    loss: tf.Tensor
    training: bool


class Update(keras.layers.Layer):
    """How the inner step is computed from a gradient. It is a Keras layer, so the outer loop trains what it learns.

        theta_k+1 = theta_k + u,  (u, m_k+1) = update(grad L_S(theta_k), m_k, ...)    (Formula 9.1)

    A subclass defines `update`; `init` where it remembers something from step to step; and `prepare` where it learns.

    >>> class Momentum(Update):
    ...     def init(self, parameters):
    ...         return [tf.zeros_like(one) for one in parameters]
    ...
    ...     def update(self, gradients, state, parameters, step):
    ...         state = [0.9 * velocity - 0.1 * g for velocity, g in zip(state, gradients)]
    ...         return state, state
    >>> from meta_keras.rules import GradientDescent
    >>> rule = GradientDescent(Momentum(), steps=3)
    """

    def prepare(self, network: PureModel, parameters: Sequence[keras.Variable], steps: int) -> None:
        """Create what is learned. parameters: those that the inner loop changes. steps: inner steps in training."""
        self.built = True

    def init(self, parameters: Tensors) -> Any:
        """What is remembered before the first step: any structure of tensors whose shapes stay the same."""
        return ()

    def update(self, gradients: Tensors, state: Any, parameters: Tensors, step: Step) -> tuple[Tensors, Any]:
        """What to add to each parameter, and what is remembered next."""
        raise NotImplementedError(f"{type(self).__name__} must define its update.")


@keras.saving.register_keras_serializable(package="meta_keras")
class FixedRate(Update):
    """Plain gradient descent: update = -alpha * gradient (Formula 10.1).

    >>> rate = FixedRate(0.1)
    >>> (change,), state = rate.update([tf.constant([2.0])], (), [tf.constant([1.0])], Step(0, tf.constant(0.0), True))
    >>> change.numpy()
    array([-0.2], dtype=float32)
    """

    def __init__(self, learning_rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(learning_rate=learning_rate)
        self.learning_rate = float(learning_rate)

    def update(self, gradients: Tensors, state: Any, parameters: Tensors, step: Step) -> tuple[Tensors, Any]:
        rate = tf.constant(self.learning_rate, tf.float64)  # tf.cast alone would round it to float32
        return [-tf.cast(rate, gradient.dtype) * gradient for gradient in gradients], state

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"learning_rate": self.learning_rate}


@keras.saving.register_keras_serializable(package="meta_keras")
class LearnedRates(Update):
    """Gradient descent with learning rates that the outer loop trains.

    learning_rate: the initial value of all of them.
    per: "weight" learns a rate for every single weight (Meta-SGD: Li et al., "Meta-SGD: Learning to Learn Quickly for
        Few-Shot Learning", 2017; Formula 10.5); "layer" one per layer; "layer-step" one per layer and inner step
        (MAML++: Antoniou et al., "How to train your MAML", 2019; Formula 9.2); "step" one per step, a schedule
        (Maclaurin, Duvenaud and Adams, "Gradient-based Hyperparameter Optimization through Reversible Learning", 2015;
        Formula 9.3). Beyond the steps of training, the last one is used.
    logarithmic: learn the logarithms of the rates (Formula 9.4), so that they stay positive and a step of Adam changes
        large and small ones by similar factors.

    >>> from meta_keras import MetaLearner, networks
    >>> from meta_keras.rules import GradientDescent
    >>> rates = LearnedRates(0.01, per="layer-step")
    >>> learner = MetaLearner(network=networks.mlp(1), rule=GradientDescent(rates, steps=2))
    >>> {name: value.tolist() for name, value in rates.values().items()}["head"]
    [0.009999999776482582, 0.009999999776482582]
    """

    KINDS = ("weight", "layer", "layer-step", "step")

    def __init__(self, learning_rate: float, per: str = "weight", *, logarithmic: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(learning_rate=learning_rate)
        one_of(self.KINDS, per=per)
        flag(logarithmic=logarithmic)
        self.learning_rate, self.per, self.logarithmic = float(learning_rate), per, bool(logarithmic)
        self.rates: list[keras.Variable] = []

    def prepare(self, network: PureModel, parameters: Sequence[keras.Variable], steps: int) -> None:
        if self.rates:
            raise ValueError("These learning rates already belong to another learner. Create a new LearnedRates.")
        by_step = (steps,) if self.per in ("layer-step", "step") else ()
        if self.per == "weight":
            names = [variable.path.replace("/", "_") for variable in parameters]
            shapes = [tuple(variable.shape) for variable in parameters]
            self._place = list(range(len(names)))
        elif self.per == "step":
            names, shapes, self._place = ["all"], [by_step], [0] * len(parameters)
        else:
            owners = owner_names(network.model)
            names = list(dict.fromkeys(owners[id(variable)] for variable in parameters))
            shapes = [by_step] * len(names)
            self._place = [names.index(owners[id(variable)]) for variable in parameters]
        self.rates = [
            self.add_weight(shape=shape, initializer=self._start, name=f"rate_{name}")
            for name, shape in zip(names, shapes, strict=True)
        ]
        self._names, self._count = names, steps
        self.built = True

    def values(self) -> dict[str, np.ndarray]:
        """The learning rates, by the name of the layer or weight that they belong to; "all" for a schedule."""
        return {name: self._rate(variable).numpy() for name, variable in zip(self._names, self.rates, strict=True)}

    def update(self, gradients: Tensors, state: Any, parameters: Tensors, step: Step) -> tuple[Tensors, Any]:
        if len(gradients) != len(self._place):
            raise ValueError(
                f"Learning rates were made for {len(self._place)} weights, and {len(gradients)} are adapted now. "
                "Freeze layers before the MetaLearner is created."
            )
        own = [self._rate(variable) for variable in self.rates]
        if self.per in ("layer-step", "step"):
            own = [rate[tf.minimum(step.number, self._count - 1)] for rate in own]
        rates = [own[place] for place in self._place]
        return [-tf.cast(rate, g.dtype) * g for rate, g in zip(rates, gradients, strict=True)], state

    def _rate(self, variable: keras.Variable) -> tf.Tensor:
        value = tf.convert_to_tensor(variable)
        return tf.exp(value) if self.logarithmic else value

    def _start(self, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        """The exact learning rate, or its logarithm; Keras' Constant would round it to float32."""
        return np.full(shape, np.log(self.learning_rate) if self.logarithmic else self.learning_rate, dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "learning_rate": self.learning_rate,
            "per": self.per,
            "logarithmic": self.logarithmic,
        }


def as_update(update: float | Update) -> Update:
    """The transform itself, or plain gradient descent at this learning rate."""
    if isinstance(update, Update):
        return update
    return FixedRate(update)


def owner_names(model: keras.Model) -> dict[int, str]:
    """For every variable that can train, the name of the layer that owns it. Equal names get numbers."""
    owners: dict[int, str] = {}
    used: dict[str, int] = {}
    for layer in reversed(all_layers(model)):  # inner layers come after those that contain them
        own = [variable for variable in parameters_of(layer) if id(variable) not in owners]
        if not own:
            continue
        used[layer.name] = used.get(layer.name, 0) + 1
        name = layer.name if used[layer.name] == 1 else f"{layer.name}_{used[layer.name]}"
        owners |= {id(variable): name for variable in own}
    return owners
