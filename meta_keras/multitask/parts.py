"""What `MultiTask` is given for its tasks: trunk and heads, losses, metrics, weights and labels, each checked."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from meta_keras import checks
from meta_keras.internals import function_of, output_structure
from meta_keras.multitask.labels import number_classes
from meta_keras.outputs import as_loss, as_metrics, default_loss, is_cross_entropy
from meta_keras.targets import NUMBERS, ONE_HOT, check_not_broadcast, targets_of
from meta_keras.traces import final_activation

Heads = Mapping[str, keras.layers.Layer]

# Losses that depend on all numbers of a row together.
OF_ROWS = (keras.losses.cosine_similarity, keras.losses.kl_divergence)


class LossByTask:
    """The loss of each task: the one that was given, or the one that fits its head and the type of its labels."""

    def __init__(self, trunk: keras.Model, heads: Heads, given: Any) -> None:
        _check_tasks("loss", given, heads)
        whole = {task: keras.Model(trunk.inputs, head(features_for(trunk, task))) for task, head in heads.items()}
        self.activations = {task: final_activation(network) for task, network in whole.items()}
        self.widths = {task: network.outputs[0].shape[-1] for task, network in whole.items()}
        self.given = {
            task: _of_means(task, as_loss(loss, self.activations[task], "float32"))
            for task, loss in (given or {}).items()
            if loss is not None
        }

    def __call__(self, task: str, labels: tf.DType) -> keras.losses.Loss:
        if task in self.given:
            return self.given[task]
        classes = number_classes(labels)
        if classes and self.widths[task] == 1:
            raise ValueError(
                f"Task {task!r} has labels of type {labels.name}, which number classes, but its head has one output. "
                "Give the head one output per class; or pass the labels as floats (y.astype('float32')), for a "
                f"regression, or with loss={{{task!r}: 'binary_crossentropy'}} if they are two classes."
            )
        return default_loss(self.activations[task], tf.int32 if classes else tf.float32)

    def regression(self, y: Mapping[str, Any]) -> list[bool]:
        """Which of the tasks are regression tasks: those whose loss is not a cross-entropy."""
        return [not is_cross_entropy(self(task, tf.as_dtype(y[task].dtype))) for task in self.activations]

    def check_classes(self, y: Any) -> None:
        """Raise a ValueError if arrays {task: labels} have classes for which the head of the task has no output."""
        for task, labels in y.items() if isinstance(y, Mapping) else ():
            labels, width = np.asarray(labels), self.widths.get(task)
            if width is None or labels.dtype.kind not in "iub" or not labels.size or labels.max() < width:
                continue
            if function_of(self(task, tf.as_dtype(labels.dtype))) is keras.losses.sparse_categorical_crossentropy:
                raise ValueError(
                    f"The labels of task {task!r} must be classes from 0 to {width - 1}, since its head has {width} "
                    f"outputs, or -1 if they are missing; got {labels.max()}."
                )


def check_targets(task: str, loss: keras.losses.Loss, y: tf.Tensor, answers: tf.Tensor) -> None:
    """Raise a ValueError if these targets are integers, of which -1 would be missing, or if they would be broadcast."""
    if y.shape.rank is None:
        raise ValueError(
            f"The labels of task {task!r} have an unknown number of axes, or batches of different numbers of axes. Let "
            "the dataset declare it, for example in the output_signature of tf.data.Dataset.from_generator."
        )
    one_hot = y.shape == answers.shape and y.shape[-1] != 1
    if function_of(loss) is keras.losses.sparse_categorical_crossentropy and one_hot:
        raise ValueError(
            f"The labels of task {task!r} must be classes of shape {tuple(answers.shape[:-1])}; got {tuple(y.shape)}. "
            f"If they are one-hot, pass y.argmax(axis=-1), or loss={{{task!r}: 'categorical_crossentropy'}}."
        )
    wanted = targets_of(loss)
    if wanted not in (ONE_HOT, NUMBERS):
        return
    if wanted == NUMBERS and y.dtype.is_integer:
        raise ValueError(
            f"The loss {loss.name!r} of task {task!r} compares numbers, but its labels are of type {y.dtype.name}, "
            "which number classes. Pass them as floats (y.astype('float32')), and mark missing ones with NaN."
        )
    check_not_broadcast({f"loss {loss.name!r} of task {task!r}": wanted}, y, answers.shape)
    if not any(answers.shape.is_compatible_with(shape) for shape in (y.shape, [*y.shape, 1])):
        raise ValueError(
            f"The targets of task {task!r} have shape {tuple(y.shape)}, but its answers have shape "
            f"{tuple(answers.shape)}. Give its head as many units as a target has numbers."
        )


def one_per_step(loss: keras.losses.Loss, y: tf.Tensor, answers: tf.Tensor) -> tf.Tensor:
    """Targets (rows, steps) as (rows, steps, 1) if the answers have this shape: then a step may have no label.

    Most losses of Keras would remove the last axis of the answers instead, which gives the same mean but one loss for
    all steps of a row. A loss of the user's own would broadcast.
    """
    steps = answers.shape.rank == y.shape.rank + 1 and answers.shape[-1] == 1
    return y[..., None] if steps and function_of(loss) not in OF_ROWS else y


def check_losses(task: str, values: tf.Tensor) -> None:
    """Raise a ValueError unless a loss returns one number per row or step."""
    if values.shape.rank == 0:
        raise ValueError(
            f"The loss of task {task!r} must return one number per row, (rows,), of which the mean is taken over those "
            "with a label; it returned a single number. Leave out its mean over rows."
        )


def _of_means(task: str, loss: keras.losses.Loss) -> keras.losses.Loss:
    """The loss, if it has no reduction of its own; else a ValueError."""
    if loss.reduction not in ("sum_over_batch_size", "mean"):
        raise ValueError(
            f"The loss of a task is the mean over its labeled rows, but {loss.name!r} of task {task!r} has "
            f"reduction={loss.reduction!r}. Leave reduction out."
        )
    return loss


def check_parts(trunk: Any, heads: Any) -> None:
    """Raise an error unless there are a functional trunk and heads that fit its outputs."""
    checks.fittable_model(trunk=trunk)
    if not getattr(trunk, "inputs", None):
        raise ValueError(f"trunk must be a Sequential or functional model; {trunk.name!r} has no known inputs.")
    checks.mapping(heads=heads)
    if not heads:
        raise ValueError("heads must have at least one task, such as {'class': keras.layers.Dense(10)}; got {}.")
    for task, head in heads.items():
        checks.text(task=task)
        if not isinstance(head, keras.layers.Layer):
            raise ValueError(f"heads[{task!r}] must be a Keras layer or model; got {checks.shown(head)}.")
        features_for(trunk, task)
    if len(set(map(id, heads.values()))) < len(heads):
        raise ValueError("Each task needs a head of its own. Put layers that tasks share into the trunk.")


def features_for(trunk: keras.Model, task: str) -> keras.KerasTensor:
    """The outputs of the trunk that the head of a task takes."""
    features = output_structure(trunk)
    if isinstance(features, Mapping):
        if task not in features:
            raise ValueError(f"The trunk has outputs for {list(features)}, and none for the task {task!r}.")
        return features[task]
    if isinstance(features, list | tuple):
        raise ValueError(
            f"The trunk has {len(features)} outputs; it must have one, or a dictionary with one for each task."
        )
    return features


def training_for(head: keras.layers.Layer, training: bool | None) -> dict[str, Any]:
    """The keyword `training` for heads that take it."""
    return {"training": training} if isinstance(head, keras.Model) else {}


def metrics_by_task(losses: LossByTask, given: Any) -> dict[str, list[Any]] | None:
    """A list of metrics for each task, as Keras takes them; None if there are none."""
    _check_tasks("metrics", given, losses.activations)
    if not given:
        return None

    def of(task: str) -> list[Any]:
        metrics = given.get(task) or []
        listed = metrics if isinstance(metrics, list) else [metrics]
        return as_metrics(listed, losses.activations[task], loss=losses.given.get(task), width=losses.widths[task])

    return {task: of(task) for task in losses.activations}


def weights_by_task(heads: Heads, given: Any) -> list[float]:
    """The weight of the loss of each task."""
    _check_tasks("loss_weights", given, heads)
    weights = {task: (given or {}).get(task, 1.0) for task in heads}
    for task, weight in weights.items():
        checks.nonnegative(**{f"loss_weights[{task!r}]": weight})
    return [float(weight) for weight in weights.values()]


def of_task(sample_weight: Any, task: str) -> Any:
    """The sample weights of a task, which may be given for all tasks at once."""
    return sample_weight.get(task) if isinstance(sample_weight, Mapping) else sample_weight


def check_labels(heads: Heads, y: Any, rows: int | None = None) -> None:
    """Raise a ValueError unless there are labels for exactly these tasks, and for this number of rows."""
    if isinstance(y, Mapping) and set(y) == set(heads):
        for task, labels in y.items():
            if rows is not None and len(labels) != rows:
                raise ValueError(
                    f"Task {task!r} must have one label per example; got {len(labels)} for {rows} examples."
                )
        return
    given = list(y) if isinstance(y, Mapping) else checks.shown(y)
    raise ValueError(
        f"y must be a dictionary with labels for the tasks {list(heads)}; got {given}. Mark missing labels with -1 for "
        "classes, and with NaN for other targets."
    )


def _check_tasks(name: str, given: Any, heads: Heads) -> None:
    """Raise a ValueError unless this is None or a dictionary whose keys are tasks."""
    if given is None:
        return
    if not isinstance(given, Mapping) or not set(given) <= set(heads):
        got = list(given) if isinstance(given, Mapping) else checks.shown(given)
        raise ValueError(f"{name} must be a dictionary with some of the tasks {list(heads)} as its keys; got {got}.")
