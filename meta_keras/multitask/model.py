"""`MultiTask`: one trunk that all tasks share, and one head per task, as a Keras model."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from meta_keras import checks
from meta_keras.inputs import check_inputs
from meta_keras.internals import mask_of
from meta_keras.models import ExampleModel
from meta_keras.multitask.labels import filled, mean_over_labeled, per_answer
from meta_keras.multitask.losses import average_loss
from meta_keras.multitask.parts import (
    LossByTask,
    check_labels,
    check_losses,
    check_parts,
    check_targets,
    features_for,
    metrics_by_task,
    of_task,
    one_per_step,
    training_for,
    weights_by_task,
)
from meta_keras.multitask.surgery import flat_gradients, operated_gradients, random_orders
from meta_keras.multitask.uncertainty import uncertainty_loss
from meta_keras.scaling import check_scaled
from meta_keras.targets import check_not_broadcast, targets_by_name

METHODS = ("average", "uncertainty", "surgery")


@keras.saving.register_keras_serializable(package="meta_keras")
class MultiTask(ExampleModel):
    """A network for K tasks that share a trunk and have a head each (Formula 4.1; Caruana, "Multitask Learning", 1997).

        f_k(x) = head_k(trunk(x))

    trunk: a built Sequential or functional model. If its outputs are a dictionary {task: features}, each head takes its
        own; otherwise all heads take the same. Losses of its layers are added to the loss of the tasks. It gets its
        inputs unchanged, and pixels from 0 to 255 only if it scales them itself.
    heads: {task: layer or model}; the outputs are a dictionary with the same names.
    method: how the losses of the tasks become one. "average" is their mean (Formula 4.2), "uncertainty" weights them by
        learned variances (Formula 4.3), and "surgery" is their mean, but removes the conflicting parts of the gradients
        with respect to the trunk (PCGrad, Formula 4.5).

    `fit` takes labels {task: y} for all tasks. **A missing label** is -1 for a class and NaN for any other target; it
    contributes to no loss and no metric. The loss of a task is the mean over its labeled rows, or over the labeled
    steps of sequences that have an answer per step, and 0 in a batch that has no label of the task. Masked steps count
    as unlabeled. `mix_tasks` makes batches for tasks that have examples of their own.

    >>> import numpy as np
    >>> trunk = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu")])
    >>> model = MultiTask(trunk, {"kind": keras.layers.Dense(3), "size": keras.layers.Dense(1)})
    >>> model.compile("adam", metrics={"kind": ["accuracy"]})
    >>> kind, size = np.array([0, -1, 2, 1]), np.array([[0.5], [1.5], [np.nan], [0.1]])
    >>> history = model.fit(np.ones((4, 4)), {"kind": kind, "size": size}, verbose=0)
    >>> sorted(history.history)
    ['kind_accuracy', 'kind_loss', 'loss', 'size_loss']
    """

    def __init__(
        self, trunk: keras.Model, heads: Mapping[str, keras.layers.Layer], *, method: str = "average", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        checks.one_of(METHODS, method=method)
        check_parts(trunk, heads)
        self.trunk, self.heads, self.method = trunk, dict(heads), method
        for task, head in heads.items():
            if not head.built:
                head.build(features_for(trunk, task).shape)
        if method == "uncertainty":
            self.log_variances = self.add_weight(shape=(len(heads),), initializer="zeros", name="log_variances")
        if method == "surgery":
            self.generator = keras.random.SeedGenerator(0)
        self.loss_means = {task: keras.metrics.Mean(name=f"{task}_loss") for task in heads}
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, tf.Tensor]:
        check_scaled(self.trunk, inputs)
        features = self.trunk(inputs, training=training)
        own = features if isinstance(features, Mapping) else dict.fromkeys(self.heads, features)
        return {task: head(own[task], **training_for(head, training)) for task, head in self.heads.items()}

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Mapping[str, Any] | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`.

        loss: {task: loss}. By default, and for tasks that are left out, cross-entropy if the labels are integers, and
            mean squared error otherwise.
        metrics: {task: [metric, ...]}. They count labeled rows only.
        loss_weights: {task: number}, by which the loss of a task is multiplied, 1 by default; not with "uncertainty".
        """
        checks.one_device(self)
        if loss_weights is not None and self.method == "uncertainty":
            raise ValueError('method="uncertainty" learns the weights of the tasks: leave loss_weights out.')
        if kwargs.pop("weighted_metrics", None) is not None:
            raise ValueError("All metrics of a MultiTask are weighted; pass them as metrics={task: [metric, ...]}.")
        self.loss_for = LossByTask(self.trunk, self.heads, loss)
        self.task_weights = weights_by_task(self.heads, loss_weights)
        listed = metrics_by_task(self.loss_for, metrics)
        self.metric_targets = {task: targets_by_name(metrics=given) for task, given in (listed or {}).items()}
        super().compile(optimizer=optimizer, weighted_metrics=listed, **kwargs)
        self.compiled_with = keras.saving.serialize_keras_object(
            {"loss": self.loss_for.given or None, "metrics": metrics, "loss_weights": loss_weights}
        )

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        if not config:  # not compiled
            return config
        config.pop("weighted_metrics", None)
        return config | self.compiled_with

    def _check_labels(self, y: Any) -> None:
        if self.compiled:
            self.loss_for.check_classes(y)

    def _task_losses(
        self, y: Mapping[str, Any], outputs: Mapping[str, tf.Tensor], sample_weight: Any = None
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The loss of each task, which is the mean over the answers that have a label, and how many rows these are."""
        check_labels(self.heads, y)
        found = [self._task_loss(task, y[task], outputs[task], of_task(sample_weight, task)) for task in self.heads]
        losses, counts = zip(*found, strict=True)
        return list(losses), [tf.cast(count, tf.float32) for count in counts]

    def _task_loss(self, task: str, y: Any, outputs: tf.Tensor, weight: Any) -> tuple[tf.Tensor, tf.Tensor]:
        y, mask = tf.convert_to_tensor(y), mask_of(outputs)
        answers = outputs if outputs.dtype.size >= 4 else tf.cast(outputs, tf.float32)
        loss = self.loss_for(task, y.dtype)
        check_targets(task, loss, y, answers)
        labels, present = filled(one_per_step(loss, y, answers))
        values = loss.call(labels, answers)
        check_losses(task, values)
        present = per_answer(present, values.shape.rank)
        if mask is not None:
            present &= per_answer(tf.cast(mask, tf.bool), values.shape.rank)
        return mean_over_labeled(values, present, weight)

    def task_gradients(self, x: Any, y: Mapping[str, Any], *, training: bool = False) -> tf.Tensor:
        """(K, weights) the gradient of the loss of each task with respect to the trunk, for `gradient_cosines`."""
        if not self.compiled:
            raise ValueError("The losses of the tasks are not known yet; call compile first.")
        checks.flag(training=training)
        check_inputs(self.trunk, x)
        check_labels(self.heads, y, rows=len(keras.tree.flatten(x)[0]))
        with tf.GradientTape(persistent=True) as tape:
            losses, _ = self._task_losses(y, self(x, training=training))
        return flat_gradients(tape, losses, self._shared_variables())

    def _shared_variables(self) -> list[keras.Variable]:
        if not self.trunk.trainable_variables:
            raise ValueError(
                "The trunk has no weights that train, so the tasks share no gradients. Unfreeze it (trunk.trainable = "
                "True), or train with method='average' or 'uncertainty'."
            )
        return self.trunk.trainable_variables

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """The losses of all tasks as one, plus those of layers."""
        losses, counts = self._logged_losses(y, y_pred, sample_weight)
        if self.method == "uncertainty":
            labeled, regression = [count > 0 for count in counts], self.loss_for.regression(y)
            combined = uncertainty_loss(losses, self.log_variances, regression=regression, labeled=labeled)
        else:
            combined = average_loss(self._weighted(losses))
        return combined + self._losses_of_layers()

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """As Keras, where answers without a label have the weight 0."""
        labels, weights = {}, {}
        for task in self.heads:
            targets = tf.convert_to_tensor(y[task])
            targets = one_per_step(self.loss_for(task, targets.dtype), targets, y_pred[task])
            check_not_broadcast(self.metric_targets.get(task, {}), targets, y_pred[task].shape)
            labels[task], present = filled(targets)
            axes = max(y_pred[task].shape.rank - 1, 1)
            weights[task] = tf.cast(per_answer(present, axes), tf.float32)
            if (given := of_task(sample_weight, task)) is not None:
                weights[task] *= tf.reshape(tf.cast(given, tf.float32), [-1, *[1] * (axes - 1)])
        return super().compute_metrics(x, labels, y_pred, weights)

    def train_step(self, data: Any) -> dict[str, Any]:
        """As Keras; with "surgery", the trunk gets the mean of the projected gradients of the tasks."""
        if self.method != "surgery":
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        scale = self.optimizer.scale_loss
        with tf.GradientTape(persistent=True) as tape:
            outputs = self(x, training=True)
            losses = self._weighted(self._logged_losses(y, outputs, sample_weight)[0])
            loss = average_loss(losses) + self._losses_of_layers()
            scaled = [*map(scale, losses)], scale(self._losses_of_layers()), scale(loss)
        rows = tf.shape(next(iter(outputs.values())))[0]
        next(metric for metric in self.metrics if metric.name == "loss").update_state(loss, sample_weight=rows)
        orders, variables = random_orders(len(losses), self.generator), self.trainable_variables
        gradients = operated_gradients(tape, scaled, self._shared_variables(), variables, orders)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self.compute_metrics(x, y, outputs, sample_weight)

    def _logged_losses(self, y: Any, outputs: Any, sample_weight: Any) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        losses, counts = self._task_losses(y, outputs, sample_weight)
        for mean, loss, count in zip(self.loss_means.values(), losses, counts, strict=True):
            mean.update_state(loss, sample_weight=count)
        return losses, counts

    def _weighted(self, losses: list[tf.Tensor]) -> list[tf.Tensor]:
        return [weight * loss for weight, loss in zip(self.task_weights, losses, strict=True)]

    def _losses_of_layers(self) -> tf.Tensor:
        return tf.add_n([tf.constant(0.0), *(tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in self.losses)])

    def get_config(self) -> dict[str, Any]:
        heads = {task: keras.saving.serialize_keras_object(head) for task, head in self.heads.items()}
        trunk = keras.saving.serialize_keras_object(self.trunk)
        return super().get_config() | {"trunk": trunk, "heads": heads, "method": self.method}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "MultiTask":
        made = {task: keras.saving.deserialize_keras_object(h, custom_objects) for task, h in config["heads"].items()}
        trunk = keras.saving.deserialize_keras_object(config["trunk"], custom_objects)
        return cls(**(config | {"trunk": trunk, "heads": made}))
