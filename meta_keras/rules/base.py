"""The interface of adaptation rules: how a rule adapts, how it predicts, and which information it receives for this."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from meta_keras.checks import one_of
from meta_keras.copies import copy_with
from meta_keras.functional import Outcome, PureModel, Weights
from meta_keras.outputs import default_loss
from meta_keras.traces import final_activation

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
STATISTICS = ("episode", "support", "moving")


class Context(NamedTuple):
    """What a rule receives in addition to the task itself.

    loss: `(right, answers) -> scalar`, the loss of the network's answers.
    ways: the number of classes, known before the task is seen; None for a regression.
    training: whether this is meta-training.
    step: the number of meta-training steps so far; None outside of meta-training.

    >>> Context(loss=lambda right, answers: tf.reduce_mean((right - answers) ** 2), ways=5).training
    False
    """

    loss: Loss
    ways: int | None = None
    training: bool = False
    step: tf.Tensor | None = None


class Adaptation(NamedTuple):
    """The result of adapting to a support set.

    weights: the network's weights to answer queries with.
    memory: what else is needed to answer, such as prototypes; a tensor or any structure of tensors.
    losses: losses to be added to the loss on the queries, such as the regularizers of layers.

    >>> from meta_keras import networks
    >>> weights = PureModel(networks.mlp(1)).weights()
    >>> Adaptation(weights, memory=tf.zeros((5, 1))).losses
    ()
    """

    weights: Weights
    memory: Any = ()
    losses: tuple[tf.Tensor, ...] = ()


class Rule(keras.layers.Layer):
    """How a network is adapted to a task: the meta-policy g of Formula 1.2.

    A rule is a Keras layer, so that what it learns (omega) is tracked, saved and trained like any weight. It sees one
    task at a time and changes no variable: `adapt` returns an `Adaptation`, and `predict` answers queries with it.
    Layers within a rule are called as in any Keras layer, with `training=context.training` where it matters. Their
    state (moving averages, random generators) is kept separately for every task and carried on by the learner, like
    that of the network.

    The outer loop trains the network's trainable variables (see `meta_variables`) and the rule's own. What the inner
    loop changes is up to the rule; `adaptable` names variables that it may change although they are frozen.

    batch_statistics: what batch normalization uses. "episode": the batch at hand, for the queries of a task too, so
        that an answer depends on the other queries (transductive, as MAML was published). "support": the support
        set, for the queries too. "moving": as Keras does, the batch in training and the moving averages in evaluation.

    >>> from meta_keras import MetaLearner, networks
    >>> from meta_keras.rules import Adaptation, Rule
    >>> class Nearest(Rule):
    ...     needs_every_class = True
    ...
    ...     def answer_activation(self, network):
    ...         return None  # the answers are logits
    ...
    ...     def adapt(self, network, weights, x, y, context):
    ...         embedded = self.run(network, weights, x, context)
    ...         return Adaptation(embedded.weights, memory=(embedded.outputs, tf.one_hot(y, context.ways)))
    ...
    ...     def predict(self, network, adapted, x, context):
    ...         (support, labels), answer = adapted.memory, self.run(network, adapted.weights, x, context, queries=True)
    ...         distances = tf.reduce_sum((answer.outputs[:, None] - support[None]) ** 2, axis=-1)
    ...         return answer._replace(outputs=tf.reduce_max(-distances[:, :, None] - 1e6 * (1 - labels), axis=1))
    >>> learner = MetaLearner(network=networks.mlp(8), rule=Nearest())
    >>> answer = learner.predictor(tf.constant([[-1.0], [1.0]]), tf.constant([0, 1]))
    >>> answer(tf.constant([[0.9]])).numpy().argmax(axis=-1)
    array([1])
    """

    # Whether the labels of a support set must name every class that its queries ask for.
    needs_every_class = False
    # Whether a trained rule may be used in another learner.
    reusable = False

    def __init__(self, *, batch_statistics: str = "moving", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        one_of(STATISTICS, batch_statistics=batch_statistics)
        self.batch_statistics = batch_statistics

    @property
    def second_order(self) -> bool:
        """Whether the meta-gradient may have second derivatives of the network."""
        return True

    def prepare(self, network: PureModel) -> None:
        """Create what the rule learns (omega) for this network. Most rules learn nothing."""
        self.built = True

    def adaptable(self, network: keras.Model) -> list[keras.Variable]:
        """Frozen variables of the network that the inner loop may change. Usually none."""
        return []

    def meta_variables(self, network: PureModel) -> list[keras.Variable]:
        """The variables of the network that the outer loop trains: those that are trainable."""
        return network.model.trainable_variables

    def check_ways(self, network: PureModel, ways: int) -> None:
        """Raise a ValueError unless the network can distinguish `ways` classes by this rule."""

    def answer_width(self, network: PureModel, ways: int) -> int:
        """How many numbers a query is answered with, where tasks have `ways` classes."""
        return ways

    def answer_activation(self, network: PureModel) -> str | None:
        """The activation that answers end in, see `traces.final_activation`: here that of the network."""
        return final_activation(network.model)

    def default_loss(self, network: PureModel, labels: tf.DType) -> keras.losses.Loss:
        """The loss that fits the answers of this rule."""
        return default_loss(self.answer_activation(network), labels)

    def adapt(self, network: PureModel, weights: Weights, x: tf.Tensor, y: tf.Tensor, context: Context) -> Adaptation:
        """Adapt to the support set `x`, `y`."""
        raise NotImplementedError(f"{type(self).__name__} must define how it adapts.")

    def predict(self, network: PureModel, adapted: Adaptation, x: tf.Tensor, context: Context) -> Outcome:
        """As `outputs`, (inputs, ways) answers, higher meaning more likely, or the values of a regression."""
        raise NotImplementedError(f"{type(self).__name__} must define how it predicts.")

    def judge(
        self, network: PureModel, adapted: Adaptation, x: tf.Tensor, y: tf.Tensor, context: Context
    ) -> tuple[tf.Tensor, Outcome]:
        """The loss on the queries `x`, `y` with all that layers add to it, and the prediction."""
        answer = self.predict(network, adapted, x, context)
        check_answers(answer.outputs, y)
        own = (*adapted.losses, *answer.losses, *network.penalties(answer.weights))
        return total(context.loss(y, answer.outputs), own), answer

    def expert(self, network: PureModel, adapted: Adaptation) -> keras.Model:
        """A plain Keras model that answers as the adapted network does."""
        if tf.nest.flatten(adapted.memory):
            raise ValueError(
                f"{type(self).__name__} answers with more than the network's weights, and does not define how to make "
                "a Keras model of it (expert). Use learner.predictor(support_x, support_y) instead of adapt."
            )
        return copy_with(network, adapted.weights)

    def run(
        self, network: PureModel, weights: Weights, x: tf.Tensor, context: Context, *, queries: bool = False
    ) -> Outcome:
        """The network's outputs for support examples or for queries, normalized as `batch_statistics` says."""
        if queries:
            statistics = {"episode": "fused", "support": "moving", "moving": None}
        else:
            statistics = {"episode": "batch", "support": "keep", "moving": None}
        return network(weights, x, training=context.training, statistics=statistics[self.batch_statistics])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"batch_statistics": self.batch_statistics}

    def __reduce__(self) -> Any:
        """Copies and pickles contain only the settings. What a rule has learned is saved with its learner."""
        if self.variables:
            raise TypeError(
                f"{type(self).__name__} has learned weights, which a copy would lose. Save its learner with "
                "learner.save(path), or make a new rule from get_config()."
            )
        return _from_config, (type(self), self.get_config())


