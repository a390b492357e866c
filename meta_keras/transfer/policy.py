"""A strategy that is learned (策略优化): how much of each layer to take from a source, before adapting to a target."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras.copies import copied
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.internals import is_seed
from meta_keras.rules.base import Loss
from meta_keras.rules.gradient import GradientDescent
from meta_keras.transfer.frozen import Frozen
from meta_keras.transfer.parts import own_weights, parts
from meta_keras.transfer.weights import Layers, amounts_of, pairs_of


@keras.saving.register_keras_serializable(package="meta_keras")
class Strategy(GradientDescent):
    """Blend a source into a fresh start by amounts that are learned, and adapt from there (D5; Formula 13.1).

        theta_0[l] = a_l theta_source[l] + (1 - a_l) theta[l],  a_l = sigmoid(omega_l)   (Formula 13.2)

    and then the steps of Formula 10.1. The loss on the queries goes back through the steps, to omega (Formula 13.3).
    Learning moves omega alone. The source is copied, and the network's own weights, the fresh start theta, stay as
    they are, the moving averages of batch normalisation too. (Weight decay would pull at them: use none.)

    source: a trained model. learning_rate, steps: of the steps after the blend.
    layers: which layers are blended, as in `transfer_weights`: None takes all that match, names or a mapping exactly
        those. A head for other classes does not match, unless it happens to have as many units: then name the others.
    amount: where learning begins, between 0 (the fresh start) and 1 (the source); or one for each source layer.
    learn: False keeps to `amount`, which may then be 0 or 1. D2's blend is `amount=0.5, learn=False`.
    Further arguments are those of `GradientDescent`, but for its `layers`: all layers adapt.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> source, fresh = networks.mlp(1), networks.mlp(1)
    >>> learner = MetaLearner(network=fresh, rule=Strategy(source, 0.01))
    >>> learner.compile("adam", loss="mse")
    >>> history = learner.fit(Sinusoids(shots=5), steps_per_epoch=2, verbose=0)
    >>> [round(amount, 1) for amount in learner.rule.amounts().values()]
    [0.5, 0.5, 0.5]
    """

    def __init__(
        self,
        source: keras.Model,
        learning_rate: float,
        steps: int = 1,
        *,
        layers: Layers = None,
        amount: float | Mapping[str, float] = 0.5,
        learn: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, steps, **kwargs)
        self.source = Frozen(copied(source), name="source")
        self.blended = dict(layers) if isinstance(layers, Mapping) else layers
        self.amount = dict(amount) if isinstance(amount, Mapping) else amount
        self.learn = learn
        self.pairs: dict[str, str] = {}

    def prepare(self, network: PureModel) -> None:
        """Find the layers that are blended, and make a number for each."""
        super().prepare(network)
        pairs, _ = pairs_of(self.source.model, network.model, self.blended)
        self._check_floats(pairs)
        if self.pairs and list(self.pairs) != list(pairs):
            raise ValueError(
                f"This strategy has amounts for the layers {', '.join(self.pairs)}; for the network "
                f"{network.model.name!r} it would need {', '.join(pairs)}. Make a new strategy for this one."
            )
        if not self.pairs:
            self._make(amounts_of(self.source.model, pairs, self.amount))
        self.pairs = pairs

    def amounts(self, support_x: Any = None, support_y: Any = None) -> dict[str, float]:
        """How much is taken of each source layer, the same for every task.

        `blend_weights(source, model, rule.amounts())` makes of a model the start that the strategy would adapt from.
        """
        if not self.pairs:
            raise ValueError("The amounts are made for a network: give the strategy to a MetaLearner first.")
        return dict(zip(self.pairs, self.amounts_for(support_x, support_y).numpy().tolist(), strict=True))

    def amounts_for(self, support_x: tf.Tensor, support_y: tf.Tensor) -> tf.Tensor:
        """(layers,) the amounts as a tensor that gradients lead through."""
        return tf.sigmoid(tf.convert_to_tensor(self.omega))

    def blend(self, network: PureModel, weights: Weights, amounts: tf.Tensor) -> Weights:
        """The start of adapting: weights of the source and of the network, mixed (Formula 13.2)."""
        variables = [*network.model.trainable_variables, *network.model.non_trainable_variables]
        values = {
            id(variable): tf.stop_gradient(value)
            for variable, value in zip(variables, [*weights.trainable, *weights.state], strict=True)
        }
        givers, takers = parts(self.source.model), parts(network.model)
        for amount, (name, other) in zip(tf.unstack(amounts, len(self.pairs)), self.pairs.items(), strict=True):
            for given, taken in zip(own_weights(givers[name]), own_weights(takers[other]), strict=True):
                value = values[id(taken)]
                share = tf.cast(amount, value.dtype)
                values[id(taken)] = share * tf.cast(given, value.dtype) + (1 - share) * value
        return Weights(
            tuple(values[id(variable)] for variable in network.model.trainable_variables),
            tuple(values[id(variable)] for variable in network.model.non_trainable_variables),
        )

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
        start = self.blend(network, weights, self.amounts_for(support_x, support_y))
        return super().adapt(network, start, support_x, support_y, loss=loss, training=training)

    def predict(self, network: PureModel, adapted: Outcome, inputs: tf.Tensor, *, training: bool) -> Outcome:
        """The answers; of the state after them, only how far random draws have come is carried to the next task."""
        answer = super().predict(network, adapted, inputs, training=training)
        state = tuple(
            after if is_seed(variable) else tf.convert_to_tensor(variable)
            for variable, after in zip(network.model.non_trainable_variables, answer.weights.state, strict=True)
        )
        return answer._replace(weights=answer.weights._replace(state=state))

    def judge(self, *arguments: Any, step: tf.Tensor | None = None, **kwargs: Any) -> tuple[tf.Tensor, Outcome]:
        if step is not None and not self.trainable_variables:
            raise ValueError("A strategy with learn=False has nothing to learn. Evaluate it, or take learn=True.")
        return super().judge(*arguments, step=step, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "source": keras.saving.serialize_keras_object(self.source.model),
            "layers": self.blended,
            "amount": self.amount,
            "learn": self.learn,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Strategy":
        return cls(**(config | {"source": keras.saving.deserialize_keras_object(config["source"])}))

    def _make(self, amounts: Mapping[str, float]) -> None:
        """omega, of which the sigmoid is the amounts; infinite for those of 0 and 1, which stay so."""
        values = np.array(list(amounts.values()), "float64")
        if self.learn and not np.all((values > 0) & (values < 1)):
            raise ValueError(
                f"Amounts that are learned begin above 0 and below 1; {self.amount!r} was given. "
                "Take learn=False to keep to it, or begin near it."
            )
        with np.errstate(divide="ignore"):
            omega = np.log(values) - np.log1p(-values)
        self.omega = self.add_weight(
            shape=omega.shape, initializer=lambda shape, dtype: omega.astype(dtype), trainable=self.learn, name="omega"
        )

    def _check_floats(self, names: Mapping[str, str]) -> None:
        there = parts(self.source.model)
        whole = [
            name for name in names if any(not keras.backend.is_float_dtype(w.dtype) for w in own_weights(there[name]))
        ]
        if whole:
            raise ValueError(f"{', '.join(whole)}: whole numbers cannot be blended; name the other layers.")
