"""Learned transfer strategies (策略优化): how much of each layer to take from a source before adapting to a target."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.copies import copy_of
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.internals import is_seed
from meta_keras.rules.base import Adaptation, Context
from meta_keras.rules.gradient_descent import GradientDescent
from meta_keras.rules.updates import Update
from meta_keras.transfer.freezing import Frozen
from meta_keras.transfer.layers import own_weights, weighted_layers
from meta_keras.transfer.weights import Layers, coefficients_of, pairs_of


@keras.saving.register_keras_serializable(package="meta_keras")
class Strategy(GradientDescent):
    """Blend a source with a fresh initialization by learned coefficients, and adapt from there (D5; Formula 13.1).

        theta_0[l] = a_l theta_source[l] + (1 - a_l) theta[l],  a_l = sigmoid(omega_l)   (Formula 13.2)

    Then the steps of Formula 10.1 follow. The loss on the queries is differentiated through these steps with respect to
    omega (Formula 13.3). Meta-training changes only omega. The source is copied, and the network's own weights, the
    fresh initialization theta, stay as they are, as do its moving averages.

    source: a trained model. learning_rate, steps: of the steps after the blend.
    layers: which layers are blended, as in `transfer_weights`: None takes all that match, names or a mapping exactly
        those. A head for other classes does not match, unless it happens to have as many units: then name the others.
    coefficient: the initial mixing coefficient, between 0 (the fresh initialization) and 1 (the source); or a mapping
        with one for each source layer.
    learn: False keeps `coefficient`, which may then be 0 or 1. D2's blend is `coefficient=0.5, learn=False`.
    Further arguments are those of `GradientDescent`, except for its `layers`: all layers adapt.

    >>> from meta_keras import MetaLearner, Sinusoids, networks
    >>> source, fresh = networks.mlp(1), networks.mlp(1)
    >>> learner = MetaLearner(network=fresh, rule=Strategy(source, 0.01))
    >>> learner.compile("adam", loss="mse")
    >>> history = learner.fit(Sinusoids(shots=5), steps_per_epoch=2, verbose=0)
    >>> [round(coefficient, 1) for coefficient in learner.rule.coefficients().values()]
    [0.5, 0.5, 0.5]
    """

    reusable = True  # for another fresh initialization

    def __init__(
        self,
        source: keras.Model,
        learning_rate: float | Update,
        steps: int = 1,
        *,
        layers: Layers = None,
        coefficient: float | Mapping[str, float] = 0.5,
        learn: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, steps, **kwargs)
        checks.built_model(source=source)
        checks.flag(learn=learn)
        if layers is not None and not isinstance(layers, Mapping):
            checks.names(layers=layers)
        coefficients_of(source, (), coefficient)  # for its errors
        self.source = Frozen(copy_of(source), name="source")
        self.blended = dict(layers) if isinstance(layers, Mapping) else layers
        self.coefficient = dict(coefficient) if isinstance(coefficient, Mapping) else coefficient
        self.learn = learn
        self.pairs: dict[str, str] = {}

    def prepare(self, network: PureModel) -> None:
        """Find the layers that are blended, and create a weight for each."""
        super().prepare(network)
        pairs, _ = pairs_of(self.source.model, network.model, self.blended)
        self._check_floats(pairs)
        if self.pairs and list(self.pairs) != list(pairs):
            raise ValueError(
                f"This strategy has mixing coefficients for the layers {', '.join(self.pairs)}; for the network "
                f"{network.model.name!r} it would need {', '.join(pairs)}. Create a new strategy for this network."
            )
        if not self.pairs:
            self._make(coefficients_of(self.source.model, pairs, self.coefficient))
        self.pairs = pairs

    def coefficients(self, support_x: Any = None, support_y: Any = None) -> dict[str, float]:
        """The mixing coefficient of each source layer, the same for every task.

        `blend_weights(source, model, rule.coefficients())` gives a model the weights from which the strategy adapts.
        """
        if not self.pairs:
            raise ValueError("Mixing coefficients belong to a network: give the strategy to a MetaLearner first.")
        return dict(zip(self.pairs, self.coefficients_for(support_x, support_y).numpy().tolist(), strict=True))

    def coefficients_for(self, support_x: tf.Tensor, support_y: tf.Tensor) -> tf.Tensor:
        """(layers,) the mixing coefficients as a tensor that can be differentiated."""
        return tf.sigmoid(tf.convert_to_tensor(self.omega))

    def meta_variables(self, network: PureModel) -> list[keras.Variable]:
        """None: the outer loop trains omega alone."""
        return []

    def blend(self, network: PureModel, weights: Weights, coefficients: tf.Tensor) -> Weights:
        """The weights from which adaptation starts: those of the source and of the network, blended (Formula 13.2)."""
        variables, given_values = [*network.parameters, *network.state], [*weights.parameters, *weights.state]
        values = {id(variable): value for variable, value in zip(variables, given_values, strict=True)}
        sources, targets = weighted_layers(self.source.model), weighted_layers(network.model)
        each = tf.unstack(coefficients, len(self.pairs))
        for coefficient, (name, other) in zip(each, self.pairs.items(), strict=True):
            for given, variable in zip(own_weights(sources[name]), own_weights(targets[other]), strict=True):
                value = values[id(variable)]
                a = tf.cast(coefficient, value.dtype)
                values[id(variable)] = a * tf.cast(given, value.dtype) + (1 - a) * value
        return Weights(
            tuple(values[id(variable)] for variable in network.parameters),
            tuple(values[id(variable)] for variable in network.state),
        )

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        return super().adapt(network, self.blend(network, weights, self.coefficients_for(x, y)), x, y, context)

    def predict(self, network: PureModel, adapted: Adaptation, x: tf.Tensor, context: Context) -> Outcome:
        """The predictions; of the state after them, the next task gets only the state of random generators."""
        answer = super().predict(network, adapted, x, context)
        state = tuple(
            after if is_seed(variable) else tf.convert_to_tensor(variable)
            for variable, after in zip(network.state, answer.weights.state, strict=True)
        )
        return answer._replace(weights=answer.weights._replace(state=state))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "source": keras.saving.serialize_keras_object(self.source.model),
            "layers": self.blended,
            "coefficient": self.coefficient,
            "learn": self.learn,
        }

    def __reduce__(self) -> Any:
        raise TypeError(
            f"A copy of a {type(self).__name__} would lose the weights of its source, which get_config() does not "
            "contain. Save its learner with learner.save(path), or create the rule again from the source."
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Strategy":
        return super().from_config(config | {"source": keras.saving.deserialize_keras_object(config["source"])})

    def _make(self, coefficients: Mapping[str, float]) -> None:
        """Create omega, whose sigmoid the coefficients are; infinite for 0 and 1, which then never change."""
        values = np.array(list(coefficients.values()), "float64")
        if self.learn and not np.all((values > 0) & (values < 1)):
            raise ValueError(
                f"A learned coefficient must be initially above 0 and below 1; got {self.coefficient!r}. Use "
                "learn=False to keep it, or a value close to it."
            )
        with np.errstate(divide="ignore"):
            omega = np.log(values) - np.log1p(-values)
        self.omega = self.add_weight(
            shape=omega.shape, initializer=lambda shape, dtype: omega.astype(dtype), trainable=self.learn, name="omega"
        )

    def _check_floats(self, names: Mapping[str, str]) -> None:
        layers = weighted_layers(self.source.model)
        integers = [
            name for name in names if any(not keras.backend.is_float_dtype(w.dtype) for w in own_weights(layers[name]))
        ]
        if integers:
            raise ValueError(f"{', '.join(integers)}: integers cannot be blended; name the other layers.")