class NetworkRule(Rule):
    """A rule that adapts the weights of the network, which then answers by itself."""

    # Whether the network must have as many outputs as a task has classes, and no more.
    exact_ways = False

    def check_ways(self, network: PureModel, ways: int) -> None:
        units = self.answer_width(network, ways)
        if units < ways or (self.exact_ways and units != ways):
            raise ValueError(
                f"The tasks have {ways} classes; the network {network.model.name!r} has {units} outputs. "
                f"Give its last layer {ways} units."
            )

    def answer_width(self, network: PureModel, ways: int) -> int:
        units = getattr(network.model, "output_shape", (None,))[-1]
        return units if isinstance(units, int) else ways

    def predict(self, network: PureModel, adapted: Adaptation, x: tf.Tensor, context: Context) -> Outcome:
        return self.run(network, adapted.weights, x, context, queries=True)


def _from_config(kind: type[Rule], config: dict[str, Any]) -> Rule:
    return kind.from_config(config)


def total(loss: tf.Tensor, more: tuple[tf.Tensor, ...]) -> tf.Tensor:
    """The sum of a loss and others, in the precision of the first."""
    return tf.add_n([loss, *(tf.cast(tf.reduce_sum(one), loss.dtype) for one in more)])


def check_answers(answers: Any, right: tf.Tensor) -> None:
    """Raise a ValueError unless answers can be compared with these labels or targets without broadcasting."""
    if not tf.is_tensor(answers):
        raise ValueError(f"The network must have one output; this one returns a {type(answers).__name__}.")
    if right.dtype.is_integer and answers.shape.rank != right.shape.rank + 1:
        raise ValueError(
            f"Labels of shape {tuple(right.shape)} need answers of shape {(*right.shape, 'ways')}; "
            f"the network returns {tuple(answers.shape)}."
        )
    if right.dtype.is_floating and not answers.shape.is_compatible_with(right.shape):
        raise ValueError(
            f"Targets have shape {tuple(right.shape)}; the network's answers have shape {tuple(answers.shape)}. "
            "Give its last layer as many units as a target has numbers, and single numbers an axis: y[..., None]."
        )
