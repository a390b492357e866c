"""MetaLearner: a network and a rule that adapts it, trained over many tasks with Keras' own `fit`."""

from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import PureModel
from meta_keras.rules.base import Rule
from meta_keras.tasks.episodes import check_episodes


class MetaLearner(keras.Model):
    """A Keras model whose inputs are tasks: it adapts to the support set, and answers the queries.

    network: any built Keras model, the meta-knowledge theta. rule: the meta-policy that adapts it to a task.
    The scores go into the loss as they are, so the default loss is cross-entropy on logits.
    Weight regularisers of the network count in `fit`; losses that its layers add in their calls (`add_loss`, activity
    regularisers) do not yet.

    >>> import meta_keras as mk
    >>> learner = MetaLearner(network=mk.networks.conv4(filters=8), rule=mk.rules.Prototypes())
    >>> learner.compile(optimizer="adam")
    >>> tasks = mk.FewShot(mk.load("glyphs").split("train"), ways=5, shots=1)
    >>> history = learner.fit(tasks, steps_per_epoch=2, epochs=1, verbose=0)
    """

    def __init__(self, network: keras.Model, rule: Rule, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(rule, Rule):
            raise TypeError(f"A rule is needed, such as meta_keras.rules.Prototypes(); {rule!r} was given.")
        self.pure = PureModel(network)
        self.network, self.rule = network, rule
        self.built = True

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        metrics: list[Any] | None = None,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`; without a loss, cross-entropy of the scores, with accuracy beside it."""
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            metrics = ["accuracy"] if metrics is None else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile, **kwargs)

    def fit(self, x: tf.data.Dataset, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`, on an endless dataset of episodes: say how many with `steps_per_epoch`."""
        kwargs.setdefault("shuffle", False)  # episodes are drawn by chance already
        if kwargs.get("validation_data") is not None:
            kwargs["validation_data"] = _as_inputs_and_answers(kwargs["validation_data"], kwargs, "validation_steps")
        return super().fit(_as_inputs_and_answers(x, kwargs, "steps_per_epoch"), **kwargs)

    def evaluate(self, x: tf.data.Dataset, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, on `steps` batches. `meta_keras.evaluate` gives an interval too."""
        if "_use_cached_eval_dataset" not in kwargs:  # Keras' own word, where `fit` validates on what it has prepared
            x = _as_inputs_and_answers(x, kwargs, "steps")
        return super().evaluate(x, **kwargs)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        """(tasks, queries, ways) scores for `(support_x, support_y, query_x)`, all with the tasks along axis 0."""
        support_x, support_y, query_x = inputs
        weights = self.pure.weights()

        def answer(task: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            number, support_x, support_y, query_x = task
            own = self.pure.fork(weights, number)
            adapted, own = self.rule.adapt(self.pure, own, support_x, support_y, training=training)
            scores, own = self.rule.predict(self.pure, own, adapted, query_x, training=training)
            return tf.cast(scores, self.compute_dtype), own.state

        numbers = tf.range(tf.shape(support_x)[0])
        state_like = tuple(tf.TensorSpec(s.shape, s.dtype) for s in weights.state)
        scores, states = tf.map_fn(
            answer,
            (numbers, support_x, support_y, query_x),
            fn_output_signature=(tf.TensorSpec(None, self.compute_dtype), state_like),
        )
        if training:
            for variable, value in zip(self.network.non_trainable_variables, self.pure.join(states), strict=True):
                variable.assign(value)
        return scores


def _as_inputs_and_answers(tasks: tf.data.Dataset, arguments: dict[str, Any], steps: str) -> tf.data.Dataset:
    """Episodes in the form that Keras trains on: what is given, and what is to be answered."""
    check_episodes(tasks)
    if arguments.get(steps) is None and tasks.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"These tasks never end; say how many batches of them to take, such as {steps}=100.")
    return tasks.map(lambda episode: (tuple(episode[:3]), episode.query_y))
