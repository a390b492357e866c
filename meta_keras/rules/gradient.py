"""MAML and its near relations: adapt by a few steps of gradient descent, and differentiate through them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.internals import all_layers
from meta_keras.rules.base import Loss
from meta_keras.rules.descent import Descent, check_steps, repeat, slopes

# So many steps are written out in evaluation, too: a loop pays for longer ones.
FEW = 2
RATES = (None, "layer", "weight", "layer-step")


@keras.saving.register_keras_serializable(package="meta_keras")
class GradientDescent(Descent):
    """Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017.

        theta_k+1 = theta_k - alpha grad L_S(theta_k),  theta_0 = theta           (Formula 10.1)
        meta-gradient = grad_theta L_Q(theta_K)                                   (Formula 10.2)

    The adapted weights are tensors on the outer gradient tape, so the meta-gradient has its second derivatives.

    learning_rate: alpha, the inner learning rate; the start of it where it is learned.
    steps, evaluation_steps: inner steps in training, and in evaluation (by default as many).
    first_order: leave the second derivatives out (FOMAML; Formula 10.4).
    layers: the name of a layer, or names, that alone adapt. The head alone is ANIL (Raghu et al., "Rapid Learning or
        Feature Reuse?", 2020). None adapts all trainable weights.
    learn_rates: None keeps alpha; "weight" learns one for every weight (Meta-SGD: Li et al., 2017; Formula 10.5);
        "layer" one a layer; "layer-step" one a layer and step (MAML++: Antoniou et al., "How to train your MAML",
        2019).
    multi_step: over so many steps of meta-training, the query loss moves from the mean over all inner steps to
        the last one alone (MAML++; Formula 10.6). 0 uses the last one from the beginning.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> learner = MetaLearner(network=networks.mlp(1), rule=GradientDescent(0.01, steps=1, evaluation_steps=10))
    >>> learner.compile(loss="mse")
    >>> history = learner.fit(Sinusoids(shots=10), steps_per_epoch=2, verbose=0)
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int = 1,
        *,
        evaluation_steps: int | None = None,
        first_order: bool = False,
        layers: str | Sequence[str] | None = None,
        learn_rates: str | None = None,
        multi_step: int = 0,
        batch_statistics: str = "episode",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, steps, evaluation_steps=evaluation_steps, batch_statistics=batch_statistics, **kwargs
        )
        check_steps(multi_step=multi_step)
        if learn_rates not in RATES:
            raise ValueError(f"learn_rates is one of {RATES}; {learn_rates!r} was given.")
        if steps == 0 and (multi_step or learn_rates):
            raise ValueError("With steps=0 nothing is adapted, so there are no rates or inner steps to learn from.")
        self.first_order, self.learn_rates, self.multi_step = first_order, learn_rates, multi_step
        self.adapted_layers = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
        self.rates: list[keras.Variable] = []

    def prepare(self, network: PureModel) -> None:
        """Make the rates that are learned, all of them alpha at first."""
        moving = [network.model.trainable_variables[place] for place in self._places(network)]
        owners = list(dict.fromkeys(map(_owner, moving)))
        if self.learn_rates == "weight":
            shapes = {variable.path: tuple(variable.shape) for variable in moving}
        else:
            shapes = dict.fromkeys(owners, (self.steps,) if self.learn_rates == "layer-step" else ())
        if self.learn_rates is not None and not self.rates:
            names = {name: "rate_" + name.replace("/", "_") for name in shapes}
            self.rates = [self.add_weight(shape=s, initializer=self._alpha, name=names[n]) for n, s in shapes.items()]
        if self.rates and [tuple(rate.shape) for rate in self.rates] != list(shapes.values()):
            raise ValueError("This rule has learned rates for another network. Make a new rule for this one.")
        self._which = [list(shapes).index(v.path if self.learn_rates == "weight" else _owner(v)) for v in moving]
        self.built = True

    def adapt(
        self,
        network: PureModel,
        weights: Weights,
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        *,
        loss: Loss,
        training: bool,
    ) -> Outcome:
        places, on_the_way = self._places(network), []

        def step(number: int | tf.Tensor, weights: Weights) -> Weights:
            gradients, after = slopes(
                self, network, weights, support_x, support_y, loss=loss, training=training, among=places
            )
            moved = list(weights.trainable)
            for place, gradient, rate in zip(places, gradients, self._rates_at(number, len(places)), strict=True):
                gradient = tf.stop_gradient(gradient) if self.first_order else gradient
                moved[place] -= tf.cast(rate, gradient.dtype) * gradient
            on_the_way.append(after._replace(trainable=tuple(moved)))
            return on_the_way[-1]

        def settled(weights: Weights) -> Weights:
            """With the statistics that the support set has by these weights, if the queries go by those."""
            if self.batch_statistics != "support":
                return weights
            return self.answers(network, weights, support_x, training=training, queries=False).weights

        steps = self.steps if training else self.evaluation_steps
        weights = repeat(step, weights, steps, unroll=training or steps <= FEW)
        judged_too = on_the_way[:-1] if training and self.multi_step else []
        return Outcome(tuple(map(settled, judged_too)), settled(weights), ())

    def judge(
        self,
        network: PureModel,
        adapted: Outcome,
        query_x: tf.Tensor,
        query_y: tf.Tensor,
        *,
        loss: Loss,
        step: tf.Tensor | None = None,
        training: bool,
    ) -> tuple[tf.Tensor, Outcome]:
        last, answer = super().judge(network, adapted, query_x, query_y, loss=loss, step=step, training=training)
        if step is None or not adapted.outputs:
            return last, answer
        # Formula 10.6: every inner step counts 1 / steps at first, and all but the last one less and less.
        early = tf.nn.relu(1 - tf.cast(step, last.dtype) / self.multi_step) / self.steps
        judged = [
            super(GradientDescent, self).judge(
                network, adapted._replace(weights=before), query_x, query_y, loss=loss, training=training
            )[0]
            for before in adapted.outputs
        ]
        # Once they do not count, an early loss that is infinite must not count either.
        return tf.math.multiply_no_nan(tf.add_n(judged), early) + (1 - early * len(judged)) * last, answer

    def _places(self, network: PureModel) -> list[int]:
        """The numbers of the trainable weights that adapt."""
        variables = network.model.trainable_variables
        if self.adapted_layers is None:
            return list(range(len(variables)))
        layers = {layer.name: layer for layer in all_layers(network.model)[1:] if layer.variables}
        missing = [name for name in self.adapted_layers if name not in layers]
        if missing or not self.adapted_layers:
            raise ValueError(f"layers={list(self.adapted_layers)}: the layers with weights are {list(layers)}.")
        chosen = {id(variable) for name in self.adapted_layers for variable in layers[name].trainable_variables}
        if not chosen:
            raise ValueError(f"layers={list(self.adapted_layers)} are frozen, so nothing could adapt.")
        return [place for place, variable in enumerate(variables) if id(variable) in chosen]

    def _alpha(self, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        """The learning rate to the last digit; Keras' Constant would round it to float32."""
        return np.full(shape, self.learning_rate, dtype)

    def _rates_at(self, number: int | tf.Tensor, count: int) -> list[tf.Tensor]:
        """The learning rate of each adapted weight at this inner step. Beyond the steps trained, the last one."""
        if self.learn_rates is None:
            return [tf.constant(self.learning_rate, tf.float64)] * count  # tf.cast alone would round it to float32
        rates = [tf.convert_to_tensor(self.rates[which]) for which in self._which]
        if self.learn_rates == "layer-step":
            return [rate[tf.minimum(number, self.steps - 1)] for rate in rates]
        return rates

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "first_order": self.first_order,
            "layers": self.adapted_layers,
            "learn_rates": self.learn_rates,
            "multi_step": self.multi_step,
        }


def _owner(variable: keras.Variable) -> str:
    return variable.path.rpartition("/")[0]
