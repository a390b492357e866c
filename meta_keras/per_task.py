"""What happens within one task: adapting, answering and measuring the loss, with separate state."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from meta_keras.functional import PureModel, Weights, carry_on, carrying, forked, running_state, with_own_vectors
from meta_keras.outputs import check_unmasked
from meta_keras.rules.base import Adaptation, Context, Rule, total


class PerTask:
    """A rule applied to a network, one task at a time.

    The state of both (moving averages, random generators) is forked for every task, so that the tasks of a batch do
    not depend on each other, and `carry_on` joins the results.

    dtype: that of the answers.
    """

    def __init__(self, network: PureModel, rule: Rule, dtype: str) -> None:
        self.network, self.rule, self.dtype = network, rule, dtype
        self.has_metrics = False

    def __call__(
        self,
        context: Context,
        weights: Weights,
        first: Any,
        number: tf.Tensor,
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        query_x: tf.Tensor,
        query_y: tf.Tensor | None = None,
    ) -> tuple[Any, Any]:
        """(answers, state of the network, state of the rule), and the loss if there are labels.

        weights: those of the network at the start. number: which task it is, counted from `first`, the number that
            the first of these tasks has in its batch.
        """
        loss: Any = ()
        number = first + number
        with self._own_state(number) as scope:
            start = self.network.fork(weights, number)
            start = start._replace(parameters=with_own_vectors(start.parameters, number))
            adapted = self.rule.adapt(self.network, start, support_x, support_y, context)
            if query_y is None:
                answer = self.rule.predict(self.network, adapted, query_x, context)
            else:
                loss, answer = self.rule.judge(self.network, adapted, query_x, query_y, context)
                loss = total(loss, (*scope.losses, *self._penalties()))
            if self.has_metrics:
                check_unmasked(answer.outputs)
            after = tuple(scope.get_current_value(variable) for variable in running_state(self.rule))
        results = (tf.cast(answer.outputs, self.dtype), self.network.running_values(answer.weights), after)
        # State that no task has changed is a tensor from outside, which cannot be the result of a vectorized function.
        return tf.nest.map_structure(tf.identity, results), loss

    def to_be_scored(self, scored: bool) -> "PerTask":
        """The same, but answers with a mask are an error if they are scored, which would count what is masked."""
        found = copy.copy(self)
        found.has_metrics |= scored
        return found

    def adapt(self, context: Context, x: tf.Tensor, y: tf.Tensor) -> Adaptation:
        """The rule's adaptation to one support set."""
        with self._own_state(tf.constant(0)):
            start = self.network.fork(self.network.weights(), 0)
            return self.rule.adapt(self.network, start, x, y, context)

    def predict(self, context: Context, adapted: Adaptation, x: tf.Tensor) -> tf.Tensor:
        """The answers of the adapted network."""
        with self._own_state(tf.constant(0)):
            return tf.cast(self.rule.predict(self.network, adapted, x, context).outputs, self.dtype)

    @property
    def dtypes(self) -> tuple[Any, ...]:
        """Those of the first result of a call."""
        return (
            self.dtype,
            tuple(variable.dtype for variable in self.network.running),
            tuple(variable.dtype for variable in running_state(self.rule)),
        )

    def carry_on(self, states: Sequence[Sequence[tf.Tensor]]) -> None:
        """Assign the states of network and rule after many tasks."""
        of_network, of_rule = states
        self.network.carry_on(of_network)
        carry_on(running_state(self.rule), of_rule)

    @contextlib.contextmanager
    def _own_state(self, number: tf.Tensor) -> Iterator[keras.StatelessScope]:
        """Within this block the rule's variables are tensors of this task. (A loop cannot hold variables under XLA.)"""
        variables = self.rule.variables
        values = forked(variables, [tf.convert_to_tensor(variable) for variable in variables], number)
        with carrying(list(zip(variables, values, strict=True))) as scope:
            yield scope

    def _penalties(self) -> tuple[tf.Tensor, ...]:
        """The losses of the rule's own weight regularizers."""
        variables = self.rule.trainable_variables
        return tuple(v.regularizer(tf.convert_to_tensor(v)) for v in variables if v.regularizer is not None)
